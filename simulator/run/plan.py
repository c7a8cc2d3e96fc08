"""A run made ready: the instances of a scenario, what lies between and beside them, and what acts on them.

Every road through :func:`simulator.simulate` is planned here; a change of size is one more control on the live server,
like a fault or a rebalancing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simulator.arrays import IntArray
from simulator.run.extent import require_extent
from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.serving.controls.faults import fault_controls
from simulator.serving.controls.rebalance import Rebalance, rebalance_controls
from simulator.serving.engine import EngineRun, PrefixCaching, Progress, run_engine
from simulator.serving.kv_link import KVLink
from simulator.serving.plan import PoolPlan, known_experts, kv_link, plan_pools, prefix_caching, require_alone
from simulator.serving.request_experts import RequestExperts
from simulator.serving.server import Control
from simulator.step.speculation import answer_steps
from workloads.requests.trace import RequestTrace

if TYPE_CHECKING:
    from simulator.elastic.scaler import Scaler


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunPlan:
    """A scenario and its requests, ready to be played once.

    Attributes
    ----------
    scenario : Scenario
        What is asked.
    trace : RequestTrace
        The load.
    pools : tuple of PoolPlan
        The instances at the start.
    link : KVLink or None
        The way of KV caches between pools.
    caching : PrefixCaching or None
        How prefixes are cached.
    answer_steps : int64 array, shape (requests,), or None
        Decode steps that every answer takes, where tokens are drafted [1].
    experts : RequestExperts or None
        The expert of every token, where a router says so before the step.
    controls : tuple of Control
        What acts on the live server: faults, rebalancing, changes of size.
    rebalances : list of Rebalance
        Where a run writes down what it rebalanced.
    scaler : Scaler or None
        Changes the size and writes down how, where the scenario asks for it.
    """

    scenario: Scenario
    trace: RequestTrace
    pools: tuple[PoolPlan, ...]
    link: KVLink | None
    caching: PrefixCaching | None
    answer_steps: IntArray | None
    experts: RequestExperts | None
    controls: tuple[Control, ...]
    rebalances: list[Rebalance]
    scaler: Scaler | None

    def play(self, progress: Progress | None = None) -> EngineRun:
        """Play it; what acted on the server has written down what it did."""
        run = run_engine(
            self.trace,
            [pool.pool(self.experts) for pool in self.pools],
            balance=self.scenario.stack.balancer,
            frontend=self.pools[0].deployment.stack.number("frontend"),
            link=self.link,
            caching=self.caching,
            answer_steps=self.answer_steps,
            controls=self.controls,
            seed=self.scenario.seed,
            progress=progress,
        )
        if self.scaler is not None:
            self.scaler.log.close(run.end)
        return run

    @property
    def played(self) -> Sequence[PoolPlan]:
        """All instances that there ever were, once it was played."""
        return self.pools if self.scaler is None else self.scaler.pools()

    def instance_seconds(self, begin: float, end: float) -> float:
        """Time of all instances together that could serve, between two times of a run that was played [s]."""
        if self.scaler is not None:
            return self.scaler.log.served(begin, end)
        return (end - begin) * sum(pool.instances for pool in self.pools)

    def devices(self, begin: float, end: float) -> float:
        """Devices that were held on average between two times of a run that was played [1]."""
        if self.scaler is None:
            return float(sum(pool.devices for pool in self.pools))
        from simulator.elastic.report import step_means

        at, devices, _ = (np.array(values, dtype=np.float64) for values in zip(*self.scaler.log.held, strict=True))
        return float(step_means(at, devices, np.array([begin, end]))[0])


def plan_run(scenario: Scenario, trace: RequestTrace) -> RunPlan:
    """Make a scenario ready to be played.

    Raises
    ------
    MoesimError
        Something cannot be loaded, does not match or does not fit.
    """
    pools, scaler = plan_start(scenario, trace)
    require_extent(pools, trace)
    moves: list[Rebalance] = []
    return RunPlan(
        scenario=scenario,
        trace=trace,
        pools=pools,
        link=kv_link(scenario, pools),
        caching=prefix_caching(scenario, trace, pools),
        answer_steps=answer_steps(scenario.speculation, trace.output_tokens, scenario.seed),
        experts=known_experts(scenario, trace),
        controls=(
            *fault_controls(scenario, pools),
            *rebalance_controls(scenario, pools, moves),
            *(() if scaler is None else (scaler.control,)),
        ),
        rebalances=moves,
        scaler=scaler,
    )


def plan_start(scenario: Scenario, trace: RequestTrace) -> tuple[tuple[PoolPlan, ...], Scaler | None]:
    """Deploy the instances that a run begins with; and what changes their number or size, where the scenario asks.

    Raises
    ------
    MoesimError
        As for :func:`plan_run`.
    """
    require_alone(scenario)
    if not asks(scenario, "elastic"):
        return plan_pools(scenario, trace), None
    from simulator.elastic.fleet import build_fleet
    from simulator.elastic.scaler import Scaler, rank_capacity

    fleet = build_fleet(scenario, trace)
    return (fleet.pool_at_start(),), Scaler(fleet, rank_capacity(fleet.base, trace), trace.arrival)
