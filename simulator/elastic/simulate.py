"""Play a load through a deployment that changes its size, and report what happened."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from simulator.closed_form.steady import mean_load, solve
from simulator.deployment.deployment import Deployment
from simulator.elastic.fleet import Fleet, build_fleet
from simulator.elastic.scaler import Diary, Scaler
from simulator.scenario import Scenario
from simulator.scenario.sections import Slo
from simulator.serving.engine import EngineRun, Pool, run_engine
from simulator.serving.plan import PoolPlan
from workloads.requests.trace import RequestTrace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScalingRun:
    """What a deployment that changed its size did.

    Attributes
    ----------
    fleet : Fleet
        The sizes.
    engine : EngineRun
        Requests and steps.
    diary : Diary
        Changes, and what instances did when.
    warnings : tuple of str
        Objectives that nobody can meet.
    """

    fleet: Fleet
    engine: EngineRun
    diary: Diary
    warnings: tuple[str, ...]

    def pools(self) -> tuple[PoolPlan, ...]:
        """Return every instance that ever served as a pool of its own, by index."""
        deployments = (self.fleet.deployment(size) for size in self.diary.ranks)
        return tuple(
            PoolPlan(role="both", deployment=deployment, instances=1, first=index)
            for index, deployment in enumerate(deployments)
        )


def run_scaling(
    scenario: Scenario, trace: RequestTrace, *, progress: Callable[[float], None] | None = None
) -> ScalingRun:
    """Play the requests, changing the size as the scenario says.

    Parameters
    ----------
    scenario : Scenario
        With ``elastic.mechanism`` set.
    trace : RequestTrace
        The load.
    progress : callable, optional
        Told the share of requests that are done.

    Raises
    ------
    MoesimError
        Something cannot be loaded, contradicts itself or does not fit.
    """
    fleet = build_fleet(scenario, trace)
    each = fleet.base.split.dp
    count, most = fleet.start // each, fleet.largest // each if fleet.replicates else 1
    timers = [fleet.base.timer(index, most) for index in range(count)]
    scaler = Scaler(fleet, rank_capacity(fleet.base, trace), trace.arrival)
    engine = run_engine(
        trace,
        [Pool(timers=timers, limits=fleet.limits(each))],
        balance=scenario.stack.balancer,
        frontend=fleet.base.stack.number("frontend"),
        controls=[scaler.control],
        seed=scenario.seed,
        progress=progress,
    )
    for span in scaler.diary.spans:
        if math.isnan(span.end):
            span.end = engine.end
    return ScalingRun(
        fleet=fleet,
        engine=engine,
        diary=scaler.diary,
        warnings=unreachable(fleet, trace, scenario.slo),
    )


def rank_capacity(deployment: Deployment, trace: RequestTrace) -> float:
    """Requests per second that one attention rank serves when it is full, in the closed-form steady state [1/s]."""
    dp = deployment.split.dp
    load = replace(mean_load(trace, 1), concurrency=float(deployment.limits.max_running * dp), rate=0.0)
    return solve(deployment, load).rate / dp


def unreachable(fleet: Fleet, trace: RequestTrace, slo: Slo) -> tuple[str, ...]:
    """Say which objectives no size meets even for a request that is alone, and what is the best that can be had."""
    if slo.ttft is None and slo.tpot is None and slo.e2el is None:
        return ()
    sizes = sorted({fleet.smallest, fleet.largest})
    alone = replace(mean_load(trace, 1), concurrency=1.0, rate=0.0)
    states = [solve(fleet.deployment(size), alone) for size in sizes]
    best = {
        "ttft": min(state.ttft_s for state in states),
        "tpot": min(state.gap_s for state in states),
        "e2el": min(state.ttft_s + (alone.outputs - 1.0) * state.gap_s for state in states),
    }
    found = []
    for name, reachable in best.items():
        limit = getattr(slo, name)
        if limit is not None and limit < reachable:
            found.append(
                f"infeasible: slo.{name} = {limit * 1e3:.4g} ms cannot be met at {' or '.join(map(str, sizes))} ranks; "
                f"the best reachable is {reachable * 1e3:.3g} ms, for a request that is alone"
            )
    return tuple(found)
