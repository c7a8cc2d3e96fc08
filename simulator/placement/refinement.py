"""Swapping slots between ranks until no swap makes the heaviest rank lighter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, IntArray
from simulator.placement.packing import replica_weights

#: Layers whose heaviest rank is within this of what is out of reach are left alone [1].
CLOSE_ENOUGH = 5e-4
#: Lightest ranks that are tried first, before all of them [1].
_FEW = 4
#: Swaps after which a layer is left as it is [1]; most need far fewer.
MOST_SWAPS = 64


def refine(slot_expert: IntArray, load: FloatArray, ranks: int, bound: FloatArray) -> IntArray:
    """Swap slots of the heaviest rank with those of others, best swap first, all layers at once.

    Parameters
    ----------
    slot_expert : int64 array, shape (layers, slots)
        Expert of each slot, ranks one after another.
    load : float array, shape (layers, experts)
        Tokens per expert [tokens].
    ranks : int
        Expert-parallel ranks [1].
    bound : float array, shape (layers,)
        Load of the heaviest rank that nothing can beat; a layer that is close to it is done [tokens].

    Returns
    -------
    int64 array, shape (layers, slots)
        The same experts in each layer; no layer's heaviest rank is heavier than before.

    Notes
    -----
    A swap is taken if both ranks then carry less than the heavier of them did, the pair that leaves the lighter of
    such maxima first. Every swap lowers the sum of squared loads, so that it ends.
    """
    layers, slots = slot_expert.shape
    room = slots // ranks
    experts = slot_expert.reshape(layers, ranks, room).copy()
    weight = replica_weights(load, slot_expert).reshape(layers, ranks, room)
    total = weight.sum(axis=2)
    if ranks < 2:
        return slot_expert.copy()
    stuck = np.zeros(layers, dtype=bool)
    few = min(_FEW, ranks - 1)
    for _ in range(MOST_SWAPS):
        rows = np.flatnonzero(~stuck & (total.max(axis=1) > bound * (1 + CLOSE_ENOUGH)))
        if not len(rows):
            break
        lightest = np.argpartition(total[rows], few - 1, axis=1)[:, :few]
        missed = rows[~_swap(experts, weight, total, rows, lightest)]
        if len(missed):
            everyone = np.broadcast_to(np.arange(ranks), (len(missed), ranks))
            stuck[missed[~_swap(experts, weight, total, missed, everyone)]] = True
    return experts.reshape(layers, slots)


def _swap(
    experts: IntArray, weight: FloatArray, total: FloatArray, rows: IntArray, others: IntArray
) -> NDArray[np.bool_]:
    """Take the best swap of each row's heaviest rank with one of ``others``, in place; tell which rows gained."""
    room = weight.shape[2]
    heaviest = total[rows].argmax(axis=1)
    peak = total[rows, heaviest]
    given, taken = weight[rows, heaviest], weight[rows[:, None], others]
    moved = given[:, None, :, None] - taken[:, :, None, :]
    rest = total[rows[:, None], others][:, :, None, None]
    worst = np.maximum(peak[:, None, None, None] - moved, rest + moved).reshape(len(rows), -1)
    best = worst.argmin(axis=1)
    gains = worst[np.arange(len(rows)), best] < peak * (1 - 1e-9)
    other, mine, theirs = np.unravel_index(best[gains], (others.shape[1], room, room))
    row, high, low = rows[gains], heaviest[gains], others[gains, other]
    shift = weight[row, high, mine] - weight[row, low, theirs]
    for array in (experts, weight):
        kept = array[row, high, mine].copy()
        array[row, high, mine] = array[row, low, theirs]
        array[row, low, theirs] = kept
    total[row, high] -= shift
    total[row, low] += shift
    return np.asarray(gains)
