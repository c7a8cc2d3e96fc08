"""The cost model: the time of every op of a step, from the kernels of a device and the choices of a stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from hardware_profiles.schema import Quantity
from simulator.arrays import FloatArray
from simulator.hardware import Hardware
from simulator.kernels.attention import (
    AttentionDecodeKernel,
    AttentionPrefillKernel,
    attention_decode_time,
    attention_prefill_time,
)
from simulator.kernels.collectives import (
    AllGatherKernel,
    AllReduceKernel,
    ReduceScatterKernel,
    all_gather_time,
    all_reduce_time,
    reduce_scatter_time,
)
from simulator.kernels.elementwise import ElementwiseKernel, elementwise_time
from simulator.kernels.expert_exchange import ExchangeKernel, combine_time, dispatch_time, distinct
from simulator.kernels.gemm import GemmKernel, gemm_time
from simulator.kernels.kernel import KernelTime, coefficients
from simulator.kernels.linear_attention import linear_attention_time
from simulator.kernels.mla import MlaDecodeKernel, MlaPrefillKernel, mla_decode_time, mla_prefill_time
from simulator.kernels.moe import MoeKernel, moe_time, tile_changes
from simulator.ops import Op
from simulator.stack import StackProfile, kernel_table


@dataclass(frozen=True, slots=True, kw_only=True)
class OpTime:
    """The predicted time of an op.

    ``seconds`` covers all repeats of the step [s] and is that of the mean rank where ranks differ; ``wait`` is what
    the slowest rank adds [s]. ``terms`` are the bounds of one repeat [s], ``table`` names the coefficients.
    """

    op: Op
    seconds: FloatArray
    wait: FloatArray
    terms: Mapping[str, FloatArray]
    table: str
    coefficients: Mapping[str, Quantity]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Kernels of a device as a stack uses them."""

    hardware: Hardware
    stack: StackProfile
    _cache: dict[tuple[str, str], tuple[str, Mapping[str, Quantity], Any]] = field(default_factory=dict, compare=False)

    def time(self, op: Op) -> OpTime:
        """Price one op; zero where it has no rows."""
        kernel_time, wait, table, quantities = _PRICES[op.kind](self, op)
        present = op.rows > 0
        seconds = np.where(present, kernel_time.seconds, 0.0) * op.repeat
        return OpTime(
            op=op,
            seconds=seconds,
            wait=np.where(present, wait, 0.0) * op.repeat,
            terms=kernel_time.terms,
            table=table,
            coefficients=quantities,
        )

    def times(self, ops: Sequence[Op]) -> tuple[OpTime, ...]:
        """Price a step op by op."""
        return tuple(self.time(op) for op in ops)

    @property
    def used(self) -> frozenset[str]:
        """Kernel tables that prices were taken from so far."""
        return frozenset(name for name, _, _ in self._cache.values())

    def kernel(
        self, kind: type[Any], family: str, dtype: str | None, backends: tuple[str, ...] | None = None
    ) -> tuple[Any, str, Mapping[str, Quantity]]:
        """Return the coefficients of a kernel family on this device, their table's name and their provenance."""
        wanted = backends or self.stack.backends.get(family, ())
        key = (f"{family}.{'/'.join(wanted)}", dtype or "")
        if key not in self._cache:
            device = self.hardware.device.id
            name, table = kernel_table(self.hardware.kernels, family, wanted, dtype, device)
            self._cache[key] = (name, table, coefficients(kind, table, f"{device}: {name}"))
        name, table, kernel = self._cache[key]
        return kernel, name, table


Priced = tuple[KernelTime, FloatArray | float, str, Mapping[str, Quantity]]


def _gemm(model: CostModel, op: Op) -> Priced:
    kernel, name, table = model.kernel(GemmKernel, "gemm", op.dtype)
    shape = {axis: np.maximum(op.shape[axis], 1.0) for axis in ("m", "n", "k")}
    return gemm_time(**shape, dtype=op.dtype, silicon=model.hardware.silicon, kernel=kernel), 0.0, name, table


def _elementwise(model: CostModel, op: Op) -> Priced:
    kernel, name, table = model.kernel(ElementwiseKernel, "elementwise", None)
    return elementwise_time(op.shape["bytes_moved"], silicon=model.hardware.silicon, kernel=kernel), 0.0, name, table


def _attention_prefill(model: CostModel, op: Op) -> Priced:
    kernel, name, table = model.kernel(AttentionPrefillKernel, "attention_prefill", op.dtype)
    shape = _at_least_one(op.shape, "batch", "context")
    time = attention_prefill_time(**shape, dtype=op.dtype, silicon=model.hardware.silicon, kernel=kernel)
    return time, 0.0, name, table


def _attention_decode(model: CostModel, op: Op) -> Priced:
    kernel, name, table = model.kernel(AttentionDecodeKernel, "attention_decode", op.dtype)
    shape = _at_least_one(op.shape, "batch", "kv_length")
    time = attention_decode_time(**shape, dtype="bfloat16", silicon=model.hardware.silicon, kernel=kernel)
    return time, 0.0, name, table


def _mla_prefill(model: CostModel, op: Op) -> Priced:
    kernel, name, table = model.kernel(MlaPrefillKernel, "mla_prefill", op.dtype)
    shape = _at_least_one(op.shape, "batch", "context")
    time = mla_prefill_time(**shape, dtype=op.dtype, silicon=model.hardware.silicon, kernel=kernel)
    return time, 0.0, name, table


def _mla_decode(model: CostModel, op: Op) -> Priced:
    kernel, name, table = model.kernel(MlaDecodeKernel, "mla_decode", op.dtype)
    shape = _at_least_one(op.shape, "batch", "kv_length")
    return mla_decode_time(**shape, silicon=model.hardware.silicon, kernel=kernel), 0.0, name, table


def _linear_attention(model: CostModel, op: Op) -> Priced:
    time, name, table = linear_attention_time(op.shape, op.kind, model.hardware.silicon, model.hardware.kernels)
    return time, 0.0, name, table


def expert_times(model: CostModel, op: Op) -> tuple[KernelTime, str, Mapping[str, Quantity]]:
    """Price the routed experts of every rank: seconds of shape (..., samples, ranks) for one repeat."""
    shape = op.shape
    kernel, name, table = _expert_kernel(model, op)
    tokens = np.maximum(np.asarray(shape["num_tokens"], dtype=np.float64), 1.0)
    counts = shape["counts"]
    if counts is None:
        # Where ranks are no divisor of the experts, redundant slots fill them up.
        local = -(-shape["num_experts"] // shape["ep"])
        even = tokens * shape["top_k"] / (shape["ep"] * local)
        counts = np.broadcast_to(even[..., None, None, None], (*even.shape, 1, 1, local))
    time = moe_time(
        counts,
        num_tokens=tokens[..., None, None],
        top_k=shape["top_k"],
        num_experts=shape["num_experts"],
        hidden=shape["hidden"],
        intermediate=shape["intermediate"],
        matrices=shape["matrices"],
        presented_tokens=_received(counts, shape) if shape["exchanged"] else None,
        dtype=op.dtype,
        silicon=model.hardware.silicon,
        kernel=kernel,
    )
    return time, name, table


def _expert_kernel(model: CostModel, op: Op) -> tuple[MoeKernel, str, Mapping[str, Quantity]]:
    backends = model.stack.backends.get("moe", ())
    if op.shape["exchanged"]:
        phase = "moe_prefill" if np.all(op.shape["prefill"]) else "moe_decode"
        backends = (*model.stack.backends.get(phase, ()), *backends)
    return model.kernel(MoeKernel, "moe", op.dtype, backends)


def expert_tile_changes(model: CostModel, op: Op) -> FloatArray:
    """Tokens over all ranks beyond which the kernel of the routed experts takes a larger row tile [tokens]."""
    shape = op.shape
    kernel = _expert_kernel(model, op)[0]
    return tile_changes(kernel, shape["top_k"], shape["num_experts"], -(-shape["num_experts"] // shape["ep"]))


def _received(counts: FloatArray, shape: Mapping[str, Any]) -> FloatArray:
    """Tokens that an exchange brings to each rank: one per rank that a token needs."""
    return np.asarray(counts.sum(axis=-1) * _ranks_needed(shape["top_k"], shape["ep"], shape["num_experts"]))


@lru_cache(maxsize=64)
def _ranks_needed(top_k: float, ranks: int, experts: int) -> float:
    """Ranks that a token needs, over its assignments [1]."""
    return float(distinct(top_k, ranks, experts) / top_k)


def _moe(model: CostModel, op: Op) -> Priced:
    """Time the mean rank; the layer ends when the slowest rank does, and the others wait."""
    time, name, table = expert_times(model, op)
    mean = time.seconds.mean(axis=(-1, -2))
    slowest = time.seconds.max(axis=-1).mean(axis=-1)
    terms = {term: np.broadcast_to(v, time.seconds.shape).mean(axis=(-1, -2)) for term, v in time.terms.items()}
    return KernelTime(seconds=mean, terms=terms), slowest - mean, name, table


def _exchange(model: CostModel, op: Op) -> Priced:
    """Tokens to experts or back; ``deepep`` picks its normal mode for prompts and low latency for decoding."""
    shape, mode = op.shape, str(model.stack.exchange)
    if mode == "deepep":
        mode = "deepep_normal" if np.all(shape["prefill"]) else "deepep_low_latency"
    kernel, name, table = model.kernel(ExchangeKernel, op.kind, None, (mode,))
    price = dispatch_time if op.kind == "dispatch" else combine_time
    time = price(
        np.maximum(shape["tokens"], 1.0),
        hidden=shape["hidden"],
        top_k=shape["top_k"],
        ranks=shape["ranks"],
        element_bytes=shape["element_bytes"],
        num_experts=shape["num_experts"],
        max_nodes=shape["max_nodes"],
        max_rank_share=shape["max_rank_share"],
        slices=shape["slices"],
        fabric=model.hardware.fabric,
        kernel=kernel,
    )
    return time, 0.0, name, table


def _all_reduce(model: CostModel, op: Op) -> Priced:
    """Engines choose the faster of their own all-reduce and the library's for every size."""
    fabric, ranks = model.hardware.fabric, op.shape["ranks"]
    priced = []
    for backend in model.stack.backends.get("all_reduce", ("nccl",)):
        kernel, name, table = model.kernel(AllReduceKernel, "all_reduce", None, (backend,))
        priced.append((all_reduce_time(op.shape["message_bytes"], ranks, fabric=fabric, kernel=kernel), name, table))
    best = priced[int(np.argmin([np.mean(time.seconds) for time, _, _ in priced]))]
    seconds = np.minimum.reduce([np.asarray(time.seconds) for time, _, _ in priced])
    return KernelTime(seconds=seconds, terms=best[0].terms), 0.0, best[1], best[2]


def _all_gather(model: CostModel, op: Op) -> Priced:
    kernel, name, table = model.kernel(AllGatherKernel, "all_gather", None)
    fabric = model.hardware.fabric
    time = all_gather_time(op.shape["message_bytes"], op.shape["ranks"], fabric=fabric, kernel=kernel)
    return time, 0.0, name, table


def _reduce_scatter(model: CostModel, op: Op) -> Priced:
    kernel, name, table = model.kernel(ReduceScatterKernel, "reduce_scatter", None)
    fabric = model.hardware.fabric
    time = reduce_scatter_time(op.shape["message_bytes"], op.shape["ranks"], fabric=fabric, kernel=kernel)
    return time, 0.0, name, table


def _send(model: CostModel, op: Op) -> Priced:
    """Hand activations to the next pipeline stage, over scale-out links where the instance leaves its domain."""
    fabric = model.hardware.fabric
    inside = op.shape["ranks"] <= fabric.domain
    latency = fabric.scale_up_latency if inside else fabric.scale_out_latency
    bandwidth = fabric.scale_up_bandwidth if inside else fabric.scale_out_bandwidth
    link = op.shape["message_bytes"] / bandwidth
    return KernelTime(seconds=latency + link, terms={"link": link, "latency": latency + 0.0 * link}), 0.0, "link", {}


_PRICES: Mapping[str, Callable[[CostModel, Op], Priced]] = {
    "gemm": _gemm,
    "elementwise": _elementwise,
    "attention_prefill": _attention_prefill,
    "attention_decode": _attention_decode,
    "mla_prefill": _mla_prefill,
    "mla_decode": _mla_decode,
    "gated_delta_net": _linear_attention,
    "mamba2": _linear_attention,
    "moe": _moe,
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "dispatch": _exchange,
    "combine": _exchange,
    "send": _send,
}


def _at_least_one(shape: Mapping[str, Any], *axes: str) -> dict[str, Any]:
    """Keep kernel models away from empty shapes; the op's rows decide what counts."""
    return {key: np.maximum(value, 1.0) if key in axes else value for key, value in shape.items()}
