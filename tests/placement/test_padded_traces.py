"""Empty slots and null experts are on no rank: every placement takes such traces, and every way of counting agrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import Scenario, check, estimate, explain, simulate
from simulator.placement import POLICIES, place
from simulator.placement.affinity import coactivation
from simulator.placement.replay import RoutingReplay, replay
from simulator.placement.replica_routing import REPLICA_ROUTINGS
from workloads.models.spec import Phase
from workloads.routing.generators import generate_routing
from workloads.routing.routers import drop_trace
from workloads.routing.stats import expert_load
from workloads.routing.trace import RoutingTrace

LAYERS, EXPERTS, TOKENS = 3, 8, 96


def trace(kind: str) -> RoutingTrace:
    """A small trace: as it is, with empty slots, with two null experts, or with both."""
    wide = EXPERTS + (2 if "null" in kind else 0)
    plain = generate_routing("zipf", tokens=TOKENS, layers=LAYERS, num_experts=wide, top_k=2, seed=3, exponent=0.8)
    return drop_trace(plain, 1.0, 16) if "padded" in kind else plain


KINDS = ("plain", "padded", "null", "padded and null")


def replayed(kind: str, policy: str = "linear", routing: str = "round_robin", redundant: int = 0) -> RoutingReplay:
    kept, ranks = trace(kind), 4
    load = expert_load(kept)[:, :EXPERTS].astype(np.float64)
    together = coactivation(kept)[:, :EXPERTS, :EXPERTS]
    placement = place(policy, load, ranks, redundant, nodes=2, groups=2, together=together)
    return replay(kept, placement, concurrency=5, replica_routing=routing, nodes=2)


def served(routing: RoutingReplay) -> int:
    """Assignments of the whole trace that some rank serves."""
    return int((routing.slot_ids < routing.placement.slots).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_the_traces_are_what_they_are_called(kind: str) -> None:
    ids = trace(kind).expert_ids
    assert trace(kind).padded == ("padded" in kind)
    assert bool((ids == trace(kind).num_experts).any()) == ("padded" in kind)
    assert bool(((ids >= EXPERTS) & (ids < trace(kind).num_experts)).any()) == ("null" in kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("redundant", [0, 4])
def test_every_policy_places_every_kind_of_trace(policy: str, kind: str, redundant: int) -> None:
    routing, kept = replayed(kind, policy, redundant=redundant), trace(kind)
    assert routing.placement.replica_count().min() >= 1
    assert served(routing) == int((kept.expert_ids < EXPERTS).sum())
    assert int(routing.prefill.load(0, TOKENS).sum()) == served(routing)


@pytest.mark.parametrize("kind", KINDS)
def test_coactivation_counts_pairs_of_chosen_experts_alone(kind: str) -> None:
    kept = trace(kind)
    found = coactivation(kept) * kept.tokens
    pairs = np.zeros_like(found)
    for token, layer in np.ndindex(kept.tokens, kept.layers):
        first, second = kept.expert_ids[token, layer].tolist()
        if kept.num_experts not in (first, second) and first != second:
            pairs[layer, first, second] += 1
            pairs[layer, second, first] += 1
    np.testing.assert_allclose(found, pairs)


PLACED = [
    replayed(kind, "balanced", routing, redundant)
    for kind in KINDS
    for routing in REPLICA_ROUTINGS
    for redundant in (0, 4)
]


@given(
    case=st.sampled_from(PLACED),
    phase=st.sampled_from(["prefill", "decode"]),
    start=st.integers(0, TOKENS - 1),
    count=st.integers(0, 4 * TOKENS),
)
def test_counts_per_expert_and_rank_loads_agree_in_any_window(
    case: RoutingReplay, phase: Phase, start: int, count: int
) -> None:
    slots = case.slot_counts(phase, start, count)
    load = getattr(case, phase).load(start, count)
    np.testing.assert_array_equal(slots.sum(axis=-1), load.T)
    index = (start + np.arange(count)) % TOKENS
    chosen = case.slot_ids[case.decode_order[index] if phase == "decode" else index]
    for layer in range(LAYERS):
        ids = chosen[:, layer].ravel()
        counted = np.bincount(ids[ids < case.placement.slots], minlength=case.placement.slots)
        np.testing.assert_array_equal(slots[layer].ravel(), counted)
        experts = np.bincount(case.placement.slot_expert[layer], weights=counted, minlength=EXPERTS)
        np.testing.assert_array_equal(case.expert_counts(phase, start, count)[layer], experts)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("turns", [0, 1, 2**20, 2**33])
@pytest.mark.parametrize("start", [0, 1, TOKENS - 1, TOKENS])
def test_a_window_of_any_length_has_the_load_of_its_turns_and_the_rest(phase: Phase, turns: int, start: int) -> None:
    case = replayed("padded and null")
    order = getattr(case, phase)
    every = order.load(0, TOKENS).astype(np.int64)
    for rest in (0, 1, TOKENS - 1):
        expected = every * turns + order.load(start % TOKENS, rest).astype(np.int64)
        np.testing.assert_array_equal(order.load(start, turns * TOKENS + rest).astype(np.int64), expected)


BASE: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "parallelism": {"dp": 2, "ep": 2},
    "requests": {"concurrency": 4, "count": 8, "lengths": {"input": 64, "output": 8}},
}
PADDED: dict[str, dict[str, Any]] = {
    "capacity": {"tokens": 128, "capacity_factor": 1.0, "capacity_batch": 64},
    "top_p": {"kind": "fitted", "fit": "sample:fit_gpt_oss_20b.toml", "tokens": 128, "router": "top_p", "top_p": 0.3},
}


@pytest.mark.parametrize("padded", PADDED)
@pytest.mark.parametrize("policy", ["linear", "random", "balanced", "eplb", "eplb_global", "refined", "affinity"])
def test_a_scenario_with_a_padded_trace_is_answered_under_every_policy(policy: str, padded: str) -> None:
    scenario = Scenario.from_mapping({**BASE, "routing": PADDED[padded], "placement": {"policy": policy}})
    assert all(finding.level != "error" for finding in check(scenario))
    assert estimate(scenario).summary.output_tokens_per_s_per_gpu > 0
    assert explain(scenario).step_s > 0


def test_a_padded_trace_is_rebalanced_by_affinity() -> None:
    placement = {"policy": "affinity", "rebalance": {"every_steps": 4, "window": 32}}
    scenario = Scenario.from_mapping({**BASE, "routing": PADDED["capacity"], "placement": placement})
    assert simulate(scenario).whole_run.requests_completed == 8
