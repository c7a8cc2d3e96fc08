"""Placement policies: linear, and balanced by longest processing time first, both with redundant slots."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulator.errors import InfeasibleScenario

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Experts in slots; rank r holds the slots [r * slots / ranks, (r + 1) * slots / ranks) of every layer.

    Attributes
    ----------
    slot_expert : int64 array, shape (layers, slots)
        Logical expert in each slot; an expert in several slots has so many replicas.
    ranks : int
        Expert-parallel ranks [1].
    num_experts : int
        Logical experts per layer [1].
    """

    slot_expert: IntArray
    ranks: int
    num_experts: int

    @property
    def slots(self) -> int:
        """Slots per layer over all ranks [1]."""
        return int(self.slot_expert.shape[1])

    @property
    def slots_per_rank(self) -> int:
        """Slots of one rank in one layer [1]."""
        return self.slots // self.ranks

    def replicas(self) -> tuple[IntArray, IntArray]:
        """Return the slots of every expert and how many there are.

        Returns
        -------
        slots : int64 array, shape (layers, experts, most replicas)
            Slots of each expert, its first slot repeated where it has fewer replicas than the most replicated.
        count : int64 array, shape (layers, experts)
            Replicas [1].
        """
        layers, slots = self.slot_expert.shape
        order = np.argsort(self.slot_expert, axis=1, kind="stable")
        experts = np.take_along_axis(self.slot_expert, order, axis=1)
        row = np.arange(layers)[:, None]
        count = np.zeros((layers, self.num_experts), dtype=np.int64)
        np.add.at(count, (row, self.slot_expert), 1)
        first = np.cumsum(count, axis=1) - count
        nth = np.arange(slots) - np.take_along_axis(first, experts, axis=1)
        table = np.empty((layers, self.num_experts, int(count.max())), dtype=np.int64)
        table[:] = np.take_along_axis(order, np.minimum(first, slots - 1), axis=1)[..., None]
        table[row, experts, nth] = order
        return table, count


def linear_placement(layers: int, num_experts: int, ranks: int, redundant_slots: int = 0) -> Placement:
    """Place experts in order, rank by rank; redundant slots repeat experts from the start.

    Raises
    ------
    InfeasibleScenario
        The slots do not divide over the ranks.
    """
    slots = _slots(num_experts, ranks, redundant_slots)
    row = np.arange(slots, dtype=np.int64) % num_experts
    return Placement(slot_expert=np.tile(row, (layers, 1)), ranks=ranks, num_experts=num_experts)


def balanced_placement(load: FloatArray, ranks: int, redundant_slots: int = 0) -> Placement:
    """Replicate the hottest experts, then pack slots onto ranks, heaviest first, always onto the lightest rank.

    Parameters
    ----------
    load : float array, shape (layers, experts)
        Tokens per expert [tokens].
    ranks : int
        Expert-parallel ranks [1].
    redundant_slots : int
        Slots beyond one per expert [1].

    Notes
    -----
    Replication gives each extra slot to the expert with the most load per replica. Packing is longest processing
    time first with a limit of slots per rank, whose makespan is within 4/3 of the optimum for independent jobs
    (R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2), 1969). Two replicas of
    an expert may share a rank, which wastes a slot but never makes the rank heavier than it must be. Where the
    limit of slots makes the packing heavier than the linear placement, the layer keeps the linear one.
    """
    layers, num_experts = load.shape
    slots = _slots(num_experts, ranks, redundant_slots)
    slot_expert = np.empty((layers, slots), dtype=np.int64)
    for layer in range(layers):
        replicas = _replicate(load[layer], slots)
        packed = _pack(load[layer] / replicas, replicas, ranks, slots // ranks)
        plain = np.arange(slots, dtype=np.int64) % num_experts
        slot_expert[layer] = min((packed, plain), key=lambda row: _heaviest(row, load[layer], ranks))
    return Placement(slot_expert=slot_expert, ranks=ranks, num_experts=num_experts)


def place(policy: Literal["linear", "balanced"], load: FloatArray, ranks: int, redundant_slots: int) -> Placement:
    """Place by policy name; ``load`` has shape (layers, experts) [tokens]."""
    if policy == "linear":
        layers, num_experts = load.shape
        return linear_placement(layers, num_experts, ranks, redundant_slots)
    return balanced_placement(load, ranks, redundant_slots)


def _slots(num_experts: int, ranks: int, redundant_slots: int) -> int:
    slots = num_experts + redundant_slots
    if slots % ranks:
        msg = (
            f"placement.redundant_slots: {num_experts} experts and {redundant_slots} redundant slots do not divide "
            f"over {ranks} expert-parallel ranks; {redundant_slots + -slots % ranks} redundant slots would"
        )
        raise InfeasibleScenario(msg)
    return slots


def _replicate(load: FloatArray, slots: int) -> IntArray:
    """Replicas per expert, each extra one given where a replica carries most."""
    replicas = np.ones(len(load), dtype=np.int64)
    heap = [(-value, expert) for expert, value in enumerate(load.tolist())]
    heapq.heapify(heap)
    for _ in range(slots - len(load)):
        _, expert = heapq.heappop(heap)
        replicas[expert] += 1
        heapq.heappush(heap, (-float(load[expert]) / int(replicas[expert]), expert))
    return replicas


def _pack(weight: FloatArray, replicas: IntArray, ranks: int, per_rank: int) -> IntArray:
    """Return the experts of one layer by slot, ranks one after another."""
    experts = np.repeat(np.arange(len(weight)), replicas)
    order = experts[np.argsort(-weight[experts], kind="stable")]
    heap = [(0.0, rank) for rank in range(ranks)]
    content: list[list[int]] = [[] for _ in range(ranks)]
    for expert in order.tolist():
        total, rank = heapq.heappop(heap)
        content[rank].append(expert)
        if len(content[rank]) < per_rank:
            heapq.heappush(heap, (total + float(weight[expert]), rank))
    return np.asarray([expert for rank in content for expert in rank], dtype=np.int64)


def _heaviest(slot_expert: IntArray, load: FloatArray, ranks: int) -> float:
    """Load of the heaviest rank of one layer, replicas of an expert sharing its load evenly [tokens]."""
    replicas = np.bincount(slot_expert, minlength=len(load))
    return float((load / replicas)[slot_expert].reshape(ranks, -1).sum(axis=1).max())
