"""Nothing is lost or made up between arrival and the last token, whatever the limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.deployment.limits import Limits
from workloads.requests.trace import RequestTrace

Played = Any


@dataclass(frozen=True)
class Case:
    """A small load, the limits it meets, and how it is played."""

    trace: RequestTrace
    limits: Limits
    instances: int
    balancer: str
    per_token: float


@st.composite
def cases(draw: st.DrawFn, *, roomy: bool = False) -> Case:
    """Loads of up to 24 requests on KV pools that hold little more than the longest of them, or on roomy ones."""
    size = draw(st.integers(1, 24))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    inputs, outputs = rng.integers(1, 40, size), rng.integers(1, 14, size)
    closed = draw(st.booleans())
    gap = draw(st.sampled_from([0.0, 0.3, 1.0, 6.0]))
    per_sequence = draw(st.sampled_from([0.0, 3.0]))
    pool = 1e6 if roomy else float((inputs + outputs).max() + per_sequence + draw(st.integers(0, 40)))
    return Case(
        trace=RequestTrace(
            arrival=np.zeros(size) if closed else np.cumsum(rng.exponential(1.0, size)) * gap,
            input_tokens=inputs,
            output_tokens=outputs,
            concurrency=draw(st.integers(1, 9)) if closed else None,
        ),
        limits=Limits(
            dp=draw(st.integers(1, 4)),
            token_budget=draw(st.integers(1, 60)),
            max_running=draw(st.integers(1, 7)),
            pool=pool,
            kv_per_token=1.0,
            kv_per_sequence=per_sequence,
            scheduler=draw(st.sampled_from(["mixed", "prefill_first"])),
            chunked=draw(st.booleans()),
        ),
        instances=draw(st.integers(1, 3)),
        balancer=draw(st.sampled_from(["round_robin", "least_loaded"])),
        per_token=draw(st.sampled_from([0.0, 0.01])),
    )


@pytest.fixture(scope="session")
def run(play: Callable[..., Played], constant_timer: Callable[..., Any]) -> Callable[[Case], Played]:
    def once(case: Case) -> Played:
        timers = [constant_timer(1.0, case.per_token) for _ in range(case.instances)]
        return play(case.trace, case.limits, timers, balance=case.balancer)

    return once


@settings(max_examples=150)
@given(case=cases())
def test_every_request_ends_once_with_all_its_tokens(case: Case, run: Callable[[Case], Played]) -> None:
    played = run(case)
    steps, outputs = played.run.steps, case.trace.output_tokens
    assert np.isfinite(played.finish).all()
    assert (played.arrival <= played.admitted).all()
    assert (played.admitted < played.first_token).all()
    assert (played.first_token <= played.finish).all()
    assert ((played.finish == played.first_token) == (outputs == 1)).all()
    assert steps["prompt_total"].sum() == case.trace.input_tokens.sum() + played.recomputed
    assert steps["decode_total"].sum() == (outputs - 1).sum() - played.resumed
    if not played.preemptions.any():
        assert (played.recomputed, played.resumed) == (0, 0)


@settings(max_examples=100)
@given(case=cases())
def test_gaps_between_tokens_add_up_to_the_time_of_the_answers(case: Case, run: Callable[[Case], Played]) -> None:
    played = run(case)
    gaps = played.run.gaps
    assert gaps["tokens"].sum() == (case.trace.output_tokens - 1).sum()
    assert (gaps["gap_s"] >= 0).all()
    answering = (played.finish - played.first_token).sum()
    assert (gaps["gap_s"] * gaps["tokens"]).sum() == pytest.approx(answering, abs=1e-6)


@settings(max_examples=100)
@given(case=cases())
def test_all_counters_are_zero_at_the_end(case: Case, run: Callable[[Case], Played]) -> None:
    for instance in run(case).instances:
        assert instance.counters() == dict.fromkeys(instance.counters(), 0)
        assert instance.idle
        assert instance.kv.left(0) == instance.limits.pool


@settings(max_examples=100)
@given(case=cases())
def test_no_step_exceeds_its_limits(case: Case, run: Callable[[Case], Played]) -> None:
    played, limits = run(case), case.limits
    steps = played.run.steps
    assert max(steps["kv_use"].max(), played.fullest) <= 1.0 + 1e-12
    assert steps["running"].max() <= limits.dp * limits.max_running
    assert (steps["rows"] <= max(limits.token_budget, limits.max_running)).all()
    assert (steps["prompt_total"] <= limits.dp * limits.token_budget).all()
    assert (steps["prompt_total"] + steps["decode_total"] > 0).all()
    if limits.scheduler == "prefill_first":
        assert not ((steps["prompt_total"] > 0) & (steps["decode_total"] > 0)).any()


@settings(max_examples=100)
@given(case=cases())
def test_an_instance_never_rests_while_it_has_requests(case: Case, run: Callable[[Case], Played]) -> None:
    played = run(case)
    steps = played.run.steps
    for index in range(case.instances):
        own = steps["instance"] == index
        start = steps["start_s"][own]
        end = start + steps["duration_s"][own]
        assert (start[1:] >= end[:-1] - 1e-9).all()
        begins, ends = np.append(0.0, end), np.append(start, np.inf)
        mine = played.instance == index
        for begin, until in zip(begins, ends, strict=True):
            if until > begin + 1e-9:
                here = (played.arrival[mine] < until - 1e-9) & (played.finish[mine] > begin + 1e-9)
                assert not here.any(), f"instance {index} rests from {begin} to {until} s"


@settings(max_examples=60)
@given(case=cases(roomy=True))
def test_running_requests_obey_littles_law(case: Case, run: Callable[[Case], Played]) -> None:
    played = run(case)
    steps = played.run.steps
    assert not played.preemptions.any()
    occupied = (steps["running"] * steps["duration_s"]).sum()
    assert occupied == pytest.approx((played.finish - played.first_token).sum(), abs=1e-6)


@settings(max_examples=60)
@given(case=cases(roomy=True))
def test_requests_of_a_rank_are_admitted_in_order_of_arrival(case: Case, run: Callable[[Case], Played]) -> None:
    played = run(case)
    for server in np.unique(np.stack([played.instance, played.rank], axis=1), axis=0):
        own = (played.instance == server[0]) & (played.rank == server[1])
        order = np.argsort(played.arrival[own], kind="stable")
        assert (np.diff(played.admitted[own][order]) >= 0).all()


@settings(max_examples=60)
@given(case=cases())
def test_a_closed_loop_starts_a_request_whenever_one_ends(case: Case, run: Callable[[Case], Played]) -> None:
    played = run(case)
    concurrency = case.trace.concurrency
    if concurrency is None:
        assert played.arrival == pytest.approx(case.trace.arrival)
        return
    ended = np.sort(played.finish)
    assert (played.arrival[:concurrency] == 0.0).all()
    assert (played.arrival[concurrency:] == ended[: max(len(ended) - concurrency, 0)]).all()


@settings(max_examples=40)
@given(case=cases())
def test_the_same_run_twice_is_the_same(case: Case, run: Callable[[Case], Played]) -> None:
    first, again = run(case), run(case)
    for name, values in first.run.steps.items():
        np.testing.assert_array_equal(values, again.run.steps[name])
    for name in ("arrival", "admitted", "first_token", "finish", "instance", "rank", "preemptions"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_the_cases_meet_preemption_of_prompts_and_of_answers(
    play: Callable[..., Played], constant_timer: Callable[..., Any], limits: Callable[..., Limits]
) -> None:
    """The laws above are only worth something if such loads preempt."""
    rng = np.random.default_rng(5)
    dropped = resumed = 0
    for _ in range(150):
        inputs, outputs = rng.integers(1, 40, 24), rng.integers(1, 14, 24)
        trace = RequestTrace(arrival=np.zeros(24), input_tokens=inputs, output_tokens=outputs, concurrency=8)
        pool = float((inputs + outputs).max() + rng.integers(0, 40))
        played = play(trace, limits(pool=pool, token_budget=int(rng.integers(4, 20))), [constant_timer()])
        dropped += int(played.preemptions.sum()) - played.resumed
        resumed += played.resumed
    assert dropped > 0
    assert resumed > 0
