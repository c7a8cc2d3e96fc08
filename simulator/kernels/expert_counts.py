"""Tokens per expert when no routing trace is at hand: even strides and bounded power laws.

Both follow how the public kernel tables were drawn, so that a prediction of a table's row means the same as the row.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray, IntArray
from simulator.errors import ScenarioError

Leftover = Literal["least", "most"]

#: Bounds of the power law where assignments do not exceed the experts [1].
SPARSE_BOUNDS = (0.01, 2.0)
#: Largest share of the tokens that one draw may give an expert, before scaling [1].
LARGEST_SHARE = 0.8
#: Share of the assignments that rounding may lose or add without being dealt back [1].
NEGLIGIBLE = 0.01


def balanced_counts(num_tokens: int, top_k: int, num_experts: int, ep: int = 1) -> IntArray:
    """Counts of the first rank when tokens take experts in a fixed stride.

    Parameters
    ----------
    num_tokens : int
        Tokens over the whole expert-parallel group [1].
    top_k, num_experts, ep : int
        Experts per token, experts, and ranks that share them in contiguous groups [1].

    Returns
    -------
    ndarray of int64, shape (num_experts // ep,)

    Notes
    -----
    Token ``t`` takes experts ``(t + i s) mod E`` for ``i < top_k``, with stride ``s = ceil(E / top_k)``; fewer than
    ``s`` tokens spread evenly within the stride.

    Examples
    --------
    >>> balanced_counts(4, 8, 256, ep=32).tolist()
    [1, 0, 0, 0, 0, 0, 0, 0]
    """
    local = _local_experts(num_experts, ep)
    stride = -(-num_experts // top_k)
    tokens = np.arange(num_tokens, dtype=np.int64)
    start = tokens if num_tokens >= stride else tokens * stride // max(num_tokens, 1)
    if num_tokens > num_experts:
        # Whole turns around the experts add the same to all that a token can start at.
        turns, rest = divmod(num_tokens, num_experts)
        chosen = (start[:rest, None] + stride * np.arange(top_k)) % num_experts
        return (np.bincount(chosen.ravel(), minlength=num_experts) + turns * top_k)[:local].astype(np.int64)
    chosen = (start[:, None] + stride * np.arange(top_k)) % num_experts
    return np.bincount(chosen.ravel(), minlength=num_experts)[:local].astype(np.int64)


def power_law_counts(
    num_tokens: ArrayLike,
    top_k: int,
    num_experts: int,
    ep: int = 1,
    *,
    exponent: float,
    draws: int = 8,
    seed: int = 0,
    leftover: Leftover = "least",
) -> IntArray:
    """Counts of the most loaded rank when experts' popularity follows a bounded power law.

    Parameters
    ----------
    num_tokens : array_like of int, shape (...)
        Tokens over the whole expert-parallel group [1]; all share the draws (common random numbers).
    top_k, num_experts, ep : int
        As for :func:`balanced_counts`.
    exponent : float
        a of the density x^-a [1].
    draws : int
        Independent draws [1].
    seed : int
        Seed of the draws.
    leftover : str
        Who gets what rounding left over: ``least``, the least loaded expert of each rank in turn (newer tables), or
        ``most``, the most loaded experts of all (older tables).

    Returns
    -------
    ndarray of int64, shape (..., draws, num_experts // ep)

    Notes
    -----
    Popularities on [1, 0.8 num_tokens], or on [0.01, 2] where assignments do not exceed the experts, are scaled to
    the assignments, rounded and capped at num_tokens; what is left over is dealt out, what is too much is taken from
    the most loaded expert of each rank in turn. Less than 1% is not dealt.
    """
    local = _local_experts(num_experts, ep)
    tokens = np.asarray(num_tokens, dtype=np.int64)
    flat = tokens.reshape(-1, 1, 1)
    assignments = flat * top_k
    low = np.where(assignments <= num_experts, SPARSE_BOUNDS[0], 1.0)
    high = np.where(assignments <= num_experts, SPARSE_BOUNDS[1], np.maximum(LARGEST_SHARE * flat, 1.0 + 1e-9))
    uniform = np.random.default_rng(np.random.SeedSequence(seed)).random((draws, num_experts))
    popularity = _inverse_power_law(uniform, exponent, low, high)
    scaled = popularity * (assignments / popularity.sum(-1, keepdims=True))
    counts = np.minimum(np.rint(scaled).astype(np.int64), flat)
    missing = assignments[..., 0] - counts.sum(-1)
    unsettled = np.abs(missing) > NEGLIGIBLE * assignments[..., 0]
    counts = counts.reshape(len(flat), draws, ep, local)
    cap = np.broadcast_to(flat[..., 0], missing.shape)[unsettled]
    if leftover == "most":
        counts[unsettled] = _top_up(counts[unsettled], missing[unsettled], cap)
        missing = assignments[..., 0] - counts.sum((-2, -1))
    counts[unsettled] = _deal(counts[unsettled], missing[unsettled], cap)
    hottest = counts.sum(-1).argmax(-1)
    chosen = np.take_along_axis(counts, hottest[..., None, None], axis=-2)[..., 0, :]
    return chosen.reshape(*tokens.shape, draws, local)


def _inverse_power_law(uniform: FloatArray, exponent: float, low: FloatArray, high: FloatArray) -> FloatArray:
    power = 1.0 - exponent
    if abs(power) < 1e-9:
        return np.asarray(low * (high / low) ** uniform, dtype=np.float64)
    return np.asarray(((high**power - low**power) * uniform + low**power) ** (1.0 / power), dtype=np.float64)


def _deal(counts: IntArray, missing: IntArray, cap: IntArray) -> IntArray:
    """Give each case's missing assignments (or take its surplus) by one per rank and turn, up to ``cap`` each.

    ``counts`` has shape (cases, ranks, local); ``missing`` and ``cap`` have shape (cases,).
    """
    ranks, local = counts.shape[1:]
    while np.any(missing != 0):
        step = np.sign(missing)[:, None, None]
        turns, rest = np.divmod(np.abs(missing), ranks)
        share = (turns[:, None] + (np.arange(ranks) < rest[:, None]))[..., None]
        order = np.argsort(counts * step, axis=-1, kind="stable")
        place = np.argsort(order, axis=-1, kind="stable")
        wanted = share // local + (place < share % local)
        given = np.minimum(wanted, np.where(step > 0, cap[:, None, None] - counts, counts))
        if not given.any():
            break
        counts = counts + given * step
        missing = missing - given.sum((-2, -1)) * step[:, 0, 0]
    return counts


def _top_up(counts: IntArray, missing: IntArray, cap: IntArray) -> IntArray:
    """Give one missing assignment to each of the most loaded experts of each case, up to ``cap``."""
    flat = counts.reshape(len(counts), counts.shape[1] * counts.shape[2])
    place = np.argsort(np.argsort(-flat, axis=-1, kind="stable"), axis=-1, kind="stable")
    given = (place < missing[:, None]) & (flat < cap[:, None])
    return (flat + given).reshape(counts.shape)


def _local_experts(num_experts: int, ep: int) -> int:
    if ep < 1 or num_experts % ep:
        raise ScenarioError(f"expert counts: {num_experts} experts cannot be shared evenly by ep = {ep} ranks")
    return num_experts // ep
