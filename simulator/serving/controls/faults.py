"""Faults on a live server: what is lost, what goes on, and what is sent in again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from simulator.cost.model import CostModel
from simulator.deployment.deployment import Deployment, repriced
from simulator.deployment.inputs import scenario_routing
from simulator.errors import ScenarioError
from simulator.parallelism import Parallelism
from simulator.placement.replay import replay
from simulator.placement.slots import Placement
from simulator.scenario import Scenario
from simulator.scenario.sections import Fault
from simulator.serving.instance import Instance
from simulator.serving.plan import PoolPlan
from simulator.serving.server import Control, Server
from simulator.step.timer import StepTimer
from workloads.models.sizes import expert_bytes

if TYPE_CHECKING:
    import simpy

#: Time to build communicators anew without the ranks that are gone [s]; an assumption.
REGROUP = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradedDeployment:
    """How an instance goes on without some ranks: its deployment then, and the time to load lost experts [s]."""

    deployment: Deployment
    reload: float


@dataclass(slots=True, kw_only=True, eq=False)
class Condition:
    """What is wrong with an instance at present, over all faults that have struck it.

    Attributes
    ----------
    scenario, deployment : Scenario, Deployment
        What it is when nothing is wrong.
    healthy : StepTimer or None
        Its timer then; known once something is wrong.
    lost : dict of int to tuple of int
        Ranks that are gone, by fault.
    links : dict of int to float
        Factors by which links to other nodes are slower, by fault [1].
    down : int
        Failures that keep the whole instance from working now [1].
    """

    scenario: Scenario
    deployment: Deployment
    healthy: StepTimer | None = None
    lost: dict[int, tuple[int, ...]] = field(default_factory=dict)
    links: dict[int, float] = field(default_factory=dict)
    down: int = 0

    def ranks(self) -> tuple[int, ...]:
        """Return the ranks that are gone, by number."""
        return tuple(sorted({rank for ranks in self.lost.values() for rank in ranks}))

    def apply(self, instance: Instance) -> None:
        """Let an instance go on as what is wrong allows: without lost ranks, at the pace of the slowest link."""
        if self.healthy is None:
            self.healthy = instance.timer
        instance.loads.closed.clear()
        instance.loads.closed.update(self.ranks())
        if not self.lost and not self.links:
            instance.timer, self.healthy = self.healthy, None
            return
        without = degraded(self.scenario, self.deployment, self.ranks()) if self.lost else None
        priced = without.deployment if without is not None else self.deployment
        instance.timer = (slow_link(priced, max(self.links.values())) if self.links else priced).timer()


def fault_controls(scenario: Scenario, plans: Sequence[PoolPlan]) -> tuple[Control, ...]:
    """Turn faults into what happens on the server.

    Raises
    ------
    ScenarioError
        A fault names an instance or a rank that there is not, or the NIC of an instance that uses none.
    """
    instances = sum(plan.instances for plan in plans)
    conditions: dict[int, Condition] = {}
    controls = []
    for index, fault in enumerate(scenario.faults):
        if fault.instance >= instances:
            raise ScenarioError(
                f"faults.{index}.instance: got {fault.instance}; there are instances 0 to {instances - 1}"
            )
        plan = next(
            plan for plan in plans if fault.instance < plan.first + plan.instances and fault.instance >= plan.first
        )
        ranks, devices = plan.deployment.split.dp, plan.deployment.split.devices
        if fault.rank >= ranks:
            raise ScenarioError(
                f"faults.{index}.rank: got {fault.rank}; instance {fault.instance} has ranks 0 to {ranks - 1}"
            )
        if fault.kind == "nic" and devices <= plan.deployment.hardware.fabric.domain:
            raise ScenarioError(
                f"faults.{index}.kind: got 'nic', but the {devices} devices of instance {fault.instance} lie in one "
                f"scale-up domain of {plan.deployment.hardware.fabric.domain}, and their steps cross no NIC; use "
                "'rank' or 'node', or an instance that spans nodes"
            )
        condition = conditions.setdefault(fault.instance, Condition(scenario=scenario, deployment=plan.deployment))
        controls.append(_control(fault, index, condition))
    return tuple(controls)


def _control(fault: Fault, index: int, condition: Condition) -> Control:
    def happen(server: Server) -> Generator[simpy.Event, None, None]:
        yield server.env.timeout(fault.at)
        instance = server.instances[fault.instance]
        if fault.slowdown is not None:
            yield from _slow(fault, index, condition, server, instance)
        else:
            yield from _fail(fault, index, condition, server, instance)

    return happen


def _slow(
    fault: Fault, index: int, condition: Condition, server: Server, instance: Instance
) -> Generator[simpy.Event, None, None]:
    """All ranks step together, so the whole instance waits for a slow one; a slow link lengthens what crosses it."""
    factor = fault.slowdown or 1.0
    if fault.kind == "nic":
        condition.links[index] = factor
        condition.apply(instance)
    else:
        instance.slow *= factor
    if fault.lasts is not None:
        yield server.env.timeout(fault.lasts)
        if fault.kind != "nic":
            instance.slow /= factor
        elif condition.links.pop(index, None) is not None:
            condition.apply(instance)


def slow_link(deployment: Deployment, factor: float) -> Deployment:
    """Price a deployment whose ranks wait for one link to other nodes that is slower by a factor."""
    fabric = deployment.hardware.fabric
    slower = replace(fabric, scale_out_bandwidth=fabric.scale_out_bandwidth / factor)
    hardware = replace(deployment.hardware, fabric=slower)
    return repriced(deployment, cost=CostModel(hardware=hardware, stack=deployment.stack), routing=deployment.routing)


def _fail(
    fault: Fault, index: int, condition: Condition, server: Server, instance: Instance
) -> Generator[simpy.Event, None, None]:
    """Nothing moves until the failure is noticed; then the instance goes on without the ranks, or stops."""
    deployment = condition.deployment
    condition.down += 1
    instance.halt()
    yield server.env.timeout(fault.detection)
    ranks = lost_ranks(fault, deployment)
    gone = set(condition.ranks()).union(ranks)
    without = degraded(condition.scenario, deployment, sorted(gone)) if len(gone) < deployment.split.dp else None
    began = server.env.now
    if without is None:
        server.close(instance)
        server.lose(instance, retry=fault.retry)
        wait = fault.restart if fault.restart is not None else fault.lasts
        if wait is None:
            return
        yield server.env.timeout(wait)
        if fault.restart is not None and (condition.lost or condition.links):
            # What starts anew starts on sound ranks and links.
            condition.lost.clear()
            condition.links.clear()
            condition.apply(instance)
        _work_again(condition, server, instance)
        return
    server.lose(instance, ranks, close=True, retry=fault.retry)
    condition.lost[index] = ranks
    yield server.env.timeout(REGROUP + without.reload)
    if index in condition.lost:
        condition.apply(instance)
    _work_again(condition, server, instance)
    if fault.lasts is not None:
        yield server.env.timeout(max(fault.lasts - (server.env.now - began), 0.0))
        if condition.lost.pop(index, None) is not None:
            condition.apply(instance)


def _work_again(condition: Condition, server: Server, instance: Instance) -> None:
    """End a failure; the instance works again when it was the last of those under way."""
    condition.down -= 1
    if condition.down:
        return
    instance.resume()
    server.restore(instance)


def lost_ranks(fault: Fault, deployment: Deployment) -> tuple[int, ...]:
    """Attention ranks that a fault takes away; a rank without its NIC can reach nobody, and is lost as well."""
    split, node = deployment.split, deployment.hardware.node.devices
    if fault.kind == "instance":
        return tuple(range(split.dp))
    if fault.kind in {"rank", "nic"}:
        return (fault.rank,)
    here = fault.rank * split.tp // node
    return tuple(
        rank for rank in range(split.dp) if rank * split.tp // node <= here <= (rank * split.tp + split.tp - 1) // node
    )


def degraded(scenario: Scenario, deployment: Deployment, ranks: Sequence[int]) -> DegradedDeployment | None:
    """Find out how an instance goes on without some of its attention ranks.

    Parameters
    ----------
    scenario, deployment : Scenario, Deployment
        The instance, and what it was made from.
    ranks : sequence of int
        Attention ranks that are gone.

    Returns
    -------
    DegradedDeployment or None
        ``None`` where it cannot: attention or experts are split over devices that are gone and stay, or the slots that
        are left do not hold all experts.

    Notes
    -----
    Experts of which a replica survives go on at once. The others are loaded from their host's memory into slots of
    experts that are there twice; ranks load side by side, so the time is that of the rank that loads most.
    """
    split, routing = deployment.split, deployment.routing
    if routing is None or split.pp > 1 or split.tp > 1 or split.etp > 1:
        return None
    stays = np.setdiff1d(np.arange(split.ep), np.asarray(ranks))
    surviving = without_ranks(routing.placement, stays)
    if surviving is None:
        return None
    placement, loaded = surviving
    trace = scenario_routing(scenario.routing, deployment.model, scenario.seed)
    if trace is None:
        return None
    fewer_ranks = replay(
        trace,
        placement,
        deployment.limits.max_running * len(stays),
        replica_routing=scenario.placement.replica_routing,
    )
    fewer = replace(deployment, split=Parallelism(dp=len(stays), ep=len(stays)))
    reload = loaded * expert_bytes(deployment.model) / deployment.hardware.host_bandwidth
    return DegradedDeployment(deployment=repriced(fewer, cost=deployment.cost, routing=fewer_ranks), reload=reload)


def without_ranks(placement: Placement, stays: np.ndarray) -> tuple[Placement, int] | None:
    """Place all experts on the ranks that stay, moving as few as possible.

    Returns
    -------
    tuple or None
        The placement, and the most experts that one rank loads over all layers [1]; ``None`` where the slots are fewer
        than the experts.
    """
    layers = len(placement.slot_expert)
    slots = placement.slot_expert.reshape(layers, placement.ranks, -1)[:, stays].reshape(layers, -1).copy()
    if slots.shape[1] < placement.num_experts:
        return None
    loads = np.zeros(len(stays), dtype=np.int64)
    for row in slots:
        count = np.bincount(row, minlength=placement.num_experts)
        for expert in np.flatnonzero(count == 0):
            spare = np.flatnonzero(count[row] > 1)
            # The rank that has loaded least takes it.
            slot = spare[np.argmin(loads[spare // placement.slots_per_rank])]
            count[row[slot]] -= 1
            row[slot] = expert
            count[expert] = 1
            loads[slot // placement.slots_per_rank] += 1
    kept = Placement(slot_expert=slots, ranks=len(stays), num_experts=placement.num_experts)
    return kept, int(loads.max(initial=0))
