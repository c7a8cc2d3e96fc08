"""A placement: which slot of which rank holds which expert, and the load that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.errors import InfeasibleScenario


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

    def replica_count(self) -> IntArray:
        """Count the replicas of every expert; shape (layers, experts) [1]."""
        count = np.zeros((len(self.slot_expert), self.num_experts), dtype=np.int64)
        np.add.at(count, (np.arange(len(count))[:, None], self.slot_expert), 1)
        return count

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
        count = self.replica_count()
        first = np.cumsum(count, axis=1) - count
        nth = np.arange(slots) - np.take_along_axis(first, experts, axis=1)
        table = np.empty((layers, self.num_experts, int(count.max())), dtype=np.int64)
        table[:] = np.take_along_axis(order, np.minimum(first, slots - 1), axis=1)[..., None]
        table[row, experts, nth] = order
        return table, count

    def rank_load(self, load: FloatArray) -> FloatArray:
        """Spread the load of experts over ranks, the replicas of an expert sharing it evenly.

        Parameters
        ----------
        load : float array, shape (layers, experts)
            Tokens per expert [tokens].

        Returns
        -------
        float array, shape (layers, ranks)
            Tokens per rank [tokens].
        """
        weight = np.take_along_axis(load / self.replica_count(), self.slot_expert, axis=1)
        return np.asarray(weight.reshape(len(load), self.ranks, -1).sum(axis=-1))


def imbalance(load: FloatArray) -> FloatArray:
    """Load of the heaviest rank over the mean one, over the last axis [1]; 1 where nothing is loaded."""
    mean = load.mean(axis=-1)
    return np.asarray(np.divide(load.max(axis=-1), mean, out=np.ones_like(mean), where=mean > 0))


def slot_count(num_experts: int, ranks: int, redundant_slots: int) -> int:
    """Return the slots of a layer over all ranks [1].

    Raises
    ------
    InfeasibleScenario
        The slots do not divide over the ranks; the message says how many redundant slots would.
    """
    slots = num_experts + redundant_slots
    if slots % ranks:
        msg = (
            f"placement.redundant_slots: {num_experts} experts and {redundant_slots} redundant slots do not divide "
            f"over {ranks} expert-parallel ranks; {redundant_slots + -slots % ranks} redundant slots would"
        )
        raise InfeasibleScenario(msg)
    return slots
