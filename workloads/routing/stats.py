"""Counting what a routing trace does to experts and ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workloads.errors import WorkloadError
from workloads.parameters import count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workloads.routing.trace import RoutingTrace


def expert_load(trace: RoutingTrace) -> NDArray[np.int64]:
    """Count the tokens that every expert gets.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.

    Returns
    -------
    int64 array, shape (layers, experts)
        Assignments [tokens]; each layer sums to tokens x top_k less its empty slots.
    """
    wide = trace.num_experts + 1
    return np.stack(
        [np.bincount(trace.expert_ids[:, layer].ravel(), minlength=wide)[:-1] for layer in range(trace.layers)]
    )


def linear_placement(trace: RoutingTrace, ranks: int) -> NDArray[np.int64]:
    """Place experts on ranks in contiguous groups of equal size.

    Parameters
    ----------
    trace : RoutingTrace
        Gives the numbers of layers and experts.
    ranks : int
        Ranks; must divide the experts.

    Returns
    -------
    int64 array, shape (layers, experts)
        The rank of each expert.
    """
    if trace.num_experts % count("ranks", ranks):
        msg = f"ranks: {ranks} do not divide the {trace.num_experts} experts of routing trace {trace.source}"
        raise WorkloadError(msg)
    per_layer = np.arange(trace.num_experts) // (trace.num_experts // ranks)
    return np.broadcast_to(per_layer, (trace.layers, trace.num_experts))


def rank_load(trace: RoutingTrace, placement: NDArray[np.integer], ranks: int) -> NDArray[np.int64]:
    """Count the assignments that every rank gets.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    placement : integer array, shape (layers, experts)
        The rank of each expert.
    ranks : int
        Number of ranks.

    Returns
    -------
    int64 array, shape (layers, ranks)
        Assignments [tokens].
    """
    _check_placement(trace, placement, ranks)
    load = np.zeros((trace.layers, ranks), np.int64)
    np.add.at(load, (np.arange(trace.layers)[:, None], placement), expert_load(trace))
    return load


def imbalance(load: NDArray[np.integer]) -> NDArray[np.float64]:
    """Ratio of the largest load to the mean, over the last axis; 1 = balanced, and where there is no load [-].

    Examples
    --------
    >>> imbalance(np.array([[2, 2], [3, 1]]))
    array([1. , 1.5])
    """
    mean = load.mean(axis=-1)
    return np.asarray(np.where(mean > 0, load.max(axis=-1) / np.where(mean > 0, mean, 1.0), 1.0))


def imbalance_by_batch(
    trace: RoutingTrace, ranks: int, batch: int, placement: NDArray[np.integer] | None = None
) -> NDArray[np.float64]:
    """Imbalance over ranks of every full batch of consecutive tokens, counted directly.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    ranks : int
        Number of ranks.
    batch : int
        Tokens per batch; the tokens after the last full batch are left out [tokens].
    placement : integer array, shape (layers, experts), optional
        The rank of each expert; linear by default.

    Returns
    -------
    float64 array, shape (batches, layers)
        max/mean over ranks [-].
    """
    batches = trace.tokens // count("batch", batch)
    if not batches:
        msg = f"batch: got {batch} tokens, routing trace {trace.source} has only {trace.tokens}"
        raise WorkloadError(msg)
    if placement is None:
        placement = linear_placement(trace, ranks)
    _check_placement(trace, placement, ranks)
    ratios = np.empty((batches, trace.layers))
    row = np.repeat(np.arange(batches), batch * trace.top_k)
    wide = ranks + 1  # the last column takes the empty slots
    for layer in range(trace.layers):
        rank = np.append(placement[layer], ranks)[trace.expert_ids[: batches * batch, layer].ravel()]
        load = np.bincount(row * wide + rank, minlength=batches * wide).reshape(batches, wide)
        ratios[:, layer] = imbalance(load[:, :ranks])
    return ratios


def active_experts(trace: RoutingTrace, batch: int) -> NDArray[np.int64]:
    """Count the distinct experts that every full batch of consecutive tokens touches.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    batch : int
        Tokens per batch; the tokens after the last full batch are left out [tokens].

    Returns
    -------
    int64 array, shape (batches, layers)
        Experts with at least one token.
    """
    batches = trace.tokens // count("batch", batch)
    if not batches:
        msg = f"batch: got {batch} tokens, routing trace {trace.source} has only {trace.tokens}"
        raise WorkloadError(msg)
    touched = np.zeros((batches, trace.layers, trace.num_experts + 1), bool)
    row = np.repeat(np.arange(batches), batch)[:, None, None]
    touched[row, np.arange(trace.layers)[None, :, None], trace.expert_ids[: batches * batch]] = True
    return np.asarray(touched[..., :-1].sum(axis=2), np.int64)


def repeat_fraction(trace: RoutingTrace) -> NDArray[np.float64]:
    """Share of a token's experts that the token before it in its sequence chose too.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.

    Returns
    -------
    float64 array, shape (layers,)
        Share [-]; NaN if every sequence has a single token.
    """
    follows = np.ones(trace.tokens, bool)
    follows[trace.sequence_start] = False
    if not follows.any():
        return np.full(trace.layers, np.nan)
    later = np.flatnonzero(follows)
    shares = np.empty(trace.layers)
    for layer in range(trace.layers):
        ids = trace.expert_ids[:, layer]
        held = ids[later] != trace.num_experts
        kept = (ids[later][:, :, None] == ids[later - 1][:, None, :]).any(axis=2) & held
        shares[layer] = kept.sum() / max(int(held.sum()), 1)
    return shares


def _check_placement(trace: RoutingTrace, placement: NDArray[np.integer], ranks: int) -> None:
    count("ranks", ranks)
    if placement.shape != (trace.layers, trace.num_experts):
        expected = (trace.layers, trace.num_experts)
        msg = f"placement: got shape {placement.shape}, expected (layers, experts) = {expected}"
        raise WorkloadError(msg)
    if placement.min() < 0 or placement.max() >= ranks:
        msg = f"placement: ranks {placement.min()} to {placement.max()}, expected 0 to {ranks - 1}"
        raise WorkloadError(msg)
