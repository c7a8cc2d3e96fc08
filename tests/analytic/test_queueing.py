"""The engine as a queue: one request at a time, one step per request, against what queueing theory says."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from simulator.arrays import FloatArray
from simulator.deployment.limits import Limits
from simulator.serving.engine import Pool, run_engine
from simulator.serving.recorder import column
from simulator.step.components import STEP_PARTS
from simulator.step.work import StepTime, StepWork
from workloads.requests.generators import generate_requests
from workloads.requests.trace import RequestTrace

ONE_AT_A_TIME = Limits(
    dp=1,
    token_budget=10_000,
    max_running=1,
    pool=1e9,
    kv_per_token=1.0,
    kv_per_sequence=0.0,
    scheduler="mixed",
    chunked=True,
)


@dataclass
class DrawnTimer:
    """The n-th step takes the n-th of these times [s]."""

    times: list[float]
    steps: int = 0

    def time(self, work: StepWork) -> StepTime:  # noqa: ARG002
        self.steps += 1
        return StepTime(duration=self.times[self.steps - 1])

    def breakdown(
        self,
        steps: dict[str, FloatArray],  # noqa: ARG002
        weights: FloatArray | None = None,  # noqa: ARG002
    ) -> dict[str, float]:
        return dict.fromkeys(STEP_PARTS, 0.0)


def arrivals(requests: int, rate: float, seed: int) -> RequestTrace:
    """Poisson arrivals of requests that one step answers."""
    return generate_requests(
        requests=requests, seed=seed, arrivals={"kind": "poisson", "rate": rate}, input_tokens=8, output_tokens=1
    )


def waits_of_engine(trace: RequestTrace, service: FloatArray) -> FloatArray:
    """Time from arrival to the start of the only step of each request [s]."""
    run = run_engine(trace, [Pool(timers=[DrawnTimer(service.tolist())], limits=ONE_AT_A_TIME)])
    assert len(run.steps["rows"]) == len(trace)
    return column(run.requests.finish) - service - column(run.requests.arrival)


def waits_of_lindley(trace: RequestTrace, service: FloatArray) -> FloatArray:
    """W[n+1] = max(W[n] + S[n] - A[n+1], 0) (D. V. Lindley, Math. Proc. Camb. Phil. Soc. 48, 1952), unrolled."""
    walk = np.concatenate([[0.0], np.cumsum(service[:-1] - np.diff(trace.arrival))])
    return walk - np.minimum.accumulate(walk)


@cache
def exponential_run() -> tuple[FloatArray, FloatArray]:
    trace = arrivals(15_000, rate=0.5, seed=11)
    service = np.random.default_rng(12).exponential(1.0, len(trace))
    return waits_of_engine(trace, service), waits_of_lindley(trace, service)


@cache
def constant_run() -> tuple[FloatArray, FloatArray]:
    trace = arrivals(15_000, rate=0.6, seed=13)
    service = np.ones(len(trace))
    return waits_of_engine(trace, service), waits_of_lindley(trace, service)


@pytest.mark.parametrize("run", [exponential_run, constant_run])
def test_every_wait_is_lindleys(run: Callable[[], tuple[FloatArray, FloatArray]]) -> None:
    engine, lindley = run()
    assert engine.max() > 3.0
    np.testing.assert_allclose(engine, lindley, rtol=0, atol=1e-9)


def test_exponential_service_waits_as_an_m_m_1_queue() -> None:
    engine, _ = exponential_run()
    # 15,000 correlated waits: the standard error of their mean is 4%.
    assert engine.mean() == pytest.approx(0.5 / (1.0 - 0.5), rel=0.08)
    assert (engine > 1e-9).mean() == pytest.approx(0.5, rel=0.04)
    # The wait of those who wait at all is exponential with rate mu - lambda.
    assert (engine > 2.0).mean() == pytest.approx(0.5 * np.exp(-2.0 * 0.5), rel=0.08)


def test_constant_service_waits_as_an_m_d_1_queue() -> None:
    engine, _ = constant_run()
    assert engine.mean() == pytest.approx(0.6 / (2.0 * (1.0 - 0.6)), rel=0.06)
    assert (engine > 1e-9).mean() == pytest.approx(0.6, rel=0.03)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_lindleys_waits_are_the_formulas_over_millions_of_requests(utilisation: float) -> None:
    """Where the engine's own waits are too few to tell 1%: they equal these, one by one."""
    trace = arrivals(2_000_000, rate=utilisation, seed=3)
    service = np.random.default_rng(4).exponential(1.0, len(trace))
    constant = utilisation / (2.0 * (1.0 - utilisation))
    assert waits_of_lindley(trace, np.ones(len(trace))).mean() == pytest.approx(constant, rel=0.015)
    assert waits_of_lindley(trace, service).mean() == pytest.approx(2.0 * constant, rel=0.02)


def joined_shortest(arrival: FloatArray, servers: int, service: float) -> tuple[list[int], FloatArray]:
    """Send each request to the server with the fewest unfinished ones, the first of equals."""
    unfinished: list[list[float]] = [[] for _ in range(servers)]
    free = [0.0] * servers
    chosen, finish = [], np.empty(len(arrival))
    for request, now in enumerate(arrival.tolist()):
        for queue in unfinished:
            while queue and queue[0] <= now:
                heapq.heappop(queue)
        server = min(range(servers), key=lambda index: len(unfinished[index]))
        free[server] = max(free[server], now) + service
        heapq.heappush(unfinished[server], free[server])
        chosen.append(server)
        finish[request] = free[server]
    return chosen, finish


@pytest.mark.parametrize("servers", [2, 3, 5])
def test_several_instances_behave_as_queues_of_which_the_shortest_is_joined(servers: int) -> None:
    trace = arrivals(1500, rate=0.85 * servers, seed=servers)
    timers = [DrawnTimer([1.0] * len(trace)) for _ in range(servers)]
    run = run_engine(trace, [Pool(timers=timers, limits=ONE_AT_A_TIME)], balance="least_loaded")
    chosen, finish = joined_shortest(trace.arrival, servers, 1.0)
    assert column(run.requests.instance).tolist() == chosen
    np.testing.assert_allclose(column(run.requests.finish), finish, rtol=0, atol=1e-9)


def test_least_loaded_waits_less_than_round_robin() -> None:
    trace = arrivals(5_000, rate=3 * 0.8, seed=21)
    service = np.random.default_rng(22).exponential(1.0, (3, len(trace)))
    waits = {}
    for balancer in ("round_robin", "least_loaded"):
        timers = [DrawnTimer(times.tolist()) for times in service]
        run = run_engine(trace, [Pool(timers=timers, limits=ONE_AT_A_TIME)], balance=balancer)  # type: ignore[arg-type]
        waits[balancer] = float((column(run.requests.finish) - column(run.requests.arrival)).mean())
    assert waits["least_loaded"] < 0.9 * waits["round_robin"]


def test_requests_in_the_system_obey_littles_law() -> None:
    trace = arrivals(8_000, rate=0.7, seed=31)
    service = np.ones(len(trace))
    run = run_engine(trace, [Pool(timers=[DrawnTimer(service.tolist())], limits=ONE_AT_A_TIME)])
    arrival, finish = column(run.requests.arrival), column(run.requests.finish)
    # What a Poisson arrival finds is the time average (PASTA), which is the arrival rate times the mean stay.
    found = np.arange(len(trace)) - np.searchsorted(finish, arrival, side="right")
    rate = len(trace) / arrival[-1]
    assert found.mean() == pytest.approx(rate * (finish - arrival).mean(), rel=0.05)
