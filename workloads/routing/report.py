"""Everything that a routing trace says about load, memory and dependence, in one value."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.arrays import FloatArray
from workloads.routing.dependence import (
    co_activation,
    co_activation_information,
    layer_information,
    next_layer_hit_rate,
    overlap_by_chance,
    overlap_by_distance,
    overlap_by_lag,
    token_identity_share,
)
from workloads.routing.stats import active_experts, expert_load, imbalance, imbalance_by_batch
from workloads.routing.trace import RoutingTrace

RANKS = (4, 8, 16, 32, 64)
BATCHES = (8, 32, 128, 512, 2048, 4096)
LAGS = (1, 2, 4, 8, 16, 64, 256)
DISTANCES = (1, 4, 16, 64)
#: Parts of the trace whose loads are compared to show drift.
PARTS = 8
#: Tokens that the imbalance by batch is counted on, at most, evenly cut blocks of the largest batch.
MOST_TOKENS = 2**17


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchImbalance:
    """Imbalance over ranks (max/mean) at one batch size and EP degree, mean over batches and layers [-].

    ``prefill`` takes consecutive tokens, ``decode`` one token of many sequences; ``shuffled`` any tokens, so that only
    the skew of the load and the chance of a finite batch are left; ``chance`` is a perfectly even router's. ``skew`` is
    that of all tokens together, at no chance.
    """

    ranks: int
    batch: int
    prefill: float
    decode: float
    shuffled: float
    chance: float
    skew: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingReport:
    """What :func:`routing_report` finds; overlaps are shares of a token's experts, information is in bits."""

    source: str
    tokens: int
    sequences: int
    layers: int
    num_experts: int
    top_k: int
    mean_experts: float
    load: FloatArray
    batches: tuple[BatchImbalance, ...]
    active: tuple[dict[str, float], ...]
    overlap_by_chance: float
    overlap_by_lag: dict[int, float]
    overlap_by_distance: dict[int, float]
    drift: float
    drift_by_chance: float
    layer_information: dict[int, float]
    next_layer_hit_rate: tuple[float, float]
    co_activation_information: float
    co_activated: tuple[dict[str, float], ...]
    token_identity: float | None

    def document(self) -> dict[str, Any]:
        """The report as JSON; ``token_identity`` is null where token ids are not known."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["load"] = self.load.tolist()
        plain["batches"] = [dataclasses.asdict(row) for row in self.batches]
        for key in ("overlap_by_lag", "overlap_by_distance", "layer_information"):
            plain[key] = {str(name): value for name, value in plain[key].items()}
        return plain


def routing_report(
    trace: RoutingTrace,
    *,
    ranks: tuple[int, ...] = (),
    batches: tuple[int, ...] = (),
    concurrency: int = 256,
    token_ids: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> RoutingReport:
    """Look at a routing trace from all sides.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    ranks, batches : tuple of int
        EP degrees and batch sizes [tokens]; those of ``RANKS`` that divide the experts, and those of ``BATCHES`` that
        the trace fills, where empty.
    concurrency : int
        Sequences decoded side by side.
    token_ids : integer array, shape (tokens,), optional
        Vocabulary ids, to tell what the identity of a token decides.
    seed : int
        Seed of the pairs and permutations that are drawn.
    """
    rng = np.random.default_rng(seed)
    degrees = ranks or tuple(n for n in RANKS if trace.num_experts % n == 0 and n <= trace.num_experts)
    sizes = batches or tuple(n for n in BATCHES if n <= trace.tokens)
    orders = _orders(trace, concurrency, rng)
    gaps = [gap for gap in (1, 2, 4, 8, 16) if gap < trace.layers]
    hits = next_layer_hit_rate(trace)
    drift, by_chance = load_drift(trace, rng)
    return RoutingReport(
        source=trace.source,
        tokens=trace.tokens,
        sequences=len(trace.sequence_start),
        layers=trace.layers,
        num_experts=trace.num_experts,
        top_k=trace.top_k,
        mean_experts=float((trace.expert_ids < trace.num_experts).sum() / (trace.tokens * trace.layers)),
        load=expert_load(trace) / trace.tokens,
        batches=tuple(_batch(orders, degree, size, rng) for degree in degrees for size in sizes),
        active=tuple(_active(orders, size) for size in sizes),
        overlap_by_chance=float(overlap_by_chance(trace).mean()),
        overlap_by_lag=_means(LAGS, overlap_by_lag(trace, LAGS, rng)),
        overlap_by_distance=_means(DISTANCES, overlap_by_distance(trace, DISTANCES, rng)),
        drift=drift,
        drift_by_chance=by_chance,
        layer_information={gap: float(layer_information(trace, gap).mean()) for gap in gaps},
        next_layer_hit_rate=(float(hits[0].mean()), float(hits[1].mean())) if len(hits[0]) else (math.nan, math.nan),
        co_activation_information=float(co_activation_information(trace).mean()),
        co_activated=_strongest(trace),
        token_identity=None if token_ids is None else float(np.nanmean(token_identity_share(trace, token_ids, rng))),
    )


def load_drift(trace: RoutingTrace, rng: np.random.Generator) -> tuple[float, float]:
    """How far the load of successive parts of the trace moves, and how far it would by chance.

    Returns
    -------
    drift, by_chance : float
        Mean total-variation distance between the expert loads of neighbouring eighths [-]; the second for tokens in
        random order.
    """
    if trace.tokens < 2 * PARTS:
        return math.nan, math.nan
    shuffled = replace(trace, expert_ids=trace.expert_ids[rng.permutation(trace.tokens)])
    return _moved(trace), _moved(shuffled)


def _moved(trace: RoutingTrace) -> float:
    edges = np.linspace(0, trace.tokens, PARTS + 1).astype(int)
    loads = np.stack([expert_load(replace(trace, expert_ids=trace.expert_ids[a:b])) for a, b in pairwise(edges)])
    shares = loads / np.maximum(loads.sum(axis=2, keepdims=True), 1)
    return float(np.abs(np.diff(shares, axis=0)).sum(axis=2).mean() / 2)


def _orders(trace: RoutingTrace, concurrency: int, rng: np.random.Generator) -> dict[str, RoutingTrace]:
    """Return the trace in prompt order, in decode order and shuffled, of at most ``MOST_TOKENS`` tokens."""
    lanes = decode_lanes(trace, concurrency)
    orders = {"prefill": np.arange(trace.tokens), "decode": lanes, "shuffled": rng.permutation(trace.tokens)}
    return {
        name: replace(trace, expert_ids=trace.expert_ids[order[:MOST_TOKENS]], sequence_start=np.zeros(1, np.int64))
        for name, order in orders.items()
    }


def decode_lanes(trace: RoutingTrace, concurrency: int) -> NDArray[np.int64]:
    """Order tokens as decode batches take them: sequences queue in ``concurrency`` lanes, read across.

    Each sequence goes to the lane that is shortest so far.
    """
    lengths = np.diff(trace.sequence_start, append=trace.tokens)
    filled = np.zeros(min(concurrency, len(lengths)), np.int64)
    lane, begin = np.empty((2, len(lengths)), np.int64)
    for at, length in enumerate(lengths):
        lane[at] = filled.argmin()
        begin[at] = filled[lane[at]]
        filled[lane[at]] += length
    position = np.arange(trace.tokens) + np.repeat(begin - trace.sequence_start, lengths)
    return np.lexsort((np.repeat(lane, lengths), position))


def _batch(orders: dict[str, RoutingTrace], ranks: int, batch: int, rng: np.random.Generator) -> BatchImbalance:
    found = {name: float(imbalance_by_batch(trace, ranks, batch).mean()) for name, trace in orders.items()}
    any_order = orders["shuffled"]
    load = expert_load(any_order).reshape(any_order.layers, ranks, -1).sum(axis=2)
    return BatchImbalance(
        ranks=ranks,
        batch=batch,
        chance=_even_router(any_order, ranks, batch, rng),
        skew=float(imbalance(load).mean()),
        **found,
    )


def _even_router(trace: RoutingTrace, ranks: int, batch: int, rng: np.random.Generator, draws: int = 400) -> float:
    """Imbalance of a batch that a router without any preference routes, by simulation."""
    each = trace.num_experts // ranks
    if trace.top_k == 1 or batch * trace.top_k > 2**14:
        load = rng.multinomial(batch * trace.top_k, np.full(ranks, 1 / ranks), size=draws)
        return float(imbalance(load).mean())
    draws = max(8, min(draws, 2**21 // (batch * trace.num_experts)))
    keys = rng.random((draws * batch, trace.num_experts), dtype=np.float32)
    rank = np.argpartition(keys, trace.top_k - 1, axis=1)[:, : trace.top_k] // each
    row = np.repeat(np.arange(draws), batch * trace.top_k)
    load = np.bincount(row * ranks + rank.ravel(), minlength=draws * ranks).reshape(draws, ranks)
    return float(imbalance(load).mean())


def _active(orders: dict[str, RoutingTrace], batch: int) -> dict[str, float]:
    found = {name: float(active_experts(trace, batch).mean()) for name, trace in orders.items()}
    return {"batch": batch, **found}


def _means(keys: tuple[int, ...], values: FloatArray) -> dict[int, float]:
    return {key: float(row.mean()) for key, row in zip(keys, values, strict=True)}


def _strongest(trace: RoutingTrace, most: int = 5) -> tuple[dict[str, float], ...]:
    """Find the pairs of experts that are together most above chance, of all layers, among those often together."""
    if trace.top_k < 2:
        return ()
    rows = []
    for layer in range(trace.layers):
        lift = np.triu(co_activation(trace, layer), 1)
        load = expert_load(replace(trace, expert_ids=trace.expert_ids[:, layer : layer + 1]))[0]
        common = load >= load.mean()
        lift *= np.outer(common, common)
        first, second = np.unravel_index(int(lift.argmax()), lift.shape)
        rows.append({"layer": layer, "first": int(first), "second": int(second), "lift": float(lift[first, second])})
    return tuple(sorted(rows, key=lambda row: -row["lift"])[:most])
