"""Placing experts anew while serving: when, from which tokens, at what cost, and whether it pays.

Every instance has an account. At each interval the placement is computed from the tokens served last, what moves is
counted against the slots of now, and serving waits for it or goes on with slower exchanges. From the switch on, every
step is timed on the new and on the replaced placement: the difference is what that rebalance saves.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.deployment.deployment import Deployment, expert_nodes
from simulator.deployment.inputs import scenario_routing
from simulator.errors import ScenarioError
from simulator.placement import Placement, place_experts, placed_load
from simulator.placement.migration import Migration, aligned, migration, moves
from simulator.placement.replay import RoutingReplay, replay
from simulator.scenario import Scenario
from simulator.serving.plan import PoolPlan
from simulator.serving.server import Control, Server
from simulator.step.components import OP_COMPONENTS
from simulator.step.timer import TableTimer
from simulator.step.work import StepTime, StepWork
from workloads.models.sizes import expert_bytes
from workloads.routing.trace import RoutingTrace

if TYPE_CHECKING:
    import simpy


@dataclass(slots=True, kw_only=True)
class Rebalance:
    """One change of placement.

    Attributes
    ----------
    instance : int
        Where.
    at : float
        When it was decided [s].
    moved : Migration
        What moved.
    cost : float
        Time that serving lost to the move so far [s].
    saved : float
        What steps on the new placement took less than they would have on the one before, so far [s].
    saved_in_all : float
        The same against the placement that the run began with [s].
    steps : int
        Steps on the new placement so far [1].
    """

    instance: int
    at: float
    moved: Migration
    cost: float = 0.0
    saved: float = 0.0
    saved_in_all: float = 0.0
    steps: int = 0

    @property
    def pays(self) -> bool:
        """Whether it has saved more than it cost."""
        return self.saved > self.cost

    def document(self) -> dict[str, float]:
        """Return it as plain numbers, in seconds and bytes."""
        return {
            "instance": self.instance,
            "at_s": self.at,
            "experts": self.moved.experts,
            "near_bytes": self.moved.near_bytes,
            "far_bytes": self.moved.far_bytes,
            "staging_bytes": self.moved.staging_bytes,
            "move_s": self.moved.seconds,
            "cost_s": self.cost,
            "saved_s": self.saved,
            "saved_in_all_s": self.saved_in_all,
            "steps": self.steps,
        }


class RebalancingTimer:
    """A step timer whose placement changes, and that keeps account of what each change is worth.

    Parameters
    ----------
    timer : TableTimer
        Times steps on the placement at first.
    deployment : Deployment
        Whose tables steps are priced from.
    every_steps : int or None
        Steps between two calls of ``due``.
    """

    def __init__(self, timer: TableTimer, deployment: Deployment, every_steps: int | None = None) -> None:
        self._timer, self._before, self._first = timer, timer, timer
        self._deployment, self._every = deployment, every_steps
        self._exchange = _exchange_columns(deployment)
        self._current: Rebalance | None = None
        self._moving: tuple[Rebalance, float] | None = None
        self._steps = 0
        self.served = [0, 0]
        self.due: simpy.Event | None = None

    @property
    def places(self) -> tuple[int, int]:
        """Where in the routing trace the next prompt token and the next decoded token are."""
        return self._timer.places

    def time(self, work: StepWork) -> StepTime:
        """Return the duration of a step, with what a move under way adds to it."""
        step = self._timer.time(work)
        self.served[0] += work.prompt_total
        self.served[1] += work.decode_total
        self._steps += 1
        if self._current is not None:
            self._compare(self._current, work, step.duration)
        if self._moving is not None:
            event, factor = self._moving
            extra = (factor - 1.0) * self._exchange_seconds(work, step)
            event.cost += extra
            step.duration += extra
            step.gap += extra
        if self._every and self._steps % self._every == 0 and self.due is not None and not self.due.triggered:
            self.due.succeed()
        return step

    def breakdown(self, steps: dict[str, FloatArray], weights: FloatArray | None = None) -> dict[str, float]:
        """Split recorded steps into seconds by component; what moves add is part of the gap between steps."""
        return self._timer.breakdown(steps, weights)

    def disturb(self, event: Rebalance, factor: float) -> None:
        """Let exchanges take ``factor`` times as long until the switch."""
        self._moving = (event, factor)

    def switch(self, event: Rebalance, routing: RoutingReplay) -> None:
        """Go on with another placement."""
        deployment = self._deployment
        after = replace(deployment, routing=routing).timer()
        after.go_to(self._timer.places)
        self._before, self._timer = self._timer, after
        self._current, self._moving = event, None

    def _compare(self, event: Rebalance, work: StepWork, duration: float) -> None:
        """Time a step on the placement before the last and on the first one too, which keeps them in step."""
        saved = self._before.time(work).duration - duration
        event.saved += saved
        event.saved_in_all += saved if self._first is self._before else self._first.time(work).duration - duration
        event.steps += 1

    def _exchange_seconds(self, work: StepWork, step: StepTime) -> float:
        """Time of dispatch and combine within a step [s]."""
        totals, rows = self._deployment.totals, -(-work.rows // self._deployment.split.pp)
        if work.prompt_total:
            return float(self._exchange[1][rows]) + totals.prompt_exchange[rows] * (step.imbalance - 1.0)
        return float(self._exchange[0][totals.padded[rows]]) + totals.exchange[rows] * (step.imbalance - 1.0)


def _exchange_columns(deployment: Deployment) -> tuple[FloatArray, FloatArray]:
    columns = [OP_COMPONENTS.index("dispatch"), OP_COMPONENTS.index("combine")]
    tables = deployment.tables
    rows = np.arange(tables.tokens.most + 1)
    return tables.tokens.at(rows)[:, columns].sum(axis=1), tables.prompts.at(rows)[:, columns].sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalancing:
    """How a deployment is rebalanced."""

    scenario: Scenario
    deployment: Deployment
    trace: RoutingTrace

    def propose(self, routing: RoutingReplay, places: tuple[int, int], served: Sequence[int]) -> Placement | None:
        """Place by the tokens served last, renamed so that little moves.

        Parameters
        ----------
        routing : RoutingReplay
            The placement of now.
        places : tuple of int
            Where the trace is, in prompt and in decode order.
        served : sequence of int
            Prompt and decoded tokens that were served so far [tokens].

        Returns
        -------
        Placement or None
            ``None`` where the heaviest ranks would not be lighter by ``least_gain`` on those tokens.
        """
        choice = self.scenario.placement
        past = replace(
            self.trace,
            expert_ids=self._past(routing, places, served),
            sequence_start=np.zeros(1, dtype=np.int64),
        )
        new = place_experts(
            choice.rebalance.policy or choice.policy,
            past,
            self.deployment.model,
            routing.placement.ranks,
            choice.redundant_slots,
            nodes=self.nodes,
            seed=self.scenario.seed,
        )
        load = placed_load(past, new.num_experts)
        now, then = (float(each.rank_load(load).max(axis=1).sum()) for each in (routing.placement, new))
        if then > now * (1.0 - choice.rebalance.least_gain):
            return None
        return aligned(new, routing.placement, self.nodes)

    @property
    def nodes(self) -> int:
        """Nodes that hold the ranks [1]."""
        return expert_nodes(self.deployment.split, self.deployment.hardware)

    def _past(self, routing: RoutingReplay, places: tuple[int, int], served: Sequence[int]) -> NDArray[np.integer]:
        """Choices of the last tokens of the window, prompt and decoded ones in the proportion in which they came."""
        window = min(self.scenario.placement.rebalance.window, sum(served))
        prompt = round(window * served[0] / max(sum(served), 1))
        back = [places[0] - 1 - np.arange(prompt), places[1] - 1 - np.arange(window - prompt)]
        tokens = np.concatenate([back[0] % routing.tokens, routing.decode_order[back[1] % routing.tokens]])
        past: NDArray[np.integer] = self.trace.expert_ids[tokens]
        return past

    def move(self, new: Placement, old: Placement) -> Migration:
        """Time the way from one placement to another."""
        model, fabric = self.deployment.model, self.deployment.hardware.fabric
        return migration(
            moves(new, old, self.nodes),
            expert_bytes(model) / self.deployment.split.etp,
            ranks=old.ranks,
            nodes=self.nodes,
            near_bandwidth=fabric.scale_up_bandwidth,
            far_bandwidth=fabric.scale_out_bandwidth,
        )

    def replay(self, placement: Placement) -> RoutingReplay:
        """Replay the trace on a placement."""
        deployment = self.deployment
        return replay(
            self.trace,
            placement,
            deployment.limits.max_running * deployment.split.dp,
            replica_routing=self.scenario.placement.replica_routing,
            nodes=self.nodes,
        )


def rebalance_controls(scenario: Scenario, plans: Sequence[PoolPlan], account: list[Rebalance]) -> tuple[Control, ...]:
    """Rebalance every instance of a scenario that asks for it.

    Parameters
    ----------
    scenario, plans : Scenario, sequence of PoolPlan
        What runs.
    account : list of Rebalance
        Where rebalances are written as they happen.

    Raises
    ------
    ScenarioError
        Both a time and a number of steps are given, or the model has no experts to place.
    """
    choice = scenario.placement.rebalance
    if not choice.active:
        return ()
    if choice.every is not None and choice.every_steps is not None:
        raise ScenarioError("placement.rebalance: give every (a time) or every_steps, not both")
    controls = []
    for plan in plans:
        trace = scenario_routing(scenario.routing, plan.deployment.model, scenario.seed)
        if trace is None or plan.deployment.split.ep < 2:
            raise ScenarioError(
                "placement.rebalance: there is nothing to rebalance without experts on at least 2 ranks "
                "(parallelism.ep)"
            )
        work = Rebalancing(scenario=scenario, deployment=plan.deployment, trace=trace)
        for index in range(plan.instances):
            timer = RebalancingTimer(plan.deployment.timer(index, plan.instances), plan.deployment, choice.every_steps)
            controls.append(_control(work, timer, plan.first + index, account))
    return tuple(controls)


def _control(work: Rebalancing, timer: RebalancingTimer, index: int, account: list[Rebalance]) -> Control:
    choice = work.scenario.placement.rebalance

    def happen(server: Server) -> Generator[simpy.Event, None, None]:
        routing = work.deployment.routing
        instance = server.instances[index]
        instance.timer = timer
        while routing is not None:
            if choice.every is not None:
                yield server.env.timeout(choice.every)
            else:
                timer.due = server.env.event()
                yield timer.due
            if instance.timer is not timer or not sum(timer.served):
                # A fault has changed the instance, or nothing was served that a placement could go by.
                continue
            placement = work.propose(routing, timer.places, timer.served)
            if placement is None:
                continue
            event = Rebalance(instance=index, at=server.env.now, moved=work.move(placement, routing.placement))
            if not event.moved.experts:
                continue
            account.append(event)
            if choice.mode == "stall":
                event.cost = event.moved.seconds
                instance.stall(event.moved.seconds)
            else:
                timer.disturb(event, 1.0 / (1.0 - choice.bandwidth_share))
                yield server.env.timeout(event.moved.seconds / choice.bandwidth_share)
            routing = work.replay(placement)
            timer.switch(event, routing)

    return happen


def account_text(account: Sequence[Rebalance]) -> str:
    """Say in a sentence what rebalancing cost and whether it paid; empty where nothing was moved."""
    if not account:
        return ""
    cost, saved = sum(event.cost for event in account), sum(event.saved_in_all for event in account)
    moved = sum(event.moved.near_bytes + event.moved.far_bytes for event in account)
    far = sum(event.moved.far_bytes for event in account)
    staging = max(event.moved.staging_bytes for event in account)
    paid = sum(event.pays for event in account)
    return (
        f"rebalancing: {len(account)} times, {moved / 1e9:.3g} GB moved ({far / 1e9:.3g} GB between nodes), "
        f"{staging / 1e6:.3g} MB of staging memory; it cost {cost:.3g} s, and steps took {saved:.3g} s less than on "
        f"the first placement: {'it pays' if saved > cost else 'it does not pay'}; {paid} of {len(account)} saved more "
        f"over the placement before than they cost"
    )
