"""The discrete-event engine: arrivals, a load balancer and instances on one simpy clock."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

import numpy as np
import simpy
from numpy.typing import NDArray

from simulator.metrics.recorder import STEP_COLUMNS, ColumnRecorder, RequestRecorder
from simulator.serving.instance import Instance, Limits, RequestState
from simulator.serving.timer import StepTimer
from workloads.request_trace import RequestTrace

Balancer = Literal["round_robin", "least_loaded"]
#: Called with the share of requests that are done, in [0, 1].
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """What the engine recorded.

    ``requests`` holds one row per request; ``steps`` the columns of ``STEP_COLUMNS``; ``gaps`` the time between
    tokens [s], how many requests saw it, and when; ``end`` is the time of the last event [s].
    """

    requests: RequestRecorder
    steps: dict[str, NDArray[np.float64]]
    gaps: dict[str, NDArray[np.float64]]
    end: float


def run_engine(
    trace: RequestTrace,
    timers: Sequence[StepTimer],
    limits: Limits,
    *,
    balancer: Balancer = "least_loaded",
    frontend: float = 0.0,
    progress: Progress | None = None,
) -> EngineRun:
    """Play a request trace through instances until every request is answered.

    Parameters
    ----------
    trace : RequestTrace
        Arrivals and lengths, or a closed loop.
    timers : sequence of StepTimer
        One per instance.
    limits : Limits
        What bounds steps and batches.
    balancer : {"round_robin", "least_loaded"}
        Which instance takes a request.
    frontend : float
        Time from a request's arrival until the scheduler sees it: HTTP, tokenisation, hand-over [s].
    progress : callable, optional
        Told the share of requests that are done.
    """
    env = simpy.Environment()
    total = len(trace)
    state = RequestState(
        output=array("q", trace.output_tokens.astype(np.int64).tobytes()),
        prompt=array("q", trace.input_tokens.astype(np.int64).tobytes()),
        generated=array("q", [0]) * total,
        joined=array("q", [0]) * total,
        due=array("q", [-1]) * total,
    )
    records, steps = RequestRecorder(total), ColumnRecorder(STEP_COLUMNS)
    gaps = ColumnRecorder(("gap_s", "tokens", "at_s"))
    done = env.event()
    finished = 0
    started = 0
    report_every = max(total // 200, 1)

    def start(request: int) -> None:
        records.arrival[request] = env.now
        if frontend > 0.0:
            env.timeout(frontend, request).callbacks.append(lambda event: pick(instances).submit(event.value))
        else:
            pick(instances).submit(request)

    def on_finish(_request: int) -> None:
        nonlocal finished, started
        finished += 1
        if progress is not None and finished % report_every == 0:
            progress(finished / total)
        if trace.concurrency is not None and started < total:
            started += 1
            start(started - 1)
        if finished == total:
            done.succeed()

    def arrive() -> Generator[simpy.Event, None, None]:
        for request, at in enumerate(trace.arrival.tolist()):
            if at > env.now:
                yield env.timeout(at - env.now)
            start(request)

    pick = _round_robin() if balancer == "round_robin" else _least_loaded
    instances = [
        Instance(env, index, timer, limits, state, records, steps, gaps, on_finish)
        for index, timer in enumerate(timers)
    ]
    if trace.concurrency is None:
        env.process(arrive())
    else:
        started = min(trace.concurrency, total)
        for request in range(started):
            start(request)
    with _no_collector():
        env.run(until=done)
    return EngineRun(requests=records, steps=steps.arrays(), gaps=gaps.arrays(), end=env.now)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the cycle collector from walking the recorded rows again and again: a run makes no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _least_loaded(instances: Sequence[Instance]) -> Instance:
    return min(instances, key=lambda instance: instance.outstanding) if len(instances) > 1 else instances[0]


def _round_robin() -> Callable[[Sequence[Instance]], Instance]:
    turns = cycle(range(1_000_000_000))
    return lambda instances: instances[next(turns) % len(instances)]
