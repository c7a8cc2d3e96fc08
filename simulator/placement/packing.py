"""Replicating hot experts and packing slots onto ranks, all layers at once."""

from __future__ import annotations

import numpy as np

from simulator.arrays import FloatArray, IntArray


def replicate(load: FloatArray, slots: int) -> IntArray:
    """List the experts of every slot: each once, then, slot by slot, the one with the most load per replica.

    Parameters
    ----------
    load : float array, shape (rows, experts)
        Tokens per expert [tokens].
    slots : int
        Slots in all, at least one per expert [1].

    Returns
    -------
    int64 array, shape (rows, slots)
        Expert of each slot; no choice of replicas has a lighter heaviest replica.
    """
    rows, experts = load.shape
    row = np.arange(rows)
    chosen = np.empty((rows, slots), dtype=np.int64)
    chosen[:, :experts] = np.arange(experts)
    count, each = np.ones((rows, experts)), load.astype(np.float64)
    for slot in range(experts, slots):
        hottest = each.argmax(axis=1)
        chosen[:, slot] = hottest
        count[row, hottest] += 1
        each[row, hottest] = load[row, hottest] / count[row, hottest]
    return chosen


def replicate_coarsely(load: FloatArray, slots: int, bins: int, full: float) -> IntArray:
    """List the experts of every slot, splitting hot experts no further than into the size of a bin.

    Greedy replication may leave more replicas of over half a bin than there are bins, so that two of them must share
    one. Here experts above a share of the mean bin are split until they are not, and what slots remain go to those of
    less than half a bin, which stay easy to pack.

    Parameters
    ----------
    load : float array, shape (rows, experts)
        Tokens per expert [tokens].
    slots, bins : int
        Slots, and the ranks that they are packed on [1].
    full : float
        How much of the mean bin a replica may fill [1].

    Returns
    -------
    int64 array, shape (rows, slots)
    """
    rows, experts = load.shape
    row, even = np.arange(rows), load.sum(axis=1) / bins
    chosen = np.empty((rows, slots), dtype=np.int64)
    chosen[:, :experts] = np.arange(experts)
    count, each = np.ones((rows, experts)), load.astype(np.float64)
    for slot in range(experts, slots):
        small = np.where(each <= even[:, None] / 2, each, -1.0)
        hottest = np.where(each.max(axis=1) > full * even, each.argmax(axis=1), small.argmax(axis=1))
        chosen[:, slot] = hottest
        count[row, hottest] += 1
        each[row, hottest] = load[row, hottest] / count[row, hottest]
    return chosen


def replica_weights(load: FloatArray, slot_expert: IntArray) -> FloatArray:
    """Return the load of every slot where the replicas of an expert share evenly; shape (rows, slots) [tokens]."""
    count = np.zeros(load.shape)
    np.add.at(count, (np.arange(len(load))[:, None], slot_expert), 1)
    return np.asarray(np.take_along_axis(load / np.maximum(count, 1), slot_expert, axis=1))


def pack(weight: FloatArray, bins: int) -> IntArray:
    """Deal items into bins of equal room, heaviest first, each into the lightest bin that has room.

    Parameters
    ----------
    weight : float array, shape (rows, items)
        What items weigh; the bins divide the items.
    bins : int
        Bins [1].

    Returns
    -------
    int64 array, shape (rows, items)
        Items in the order of the bins; bin b holds the columns [b * items / bins, (b + 1) * items / bins).

    Notes
    -----
    Longest processing time first [1]_ with a limit of items per bin. Equal bins are taken in order.

    References
    ----------
    .. [1] R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2), 1969.
    """
    rows, items = weight.shape
    room = items // bins
    if room == 1:
        # One item to a bin: nothing to choose, and items keep their places.
        return np.tile(np.arange(items), (rows, 1))
    row = np.arange(rows)
    order = np.argsort(-weight, axis=1, kind="stable")
    total, held = np.zeros((rows, bins)), np.zeros((rows, bins), dtype=np.int64)
    packed = np.empty((rows, items), dtype=np.int64)
    for item in order.T:
        lightest = total.argmin(axis=1)
        place = held[row, lightest]
        packed[row, lightest * room + place] = item
        held[row, lightest] = place + 1
        total[row, lightest] += weight[row, item]
        total[row, lightest] = np.where(place + 1 == room, np.inf, total[row, lightest])
    return packed
