"""Put the ops of a step together, layer kind by layer kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.arrays import FloatArray
from simulator.kernels.kernel import dtype_bytes
from simulator.ops.attention import attention_ops
from simulator.ops.ffn import dense_ffn_ops, moe_ops, routed_experts
from simulator.ops.ir import Op, StepContext, StepShape, collective, gemm, in_block, residual_norm, small
from simulator.parallelism import Parallelism
from simulator.stack import StackProfile
from workloads.models.spec import ModelSpec, MoE


def build_ops(
    model: ModelSpec,
    split: Parallelism,
    stack: StackProfile,
    shape: StepShape,
    expert_counts: FloatArray | None = None,
) -> tuple[Op, ...]:
    """List the ops of one step on the busiest rank, layers of one kind folded into repeats.

    Parameters
    ----------
    model, split, stack
        What runs, how it is split, and what runs it.
    shape : StepShape
        The work of the step.
    expert_counts : array, shape (..., windows, MoE layers, ranks, local experts), or None
        Tokens per expert slot in windows of a routing trace, leading axes as the step's; ``None`` spreads them evenly.
    """
    c = _context(model, split, stack, shape)
    ops: list[Op] = [small("embedding", 1, c.tokens, c.tokens * model.hidden * dtype_bytes(model.dtypes.embedding) * 2)]
    for attention, count in Counter(layer.attention for layer in model.layers if layer.attention).items():
        ops.extend(in_block("attention", attention_ops(c, attention, count)))
    for ffn, count in Counter(layer.ffn for layer in model.layers if layer.ffn).items():
        if isinstance(ffn, MoE):
            ops.extend(moe_ops(c, ffn, count, _sampled(model, ffn, expert_counts)))
        else:
            ops.extend(in_block("dense", dense_ffn_ops(c, ffn, count)))
    ops.extend(head_ops(c))
    if split.pp > 1:
        message = c.tokens * model.hidden * dtype_bytes(model.dtypes.activation)
        ops.append(collective("stage_transfer", "send", "all_reduce", split.pp - 1.0, message, split.devices))
    return tuple(ops)


def build_experts(
    model: ModelSpec,
    split: Parallelism,
    stack: StackProfile,
    shape: StepShape,
    moe: MoE,
    expert_counts: FloatArray | None,
) -> Op:
    """Build the op of the routed experts of one MoE layer.

    Parameters
    ----------
    model, split, stack, shape
        As for :func:`build_ops`.
    moe : MoE
        The block of that layer.
    expert_counts : array, shape (samples, ranks, local experts), or None
        Tokens per expert slot; ``None`` spreads them evenly.
    """
    return routed_experts(_context(model, split, stack, shape), moe, 1, expert_counts)


def moe_kinds(model: ModelSpec) -> dict[MoE, NDArray[np.int64]]:
    """Return the MoE layers of each kind of block, counted among MoE layers."""
    blocks = model.moe_layers
    return {
        moe: np.array([layer for layer, block in enumerate(blocks) if block == moe], dtype=np.int64)
        for moe in dict.fromkeys(blocks)
    }


def _sampled(model: ModelSpec, moe: MoE, expert_counts: FloatArray | None) -> FloatArray | None:
    """Take the counts of the layers that have a block, each layer of each window as one sample."""
    if expert_counts is None:
        return None
    own = expert_counts[..., moe_kinds(model)[moe], :, :]
    return own.reshape(*own.shape[:-4], -1, *own.shape[-2:])


def _context(model: ModelSpec, split: Parallelism, stack: StackProfile, shape: StepShape) -> StepContext:
    arrays = np.broadcast_arrays(
        *(
            np.asarray(value, dtype=np.float64)
            for value in (
                shape.prefill_tokens,
                shape.prefill_sequences,
                shape.prefill_prefix,
                shape.decode_sequences,
                shape.decode_context,
            )
        )
    )
    prefill, sequences, prefix, decoded, context = arrays
    decode = decoded * shape.decode_query_tokens
    tokens = prefill + decode if shape.tokens is None else np.asarray(shape.tokens, dtype=np.float64)
    group = (prefill + decode) * split.dp if shape.group_tokens is None else np.asarray(shape.group_tokens, float)
    return StepContext(
        model=model,
        split=split,
        stack=stack,
        prefill=prefill,
        sequences=np.where(prefill > 0, np.maximum(sequences, 1.0), 0.0),
        prefix=prefix,
        decode_sequences=decoded,
        context=context,
        query_tokens=shape.decode_query_tokens,
        tokens=tokens,
        group_tokens=group,
        max_rank_share=np.asarray(shape.max_rank_share, dtype=np.float64),
        touched_slots=None if shape.touched_slots is None else np.asarray(shape.touched_slots, dtype=np.float64),
    )


def head_ops(c: StepContext) -> Iterator[Op]:
    """List the ops that end a step: norm, LM head on the rows that need it, gathered logits, sampling."""
    rows = c.sequences + c.decode
    tp, vocab = c.split.tp, c.model.vocab
    yield residual_norm(c, "final_norm", 1)
    yield gemm("lm_head", 1, rows, vocab / tp, c.model.hidden, c.model.dtypes.embedding, "logits")
    if tp > 1:
        yield collective("gather_logits", "all_gather", "all_reduce", 1, rows * vocab * 2.0, tp, "logits")
    yield small("sampling", 1, rows, rows * vocab * 4.0 * 3, "logits")


def draft_ops(
    model: ModelSpec,
    split: Parallelism,
    stack: StackProfile,
    sequences: FloatArray,
    context: ArrayLike,
    drafts: int,
) -> tuple[Op, ...]:
    """List the ops that draft tokens by multi-token prediction: its layers and the head, for each of them.

    Parameters
    ----------
    model, split, stack
        As for :func:`build_ops`.
    sequences : array
        Decoded sequences on this rank [1].
    context : array
        KV length that they attend to [tokens].
    drafts : int
        Tokens that are drafted per step, one after the other [1].
    """
    if not drafts:
        return ()
    layer = replace(model, layers=model.drafting_layers)
    hidden = model.hidden
    # The hidden state and the embedding of the last token are joined and projected back.
    join = gemm("proj", 1, sequences, hidden, 2.0 * hidden, model.dtypes.attention)
    ops = build_ops(layer, split, stack, StepShape(decode_sequences=sequences, decode_context=context))
    return tuple(replace(op, name=f"draft_{op.name}", repeat=drafts * op.repeat, block="ends") for op in (join, *ops))
