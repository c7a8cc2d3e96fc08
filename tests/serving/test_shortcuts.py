"""What the engine does to be quick changes nothing that it records."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from simulator import Scenario
from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests
from simulator.placement.replay import RoutingReplay
from simulator.schedule.makespan import two_batch_makespan
from simulator.serving.clock import Clock
from simulator.serving.engine import EngineRun, Pool, run_engine
from simulator.step.overlap import Overlapper
from simulator.step.work import StepTime, StepWork

SCENARIO: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "requests": {
        "kind": "poisson",
        "rate": 40.0,
        "count": 60,
        "lengths": {"kind": "fixed", "input": 300, "output": 40},
    },
    "routing": {"kind": "zipf", "skew": 1.0, "tokens": 256},
}


def run(instances: int = 1) -> EngineRun:
    scenario = Scenario.from_mapping(SCENARIO)
    trace = scenario_requests(scenario.requests, scenario.seed)
    deployment = deploy(scenario, trace)
    timers = [deployment.timer(index, instances) for index in range(instances)]
    return run_engine(trace, [Pool(timers=timers, limits=deployment.limits)])


def assert_same(first: EngineRun, second: EngineRun) -> None:
    for name, values in first.steps.items():
        np.testing.assert_allclose(values, second.steps[name], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(first.requests.finish, second.requests.finish, rtol=1e-12)
    assert first.end == pytest.approx(second.end, rel=1e-12)


@pytest.mark.parametrize("instances", [1, 2])
def test_steps_that_move_the_clock_on_themselves_are_those_that_wait(
    instances: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = run(instances)
    monkeypatch.setattr(Clock, "skip", Mock(return_value=False))
    assert_same(quick, run(instances))


def test_a_clock_does_not_pass_what_is_due_by_the_end_of_a_step() -> None:
    clock = Clock()
    clock.timeout(2.0)
    assert clock.skip(1.5)
    assert not clock.skip(0.5)
    assert clock.now == 1.5


def test_experts_on_one_rank_take_the_same_time_whichever_tokens_come(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = run()
    monkeypatch.setattr(RoutingReplay, "alike", False)
    assert_same(quick, run())


EXPERT_PARALLEL: dict[str, Any] = {
    "model": {"name": "deepseek-v3"},
    "hardware": {"device": "h800-sxm", "cluster": "hgx-h800-ib"},
    "parallelism": {"dp": 16, "ep": 16},
    "stack": {"name": "sglang", "overlap": "auto"},
    "requests": {"kind": "closed_loop", "count": 900, "lengths": {"kind": "uniform", "input": 300, "output": 30}},
    "routing": {"kind": "zipf", "skew": 0.5, "tokens": 512},
}


@pytest.mark.parametrize("concurrency", [64, 700])
def test_halves_that_are_not_replayed_would_not_have_been_quicker(
    concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario.from_mapping(EXPERT_PARALLEL).override(f"requests.concurrency={concurrency}")
    trace = scenario_requests(scenario.requests, scenario.seed)
    deployment = deploy(scenario, trace)
    quick = run_engine(trace, [Pool(timers=[deployment.timer()], limits=deployment.limits)])
    bound, bounds = Overlapper._floor, []

    def replayed(overlapper: Overlapper, work: StepWork, step: StepTime) -> float:
        halves = overlapper.halves(work, step)
        bounds.append((bound(overlapper, work, step), halves.outside + two_batch_makespan(halves.times)))
        return 0.0

    monkeypatch.setattr(Overlapper, "_floor", replayed)
    assert_same(quick, run_engine(trace, [Pool(timers=[deployment.timer()], limits=deployment.limits)]))
    least, exact = np.array(bounds).T
    assert (least <= exact * (1 + 1e-9)).all()
    assert (least > 0.5 * exact).all()
