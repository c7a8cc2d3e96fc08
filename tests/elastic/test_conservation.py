"""Whatever the mechanism, and whenever sizes change: every request is answered once, and nobody rests needlessly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.deployment.limits import Limits
from simulator.scenario.sections import ElasticChoice, Slo
from simulator.serving.engine import Pool, run_engine
from workloads.requests.trace import RequestTrace

COURSES = ["cold_restart", "horizontal", "vertical_new", "colocated", "elastic", "elastic at once"]
#: Those that lose no work.
GENTLE = COURSES[1:]


@st.composite
def loads(draw: st.DrawFn) -> RequestTrace:
    size = draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    closed = draw(st.booleans())
    gap = draw(st.sampled_from([0.1, 1.0, 4.0]))
    return RequestTrace(
        arrival=np.zeros(size) if closed else np.cumsum(rng.exponential(gap, size)),
        input_tokens=rng.integers(1, 40, size),
        output_tokens=rng.integers(1, 14, size),
        concurrency=draw(st.integers(1, 9)) if closed else None,
    )


def schedules() -> st.SearchStrategy[ElasticChoice]:
    events = st.lists(st.tuples(st.integers(0, 600), st.integers(1, 5)), min_size=1, max_size=5)
    return events.map(
        lambda pairs: ElasticChoice.model_validate(
            {"mechanism": "ideal", "events": [{"at": f"{at / 10} s", "size": size} for at, size in pairs]}
        )
    )


@st.composite
def tight_limits(draw: st.DrawFn) -> Limits:
    return Limits(
        dp=1,
        token_budget=draw(st.integers(20, 60)),
        max_running=draw(st.integers(1, 7)),
        pool=float(draw(st.integers(60, 120))),
        kv_per_token=1.0,
        kv_per_sequence=0.0,
        scheduler=draw(st.sampled_from(["mixed", "prefill_first"])),
        chunked=draw(st.booleans()),
    )


@pytest.mark.parametrize("course", COURSES)
@given(trace=loads(), choice=schedules(), limits=tight_limits(), takes=st.sampled_from([0.0, 0.5, 7.0]))
@settings(max_examples=30, deadline=None)
def test_every_request_is_answered_once_across_changes_of_size(
    play: Callable[..., Any],
    toy_fleet: Callable[..., Any],
    course: str,
    trace: RequestTrace,
    choice: ElasticChoice,
    limits: Limits,
    takes: float,
) -> None:
    result = play(trace, toy_fleet(course, takes, limits, choice, 2))
    assert not np.isnan(result.finish).any()
    assert (result.finish >= result.first_token).all()
    assert (result.first_token > result.arrival).all()
    if course in GENTLE and not result.preemptions.any():
        # Every token is emitted once: the first by the prompt, the others by a decode step.
        assert result.run.steps["decode_total"].sum() == (trace.output_tokens - 1).sum()
    spans = result.scaler.log.spans
    assert all(before.end >= before.start for before in spans if not np.isnan(before.end))


@pytest.mark.parametrize("course", GENTLE)
@given(trace=loads(), choice=schedules(), takes=st.sampled_from([0.0, 0.5, 7.0]))
@settings(max_examples=20, deadline=None)
def test_requests_in_the_batch_are_their_rate_times_their_stay(
    play: Callable[..., Any],
    toy_fleet: Callable[..., Any],
    roomy: Limits,
    course: str,
    trace: RequestTrace,
    choice: ElasticChoice,
    takes: float,
) -> None:
    """Little's law over the decoding part: the batch, integrated over steps, is the sum of the stays."""
    result = play(trace, toy_fleet(course, takes, roomy, choice, 2))
    steps = result.run.steps
    inside = float((steps["running"] * steps["duration_s"]).sum())
    assert inside == pytest.approx(float((result.finish - result.first_token).sum()), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("course", ["horizontal", "vertical_new"])
@given(trace=loads(), choice=schedules(), takes=st.sampled_from([0.0, 0.5, 7.0]))
@settings(max_examples=20, deadline=None)
def test_nobody_waits_while_an_instance_takes_requests(
    play: Callable[..., Any],
    toy_fleet: Callable[..., Any],
    roomy: Limits,
    course: str,
    trace: RequestTrace,
    choice: ElasticChoice,
    takes: float,
) -> None:
    """Work conservation: with room for all, a request is admitted at the next step, during changes as well."""
    result = play(trace, toy_fleet(course, takes, roomy, choice, 2))
    longest = float(result.run.steps["duration_s"].max())
    assert ((result.admitted - result.arrival) <= longest + 1e-9).all()


@given(trace=loads(), limits=tight_limits(), size=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_a_change_that_costs_nothing_equals_starting_at_the_other_size(
    play: Callable[..., Any],
    toy_fleet: Callable[..., Any],
    toy_timer: Callable[..., Any],
    trace: RequestTrace,
    limits: Limits,
    size: int,
) -> None:
    trace = replace(trace, arrival=trace.arrival + 1.0, concurrency=None)
    choice = ElasticChoice.model_validate({"mechanism": "ideal", "events": [{"at": "0 s", "size": size}]})
    scaled = play(trace, toy_fleet("vertical_new", 0.0, limits, choice, 2))
    plain = run_engine(trace, [Pool(timers=[toy_timer(size)], limits=replace(limits, dp=size))])
    assert np.array_equal(scaled.finish, np.frombuffer(plain.requests.finish))
    assert np.array_equal(scaled.first_token, np.frombuffer(plain.requests.first_token))


@pytest.mark.parametrize("policy", ["queue", "slo", "utilisation", "predictive"])
@given(trace=loads(), course=st.sampled_from(COURSES))
@settings(max_examples=15, deadline=None)
def test_policies_lose_nobody_either_and_stay_within_bounds(
    play: Callable[..., Any],
    toy_fleet: Callable[..., Any],
    policy: str,
    trace: RequestTrace,
    course: str,
) -> None:
    choice = _choice(policy)
    limits = Limits(
        dp=1,
        token_budget=60,
        max_running=2,
        pool=200.0,
        kv_per_token=1.0,
        kv_per_sequence=0.0,
        scheduler="mixed",
        chunked=True,
    )
    fleet = toy_fleet(course, 1.5, limits, choice, 2, 1, 4, slo=Slo.model_construct(ttft=2.0, tpot=None, e2el=None))
    result = play(trace, fleet)
    assert not np.isnan(result.finish).any()
    assert all(1 <= change.after <= 4 for change in result.scaler.log.changes)


def _choice(policy: str) -> ElasticChoice:
    return ElasticChoice.model_validate(
        {"mechanism": "ideal", "policy": policy, "interval": "1 s", "cooldown_up": "1 s", "cooldown_down": "2 s"}
    )
