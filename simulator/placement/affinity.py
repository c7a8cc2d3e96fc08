"""Experts that tokens choose together, together on a node: fewer nodes to reach, fewer bytes between them."""

from __future__ import annotations

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.placement.packing import replica_weights
from workloads.routing.trace import RoutingTrace

#: How far affinity may raise the heaviest rank above the balanced placement that it starts from [1].
SLACK = 0.02
#: Tokens that co-activation is counted over; more change little and cost time [tokens].
COUNTED_TOKENS = 16_384


def coactivation(trace: RoutingTrace, most_tokens: int = COUNTED_TOKENS) -> FloatArray:
    """Count how often two experts of a layer serve the same token.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    most_tokens : int
        Tokens that are counted, evenly spread over a longer trace [tokens].

    Returns
    -------
    float64 array, shape (layers, experts, experts)
        Share of the tokens that chose both; symmetric, zero on the diagonal; empty slots chose nothing [1].
    """
    taken = np.linspace(0, trace.tokens - 1, min(trace.tokens, most_tokens)).astype(np.int64)
    # Empty slots hold the number of experts.
    experts, wide = trace.num_experts, trace.num_experts + 1
    found = np.empty((trace.layers, experts, experts))
    for layer in range(trace.layers):
        ids = trace.expert_ids[taken, layer].astype(np.int64)
        pair = ids[:, :, None] * wide + ids[:, None, :]
        found[layer] = np.bincount(pair.ravel(), minlength=wide**2).reshape(wide, wide)[:experts, :experts]
    found[:, np.arange(experts), np.arange(experts)] = 0.0
    return found / len(taken)


def gather(
    slot_expert: IntArray, load: FloatArray, together: FloatArray, ranks: int, domains: int, slack: float = SLACK
) -> IntArray:
    """Swap slots between domains so that experts of the same tokens meet, keeping ranks nearly as light.

    Parameters
    ----------
    slot_expert : int64 array, shape (layers, slots)
        A balanced placement to start from, ranks one after another.
    load : float array, shape (layers, experts)
        Tokens per expert [tokens].
    together : float array, shape (layers, experts, experts)
        Co-activation of experts, as :func:`coactivation` gives it.
    ranks, domains : int
        Ranks, and the nodes that hold them in equal groups [1].
    slack : float
        How far a swap may raise a rank above the heaviest one at the start [1].

    Returns
    -------
    int64 array, shape (layers, slots)

    Notes
    -----
    The gain of a swap is that of Kernighan and Lin's graph partitioning [1]_: what both gain in co-activation by the
    move, less twice what they have in common. The slot that gains most by a move is tried first, with its best
    partner; one that finds none is not tried again for that domain until its layer has changed. Replicas share the
    co-activation of their expert evenly.

    References
    ----------
    .. [1] B. W. Kernighan and S. Lin, "An efficient heuristic procedure for partitioning graphs", Bell System
       Technical Journal 49(2), 1970.
    """
    layers, slots = slot_expert.shape
    row, column = np.arange(layers), np.arange(layers)[:, None]
    weight = replica_weights(load, slot_expert)
    share = weight / np.maximum(np.take_along_axis(load, slot_expert, axis=1), 1e-300)
    pair = together[column[..., None], slot_expert[:, :, None], slot_expert[:, None, :]]
    pair = pair * share[:, :, None] * share[:, None, :]
    rank = np.tile(np.arange(slots) // (slots // ranks), (layers, 1))
    per_domain = ranks // domains
    total = weight.reshape(layers, ranks, -1).sum(axis=2)
    limit = total.max(axis=1) * (1 + slack)
    drawn = np.stack([np.where((rank // per_domain == d)[:, None, :], pair, 0.0).sum(2) for d in range(domains)], 2)
    closed = np.zeros((layers, slots, domains), dtype=bool)
    for _ in range(4 * slots):
        home = rank // per_domain
        gain = drawn - np.take_along_axis(drawn, home[..., None], axis=2)
        gain[closed | (np.arange(domains) == home[..., None])] = -np.inf
        best = gain.reshape(layers, -1).argmax(axis=1)
        item, target = best // domains, best % domains
        first = gain[row, item, target]
        if not (first > 0).any():
            break
        source = home[row, item]
        second = drawn[row, :, source] - np.take_along_axis(drawn, home[..., None], axis=2)[..., 0]
        both = first[:, None] + second - 2 * pair[row, item]
        shift = weight - weight[row, item][:, None]
        fits = (total[row, rank[row, item]][:, None] + shift <= limit[:, None]) & (
            np.take_along_axis(total, rank, axis=1) - shift <= limit[:, None]
        )
        both[(home != target[:, None]) | ~fits] = -np.inf
        partner = both.argmax(axis=1)
        swaps = both[row, partner] > 1e-12
        closed[row[~swaps], item[~swaps], target[~swaps]] = True
        layer, a, b = row[swaps], item[swaps], partner[swaps]
        _exchange(layer, a, b, rank, total, weight)
        change = pair[layer, a] - pair[layer, b]
        drawn[layer, :, target[swaps]] += change
        drawn[layer, :, source[swaps]] -= change
        closed[layer] = False
    order = np.argsort(rank, axis=1, kind="stable")
    return np.asarray(np.take_along_axis(slot_expert, order, axis=1))


def _exchange(layer: IntArray, a: IntArray, b: IntArray, rank: IntArray, total: FloatArray, weight: FloatArray) -> None:
    """Let items a and b of these layers trade ranks, in place."""
    shift = weight[layer, a] - weight[layer, b]
    left, right = rank[layer, a], rank[layer, b]
    total[layer, left] -= shift
    total[layer, right] += shift
    rank[layer, a], rank[layer, b] = right, left
