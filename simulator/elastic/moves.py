"""Which weights move where when an instance changes size: experts between ranks, the rest to further devices.

Tensor parallelism stays as it is, so that attention weights and KV cache keep their layout on every device that stays.
Ranks are numbered the same before and after: a larger instance has further ranks, a smaller one lacks the last ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.kernels.kernel import Fabric
from simulator.parallelism import Parallelism
from workloads.models.sizes import expert_bytes, weight_bytes
from workloads.models.spec import ModelSpec


def spread_experts(num_experts: int, ranks: int) -> IntArray:
    """Spread experts over ranks as evenly as can be, the first ranks taking one more; shape (ranks,) [1]."""
    each, more = divmod(num_experts, ranks)
    return each + (np.arange(ranks) < more).astype(np.int64)


def expert_flow(num_experts: int, before: int, after: int) -> IntArray:
    """Count the experts of a layer that move from one rank to another, as few as an even spread allows.

    Parameters
    ----------
    num_experts : int
        Experts per layer [1].
    before, after : int
        Expert-parallel ranks [1].

    Returns
    -------
    int64 array, shape (most ranks, most ranks)
        Experts from the rank of the row to that of the column; what stays is on the diagonal.

    Examples
    --------
    >>> expert_flow(8, 2, 4)
    array([[2, 0, 2, 0],
           [0, 2, 0, 2],
           [0, 0, 0, 0],
           [0, 0, 0, 0]])
    """
    most = max(before, after)
    held, wanted = np.zeros(most, dtype=np.int64), np.zeros(most, dtype=np.int64)
    held[:before], wanted[:after] = spread_experts(num_experts, before), spread_experts(num_experts, after)
    flow = np.diag(np.minimum(held, wanted))
    spare, room = held - np.diag(flow), wanted - np.diag(flow)
    # The nth expert to give goes to the nth free place.
    givers, takers = np.repeat(np.arange(most), spare), np.repeat(np.arange(most), room)
    np.add.at(flow, (givers, takers), 1)
    return flow


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What travels between devices when an instance changes size.

    Attributes
    ----------
    sent : float array, shape (devices, devices)
        Bytes from the device of the row to that of the column, over all devices that take part [bytes].
    messages : float array, shape (devices,)
        Tensors that each device receives [1].
    held_before, held_after : float array, shape (devices,)
        Weights of each device before and after [bytes].
    held_during : float array, shape (devices,)
        Weights of each device while old and new mappings are both alive: what it had and what it gets [bytes].
    """

    sent: FloatArray
    messages: FloatArray
    held_before: FloatArray
    held_after: FloatArray
    held_during: FloatArray

    @property
    def received(self) -> FloatArray:
        """Bytes that each device receives; shape (devices,)."""
        return np.asarray(self.sent.sum(axis=0))

    def seconds(self, fabric: Fabric, message: float) -> float:
        """Time until the last device has everything [s].

        Parameters
        ----------
        fabric : Fabric
            The links.
        message : float
            Time per tensor besides its bytes [s].

        Notes
        -----
        Devices send and receive at once, each at the rate of its links within and between domains; where devices are
        joined pairwise, a pair has its own link. The slowest device decides.
        """
        if not self.sent.any():
            return 0.0
        domain = np.arange(len(self.sent)) // fabric.domain
        near = domain[:, None] == domain[None, :]
        inside, outside = np.where(near, self.sent, 0.0), np.where(near, 0.0, self.sent)
        if fabric.switched:
            within = np.maximum(inside.sum(axis=0), inside.sum(axis=1)) / fabric.scale_up_bandwidth
        else:
            within = inside.max(axis=0) / (fabric.scale_up_bandwidth / max(fabric.domain - 1, 1))
        between = np.maximum(outside.sum(axis=0), outside.sum(axis=1)) / fabric.scale_out_bandwidth
        latency = np.where(outside.any(axis=0), fabric.scale_out_latency, fabric.scale_up_latency)
        return float((np.maximum(within, between) + self.messages * (message + latency)).max())


def plan_moves(
    model: ModelSpec, before: Parallelism, after: Parallelism, *, expert_tensors: float, layer_tensors: float
) -> Moves:
    """Plan what moves with the fewest bytes.

    Parameters
    ----------
    model : ModelSpec
        The model.
    before, after : Parallelism
        The splits; they differ in ``dp`` and ``ep`` alone.
    expert_tensors, layer_tensors : float
        Tensors that an expert, and the rest of a layer, are moved as [1].

    Notes
    -----
    Attention, shared experts and all else that a device holds besides routed experts is copied to further devices from
    those of the same tensor-parallel rank, the givers in turn. Experts move as :func:`expert_flow` counts; every
    device of an expert-parallel rank holds its share of each of the rank's experts. A dense model moves no experts.
    Pipeline stages are alike, each with its share of the layers, and nothing moves between them.
    """
    one = _stage_moves(model, before, after, expert_tensors=expert_tensors, layer_tensors=layer_tensors)
    stages = before.pp

    def each(values: FloatArray) -> FloatArray:
        return np.tile(values / stages, stages)

    return Moves(
        sent=np.asarray(np.kron(np.eye(stages), one.sent / stages), dtype=np.float64),
        messages=each(one.messages),
        held_before=each(one.held_before),
        held_after=each(one.held_after),
        held_during=each(one.held_during),
    )


def _stage_moves(
    model: ModelSpec, before: Parallelism, after: Parallelism, *, expert_tensors: float, layer_tensors: float
) -> Moves:
    """Plan what moves as if one stage had all layers."""
    held, wanted = before.group, after.group
    devices = max(held, wanted)
    parts = weight_bytes(model)
    common = sum(parts[name] for name in ("embedding", "attention", "dense_ffn", "shared_experts", "lm_head"))
    common = common / before.tp + parts["router"] + parts["norms"]
    sent, messages = np.zeros((devices, devices)), np.zeros(devices)
    for device in range(held, wanted):
        sent[device % held, device] += common
        messages[device] += layer_tensors * len(model.layers)
    held_before = np.where(np.arange(devices) < held, common, 0.0)
    held_after = np.where(np.arange(devices) < wanted, common, 0.0)
    if model.moe is not None:
        each = expert_bytes(model) / before.etp
        flow = expert_flow(model.moe.num_experts, before.ep, after.ep) * len(model.moe_layers)
        owned = np.kron(flow, np.eye(before.etp))[:devices, :devices]
        held_before, held_after = held_before + owned.sum(axis=1) * each, held_after + owned.sum(axis=0) * each
        moved = owned - np.diag(np.diag(owned))
        sent += moved * each
        messages += moved.sum(axis=0) * expert_tensors
    return Moves(
        sent=sent,
        messages=messages,
        held_before=held_before,
        held_after=held_after,
        held_during=held_before + sent.sum(axis=0),
    )
