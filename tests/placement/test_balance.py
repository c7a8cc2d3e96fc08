"""Policies against the public algorithm, against one another, and against what nothing can beat."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.arrays import FloatArray
from simulator.errors import InfeasibleScenario, ScenarioError
from simulator.placement import POLICIES, imbalance, lower_bound, place
from simulator.placement.affinity import coactivation
from workloads.routing.generators import generate_routing
from workloads.routing.stats import expert_load
from workloads.routing.trace import RoutingTrace

#: Example of the README of DeepSeek's EPLB: loads of 2 layers, and the placement that it prints for 16 slots.
EXAMPLE = np.array(
    [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ],
    dtype=np.float64,
)
PRINTED = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


def powers(exponent: float, layers: int = 58, experts: int = 256) -> FloatArray:
    """Power-law loads, shuffled in each layer."""
    ranked = np.tile(np.arange(1.0, experts + 1) ** -exponent, (layers, 1))
    return np.random.default_rng(1).permuted(ranked, axis=1) * 1e6


@st.composite
def tasks(draw: st.DrawFn) -> tuple[FloatArray, int, int, int]:
    """Loads with ranks, redundant slots and nodes that go with them."""
    nodes, per_node, per_rank = (
        draw(st.sampled_from([1, 2, 4])),
        draw(st.sampled_from([1, 2, 3])),
        draw(st.integers(1, 5)),
    )
    ranks = nodes * per_node
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), ranks * per_rank)
    load = (rng.integers(0, 9, shape).astype(float), rng.exponential(1.0, shape), rng.pareto(1.0, shape))
    return load[draw(st.integers(0, 2))], ranks, draw(st.integers(0, 3)) * ranks, nodes


def test_eplb_places_the_readme_example_as_the_public_algorithm_prints_it() -> None:
    assert place("eplb", EXAMPLE, 8, 4, nodes=2, groups=4).slot_expert.tolist() == PRINTED


def test_eplb_keeps_every_group_of_experts_on_one_node() -> None:
    placed = place("eplb", EXAMPLE, 8, 4, nodes=2, groups=4).slot_expert.reshape(2, 2, 8) // 3
    for layer in placed:
        assert not set(layer[0].tolist()) & set(layer[1].tolist())


def test_eplb_places_globally_where_groups_do_not_divide_over_nodes() -> None:
    hierarchical = place("eplb", EXAMPLE, 8, 4, nodes=2, groups=3)
    assert (hierarchical.slot_expert == place("eplb_global", EXAMPLE, 8, 4).slot_expert).all()


@settings(max_examples=20)
@given(task=tasks())
def test_every_policy_gives_every_expert_a_slot_and_conserves_load(task: tuple[FloatArray, int, int, int]) -> None:
    load, ranks, extra, nodes = task
    together = np.ones((len(load), load.shape[1], load.shape[1]))
    for policy in POLICIES:
        placed = place(policy, load, ranks, extra, nodes=nodes, groups=nodes, together=together)
        assert placed.slot_expert.shape == (len(load), load.shape[1] + extra)
        assert placed.replica_count().min() >= 1
        np.testing.assert_allclose(placed.rank_load(load).sum(axis=1), load.sum(axis=1), rtol=1e-9)


@settings(max_examples=40)
@given(task=tasks())
def test_refining_is_never_worse_than_eplb_and_never_beats_the_bound(task: tuple[FloatArray, int, int, int]) -> None:
    load, ranks, extra, _ = task
    refined, eplb = (place(p, load, ranks, extra).rank_load(load).max(axis=1) for p in ("refined", "eplb_global"))
    bound = lower_bound(load, ranks, extra)
    assert (refined <= eplb * (1 + 1e-9)).all()
    assert (refined >= bound * (1 - 1e-9)).all()


def test_the_bound_is_no_more_than_the_best_of_all_placements() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        load = rng.pareto(1.0, 6)
        best = min(
            max(load[list(order[i : i + 2])].sum() for i in (0, 2, 4)) for order in itertools.permutations(range(6))
        )
        # For two experts to a rank the heaviest goes with the lightest, and the bound is that.
        assert lower_bound(load[None], 3)[0] <= best * (1 + 1e-12)
        assert place("refined", load[None], 3).rank_load(load[None]).max() == pytest.approx(best)


@pytest.mark.parametrize("exponent", [0.3, 0.6, 0.8, 1.0, 1.2])
@pytest.mark.parametrize("redundant", [0, 32])
def test_power_law_loads_come_within_a_percent_of_the_bound(exponent: float, redundant: int) -> None:
    load = powers(exponent)
    heaviest = place("refined", load, 32, redundant, nodes=4, groups=8).rank_load(load).max(axis=1)
    assert (heaviest / lower_bound(load, 32, redundant)).mean() < 1.01
    mean = {
        p: imbalance(place(p, load, 32, redundant, nodes=4, groups=8).rank_load(load)).mean()
        for p in ("refined", "eplb")
    }
    assert mean["refined"] <= mean["eplb"]


def test_few_slots_to_a_rank_get_other_numbers_of_replicas() -> None:
    load = np.random.default_rng(5).dirichlet(np.full(32, 1.5), size=6)
    refined, balanced = (imbalance(place(p, load, 32, 32).rank_load(load)).mean() for p in ("refined", "balanced"))
    assert refined - 1 < 0.7 * (balanced - 1)


def blocks_trace(experts: int = 16, blocks: int = 4) -> RoutingTrace:
    """Tokens of four kinds, each choosing among four experts of its own, scattered over the ids."""
    rng = np.random.default_rng(0)
    members = rng.permutation(experts).reshape(blocks, -1)
    kind = rng.integers(blocks, size=2000)
    ids = np.stack([rng.permuted(members[k])[:3] for k in kind])[:, None, :]
    return RoutingTrace(expert_ids=ids, sequence_start=np.arange(0, 2000, 100), num_experts=experts, source="made")


def nodes_reached(trace: RoutingTrace, policy: str) -> float:
    load = expert_load(trace).astype(float)
    placed = place(policy, load, 8, nodes=4, together=coactivation(trace))
    node = np.empty(trace.num_experts, dtype=int)
    node[placed.slot_expert[0]] = np.arange(16) // 4
    return float(np.mean([len(set(row)) for row in node[trace.expert_ids[:, 0]].tolist()]))


def test_affinity_brings_experts_of_the_same_tokens_onto_one_node() -> None:
    trace = blocks_trace()
    # One node would do for every token, were it not for balance; by chance they reach about two.
    assert nodes_reached(trace, "affinity") < 1.5 < 1.9 < nodes_reached(trace, "refined")


def test_affinity_gives_up_little_balance() -> None:
    trace = generate_routing("domain", tokens=2000, layers=3, num_experts=32, top_k=4, seed=0)
    load = expert_load(trace).astype(float)
    refined, affinity = (
        place(p, load, 8, 8, nodes=2, together=coactivation(trace)).rank_load(load).max(axis=1)
        for p in ("refined", "affinity")
    )
    assert (affinity <= refined * 1.02 * (1 + 1e-9)).all()


def test_coactivation_counts_pairs_of_a_token() -> None:
    trace = RoutingTrace(
        expert_ids=np.array([[[0, 1]], [[0, 1]], [[2, 0]], [[3, 1]]]),
        sequence_start=np.zeros(1, dtype=np.int64),
        num_experts=4,
        source="made",
    )
    found = coactivation(trace)[0]
    assert (found == found.T).all()
    assert found[0].tolist() == [0.0, 0.5, 0.25, 0.0]
    assert found[3].tolist() == [0.0, 0.25, 0.0, 0.0]


def test_affinity_without_coactivation_and_unknown_policies_are_refused() -> None:
    with pytest.raises(ScenarioError, match="needs the co-activation of a routing trace"):
        place("affinity", EXAMPLE, 4, nodes=2)
    with pytest.raises(ScenarioError, match="unknown policy 'epl'; did you mean 'eplb'"):
        place("epl", EXAMPLE, 4)
    with pytest.raises(InfeasibleScenario, match="4 redundant slots would"):
        place("refined", EXAMPLE, 8, 1)


def test_random_placements_follow_the_seed() -> None:
    first, again, other = (place("random", EXAMPLE, 4, seed=seed).slot_expert for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
