"""A fleet of constant timers, so that changes of size can be played in microseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from simulator.deployment.limits import Limits
from simulator.elastic.mechanisms import ScalingPhase, ScalingPlan
from simulator.elastic.scaler import Scaler
from simulator.scenario.sections import ElasticChoice, Slo
from simulator.serving.engine import EngineRun, Pool, run_engine
from simulator.serving.recorder import column
from simulator.step.work import StepTime, StepWork
from workloads.requests.trace import RequestTrace

#: What the old instance does, whether the new one waits for it, whether they share devices, and the factor on it.
COURSES: dict[str, dict[str, Any]] = {
    "cold_restart": {"old": "stops"},
    "horizontal": {"old": "stays"},
    "vertical_new": {"old": "serves"},
    "colocated": {"old": "serves", "shares": True, "contention": 5.0},
    "elastic": {"old": "serves", "waits": True, "shares": True},
    "elastic at once": {"old": "serves", "shares": True},
}


@dataclass
class ToyTimer:
    """A step takes one second over the ranks that share it, and a little more for every token."""

    dp: int

    def time(self, work: StepWork) -> StepTime:
        return StepTime(duration=1.0 / self.dp + 0.01 * (work.prompt_total + work.decode_total))


@dataclass
class ToyFleet:
    """What :class:`Scaler` asks of a fleet; every change takes ``takes`` seconds."""

    course: str
    takes: float
    limits_of_one: Limits
    choice: ElasticChoice
    start: int
    smallest: int = 1
    largest: int = 8
    step: int = 1
    slo: Slo = field(default_factory=Slo)

    @property
    def scenario(self) -> Any:
        return SimpleNamespace(elastic=self.choice, slo=self.slo)

    @property
    def whole_instances(self) -> bool:
        return self.course == "horizontal"

    @property
    def base(self) -> Any:
        return self.deployment(1)

    def deployment(self, size: int) -> Any:
        each = 1 if self.whole_instances else size
        return SimpleNamespace(
            split=SimpleNamespace(dp=each), timer=lambda *_: ToyTimer(each), limits=replace(self.limits_of_one, dp=each)
        )

    def held(self, size: int) -> tuple[int, float]:
        return size, float(size)

    def plan(self, before: int, after: int) -> ScalingPlan:
        takes = 0.0 if self.whole_instances and after < before else self.takes
        how = {"waits": False, "shares": False, "contention": 1.0, **COURSES[self.course]}
        phases = (ScalingPhase(name="change", start=0.0, duration=takes, memory=1.0),) if takes else ()
        return ScalingPlan(phases=phases, ready=takes, devices=before + after, memory=1.0, moved=0.0, **how)


@dataclass
class Played:
    """A run with what its scaler wrote down."""

    run: EngineRun
    scaler: Scaler

    def __getattr__(self, name: str) -> np.ndarray:
        return column(getattr(self.run.requests, name))


def play(trace: RequestTrace, fleet: ToyFleet, **options: Any) -> Played:
    """Play a load on a toy fleet."""
    count, each = (fleet.start, 1) if fleet.whole_instances else (1, fleet.start)
    scaler = Scaler(fleet, 1.0, trace.arrival)  # type: ignore[arg-type]
    pool = Pool(timers=[ToyTimer(each) for _ in range(count)], limits=fleet.deployment(each).limits)
    return Played(run=run_engine(trace, [pool], controls=[scaler.control], **options), scaler=scaler)


@pytest.fixture(scope="session", name="play")
def fixture_play() -> Callable[..., Played]:
    return play


@pytest.fixture(scope="session")
def toy_fleet() -> type[ToyFleet]:
    return ToyFleet


@pytest.fixture(scope="session")
def toy_timer() -> type[ToyTimer]:
    return ToyTimer


@pytest.fixture(scope="session")
def roomy() -> Limits:
    return Limits(
        dp=1,
        token_budget=1000,
        max_running=1000,
        pool=1e6,
        kv_per_token=1.0,
        kv_per_sequence=0.0,
        scheduler="mixed",
        chunked=True,
    )
