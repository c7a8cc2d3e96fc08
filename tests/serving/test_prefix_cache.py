"""Blocks that later prompts share: what is found, what is kept, and what gives way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.deployment.limits import Limits
from simulator.serving.engine import Pool, PrefixCaching, run_engine
from simulator.serving.prefix_cache import PrefixCache
from simulator.serving.recorder import column
from workloads.requests.trace import RequestTrace

LimitsOf = Callable[..., Limits]
RequestsOf = Callable[..., RequestTrace]


def test_only_the_leading_blocks_that_are_all_there_match() -> None:
    cache = PrefixCache(4)
    cache.hold([1, 2, 3])
    assert [cache.match(blocks) for blocks in ([1, 2, 9], [1, 2, 3, 4], [9, 2, 3], [])] == [2, 3, 0, 0]


def test_idle_blocks_give_way_from_the_end_of_the_prompt_that_was_unused_longest() -> None:
    cache = PrefixCache(4)
    cache.hold([1, 2])
    cache.hold([5, 6])
    cache.release([1, 2])
    cache.release([5, 6])
    cache.shrink(12)
    assert (cache.match([1, 2]), cache.match([5, 6])) == (1, 2)
    cache.shrink(7.9)
    assert (cache.match([1, 2]), cache.match([5, 6])) == (0, 1)


def test_blocks_that_a_request_holds_never_give_way() -> None:
    cache = PrefixCache(4)
    cache.hold([1, 2])
    cache.hold([1, 3])
    cache.release([1, 2])
    cache.shrink(0)
    assert cache.match([1, 3]) == 2
    assert (cache.held_tokens, cache.idle_tokens) == (8, 0)


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 9), max_size=4, unique=True), max_size=12), st.integers(0, 40))
def test_whatever_was_held_and_released_leaves_only_idle_blocks_within_the_bound(
    prompts: list[list[int]], room: int
) -> None:
    cache = PrefixCache(4)
    for blocks in prompts:
        cache.hold(blocks)
    for blocks in prompts:
        cache.release(blocks)
    assert cache.held_tokens == 0
    assert cache.idle_tokens == 4 * len({block for blocks in prompts for block in blocks})
    cache.shrink(room)
    assert cache.idle_tokens <= room


def cached_run(
    trace: RequestTrace, limits: Limits, blocks: list[tuple[int, ...]], timers: list[Any], **options: Any
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    caching = PrefixCaching(blocks=blocks, block_tokens=4, **options.pop("store", {}))
    run = run_engine(trace, [Pool(timers=timers, limits=limits)], caching=caching, **options)
    assert np.isfinite(column(run.requests.finish)).all()
    return column(run.requests.cached), run.steps


def test_a_prompt_that_begins_like_an_earlier_one_computes_only_the_rest(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    trace = requests_of([10, 11, 8], [2, 2, 2], arrival=[0, 10, 20])
    cached, steps = cached_run(trace, limits(), [(1, 2), (1, 2), (1, 2)], [constant_timer()])
    # The last token of a prompt is computed even where all of it is cached.
    assert cached.tolist() == [0, 8, 7]
    assert steps["prompt_total"][steps["prompt_total"] > 0].tolist() == [10, 3, 1]


def test_shared_blocks_take_memory_once(limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any) -> None:
    trace = requests_of([8] * 4, [6] * 4, arrival=[0, 2, 2, 2])
    apart = [(index, 10 + index) for index in range(4)]
    together = [(1, 2)] * 4
    # Room for three prompts of their own, or for one that all share and four answers.
    most = {}
    for name, blocks in (("apart", apart), ("together", together)):
        _, steps = cached_run(trace, limits(pool=30.0), blocks, [constant_timer()])
        most[name] = steps["running"].max()
    assert most == {"apart": 3, "together": 4}


def test_cached_blocks_give_way_to_running_requests(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    trace = requests_of([8, 16, 8], [2, 2, 2], arrival=[0, 10, 20])
    cached, _ = cached_run(trace, limits(pool=19.0), [(1, 2), (3, 4, 5, 6), (1, 2)], [constant_timer()])
    assert cached.tolist() == [0, 0, 0]
    cached, _ = cached_run(trace, limits(pool=40.0), [(1, 2), (3, 4, 5, 6), (1, 2)], [constant_timer()])
    assert cached.tolist() == [0, 0, 7]


def test_a_balancer_that_knows_the_caches_sends_a_prompt_to_its_like(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    trace = requests_of([8] * 6, [2] * 6, arrival=[0, 0, 10, 20, 30, 40])
    blocks = [(1, 2), (3, 4), (3, 4), (1, 2), (3, 4), (1, 2)]
    timers = [constant_timer(), constant_timer()]
    aware, _ = cached_run(trace, limits(), blocks, timers, balance="cache_aware")
    blind, _ = cached_run(trace, limits(), blocks, timers, balance="round_robin")
    assert aware.tolist() == [0, 0, 7, 7, 7, 7]
    assert blind.sum() < aware.sum()


def test_a_shared_pool_serves_prompts_that_another_instance_computed(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    trace = requests_of([8, 8], [2, 2], arrival=[0, 10])
    timers = [constant_timer(), constant_timer()]
    store = {"store_tokens": 100.0, "fetch_per_token": 0.25}
    blocks = [(1, 2), (1, 2)]
    cached, steps = cached_run(trace, limits(), blocks, timers, balance="round_robin", store=store)
    assert cached.tolist() == [0, 7]
    # Eight tokens are fetched at a quarter of a second each.
    assert steps["start_s"][steps["instance"] == 1][0] == pytest.approx(12.0)
    small = {"store_tokens": 3.0, "fetch_per_token": 0.25}
    cached, _ = cached_run(trace, limits(), blocks, timers, balance="round_robin", store=small)
    assert cached.tolist() == [0, 0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_caching_changes_when_but_never_what_is_answered(
    data: st.DataObject, limits: LimitsOf, constant_timer: Any
) -> None:
    size = data.draw(st.integers(1, 14))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    inputs, outputs = rng.integers(1, 24, size), rng.integers(1, 9, size)
    trace = RequestTrace(
        arrival=np.sort(rng.integers(0, 20, size)).astype(float), input_tokens=inputs, output_tokens=outputs
    )
    blocks = [tuple(int(rng.integers(0, 3)) * 10 + place for place in range(length // 4)) for length in inputs.tolist()]
    bounds = limits(
        dp=data.draw(st.integers(1, 2)),
        pool=float((inputs + outputs).max() + data.draw(st.integers(4, 40))),
        token_budget=data.draw(st.integers(4, 60)),
        preemption=data.draw(st.sampled_from(["recompute", "swap"])),
        swap_rate=8.0,
    )
    store = {"store_tokens": data.draw(st.sampled_from([0.0, 12.0])), "fetch_per_token": 0.1}
    cached, _ = cached_run(trace, bounds, blocks, [constant_timer(), constant_timer()], store=store)
    assert (cached < inputs).all()
    assert (cached <= np.array([4 * len(each) for each in blocks])).all()
