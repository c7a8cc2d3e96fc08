"""Ops of dense FFNs and of MoE blocks: router, exchange, routed and shared experts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from simulator.arrays import FloatArray
from simulator.exchange import Way, dispatched_format
from simulator.kernels.expert_exchange import ExchangeShape
from simulator.kernels.kernel import dtype_bytes
from simulator.kernels.moe import ExpertsShape
from simulator.ops.ir import Op, StepContext, all_reduce, collective, gemm, in_block, residual_norm, small
from workloads.models.dtypes import BLOCK_ELEMENTS
from workloads.models.spec import DenseFFN, MoE


def _gated_ffn(
    c: StepContext, prefix: str, repeat: float, m: FloatArray, width: float, matrices: int, dtype: str
) -> Iterator[Op]:
    hidden = c.model.hidden
    yield gemm(f"{prefix}_up", repeat, m, width * (matrices - 1), hidden, dtype)
    yield small(f"{prefix}_activation", repeat, m, m * width * matrices * 2)
    yield gemm(f"{prefix}_down", repeat, m, hidden, width, dtype)


def dense_ffn_ops(c: StepContext, ffn: DenseFFN, count: int) -> Iterator[Op]:
    """List the ops of ``count`` equal dense FFNs: norm, two GEMMs around the activation, all-reduce."""
    yield residual_norm(c, "ffn_norm", count)
    width = ffn.intermediate / c.split.tp
    yield from _gated_ffn(c, "ffn", count, c.tokens, width, ffn.matrices, c.model.dtypes.dense_ffn)
    yield from all_reduce(c, "ffn_all_reduce", count, c.split.tp, c.tokens)


def moe_ops(c: StepContext, moe: MoE, count: int, expert_counts: FloatArray | None) -> Iterator[Op]:
    """List the ops of equal MoE blocks: router, dispatch, routed and shared experts, combine, all-reduce.

    Parameters
    ----------
    c : StepContext
        The step.
    moe : MoE
        The block.
    count : int
        Layers that have it [1].
    expert_counts : array, shape (..., samples, ranks, local experts), or None
        Tokens per expert slot in these layers, leading axes as the step's; ``None`` spreads them evenly.
    """
    split, dtypes, hidden = c.split, c.model.dtypes, c.model.hidden
    yield from in_block("router", _router_ops(c, moe, count))
    if moe.latent:
        yield from in_block("shared", [gemm("latent_down", count, c.tokens, moe.latent, hidden, dtypes.shared)])
    yield from in_block("dispatch", _exchange(c, moe, count, "dispatch"))
    yield routed_experts(c, moe, count, expert_counts)
    if moe.shared_intermediate:
        sharded = moe.shared_intermediate / split.tp
        ffn = _gated_ffn(c, "shared_experts", count, c.tokens, sharded, moe.matrices, dtypes.shared)
        yield from in_block("shared", ffn)
        yield from in_block("shared", [small("add_shared", count, c.tokens, c.tokens * hidden * 2 * 3)])
    yield from in_block("combine", _exchange(c, moe, count, "combine"))
    if moe.latent:
        yield from in_block("shared", [gemm("latent_up", count, c.tokens, hidden, moe.latent, dtypes.shared)])
    yield from in_block("router", all_reduce(c, "moe_all_reduce", count, split.tp, c.tokens))


def routed_experts(c: StepContext, moe: MoE, count: int, expert_counts: FloatArray | None) -> Op:
    """Build the op of the routed experts.

    Parameters
    ----------
    c : StepContext
        The step.
    moe : MoE
        The block.
    count : int
        Layers that have it [1].
    expert_counts : array, shape (..., samples, ranks, local experts), or None
        Tokens per expert slot in these layers, leading axes as the step's; ``None`` spreads them evenly.
    """
    split, dtypes, hidden = c.split, c.model.dtypes, moe.latent or c.model.hidden
    active = moe.top_k * moe.num_experts / (moe.num_experts + moe.null_experts)
    assignments = c.group_tokens * active / split.ep
    block = BLOCK_ELEMENTS.get(dtypes.experts, 1)
    width = math.ceil(moe.intermediate / split.etp / block) * block
    weights = moe.matrices * hidden * width * dtype_bytes(dtypes.experts)
    if expert_counts is not None:
        assignments = expert_counts.sum(axis=-1).mean(axis=(-2, -1))
        touched = (expert_counts > 0).sum(axis=-1).mean(axis=(-2, -1))
    elif c.touched_slots is not None:
        touched = c.touched_slots
    else:
        touched = (moe.num_experts / split.ep) * (1 - (1 - active / moe.num_experts) ** c.group_tokens)
    exchanged = split.exchanges_tokens and not c.stack.exchange_for(c.phase).gathers
    return Op(
        name="routed_experts",
        kind="moe",
        component="experts",
        driver="experts",
        family="moe",
        dtype=dtypes.experts,
        backends=c.stack.expert_backends(c.phase, exchanged=exchanged),
        repeat=count,
        rows=c.group_tokens,
        shape=ExpertsShape(
            counts=expert_counts,
            num_tokens=c.group_tokens,
            top_k=active,
            num_experts=moe.num_experts,
            ep=split.ep,
            hidden=hidden,
            intermediate=width,
            matrices=moe.matrices,
            exchanged=exchanged,
            dtype=dtypes.experts,
        ),
        flops=2.0 * assignments * moe.matrices * hidden * width,
        memory_bytes=touched * weights + assignments * (2 * hidden + moe.matrices * width) * 2,
        block="experts",
    )


def _router_ops(c: StepContext, moe: MoE, count: int) -> Iterator[Op]:
    choices = moe.num_experts + moe.null_experts
    yield residual_norm(c, "moe_norm", count)
    yield gemm("router", count, c.tokens, choices, c.model.hidden, c.model.dtypes.activation)
    yield small("top_k", count, c.tokens, c.tokens * choices * 4 * 2)


def _exchange(c: StepContext, moe: MoE, count: int, way: Way) -> Iterator[Op]:
    """Tokens to their experts and back, where data-parallel ranks hold different tokens."""
    split, hidden = c.split, moe.latent or c.model.hidden
    if not split.exchanges_tokens:
        return
    exchange = c.stack.exchange_for(c.phase)
    element = exchange.element_bytes(way, dispatched_format(c.model.dtypes.experts))
    if exchange.gathers:
        kind = "all_gather" if way == "dispatch" else "reduce_scatter"
        message = c.tokens * split.dp * hidden * element
        yield collective(f"moe_{way}", kind, way, count, message, split.group)
        return
    # Each tensor-parallel peer holds the same tokens and sends its share of them, to every shard of an expert; where
    # the exchange is coordinated, to its counterpart among the shards, which then gather.
    tokens = c.tokens / split.tp * (1 if exchange.coordinated else split.etp)
    message = tokens * min(moe.top_k, split.ep) * hidden * element
    yield Op(
        name=f"moe_{way}",
        kind=way,
        component=way,
        driver="tokens",
        family=way,
        dtype=c.model.dtypes.experts,
        backends=(exchange.name,),
        resource="link",
        repeat=count,
        rows=tokens,
        shape=ExchangeShape(
            tokens=tokens,
            hidden=hidden,
            top_k=moe.top_k,
            ranks=split.group,
            element_bytes=element,
            num_experts=moe.num_experts,
            max_nodes=moe.top_k_groups if moe.num_groups > 1 else None,
            max_rank_share=c.max_rank_share,
            expert_shards=split.etp,
        ),
        flops=np.zeros_like(tokens),
        memory_bytes=2 * message,
        message_bytes=message,
    )
