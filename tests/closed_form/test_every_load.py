"""Whatever can be simulated can be estimated, explained and drawn."""

from __future__ import annotations

import math
from typing import Any

import pytest

from simulator import Scenario, estimate, explain
from simulator.explanation.explanation import timeline

LOADS: dict[str, dict[str, Any]] = {
    "one token each": {"kind": "poisson", "rate": 1.0, "lengths": {"input": 2000, "output": 1}},
    "one token in and out": {"kind": "closed_loop", "concurrency": 32, "lengths": {"input": 1, "output": 1}},
    "one request": {"kind": "constant", "rate": 0.01, "count": 1, "lengths": {"input": 16, "output": 64}},
    "more than can be served": {"kind": "poisson", "rate": 500.0, "lengths": {"input": 3000, "output": 300}},
    "prompts beyond the budget": {"kind": "poisson", "rate": 0.5, "lengths": {"input": 20_000, "output": 8}},
    "two answers of two": {
        "kind": "closed_loop",
        "concurrency": 2,
        "count": 2,
        "lengths": {"input": 9000, "output": 2},
    },
}
STACKS: dict[str, dict[str, Any]] = {
    "vllm": {},
    "sglang": {},
    "trtllm": {},
    "trtllm, one request at a time, in halves": {"name": "trtllm", "max_running": 1, "overlap": "two_batch"},
    "sglang, one request at a time, whatever ends first": {"name": "sglang", "max_running": 1, "overlap": "auto"},
}


def scenario_of(stack: str, load: str, dp: int) -> Scenario:
    return Scenario.from_mapping(
        {
            "model": {"name": "gpt-oss-20b"},
            "hardware": {"device": "h200-sxm"},
            "parallelism": {"dp": dp, "ep": dp},
            "stack": {"name": stack, **STACKS[stack]},
            "requests": {"count": 10, **LOADS[load]},
            "routing": {"tokens": 256},
        }
    )


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("stack", STACKS)
def test_a_load_is_estimated_explained_and_drawn(stack: str, load: str) -> None:
    scenario = scenario_of(stack, load, dp=4)
    summary = estimate(scenario).summary
    assert math.isfinite(summary.request_throughput_rps)
    for phase in ("prefill", "decode"):
        drawn, told = (of(scenario, phase=phase) for of in (timeline, explain))  # type: ignore[operator]
        assert drawn.step_s == pytest.approx(told.step_s, rel=0.05)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
def test_a_load_of_one_device_is_estimated(stack: str, load: str) -> None:
    assert math.isfinite(estimate(scenario_of(stack, load, dp=1)).summary.request_throughput_rps)
