"""Long runs stay small: what is kept of a step, counted in bytes rather than seen in a process."""

from __future__ import annotations

import pickle

import pytest

from simulator import Scenario
from simulator.deployment.inputs import scenario_requests
from simulator.run.extent import STEP_BYTES
from simulator.run.plan import plan_run
from simulator.serving.engine import EngineRun

LOADS = {
    "requests that come by chance": ("requests.kind=poisson", "requests.rate=1"),
    "a closed loop": ("requests.kind=closed_loop", "requests.concurrency=16"),
    "experts on several ranks": ("requests.kind=poisson", "requests.rate=4", "parallelism.dp=4", "parallelism.ep=4"),
    "pools": ("requests.kind=poisson", "requests.rate=1", "disaggregation.enabled=true"),
}


def played(*overrides: str) -> EngineRun:
    asked = Scenario.from_mapping(
        {"model": {"name": "qwen3-30b-a3b"}, "hardware": {"device": "h100-sxm"}, "requests": {"count": 600}}
    ).override("requests.lengths.kind=lognormal", *overrides)
    return plan_run(asked, scenario_requests(asked.requests, asked.seed)).play()


@pytest.mark.parametrize("load", LOADS)
def test_a_step_and_its_gaps_take_no_more_than_is_said_beforehand(load: str) -> None:
    run = played(*LOADS[load])
    assert run.steps.rows > 5000
    assert len(pickle.dumps((run.steps, run.gaps))) < STEP_BYTES * run.steps.rows
