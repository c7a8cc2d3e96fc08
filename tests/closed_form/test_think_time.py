"""Sessions that think: the closed form against the events, and its limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulator import Scenario, estimate, estimate_many, simulate
from simulator.closed_form.load import mean_load
from simulator.closed_form.steady import solve
from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests
from simulator.errors import InfeasibleScenario

CHAT: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "stack": {"name": "vllm"},
    "requests": {
        "concurrency": 24,
        "count": 1200,
        "lengths": {"kind": "lognormal", "input": 600, "output": 120, "cv": 0.5},
        "sessions": {"turns": 4, "think_time": "800 ms", "think_kind": "exponential", "input": 100},
    },
    "run": {"traced_steps": 0},
}


def scenario(*changes: str) -> Scenario:
    return Scenario.from_mapping(CHAT).override(*changes)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("requests.sessions.think_time=5 s",),
        ("requests.concurrency=2", "requests.count=200"),
        ("requests.kind=poisson", "requests.rate=12", "requests.count=3000"),
    ],
    ids=["as long as answers", "longer than answers", "few sessions", "open loop"],
)
def test_response_times_and_throughput_are_those_of_the_engine_between_ramps(changes: tuple[str, ...]) -> None:
    asked = scenario(*changes)
    found, frame = estimate(asked).summary, simulate(asked).requests
    begin, end = 0.2 * frame["finish_s"].max(), 0.7 * frame["finish_s"].max()
    inside = (frame["finish_s"] > begin) & (frame["finish_s"] <= end)
    rate, chosen = inside.sum() / (end - begin), frame[inside]
    assert found.request_throughput_rps == pytest.approx(rate, rel=0.06)
    assert found.e2el_s.mean == pytest.approx((chosen["finish_s"] - chosen["arrival_s"]).mean(), rel=0.06)
    assert found.ttft_s.mean == pytest.approx((chosen["first_token_s"] - chosen["arrival_s"]).mean(), rel=0.1)


def test_sessions_in_flight_are_those_that_wait_for_an_answer_and_those_that_think() -> None:
    asked = scenario()
    trace = scenario_requests(asked.requests, asked.seed)
    load = mean_load(trace, 1)
    assert load.think == pytest.approx(trace.delay.mean() if trace.delay is not None else 0.0)
    state = solve(deploy(asked, trace), load)
    response = state.ttft_s + load.decodes * state.gap_s
    assert state.rate * (response + load.think) == pytest.approx(24.0, rel=1e-6)


def test_one_session_finds_the_server_empty_however_long_it_thinks() -> None:
    asked = scenario("requests.concurrency=1", "requests.count=100")
    trace = scenario_requests(asked.requests, asked.seed)
    load, deployment = mean_load(trace, 1), deploy(asked, trace)
    alone = solve(deployment, replace(load, think=0.0))
    thinking = solve(deployment, replace(load, think=100.0))
    assert thinking.ttft_s == alone.ttft_s
    assert thinking.rate == pytest.approx(1.0 / (100.0 + alone.ttft_s + load.decodes * alone.gap_s))


def test_many_are_answered_as_one_alone() -> None:
    asked = [scenario(f"requests.concurrency={sessions}") for sessions in (3, 24, 60)]
    together = estimate_many(asked)
    for each, outcome in zip(asked, together, strict=True):
        assert outcome.estimate is not None
        assert outcome.estimate.summary.e2el_s.mean == pytest.approx(estimate(each).summary.e2el_s.mean, rel=1e-3)


def test_sessions_that_keep_together_are_warned_of_and_caches_are_refused() -> None:
    together = scenario("requests.lengths.kind=fixed", "requests.sessions.think_kind=fixed")
    assert any(
        text.startswith("estimate: answers of one length and think times") for text in estimate(together).warnings
    )
    assert not any("think times" in text for text in estimate(scenario()).warnings)
    with pytest.raises(InfeasibleScenario, match=r"knows nothing of prefix_cache\.kind; use simulate"):
        estimate(scenario("prefix_cache.kind=instance"))
