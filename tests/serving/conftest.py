"""A step timer of two constants, and instances that tell what they did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from simulator.deployment.limits import Limits
from simulator.serving.engine import EngineRun, Pool, run_engine
from simulator.serving.instance import Instance
from simulator.serving.recorder import column
from simulator.step.components import STEP_PARTS
from simulator.step.work import StepTime, StepWork
from workloads.requests.trace import RequestTrace


@dataclass
class ConstantTimer:
    """A step takes ``step`` seconds and ``per_token`` for every token."""

    step: float = 1.0
    per_token: float = 0.0

    def time(self, work: StepWork) -> StepTime:
        return StepTime(duration=self.step + self.per_token * (work.prompt_total + work.decode_total))

    def breakdown(
        self,
        steps: dict[str, np.ndarray],  # noqa: ARG002
        weights: np.ndarray | None = None,  # noqa: ARG002
    ) -> dict[str, float]:
        return dict.fromkeys(STEP_PARTS, 0.0)


@dataclass
class Played:
    """A run with the instances that played it, and what preemption cost.

    ``recomputed`` are prompt tokens that were computed and thrown away or that repeat decoded ones; ``resumed`` how
    often a request that had begun to answer began again; ``fullest`` the largest share of its KV pool that a rank took
    up at the end of a decode step, before anyone left.
    """

    run: EngineRun
    trace: RequestTrace
    instances: list[Instance] = field(default_factory=list)
    recomputed: int = 0
    resumed: int = 0
    fullest: float = 0.0

    def __getattr__(self, name: str) -> np.ndarray:
        return column(getattr(self.run.requests, name))


@dataclass
class Watch:
    """Keeps hold of instances, and counts what preemption costs them."""

    instances: dict[int, Instance] = field(default_factory=dict)
    lost: int = 0
    resumed: int = 0
    fullest: float = 0.0

    def on_decode(self, instance: Instance) -> None:
        self.instances[instance.index] = instance
        for rank in range(instance.limits.dp):
            self.fullest = max(self.fullest, 1.0 - instance.kv.left(rank) / instance.limits.pool)

    def on_loss(self, instance: Instance, request: int, tokens: int, *, answering: bool) -> None:  # noqa: ARG002
        self.lost += tokens
        self.resumed += answering


def played(trace: RequestTrace, limits: Limits, timers: Sequence[Any], **options: Any) -> Played:
    """Run the engine and keep hold of its instances."""
    watch = Watch()
    run = run_engine(trace, [Pool(timers=timers, limits=limits, probe=watch)], **options)
    return Played(
        run=run,
        trace=trace,
        instances=list(watch.instances.values()),
        recomputed=watch.lost,
        resumed=watch.resumed,
        fullest=watch.fullest,
    )


@pytest.fixture(scope="session")
def play() -> Callable[..., Played]:
    return played


@pytest.fixture(scope="session")
def constant_timer() -> type[ConstantTimer]:
    return ConstantTimer


@pytest.fixture(scope="session")
def limits() -> Callable[..., Limits]:
    """Limits that bind nothing, changed by keyword; a token takes one byte of the pool."""

    def build(**changes: Any) -> Limits:
        free: dict[str, Any] = {
            "dp": 1,
            "token_budget": 1_000_000,
            "max_running": 1_000,
            "pool": 1e9,
            "kv_per_token": 1.0,
            "kv_per_sequence": 0.0,
            "scheduler": "mixed",
            "chunked": True,
        }
        return Limits(**{**free, **changes})

    return build


@pytest.fixture(scope="session")
def requests_of() -> Callable[..., RequestTrace]:
    """Requests from lists of prompt and answer lengths; arrivals in seconds, or a closed loop."""

    def build(
        inputs: Sequence[int], outputs: Sequence[int], arrival: Any = 0.0, concurrency: int | None = None
    ) -> RequestTrace:
        return RequestTrace(
            arrival=np.broadcast_to(np.asarray(arrival, np.float64), (len(inputs),)).copy(),
            input_tokens=np.asarray(inputs, np.int64),
            output_tokens=np.asarray(outputs, np.int64),
            concurrency=concurrency,
        )

    return build
