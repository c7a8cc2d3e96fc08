"""What no placement can beat: lower bounds on the load of the heaviest rank."""

from __future__ import annotations

import numpy as np

from simulator.arrays import FloatArray
from simulator.placement.packing import replica_weights, replicate
from simulator.placement.slots import slot_count


def lower_bound(load: FloatArray, ranks: int, redundant_slots: int = 0) -> FloatArray:
    """Bound the load of the heaviest rank from below, for replicas that share their expert's load evenly.

    Parameters
    ----------
    load : float array, shape (layers, experts)
        Tokens per expert [tokens].
    ranks : int
        Expert-parallel ranks [1].
    redundant_slots : int
        Slots beyond one per expert [1].

    Returns
    -------
    float array, shape (layers,)
        Tokens of the heaviest rank, at least [tokens].

    Notes
    -----
    Always: the mean rank, and the heaviest replica where the hottest experts are replicated first, which no other
    choice of replicas can make lighter. Without redundant slots the items are fixed, and more can be said: the ``i``
    heaviest experts sit on at most ``i`` ranks, and those hold at least the lightest ``i (m - 1)`` experts beside
    them, m experts to a rank, so that one of these ranks carries at least their mean; and of the ``ranks * j + 1``
    heaviest, some rank holds ``j + 1``, beside at least the ``m - j - 1`` lightest.
    """
    slots = slot_count(load.shape[1], ranks, redundant_slots)
    heaviest = replica_weights(load, replicate(load, slots)).max(axis=1)
    bound = np.maximum(load.sum(axis=1) / ranks, heaviest)
    if redundant_slots:
        return np.asarray(bound)
    room = slots // ranks
    down = -np.sort(-load, axis=1)
    heavy = _running(down)
    light = _running(down[:, ::-1])
    among = np.arange(1, ranks + 1)
    grouped = (heavy[:, among] + light[:, among * (room - 1)]) / among
    met = np.arange(1, room)
    stacked = heavy[:, ranks * met + 1] - heavy[:, ranks * met - met] + light[:, room - met - 1]
    return np.asarray(np.concatenate([bound[:, None], grouped, stacked], axis=1).max(axis=1))


def _running(values: FloatArray) -> FloatArray:
    """Sums of the first 0, 1, 2 ... columns."""
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
