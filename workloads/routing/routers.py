"""Routers: from logits to the experts of every token.

A router takes the logits of the tokens of one layer, in the order of their sequences, and returns expert ids of shape
(tokens, slots). Where a token has fewer experts than slots, because the router varies their number or dropped one, the
slots left hold the number of experts (an *empty slot*, see ``RoutingTrace.padded``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.arrays import IntArray, RealArray
from workloads.errors import WorkloadError
from workloads.parameters import choose, count, number
from workloads.routing.trace import RoutingTrace


def softmax_top_k(logits: RealArray, *, top_k: Any) -> IntArray:
    """Choose the ``top_k`` most probable experts (Shazeer et al., 2017); softmax keeps the order of the logits.

    Parameters
    ----------
    logits : float array, shape (tokens, experts)
        Router logits.
    top_k : int
        Experts per token.

    Returns
    -------
    int64 array, shape (tokens, top_k)
        Ids, most probable first.
    """
    return _largest(_checked(logits), count("top_k", top_k, most=logits.shape[1]))


def sigmoid_with_bias(logits: RealArray, *, top_k: Any, bias: Any = 0.0) -> IntArray:
    """Choose the experts with the largest ``sigmoid(logit) + bias``: balancing without an auxiliary loss.

    Parameters
    ----------
    logits : float array, shape (tokens, experts)
        Router logits.
    top_k : int
        Experts per token.
    bias : float or float array, shape (experts,)
        Correction that training moves to balance load; it decides the choice, not the weight [-].

    References
    ----------
    DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, equation 16.
    """
    scores = _sigmoid(_checked(logits)) + _per_expert("bias", bias, logits.shape[1])
    return _largest(scores, count("top_k", top_k, most=logits.shape[1]))


def group_limited(
    logits: RealArray,
    *,
    top_k: Any,
    num_groups: Any = 8,
    top_k_groups: Any = 4,
    best: Any = 2,
    bias: Any = 0.0,
) -> IntArray:
    """Choose groups by the sum of their best scores, then experts among the groups chosen.

    Parameters
    ----------
    logits : float array, shape (tokens, experts)
        Router logits; experts lie in equal groups, one after another.
    top_k : int
        Experts per token.
    num_groups, top_k_groups : int
        Groups, and how many of them a token may use; DeepSeek-V3 takes 4 of 8.
    best : int
        Scores that rank a group: 2 in DeepSeek-V3, 1 in DeepSeek-V2.
    bias : float or float array, shape (experts,)
        As in :func:`sigmoid_with_bias` [-].

    References
    ----------
    DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 2.1.2 (node-limited routing).
    """
    tokens, experts = _checked(logits).shape
    groups = count("num_groups", num_groups, most=experts)
    if experts % groups:
        raise WorkloadError(f"num_groups: {groups} do not divide the {experts} experts")
    used, each = count("top_k_groups", top_k_groups, most=groups), experts // groups
    taken = count("top_k", top_k, most=used * each)
    scores = (_sigmoid(logits) + _per_expert("bias", bias, experts)).reshape(tokens, groups, each)
    ranked = np.sort(scores, axis=2)[:, :, -count("best", best, most=each) :].sum(axis=2)
    allowed = np.zeros((tokens, groups, 1), bool)
    np.put_along_axis(allowed[..., 0], _largest(ranked, used), True, axis=1)
    return _largest(np.where(allowed, scores, -np.inf).reshape(tokens, experts), taken)


def top_p(logits: RealArray, *, p: Any, most: Any = None) -> IntArray:
    """Choose the fewest experts whose probabilities sum to ``p``: more for a token that the router is unsure of.

    Parameters
    ----------
    logits : float array, shape (tokens, experts)
        Router logits.
    p : float
        Probability to cover, above 0 and at most 1 [-].
    most : int, optional
        Most experts per token; all by default.

    References
    ----------
    Q. Huang et al., "Harder Tasks Need More Experts: Dynamic Routing in MoE Models", 2024.
    """
    share, experts = number("p", p, above=0, most=1), _checked(logits).shape[1]
    width = experts if most is None else count("most", most, most=experts)
    ids = _largest(logits, width)
    probability = np.take_along_axis(_softmax(logits), ids, axis=1)
    before = np.cumsum(probability, axis=1) - probability
    # Rounding must not ask for an expert more than the sum needs; the first is needed by any.
    chosen = before < share - 1e-9
    chosen[:, 0] = True
    return _trim(np.where(chosen, ids, experts), experts)


def null_experts(logits: RealArray, *, top_k: Any, num_null: Any, null_logit: Any = 0.0) -> IntArray:
    """Choose among the experts and ``num_null`` equal ones that do nothing, and leave out the latter.

    Parameters
    ----------
    logits : float array, shape (tokens, experts)
        Router logits of the experts that work.
    top_k : int
        Experts per token, null experts counted.
    num_null : int
        Null experts.
    null_logit : float or float array, shape (tokens,)
        Their logit [-].

    References
    ----------
    Z. Zeng et al., "AdaMoE: Token-Adaptive Routing with Null Experts for Mixture-of-Experts Language Models", 2024.
    """
    tokens, experts = _checked(logits).shape
    nulls = count("num_null", num_null)
    level = np.broadcast_to(np.asarray(null_logit, np.float64), (tokens,))
    padding = np.repeat(level[:, None], nulls, axis=1)
    ids = _largest(np.hstack([logits, padding]), count("top_k", top_k, most=experts + nulls))
    return _trim(np.minimum(ids, experts), experts)


def expert_choice(logits: RealArray, *, capacity_factor: Any, top_k: Any = 1) -> IntArray:
    """Let every expert choose the tokens that it is most probable for: balanced load, a varying number per token.

    Parameters
    ----------
    logits : float array, shape (tokens, experts)
        Router logits of the tokens that are routed together.
    capacity_factor : float
        Tokens per expert over tokens x top_k / experts, above 0 [-].
    top_k : int
        Experts per token on average at capacity factor 1.

    References
    ----------
    Y. Zhou et al., "Mixture-of-Experts with Expert Choice Routing", NeurIPS 2022.
    """
    tokens, experts = _checked(logits).shape
    room = min(capacity(tokens, experts, count("top_k", top_k), capacity_factor), tokens)
    probability = _softmax(logits)
    chosen = np.zeros((experts, tokens), bool)
    np.put_along_axis(chosen, _largest(probability.T, room), True, axis=1)
    width = max(int(chosen.sum(axis=0).max()), 1)
    ids = _largest(np.where(chosen.T, probability, -1.0), width)
    return np.where(np.take_along_axis(chosen.T, ids, axis=1), ids, experts)


ROUTERS: dict[str, Callable[..., IntArray]] = {
    "softmax_top_k": softmax_top_k,
    "sigmoid_with_bias": sigmoid_with_bias,
    "group_limited": group_limited,
    "top_p": top_p,
    "null_experts": null_experts,
    "expert_choice": expert_choice,
}


def route(kind: str, logits: RealArray, **parameters: Any) -> IntArray:
    """Route by the name of a router.

    Raises
    ------
    WorkloadError
        Unknown router or parameter (nearest names given), or one that is missing or out of range.

    Examples
    --------
    >>> route("top_p", np.log([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25]]), p=0.65).tolist()
    [[0, 1], [0, 1]]
    """
    return choose(ROUTERS, "router", kind, parameters)(logits, **parameters)


def capacity(tokens: int, experts: int, top_k: int, capacity_factor: Any) -> int:
    """Return the tokens that an expert takes: ceil(factor x tokens x top_k / experts), at least 1 [tokens].

    Parameters
    ----------
    tokens, experts, top_k : int
        Tokens that are routed together, experts that share them and choices of each token [1].
    capacity_factor : float
        Room over what an even router would need [1].
    """
    return max(int(np.ceil(number("capacity_factor", capacity_factor, above=0) * tokens * top_k / experts)), 1)


def drop_over_capacity(
    expert_ids: NDArray[np.integer], experts: int, room: int, *, choices_first: bool = False
) -> IntArray:
    """Empty the slots of assignments that come after an expert is full.

    Parameters
    ----------
    expert_ids : integer array, shape (tokens, slots)
        Assignments of the tokens that are routed together, in sequence order.
    experts : int
        Experts; the id ``experts`` marks a slot that is empty already.
    room : int
        Tokens that an expert takes [tokens].
    choices_first : bool
        Whether all first choices come before any second one (GShard); by default token after token, so that the
        later tokens of a sequence are dropped more (OpenMoE's drop towards the end).

    Returns
    -------
    int64 array, shape (tokens, slots)

    References
    ----------
    D. Lepikhin et al., "GShard", 2020, algorithm 1; F. Xue et al., "OpenMoE", 2024, section 4.3.
    """
    ids = np.asarray(expert_ids, np.int64)
    line = ids.T.ravel() if choices_first else ids.ravel()
    order = np.argsort(line, kind="stable")
    ranked = line[order]
    turn = np.empty(len(line), np.int64)
    turn[order] = np.arange(len(line)) - np.searchsorted(ranked, ranked, side="left")
    kept = np.where(turn < count("room", room), line, experts)
    return np.asarray(kept.reshape(ids.T.shape).T if choices_first else kept.reshape(ids.shape))


def drop_trace(trace: RoutingTrace, capacity_factor: Any, batch: int) -> RoutingTrace:
    """Route a trace with a capacity: in every batch of consecutive tokens an expert takes so many and no more.

    Parameters
    ----------
    trace : RoutingTrace
        A dropless trace.
    capacity_factor : float
        Tokens an expert takes over the mean, above 0 [-].
    batch : int
        Tokens that are routed together [tokens].
    """
    together = count("batch", batch)
    kind = np.uint8 if trace.num_experts < 256 else np.uint16
    ids = np.empty(trace.expert_ids.shape, kind)
    for first in range(0, trace.tokens, together):
        part = trace.expert_ids[first : first + together]
        room = capacity(len(part), trace.num_experts, trace.top_k, capacity_factor)
        for layer in range(trace.layers):
            ids[first : first + len(part), layer] = drop_over_capacity(part[:, layer], trace.num_experts, room)
    source = f"{trace.source}, capacity factor {capacity_factor:g} in batches of {together}"
    return RoutingTrace(
        expert_ids=ids,
        sequence_start=trace.sequence_start,
        num_experts=trace.num_experts,
        source=source,
        padded=True,
    )


def trace_from_choices(
    choices: list[IntArray], sequence_start: NDArray[np.int64], num_experts: int, source: str
) -> RoutingTrace:
    """Stack the choices of layers into a trace, narrower layers filled up with empty slots.

    Parameters
    ----------
    choices : list of int64 array, each of shape (tokens, slots)
        What a router returned for each layer.
    sequence_start : int64 array, shape (sequences,)
        First token of each sequence.
    num_experts : int
        Experts per layer.
    source : str
        Where they come from.
    """
    width = max(layer.shape[1] for layer in choices)
    padded = any(layer.shape[1] < width or bool((layer == num_experts).any()) for layer in choices)
    kind = np.uint8 if num_experts + padded <= 256 else np.uint16
    ids: NDArray[Any] = np.full((len(choices[0]), len(choices), width), num_experts if padded else 0, kind)
    for at, layer in enumerate(choices):
        ids[:, at, : layer.shape[1]] = layer
    return RoutingTrace(
        expert_ids=ids,
        sequence_start=sequence_start,
        num_experts=num_experts,
        source=source,
        padded=padded,
    )


def stacked(chunks: list[IntArray], num_experts: int) -> IntArray:
    """Put the choices of successive tokens below one another, narrower ones filled up with empty slots."""
    width = max(chunk.shape[1] for chunk in chunks)
    fill = [np.pad(chunk, ((0, 0), (0, width - chunk.shape[1])), constant_values=num_experts) for chunk in chunks]
    return np.concatenate(fill)


def _checked(logits: RealArray) -> RealArray:
    if logits.ndim != 2 or 0 in logits.shape or not np.isfinite(logits).all():
        raise WorkloadError(f"logits: got shape {logits.shape}, expected finite numbers of (tokens, experts)")
    return logits


def _per_expert(key: str, value: Any, experts: int) -> NDArray[np.float64]:
    """Read a number or one for each expert."""
    given = np.asarray(value, np.float64)
    if given.shape not in {(), (experts,)} or not np.isfinite(given).all():
        raise WorkloadError(f"{key}: got shape {given.shape}, expected one finite number or one per expert ({experts})")
    return given


def _largest(scores: RealArray, taken: int) -> IntArray:
    """Ids of the largest scores of each row, largest first, the lower id first among equals."""
    return np.asarray(np.argsort(-scores, axis=1, kind="stable")[:, :taken], np.int64)


def _trim(ids: IntArray, experts: int) -> IntArray:
    """Put empty slots last, and leave out those that are empty for all tokens."""
    held = ids != experts
    order = np.argsort(~held, axis=1, kind="stable")
    width = max(int(held.sum(axis=1).max()), 1)
    return np.take_along_axis(ids, order, axis=1)[:, :width]


def _sigmoid(logits: RealArray) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64))))


def _softmax(logits: RealArray) -> NDArray[np.float64]:
    shifted = np.exp(np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
