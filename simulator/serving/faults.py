"""Faults on a live server: what is lost, what goes on, and what is sent in again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from simulator.cost.model import CostModel
from simulator.errors import ScenarioError
from simulator.parallelism import Parallelism
from simulator.placement.replay import replay
from simulator.placement.slots import Placement
from simulator.scenario import Scenario
from simulator.sections import Fault
from simulator.serving.deployment import Deployment, repriced
from simulator.serving.inputs import scenario_routing
from simulator.serving.instance import Instance
from simulator.serving.pools import PoolPlan
from simulator.serving.server import Control, Server
from workloads.model_sizes import weight_bytes

if TYPE_CHECKING:
    import simpy

#: Time to build communicators anew without the ranks that are gone [s]; an assumption.
REGROUP = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuge:
    """How an instance goes on without some ranks: its deployment then, and the time to load lost experts [s]."""

    deployment: Deployment
    reload: float


def fault_controls(scenario: Scenario, plans: Sequence[PoolPlan]) -> tuple[Control, ...]:
    """Turn faults into what happens on the server.

    Raises
    ------
    ScenarioError
        A fault names an instance or a rank that there is not.
    """
    instances = sum(plan.instances for plan in plans)
    controls = []
    for index, fault in enumerate(scenario.faults):
        if fault.instance >= instances:
            raise ScenarioError(
                f"faults.{index}.instance: got {fault.instance}; there are instances 0 to {instances - 1}"
            )
        plan = next(
            plan for plan in plans if fault.instance < plan.first + plan.instances and fault.instance >= plan.first
        )
        ranks = plan.deployment.split.dp
        if fault.rank >= ranks:
            raise ScenarioError(
                f"faults.{index}.rank: got {fault.rank}; instance {fault.instance} has ranks 0 to {ranks - 1}"
            )
        controls.append(_control(scenario, fault, plan.deployment))
    return tuple(controls)


def _control(scenario: Scenario, fault: Fault, deployment: Deployment) -> Control:
    def happen(server: Server) -> Generator[simpy.Event, None, None]:
        yield server.env.timeout(fault.at)
        instance = server.instances[fault.instance]
        if fault.slowdown is not None:
            yield from _slow(fault, deployment, server, instance)
        else:
            yield from _fail(scenario, fault, deployment, server, instance)

    return happen


def _slow(
    fault: Fault, deployment: Deployment, server: Server, instance: Instance
) -> Generator[simpy.Event, None, None]:
    """All ranks step together, so the whole instance waits for a slow one; a slow link lengthens what crosses it."""
    factor = fault.slowdown or 1.0
    before = instance.timer
    if fault.kind == "nic":
        instance.timer = slow_link(deployment, factor).timer()
    else:
        instance.slow *= factor
    if fault.lasts is not None:
        yield server.env.timeout(fault.lasts)
        if fault.kind == "nic":
            instance.timer = before
        else:
            instance.slow /= factor


def slow_link(deployment: Deployment, factor: float) -> Deployment:
    """Price a deployment whose ranks wait for one link to other nodes that is slower by a factor."""
    fabric = deployment.hardware.fabric
    slower = replace(fabric, scale_out_bandwidth=fabric.scale_out_bandwidth / factor)
    hardware = replace(deployment.hardware, fabric=slower)
    return repriced(deployment, cost=CostModel(hardware=hardware, stack=deployment.stack), routing=deployment.routing)


def _fail(
    scenario: Scenario, fault: Fault, deployment: Deployment, server: Server, instance: Instance
) -> Generator[simpy.Event, None, None]:
    """Nothing moves until the failure is noticed; then the instance goes on without the ranks, or stops."""
    instance.halt()
    yield server.env.timeout(fault.detection)
    ranks = lost_ranks(fault, deployment)
    shelter = refuge(scenario, deployment, ranks) if len(ranks) < deployment.split.dp else None
    began = server.env.now
    if shelter is None:
        server.close(instance)
        server.lose(instance, retry=fault.retry)
        wait = fault.restart if fault.restart is not None else fault.lasts
        if wait is not None:
            yield server.env.timeout(wait)
            instance.resume()
            server.reopen(instance)
        return
    server.lose(instance, ranks, close=True, retry=fault.retry)
    yield server.env.timeout(REGROUP + shelter.reload)
    before, instance.timer = instance.timer, shelter.deployment.timer()
    instance.resume()
    if fault.lasts is not None:
        yield server.env.timeout(max(fault.lasts - (server.env.now - began), 0.0))
        instance.timer = before
        instance.loads.closed.difference_update(ranks)


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


def refuge(scenario: Scenario, deployment: Deployment, ranks: Sequence[int]) -> Refuge | None:
    """Find out how an instance goes on without some of its attention ranks.

    Parameters
    ----------
    scenario, deployment : Scenario, Deployment
        The instance, and what it was made from.
    ranks : sequence of int
        Attention ranks that are gone.

    Returns
    -------
    Refuge or None
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
    link = deployment.hardware.device.links.get("host")
    rate = link.bandwidth.value if link else deployment.hardware.fabric.scale_out_bandwidth
    moe, trace = deployment.model.moe_layers, scenario_routing(scenario.routing, deployment.model, scenario.seed)
    if trace is None:
        return None
    weight = weight_bytes(deployment.model)["routed_experts"] / (len(moe) * moe[0].num_experts)
    there = replay(
        trace,
        placement,
        deployment.limits.max_running * len(stays),
        replica_routing=scenario.placement.replica_routing,
    )
    fewer = replace(deployment, split=Parallelism(dp=len(stays), ep=len(stays)))
    return Refuge(deployment=repriced(fewer, cost=deployment.cost, routing=there), reload=loaded * weight / rate)


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
