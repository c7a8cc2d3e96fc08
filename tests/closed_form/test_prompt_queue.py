"""Open loops of one-token answers against the events, and their queue against the textbook."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, estimate, simulate
from simulator.closed_form.prompt_queue import _stationary

CASE: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h200-sxm"},
    "stack": {"name": "vllm"},
    "requests": {
        "kind": "poisson",
        "rate": 1.0,
        "count": 5,
        "lengths": {"kind": "fixed", "input": 2000, "output": 1},
    },
}


def asked(stack: str, rate: float, prompt: int, **sections: Any) -> Scenario:
    data: dict[str, Any] = {
        "model": {"name": "gpt-oss-20b"},
        "hardware": {"device": "h200-sxm"},
        "stack": {"name": stack},
        "routing": {"kind": "zipf", "tokens": 1024},
        "requests": {
            "kind": "poisson",
            "rate": rate,
            "count": 1500,
            "lengths": {"kind": "fixed", "input": prompt, "output": 1},
        },
        "run": {"traced_steps": 0},
    }
    return Scenario.from_mapping({**data, **sections})


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(("rate", "prompt"), [(0.2, 2000), (10.0, 2000), (100.0, 50), (1.0, 20_000)])
def test_one_token_answers_queue_as_long_as_their_events(stack: str, rate: float, prompt: int) -> None:
    scenario = asked(stack, rate, prompt)
    closed_form, events = estimate(scenario).summary, simulate(scenario).summary
    assert closed_form.ttft_s.mean == pytest.approx(events.ttft_s.mean, rel=0.06)
    assert closed_form.e2el_s.mean == closed_form.ttft_s.mean
    assert math.isnan(closed_form.tpot_s.mean)
    assert math.isnan(events.tpot_s.mean)
    assert closed_form.request_throughput_rps == pytest.approx(events.request_throughput_rps, rel=0.02)
    assert closed_form.mfu == pytest.approx(events.mfu, rel=0.05)


def test_prompts_beyond_capacity_are_said_to_be() -> None:
    scenario = asked("vllm", 1000.0, 2000)
    closed_form, events = estimate(scenario).summary, simulate(scenario).summary
    assert math.isnan(closed_form.ttft_s.mean)
    assert closed_form.goodput_rps == 0.0
    assert closed_form.request_throughput_rps == pytest.approx(events.request_throughput_rps, rel=0.03)


def test_a_limit_on_the_time_per_token_is_met_by_who_has_one_token() -> None:
    scenario = asked("sglang", 1.0, 500, slo={"tpot": "1 us", "ttft": "10 s"})
    closed_form, events = estimate(scenario), simulate(scenario)
    assert closed_form.summary.goodput_rps == pytest.approx(events.summary.goodput_rps, rel=0.02)


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
def test_one_at_a_time_the_queue_is_that_of_m_d_1(load: float) -> None:
    duration = np.array([2.0])
    often, inside = _stationary(load / 2.0, duration, 0)
    assert often.tolist() == pytest.approx([load / 2.0], rel=1e-3)
    assert inside == pytest.approx(load + load**2 / (2.0 * (1.0 - load)), rel=1e-3)


def test_who_is_served_a_step_behind_waits_for_the_next_step_only_if_there_is_one() -> None:
    duration = np.array([1.0, 1.5, 2.0])
    seldom = [_stationary(1e-6, duration, behind)[1] for behind in (0, 2)]
    assert seldom[0] == pytest.approx(seldom[1], rel=1e-4)
    often = [_stationary(1.0, duration, behind)[1] for behind in (0, 1, 2)]
    assert often[0] < often[1] < often[2]


@pytest.mark.parametrize("change", [(), ("routing.tokens=256",), ("stack.name=trtllm",), ("stack.name=sglang",)])
def test_the_case_that_made_figures_up_is_answered(change: tuple[str, ...]) -> None:
    scenario = Scenario.from_mapping(CASE).override(*change)
    closed_form, events = estimate(scenario).summary, simulate(scenario).summary
    assert closed_form.ttft_s.mean == pytest.approx(events.ttft_s.mean, rel=0.1)
    assert closed_form.mfu < 1.0
