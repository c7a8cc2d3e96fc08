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


def shard_flow(before: int, after: int) -> FloatArray:
    """Share of every expert that moves from one device to another when another number of devices splits it evenly.

    Parameters
    ----------
    before, after : int
        Devices [1].

    Returns
    -------
    float array, shape (most devices, most devices)
        From the device of the row to that of the column [1]; what stays is on the diagonal.

    Examples
    --------
    >>> shard_flow(1, 2)
    array([[0.5, 0.5],
           [0. , 0. ]])
    """
    held, wanted = np.arange(before + 1) / before, np.arange(after + 1) / after
    overlap = np.minimum(held[1:, None], wanted[None, 1:]) - np.maximum(held[:-1, None], wanted[None, :-1])
    flow = np.zeros((max(before, after),) * 2)
    # Less than rounding is nothing.
    flow[:before, :after] = np.where(overlap > 1e-12, overlap, 0.0)
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
    device of an expert-parallel rank holds its share of each of the rank's experts. Where there is one such rank, more
    or fewer devices share every expert, and parts of each move as :func:`shard_flow` says. A dense model moves none.
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
    common = sum(
        parts[name] for name in ("embedding", "encoders", "attention", "dense_ffn", "shared_experts", "lm_head")
    )
    common = common / before.tp + parts["router"] + parts["norms"]
    sent, messages = np.zeros((devices, devices)), np.zeros(devices)
    for device in range(held, wanted):
        sent[device % held, device] += common
        messages[device] += layer_tensors * len(model.layers)
    held_before = np.where(np.arange(devices) < held, common, 0.0)
    held_after = np.where(np.arange(devices) < wanted, common, 0.0)
    if model.moe is not None:
        experts = model.moe.num_experts * len(model.moe_layers)
        if before.etp == after.etp:
            flow = expert_flow(model.moe.num_experts, before.ep, after.ep) * len(model.moe_layers)
            pieces = np.kron(flow, np.eye(before.etp))
            owned = pieces / before.etp
        else:
            # All devices share every expert, before and after.
            owned = shard_flow(before.etp, after.etp) * experts
            pieces = np.where(owned > 0.0, float(experts), 0.0)
        held_before = held_before + owned.sum(axis=1) * expert_bytes(model)
        held_after = held_after + owned.sum(axis=0) * expert_bytes(model)
        elsewhere = 1.0 - np.eye(devices)
        sent += owned * elsewhere * expert_bytes(model)
        messages += (pieces * elsewhere).sum(axis=0) * expert_tensors
    return Moves(
        sent=sent,
        messages=messages,
        held_before=held_before,
        held_after=held_after,
        held_during=held_before + sent.sum(axis=0),
    )
