"""Closed loops of equal answers against the events: requests keep step, and the closed form follows their rounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, estimate, simulate
from simulator.closed_form.load import Load, mean_load
from simulator.closed_form.rounds import keeps_step
from simulator.closed_form.steady import approximations
from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests
from workloads.requests.trace import RequestTrace

GPT_OSS = {"model": {"name": "gpt-oss-20b"}, "hardware": {"device": "h100-sxm"}}
MIXTRAL = {"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"}, "parallelism": {"tp": 2}}
DEEPSEEK = {"model": {"name": "deepseek-v3"}, "hardware": {"device": "h200-sxm"}, "parallelism": {"dp": 8, "ep": 8}}


def loop(place: dict[str, Any], stack: str, concurrency: int, prompt: int, answer: int, **sections: Any) -> Scenario:
    """A closed loop of equal requests, its first rounds and its last left out."""
    data: dict[str, Any] = {
        **place,
        "stack": {"name": stack},
        "routing": {"kind": "zipf", "tokens": 1024},
        "requests": {
            "kind": "closed_loop",
            "concurrency": concurrency,
            "count": 22 * concurrency,
            "lengths": {"kind": "fixed", "input": prompt, "output": answer},
        },
        "run": {"traced_steps": 0},
    }
    return Scenario.from_mapping({**data, **sections})


def settled(scenario: Scenario) -> dict[str, float]:
    """Means of the rounds 16 to 20, in which all groups of requests have found their places."""
    requests = simulate(scenario).requests.sort_values("arrival_s")
    concurrency = scenario.requests.concurrency or 1
    counted = requests.iloc[16 * concurrency : 20 * concurrency]
    ttft = (counted["first_token_s"] - counted["arrival_s"]).mean()
    e2el = (counted["finish_s"] - counted["arrival_s"]).mean()
    return {"ttft": ttft, "e2el": e2el, "rate": concurrency / e2el}


# One prefill step for all and several; prompts longer than a step; few and many decode steps; none.
GRID = [
    (GPT_OSS, 32, 1024, 64),
    (GPT_OSS, 32, 500, 8),
    (GPT_OSS, 8, 12_000, 16),
    (GPT_OSS, 32, 1, 1),
    (GPT_OSS, 32, 1024, 1),
    (MIXTRAL, 5, 30, 2),
    (MIXTRAL, 12, 3000, 60),
    (DEEPSEEK, 50, 500, 20),
    (DEEPSEEK, 32, 6000, 8),
    (DEEPSEEK, 1, 1500, 1),
]


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(("place", "concurrency", "prompt", "answer"), GRID)
def test_equal_requests_in_a_closed_loop_take_as_long_as_their_events(
    place: dict[str, Any], stack: str, concurrency: int, prompt: int, answer: int
) -> None:
    """Nothing but the windows of the routing trace parts the two, and ranks that do not hold equally many."""
    asked = loop(place, stack, concurrency, prompt, answer)
    closed_form, events = estimate(asked).summary, settled(asked)
    assert closed_form.ttft_s.mean == pytest.approx(events["ttft"], rel=0.02)
    assert closed_form.e2el_s.mean == pytest.approx(events["e2el"], rel=0.02)
    assert closed_form.request_throughput_rps == pytest.approx(events["rate"], rel=0.02)
    if answer > 1:
        tpot = (events["e2el"] - events["ttft"]) / (answer - 1)
        assert closed_form.tpot_s.mean == pytest.approx(tpot, rel=0.02)


def test_instances_that_cannot_share_equally_keep_step_each_on_its_own() -> None:
    asked = loop(GPT_OSS, "vllm", 32, 1024, 64, parallelism={"instances": 3})
    closed_form, events = estimate(asked).summary, simulate(asked).summary
    assert closed_form.request_throughput_rps == pytest.approx(events.request_throughput_rps, rel=0.03)
    assert closed_form.e2el_s.mean == pytest.approx(events.e2el_s.mean, rel=0.03)


def test_fewer_requests_than_instances_leave_some_idle() -> None:
    summary = estimate(loop(GPT_OSS, "vllm", 1, 1024, 64, parallelism={"instances": 3})).summary
    alone = estimate(loop(GPT_OSS, "vllm", 1, 1024, 64)).summary
    assert summary.request_throughput_rps == pytest.approx(alone.request_throughput_rps)
    assert summary.e2el_s.mean == pytest.approx(alone.e2el_s.mean)
    assert summary.mfu == pytest.approx(alone.mfu / 3, rel=0.01)


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
def test_where_the_time_goes_is_the_same_too(stack: str) -> None:
    asked = loop(GPT_OSS, stack, 32, 1024, 128)
    closed_form, events = estimate(asked), simulate(asked)
    whole = sum(events.breakdown.values())
    assert sum(closed_form.breakdown.values()) == pytest.approx(1.0)
    for part, seconds in events.breakdown.items():
        assert closed_form.breakdown[part] == pytest.approx(seconds / whole, abs=0.01), part
    assert closed_form.summary.mfu == pytest.approx(events.summary.mfu, rel=0.03)
    assert closed_form.summary.mbu == pytest.approx(events.summary.mbu, rel=0.03)
    assert closed_form.summary.batch_size_mean == pytest.approx(events.summary.batch_size_mean, rel=0.05)


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(
    ("place", "concurrency", "prompt", "answer"), [(GPT_OSS, 64, 1500, 60), (DEEPSEEK, 32, 1000, 60)]
)
def test_equal_answers_keep_step_though_their_prompts_differ(
    place: dict[str, Any], stack: str, concurrency: int, prompt: int, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, count = np.random.default_rng(0), 22 * concurrency
    trace = RequestTrace(
        arrival=np.zeros(count),
        input_tokens=rng.integers(prompt // 2, prompt * 3 // 2, count),
        output_tokens=np.full(count, answer),
        concurrency=concurrency,
    )
    for where in ("simulator.run.play", "simulator.run.many"):
        monkeypatch.setattr(f"{where}.scenario_requests", lambda *_: trace)
    asked = loop(place, stack, concurrency, prompt, answer)
    closed_form, events = estimate(asked).summary, settled(asked)
    assert closed_form.e2el_s.mean == pytest.approx(events["e2el"], rel=0.03)
    assert closed_form.ttft_s.mean == pytest.approx(events["ttft"], rel=0.06)


def test_requests_that_outgrow_their_memory_together_are_left_to_the_mean_and_that_is_said() -> None:
    asked = loop(GPT_OSS, "vllm", 8, 1000, 100)
    deployment = deploy(asked)
    load = mean_load(scenario_requests(asked.requests, asked.seed), 1)
    assert keeps_step(deployment.limits, load)
    assert approximations(deployment, load) == ()
    crowd = loop(GPT_OSS, "vllm", 2000, 1000, 1000)
    load = mean_load(scenario_requests(crowd.requests, crowd.seed), 1)
    assert not keeps_step(deploy(crowd).limits, load)
    assert "outgrow the pool" in approximations(deploy(crowd), load)[0]
    assert any("outgrow the pool" in text for text in estimate(crowd).warnings)


def test_only_closed_loops_of_equal_answers_keep_step() -> None:
    limits = deploy(loop(GPT_OSS, "vllm", 8, 1000, 100)).limits
    alike = Load(
        inputs=100.0, prompts=(100.0,) * 64, outputs=10.0, context=105.0, concurrency=8.0, rate=0.0, equal_outputs=True
    )
    assert keeps_step(limits, alike)
    for change in ({"equal_outputs": False}, {"concurrency": 0.0, "rate": 1.0}):
        assert not keeps_step(limits, Load(**{**{name: getattr(alike, name) for name in alike.__slots__}, **change}))


def test_no_figure_of_an_answer_of_one_token_is_made_up() -> None:
    summary = estimate(loop(GPT_OSS, "vllm", 16, 500, 1)).summary
    assert math.isnan(summary.tpot_s.mean)
    assert math.isnan(summary.itl_s.mean)
    assert math.isnan(summary.active_experts_mean)
    assert summary.batch_size_mean == 0.0
    assert 0.0 < summary.mfu < 1.0
