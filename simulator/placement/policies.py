"""Placement policies: pure functions from the load of experts to the expert of every slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.errors import ScenarioError, nearest
from simulator.placement.affinity import coactivation, gather
from simulator.placement.bounds import lower_bound
from simulator.placement.packing import pack, replica_weights, replicate, replicate_coarsely
from simulator.placement.refinement import refine
from simulator.placement.replica_search import search_replicas
from simulator.placement.slots import Placement, slot_count
from workloads.models.spec import ModelSpec
from workloads.routing.stats import expert_load
from workloads.routing.trace import RoutingTrace

#: Layers whose heaviest rank is this far above the lower bound are placed in another way [1].
FAR = 1.005
#: How much of the mean rank a replica of a hot expert may fill in the ways after the first [1].
FULL = (0.93, 1.0)
#: Slots of a rank up to which other numbers of replicas are tried [1].
FEW_SLOTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementTask:
    """What a policy is told.

    Attributes
    ----------
    load : float array, shape (layers, experts)
        Tokens per expert in the past [tokens].
    ranks : int
        Expert-parallel ranks [1].
    slots : int
        Slots per layer over all ranks, a multiple of the ranks [1].
    nodes : int
        Scale-up domains that the ranks lie in, in equal groups [1].
    groups : int
        Groups of consecutive experts of which a token uses only some (group-limited routing) [1].
    seed : int
        Seed of the policies that draw.
    together : float array, shape (layers, experts, experts), or None
        Co-activation, for the policy that looks at it.
    """

    load: FloatArray
    ranks: int
    slots: int
    nodes: int = 1
    groups: int = 1
    seed: int = 0
    together: FloatArray | None = None


def linear(task: PlacementTask) -> IntArray:
    """Place experts in order, rank by rank; redundant slots repeat experts from the first on."""
    layers, experts = task.load.shape
    return np.tile(np.arange(task.slots, dtype=np.int64) % experts, (layers, 1))


def random(task: PlacementTask) -> IntArray:
    """Shuffle what the linear placement holds, layer by layer."""
    rng = np.random.default_rng(np.random.SeedSequence(task.seed))
    return np.asarray(rng.permuted(linear(task), axis=1))


def balanced(task: PlacementTask) -> IntArray:
    """Replicate the hottest experts, then pack slots onto ranks, longest processing time first.

    Notes
    -----
    Where the limit of slots makes the packing heavier than the linear placement, the layer keeps the linear one.
    """
    packed, plain = eplb_global(task), linear(task)
    worse = _heaviest(packed, task) > _heaviest(plain, task)
    return np.where(worse[:, None], plain, packed)


def eplb_global(task: PlacementTask) -> IntArray:
    """Replicate the hottest experts and pack over all ranks: EPLB's global policy [1]_.

    References
    ----------
    .. [1] DeepSeek, "Expert Parallelism Load Balancer", https://github.com/deepseek-ai/EPLB, 2025.
    """
    return _replicate_and_pack(task.load, task.slots, task.ranks)


def eplb(task: PlacementTask) -> IntArray:
    """Pack groups onto nodes, then replicate and pack within every node: EPLB's hierarchical policy.

    Notes
    -----
    As in DeepSeek's public algorithm, the global policy takes over where the groups do not divide over the nodes.
    """
    layers, experts = task.load.shape
    if task.groups % task.nodes or task.ranks % task.nodes or experts % task.groups:
        return eplb_global(task)
    size, nodes = experts // task.groups, task.nodes
    by_node = pack(task.load.reshape(layers, task.groups, size).sum(axis=2), nodes)
    members = (by_node[..., None] * size + np.arange(size)).reshape(layers * nodes, experts // nodes)
    load = np.take_along_axis(np.repeat(task.load, nodes, axis=0), members, axis=1)
    local = _replicate_and_pack(load, task.slots // nodes, task.ranks // nodes)
    return np.asarray(np.take_along_axis(members, local, axis=1).reshape(layers, task.slots))


def refined(task: PlacementTask) -> IntArray:
    """Swap slots of the balanced placement until no swap makes the heaviest rank lighter.

    Notes
    -----
    With redundant slots, layers that stay far from the lower bound are tried again with hot experts split more
    coarsely, and keep the best. Where ranks hold few slots, so that swaps have little to choose from, other numbers
    of replicas are tried as well.
    """
    bound = lower_bound(task.load, task.ranks, task.slots - task.load.shape[1])
    found = refine(balanced(task), task.load, task.ranks, bound)
    if task.slots == task.load.shape[1]:
        return found
    for full in FULL:
        far = np.flatnonzero(_heaviest(found, task) > bound * FAR)
        if not len(far):
            break
        rest = replace(task, load=task.load[far])
        coarse = replicate_coarsely(rest.load, task.slots, task.ranks, full)
        order = pack(replica_weights(rest.load, coarse), task.ranks)
        again = refine(np.take_along_axis(coarse, order, axis=1), rest.load, task.ranks, bound[far])
        better = _heaviest(again, rest) < _heaviest(found[far], rest)
        found[far[better]] = again[better]
    if task.slots // task.ranks <= FEW_SLOTS:
        found = search_replicas(found, task.load, task.ranks, bound, FAR)
    return found


def affinity(task: PlacementTask) -> IntArray:
    """Bring experts that tokens choose together onto one node, giving up at most 2 % of the refined balance.

    Notes
    -----
    Within a single node, where bytes between nodes are none, ranks take the place of nodes.

    Raises
    ------
    ScenarioError
        The task has no co-activation.
    """
    if task.together is None:
        raise ScenarioError("placement.policy: 'affinity' needs the co-activation of a routing trace")
    domains = task.nodes if task.nodes > 1 and task.ranks % task.nodes == 0 else task.ranks
    if domains == 1:
        return refined(task)
    return gather(refined(task), task.load, task.together, task.ranks, domains)


#: Every policy by the name that a scenario gives it; ``lpt`` is another name of ``balanced``.
POLICIES: Mapping[str, Callable[[PlacementTask], IntArray]] = {
    "linear": linear,
    "random": random,
    "balanced": balanced,
    "lpt": balanced,
    "eplb": eplb,
    "eplb_global": eplb_global,
    "refined": refined,
    "affinity": affinity,
}


def placed_load(trace: RoutingTrace, num_experts: int) -> FloatArray:
    """Load of the experts that are placed, null experts and empty slots left out; shape (layers, experts) [tokens]."""
    return expert_load(trace)[:, :num_experts].astype(np.float64)


def place_experts(
    policy: str,
    trace: RoutingTrace,
    model: ModelSpec,
    ranks: int,
    redundant_slots: int = 0,
    *,
    nodes: int = 1,
    seed: int = 0,
) -> Placement:
    """Place the experts of a model by the load, and where the policy asks for it the co-activation, of a trace.

    Parameters
    ----------
    policy : str
        A key of ``POLICIES``.
    trace : RoutingTrace
        What is known of the routing; it may have null experts beyond the model's, and empty slots.
    model : ModelSpec
        With routed experts.
    ranks, redundant_slots, nodes, seed
        As for :func:`place`.

    Raises
    ------
    ScenarioError
        No policy has this name, or the model has no experts.
    InfeasibleScenario
        The slots do not divide over the ranks.
    """
    moe = model.moe
    if moe is None:
        raise ScenarioError(f"placement.policy: {model.name} has no experts to place")
    experts = moe.num_experts
    return place(
        policy,
        placed_load(trace, experts),
        ranks,
        redundant_slots,
        nodes=nodes,
        groups=moe.num_groups,
        seed=seed,
        together=coactivation(trace)[:, :experts, :experts] if policy == "affinity" else None,
    )


def place(
    policy: str,
    load: FloatArray,
    ranks: int,
    redundant_slots: int = 0,
    *,
    nodes: int = 1,
    groups: int = 1,
    seed: int = 0,
    together: FloatArray | None = None,
) -> Placement:
    """Place experts by the name of a policy.

    Parameters
    ----------
    policy : str
        A key of ``POLICIES``.
    load : float array, shape (layers, experts)
        Tokens per expert [tokens].
    ranks, redundant_slots : int
        Expert-parallel ranks, and slots beyond one per expert [1].
    nodes, groups, seed, together
        As for :class:`PlacementTask`.

    Raises
    ------
    ScenarioError
        No policy has this name.
    InfeasibleScenario
        The slots do not divide over the ranks.

    Examples
    --------
    >>> place("linear", np.ones((1, 4)), ranks=2, redundant_slots=2).slot_expert.tolist()
    [[0, 1, 2, 3, 0, 1]]
    """
    if policy not in POLICIES:
        raise ScenarioError(f"placement.policy: unknown policy {policy!r}; {nearest(policy, POLICIES)}")
    slots = slot_count(load.shape[1], ranks, redundant_slots)
    task = PlacementTask(
        load=np.asarray(load, dtype=np.float64),
        ranks=ranks,
        slots=slots,
        nodes=nodes,
        groups=groups,
        seed=seed,
        together=together,
    )
    return Placement(slot_expert=POLICIES[policy](task), ranks=ranks, num_experts=load.shape[1])


def _replicate_and_pack(load: FloatArray, slots: int, ranks: int) -> IntArray:
    replicas = replicate(load, slots)
    order = pack(replica_weights(load, replicas), ranks)
    return np.asarray(np.take_along_axis(replicas, order, axis=1))


def _heaviest(slot_expert: IntArray, task: PlacementTask) -> FloatArray:
    """Load of the heaviest rank of every layer [tokens]."""
    weight = replica_weights(task.load, slot_expert)
    return np.asarray(weight.reshape(len(weight), task.ranks, -1).sum(axis=2).max(axis=1))
