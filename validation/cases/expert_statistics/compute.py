"""Imbalance of generated routing on ranks, placed in order and by EPLB on an earlier window of the same text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulator.placement import Placement, place
from validation.papers.papers import Case
from workloads.routing.generators import generate_routing
from workloads.routing.stats import expert_load
from workloads.routing.trace import RoutingTrace


def figures(case: Case) -> Mapping[str, float]:
    """Excess (max - mean) / mean over ranks and over slots, mean over layers [1], by placement and ranks."""
    given = case.inputs
    trace = generate_routing(
        "domain",
        tokens=2 * given["window_tokens"],
        layers=given["layers"],
        num_experts=given["experts"],
        top_k=given["top_k"],
        seed=given["seed"],
        domains=1,
        shared=1.0,
        stickiness=0.0,
        spread=given["spread"],
    )
    past, later = _halves(trace)
    seen, served = (expert_load(half).astype(np.float64) for half in (past, later))
    found: dict[str, float] = {}
    for name, policy, ranks, redundant in (
        ("linear.32", "linear", 32, 0),
        ("eplb.32", "eplb", 32, given["slots"] - given["experts"]),
        ("eplb.36", "eplb", 36, given["slots"] - given["experts"]),
    ):
        placement = place(policy, seen, ranks, redundant)
        by_slot = slot_load(placement, served)
        by_rank = by_slot.reshape(len(by_slot), ranks, -1).sum(axis=2)
        found[f"{name}.ranks"] = excess(by_rank)
        found[f"{name}.slots"] = excess(by_slot)
    return found


def slot_load(placement: Placement, load: NDArray[np.float64]) -> NDArray[np.float64]:
    """Load of every slot, the replicas of an expert sharing evenly, shape (layers, slots) [tokens]."""
    _, replicas = placement.replicas()
    return np.take_along_axis(load / replicas, placement.slot_expert, axis=1)


def excess(load: NDArray[np.float64]) -> float:
    """(max - mean) / mean over the last axis, mean over layers [1]."""
    return float((load.max(axis=1) / load.mean(axis=1)).mean() - 1.0)


def _halves(trace: RoutingTrace) -> tuple[RoutingTrace, RoutingTrace]:
    """Cut a trace into what a placement has seen and what it serves."""
    half = trace.tokens // 2
    parts = (trace.expert_ids[:half], trace.expert_ids[half:])
    first, second = (replace(trace, expert_ids=ids, sequence_start=np.zeros(1, np.int64)) for ids in parts)
    return first, second
