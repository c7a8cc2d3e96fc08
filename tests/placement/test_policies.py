"""Placements: what they promise about slots, replicas and the heaviest rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.arrays import FloatArray
from simulator.errors import InfeasibleScenario
from simulator.placement import Placement, place


def rank_loads(placement: Placement, load: FloatArray) -> FloatArray:
    """Load of every rank, shape (layers, ranks), where replicas share the load of their expert evenly."""
    found = np.zeros((len(load), placement.ranks))
    for layer, row in enumerate(placement.slot_expert):
        share = load[layer] / np.bincount(row, minlength=placement.num_experts)
        found[layer] = [share[held].sum() for held in np.split(row, placement.ranks)]
    return found


def lightest_maximum(load: list[float], ranks: int, per_rank: int) -> float:
    """Smallest maximum over all ways to deal experts, so many to a rank (branch and bound)."""
    best = float("inf")
    total, held = [0.0] * ranks, [0] * ranks
    order = sorted(load, reverse=True)

    def deal(index: int) -> None:
        nonlocal best
        if max(total) >= best:
            return
        if index == len(order):
            best = max(total)
            return
        tried = set()
        for rank in range(ranks):
            if held[rank] < per_rank and (total[rank], held[rank]) not in tried:
                tried.add((total[rank], held[rank]))
                total[rank] += order[index]
                held[rank] += 1
                deal(index + 1)
                total[rank] -= order[index]
                held[rank] -= 1

    deal(0)
    return best


@st.composite
def loads(draw: st.DrawFn, most_per_rank: int = 8) -> tuple[FloatArray, int, int]:
    """Tokens per expert, shape (layers, experts), with ranks and redundant slots that go with them."""
    ranks, per_rank = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.integers(1, most_per_rank))
    layers, extra = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (layers, ranks * per_rank)
    kinds = (rng.integers(0, 9, shape).astype(float), rng.exponential(1.0, shape), rng.pareto(1.0, shape))
    return kinds[draw(st.integers(0, 2))], ranks, extra * ranks


@given(case=loads())
def test_every_expert_has_a_slot_and_every_slot_an_expert(case: tuple[FloatArray, int, int]) -> None:
    load, ranks, extra = case
    layers, experts = load.shape
    for placement in (place("linear", load, ranks, extra), place("balanced", load, ranks, extra)):
        assert placement.slot_expert.shape == (layers, experts + extra)
        assert placement.slots_per_rank * ranks == placement.slots == experts + extra
        for row in placement.slot_expert:
            count = np.bincount(row, minlength=experts)
            assert len(count) == experts
            assert count.min() >= 1


@given(case=loads())
def test_replicas_list_the_slots_of_each_expert(case: tuple[FloatArray, int, int]) -> None:
    load, ranks, extra = case
    placement = place("balanced", load, ranks, extra)
    slots, count = placement.replicas()
    for layer, row in enumerate(placement.slot_expert):
        for expert in range(placement.num_experts):
            wanted = np.flatnonzero(row == expert)
            assert count[layer, expert] == len(wanted)
            assert sorted(slots[layer, expert, : len(wanted)].tolist()) == wanted.tolist()
            assert (slots[layer, expert, len(wanted) :] == wanted[0]).all()


@settings(max_examples=150)
@given(case=loads())
def test_balancing_never_makes_the_heaviest_rank_heavier(case: tuple[FloatArray, int, int]) -> None:
    load, ranks, extra = case
    balanced = rank_loads(place("balanced", load, ranks, extra), load).max(axis=1)
    linear = rank_loads(place("linear", load, ranks, extra), load).max(axis=1)
    assert (balanced <= linear * (1 + 1e-12) + 1e-12).all()


@settings(max_examples=50)
@given(case=loads(most_per_rank=3))
def test_packing_is_within_four_thirds_of_the_best(case: tuple[FloatArray, int, int]) -> None:
    load, ranks, _ = case
    if ranks > 4:
        ranks = 4
        load = load[:, : 4 * (load.shape[1] // 8)]
    heaviest = rank_loads(place("balanced", load, ranks), load).max(axis=1)
    best = [lightest_maximum(row.tolist(), ranks, load.shape[1] // ranks) for row in load]
    assert (heaviest <= np.asarray(best) * 4 / 3 + 1e-9).all()


@given(case=loads())
def test_placing_conserves_the_load(case: tuple[FloatArray, int, int]) -> None:
    load, ranks, extra = case
    held = rank_loads(place("balanced", load, ranks, extra), load)
    np.testing.assert_allclose(held.sum(axis=1), load.sum(axis=1), rtol=1e-12)


def test_the_hottest_expert_gets_the_redundant_slots() -> None:
    load = np.array([[100.0, 10.0, 10.0, 10.0]])
    placement = place("balanced", load, ranks=4, redundant_slots=4)
    assert np.bincount(placement.slot_expert[0]).tolist() == [5, 1, 1, 1]
    assert rank_loads(placement, load).max() < rank_loads(place("balanced", load, 4), load).max() / 2


def test_linear_placement_keeps_experts_in_order_and_repeats_the_first() -> None:
    assert place("linear", np.ones((1, 4)), 2, 2).slot_expert.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert place("linear", np.ones((1, 4)), 2, 2).slot_expert.tolist() == [[0, 1, 2, 3, 0, 1]]


def test_a_skewed_load_is_balanced_within_a_percent() -> None:
    load = np.random.default_rng(0).dirichlet(np.full(256, 0.5), size=4) * 1e6
    held = rank_loads(place("balanced", load, 32, 32), load)
    assert (held.max(axis=1) / held.mean(axis=1)).max() < 1.01
    plain = rank_loads(place("linear", load, 32, 32), load)
    assert (plain.max(axis=1) / plain.mean(axis=1)).min() > 1.5


@pytest.mark.parametrize(("redundant", "hint"), [(0, "7 redundant slots would"), (3, "7 redundant slots would")])
def test_slots_that_do_not_divide_name_how_many_would(redundant: int, hint: str) -> None:
    with pytest.raises(InfeasibleScenario, match=hint):
        place("linear", np.ones((1, 25)), 8, redundant)
    with pytest.raises(InfeasibleScenario, match="25 experts and"):
        place("balanced", np.ones((1, 25)), 8, redundant)
