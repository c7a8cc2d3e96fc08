"""Expert caches: what every policy must obey, and what is known of some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import ScenarioError
from simulator.offload import POLICIES, CachePolicy, future_uses, replay_cache

EXPERTS = 6
CAPACITIES = tuple(range(1, EXPERTS + 1))


@st.composite
def needs(draw: st.DrawFn) -> list[list[int]]:
    """Steps that need up to four experts, slots left empty included."""
    slots = draw(st.integers(1, 4))
    return draw(st.lists(st.lists(st.integers(0, EXPERTS), min_size=slots, max_size=slots), min_size=1, max_size=40))


def total_hits(steps: Sequence[Sequence[int]], policy: CachePolicy, window: int | None = None) -> list[int]:
    return replay_cache(steps, EXPERTS, CAPACITIES, policy, window=window).hits.sum(axis=(1, 2)).tolist()


@given(needs(), st.sampled_from(POLICIES))
def test_belady_is_never_worse_than_any_policy(steps: list[list[int]], policy: CachePolicy) -> None:
    assert all(np.array(total_hits(steps, "belady")) >= total_hits(steps, policy))


@given(needs(), st.sampled_from(POLICIES))
def test_a_larger_cache_never_hits_less(steps: list[list[int]], policy: CachePolicy) -> None:
    assert all(np.diff(total_hits(steps, policy)) >= 0)


@given(needs(), st.sampled_from(POLICIES))
def test_a_cache_for_all_experts_misses_each_of_them_once(steps: list[list[int]], policy: CachePolicy) -> None:
    run = replay_cache(steps, EXPERTS, EXPERTS, policy)
    assert run.misses.sum() == len({expert for step in steps for expert in step} - {EXPERTS})


@given(needs(), st.sampled_from(POLICIES), st.sampled_from(CAPACITIES))
def test_hits_and_misses_are_the_distinct_experts_of_each_step(
    steps: list[list[int]], policy: CachePolicy, capacity: int
) -> None:
    run = replay_cache(steps, EXPERTS, capacity, policy)
    assert (run.hits + run.misses)[0, :, 0].tolist() == [len(set(step) - {EXPERTS}) for step in steps]
    assert run.hits.max() <= capacity


@given(needs(), st.permutations(range(EXPERTS)), st.sampled_from(("lru", "lfu", "belady")))
def test_the_names_of_experts_do_not_matter(steps: list[list[int]], names: list[int], policy: CachePolicy) -> None:
    renamed = [[[*names, EXPERTS][expert] for expert in step] for step in steps]
    assert total_hits(renamed, policy) == total_hits(steps, policy)


@given(needs())
def test_looking_nowhere_ahead_is_lru_and_looking_to_the_end_is_belady(steps: list[list[int]]) -> None:
    assert total_hits(steps, "belady", window=0) == total_hits(steps, "lru")
    assert total_hits(steps, "belady", window=len(steps)) == total_hits(steps, "belady")


@given(st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=9), st.integers(1, 3))
def test_belady_equals_the_best_of_all_choices(references: list[int], capacity: int) -> None:
    states = {frozenset[int](): 0}
    for need in references:
        following: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            victims = [None] if need in held or len(held) < capacity else list(held)
            for victim in victims:
                after = (held | {need}) - ({victim} if victim is not None else set())
                following[after] = max(following.get(after, 0), hits + (need in held))
        states = following
    assert replay_cache(references, EXPERTS, capacity, "belady").hits.sum() == max(states.values())


def test_lru_forgets_a_cycle_that_does_not_fit_and_belady_keeps_part_of_it() -> None:
    cycle = [0, 1, 2] * 20
    assert replay_cache(cycle, 3, 2, "lru").hit_rate[0] == 0.0
    assert replay_cache(cycle, 3, 2, "belady").hit_rate[0] == pytest.approx(0.5, abs=0.05)


def test_lfu_keeps_the_expert_that_is_needed_most() -> None:
    assert replay_cache([0, 0, 0, 1, 2, 1, 2, 0], 3, 2, "lfu").hits[0, :, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("policy", ["random", "lru", "lfu"])
def test_hits_are_capacity_over_experts_where_every_expert_is_as_likely(policy: CachePolicy) -> None:
    references = np.random.default_rng(3).integers(EXPERTS, size=5000)
    rates = replay_cache(references, EXPERTS, CAPACITIES, policy).hit_rate
    np.testing.assert_allclose(rates, np.array(CAPACITIES) / EXPERTS, atol=0.03)


def test_every_layer_of_a_routing_trace_has_a_cache_of_its_own() -> None:
    ids = np.random.default_rng(1).integers(EXPERTS, size=(50, 3, 2))
    together = replay_cache(ids, EXPERTS, 3, "lru")
    for layer in range(3):
        alone = replay_cache(ids[:, layer], EXPERTS, 3, "lru")
        np.testing.assert_array_equal(together.hits[:, :, layer], alone.hits[:, :, 0])


def test_random_replacement_is_the_same_for_the_same_seed() -> None:
    ids = np.random.default_rng(1).integers(EXPERTS, size=200)
    first, again, other = (replay_cache(ids, EXPERTS, 3, "random", seed=seed).hits for seed in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any()


@given(needs())
def test_the_next_use_is_the_first_later_step_that_names_the_expert(steps: list[list[int]]) -> None:
    found = future_uses(np.array(steps)[:, None, :], EXPERTS)[:, 0]
    for index, step in enumerate(steps):
        for slot, expert in enumerate(step):
            later = [each for each in range(index + 1, len(steps)) if expert in steps[each]]
            assert found[index, slot] == (later[0] if later else len(steps))


def test_nothing_needed_has_no_hit_rate() -> None:
    assert np.isnan(replay_cache(np.zeros((0, 1), np.int64), 4, 2, "lru").hit_rate[0])


@pytest.mark.parametrize(
    ("given_ids", "capacity", "policy", "window", "message"),
    [
        ([0, 1], 0, "lru", None, "at least 1 expert"),
        ([0, 9], 2, "lru", None, "expected 0 to 5"),
        ([0.5], 2, "lru", None, "whole numbers"),
        ([[[[0]]]], 2, "lru", None, "4 axes"),
        ([0], 2, "fifo", None, "lfu"),
        ([0], 2, "belady", -1, "at least 0 steps"),
    ],
)
def test_impossible_input_is_refused(
    given_ids: list[int], capacity: int, policy: CachePolicy, window: int | None, message: str
) -> None:
    with pytest.raises(ScenarioError, match=message):
        replay_cache(given_ids, EXPERTS, capacity, policy, window=window)
