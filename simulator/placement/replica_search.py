"""Choosing which experts to replicate by trying: a replica less here, one more there."""

from __future__ import annotations

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.placement.packing import pack, replica_weights

#: Experts that may lose a replica, and experts that may gain one, in each trial [1].
_LOSERS, _GAINERS = 12, 8
#: Trials after which a layer is left as it is [1].
_MOST_TRIALS = 24


def search_replicas(slot_expert: IntArray, load: FloatArray, ranks: int, bound: FloatArray, close: float) -> IntArray:
    """Shift replicas between experts and pack anew, as long as the heaviest rank gets lighter.

    Parameters
    ----------
    slot_expert : int64 array, shape (layers, slots)
        Expert of each slot, ranks one after another.
    load : float array, shape (layers, experts)
        Tokens per expert [tokens].
    ranks : int
        Expert-parallel ranks [1].
    bound : float array, shape (layers,)
        Load of the heaviest rank that nothing can beat [tokens].
    close : float
        A layer this close to its bound is done [1].

    Returns
    -------
    int64 array, shape (layers, slots)
        No layer's heaviest rank is heavier than before.

    Notes
    -----
    Greedy replication makes the heaviest *replica* lightest, which is not the same as the heaviest *rank* where ranks
    hold few slots. Losers are the replicated experts that would be lightest with one replica less; gainers are the
    experts of the heaviest rank, and the next heaviest. All pairs of a trial are packed at once.
    """
    found, row = slot_expert.copy(), np.arange(len(slot_expert))
    peak = _peaks(found, load, ranks)
    open_ = peak > bound * close
    for _ in range(_MOST_TRIALS):
        layers = row[open_]
        if not len(layers):
            break
        loser, gainer = _pairs(found[layers], load[layers], ranks)
        trials = loser.shape[1]
        tried = np.repeat(found[layers], trials, axis=0)
        tried_load = np.repeat(load[layers], trials, axis=0)
        # One slot of the loser, its first, turns to the gainer; a loser without a second replica stays as it is.
        flat_loser, flat_gainer = loser.ravel(), gainer.ravel()
        slot = (tried == flat_loser[:, None]).argmax(axis=1)
        spare = (tried == flat_loser[:, None]).sum(axis=1) > 1
        tried[np.arange(len(tried))[spare], slot[spare]] = flat_gainer[spare]
        order = pack(replica_weights(tried_load, tried), ranks)
        tried = np.take_along_axis(tried, order, axis=1)
        peaks = _peaks(tried, tried_load, ranks).reshape(len(layers), trials)
        best = peaks.argmin(axis=1)
        gains = peaks[np.arange(len(layers)), best] < peak[layers] * (1 - 1e-9)
        chosen = tried.reshape(len(layers), trials, -1)[np.arange(len(layers)), best]
        found[layers[gains]] = chosen[gains]
        peak[layers[gains]] = peaks[gains, best[gains]]
        open_[layers] = gains & (peak[layers] > bound[layers] * close)
    return found


def _pairs(slot_expert: IntArray, load: FloatArray, ranks: int) -> tuple[IntArray, IntArray]:
    """Experts to lose and to gain a replica in every trial; each of shape (layers, trials)."""
    layers, experts = load.shape
    count = np.zeros(load.shape)
    np.add.at(count, (np.arange(layers)[:, None], slot_expert), 1)
    fewer = np.where(count > 1, load / np.maximum(count - 1, 1), np.inf)
    losers = np.argsort(fewer, axis=1, kind="stable")[:, : min(_LOSERS, experts)]
    weight = replica_weights(load, slot_expert)
    by_rank = weight.reshape(layers, ranks, -1)
    heaviest = by_rank.sum(axis=2).argmax(axis=1)
    size = by_rank.shape[2]
    inside = heaviest[:, None] * size + np.arange(size)
    rank_first = np.full(slot_expert.shape, 0.0)
    np.put_along_axis(rank_first, inside, weight.max(), axis=1)
    order = np.argsort(-(weight + rank_first), axis=1, kind="stable")[:, : min(_GAINERS, slot_expert.shape[1])]
    gainers = np.take_along_axis(slot_expert, order, axis=1)
    shape = (layers, losers.shape[1] * gainers.shape[1])
    return (
        np.broadcast_to(losers[:, :, None], (*losers.shape, gainers.shape[1])).reshape(shape),
        np.broadcast_to(gainers[:, None, :], (layers, losers.shape[1], gainers.shape[1])).reshape(shape),
    )


def _peaks(slot_expert: IntArray, load: FloatArray, ranks: int) -> FloatArray:
    """Load of the heaviest rank of every row [tokens]."""
    weight = replica_weights(load, slot_expert)
    return np.asarray(weight.reshape(len(weight), ranks, -1).sum(axis=2).max(axis=1))
