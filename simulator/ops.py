"""One step of a model as a list of ops: the single representation that cost, breakdown and explanation all read.

An op names the kind of kernel, its shape (arrays over any number of steps at once), how often the step repeats it,
and what it moves and computes. Nothing here knows how long anything takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.parallelism import Parallelism
from simulator.stack import StackProfile
from workloads.dtypes import DTYPE_BYTES
from workloads.model_spec import (
    Attention,
    DenseFFN,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    Mamba2,
    ModelSpec,
    MoE,
)

FloatArray = NDArray[np.float64]
Driver = Literal["tokens", "prompt", "decode", "logits", "experts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """The work of one step on one attention rank; every field is a number or an array that broadcasts.

    ``prefill_prefix`` and ``decode_context`` are means per sequence: tokens already cached before a prompt chunk,
    and KV length that a decoded token attends to. ``group_tokens`` counts the tokens of all data-parallel ranks
    (dp times this rank's where absent). ``max_rank_share`` is what the busiest expert rank receives, in multiples of
    the mean.
    """

    prefill_tokens: ArrayLike = 0.0
    prefill_sequences: ArrayLike = 0.0
    prefill_prefix: ArrayLike = 0.0
    decode_sequences: ArrayLike = 0.0
    decode_context: ArrayLike = 0.0
    group_tokens: ArrayLike | None = None
    max_rank_share: ArrayLike = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One kernel of a step.

    Attributes
    ----------
    name, kind, component : str
        What it is, which kernel model prices it, and which part of the breakdown it belongs to.
    driver : {"tokens", "prompt", "decode", "logits", "experts"}
        What of the step sets its size: all tokens, the prompt chunks, the decoded sequences, the rows that reach the
        LM head, or the tokens of all ranks and where they go.
    family, dtype : str
        Kernel family and arithmetic dtype, from which the stack and the device choose coefficients.
    repeat : float
        Times per step on this rank [1].
    rows : array
        Tokens, sequences or bytes that it works on; where zero it does not run.
    shape : Mapping of str to Any
        Arguments of its kernel model.
    flops, memory_bytes, message_bytes : array
        Work [FLOP], device-memory traffic [bytes] and bytes sent per rank [bytes], of one repeat.
    """

    name: str
    kind: str
    component: str
    driver: Driver
    family: str
    dtype: str
    repeat: float
    rows: FloatArray
    shape: Mapping[str, Any]
    flops: FloatArray
    memory_bytes: FloatArray
    message_bytes: FloatArray = field(default_factory=lambda: np.zeros(()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What all op builders share: the split, the stack, and the step's sizes as float arrays."""

    model: ModelSpec
    split: Parallelism
    stack: StackProfile
    prefill: FloatArray
    sequences: FloatArray
    prefix: FloatArray
    decode: FloatArray
    context: FloatArray
    group_tokens: FloatArray
    max_rank_share: FloatArray

    @property
    def tokens(self) -> FloatArray:
        """Tokens of this attention rank [tokens]."""
        return self.prefill + self.decode


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
    expert_counts : array, shape (..., samples, ranks, local experts), or None
        Tokens per expert slot, sampled over layers and windows of a routing trace, leading axes as the step's;
        ``None`` spreads them evenly.
    """
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
    prefill, sequences, prefix, decode, context = arrays
    group = (prefill + decode) * split.dp if shape.group_tokens is None else np.asarray(shape.group_tokens, float)
    c = _Context(
        model=model,
        split=split,
        stack=stack,
        prefill=prefill,
        sequences=np.where(prefill > 0, np.maximum(sequences, 1.0), 0.0),
        prefix=prefix,
        decode=decode,
        context=context,
        group_tokens=group,
        max_rank_share=np.asarray(shape.max_rank_share, dtype=np.float64),
    )
    ops: list[Op] = [_small("embedding", 1, c.tokens, c.tokens * model.hidden * _bytes(model.dtypes.embedding) * 2)]
    for attention, count in Counter(layer.attention for layer in model.layers if layer.attention).items():
        ops.extend(_attention_ops(c, attention, count))
    for ffn, count in Counter(layer.ffn for layer in model.layers if layer.ffn).items():
        if isinstance(ffn, MoE):
            ops.extend(_moe_ops(c, ffn, count, expert_counts))
        else:
            ops.extend(_dense_ffn_ops(c, ffn, count))
    ops.extend(_head_ops(c))
    if split.pp > 1:
        message = c.tokens * model.hidden * _bytes(model.dtypes.activation)
        ops.append(_collective("stage_transfer", "send", "all_reduce", split.pp - 1.0, message, 2))
    return tuple(ops)


def _bytes(dtype: str) -> float:
    return DTYPE_BYTES[dtype]


def _gemm(name: str, repeat: float, m: FloatArray, n: float, k: float, dtype: str, driver: Driver = "tokens") -> Op:
    """C[m,n] = A[m,k] B[k,n] with weights stored as ``dtype`` and 16-bit activations."""
    return Op(
        name=name,
        kind="gemm",
        component="gemm",
        driver=driver,
        family="gemm",
        dtype=dtype,
        repeat=repeat,
        rows=m,
        shape={"m": m, "n": n, "k": k},
        flops=2.0 * m * n * k,
        memory_bytes=n * k * _bytes(dtype) + 2.0 * m * (n + k),
    )


def _small(name: str, repeat: float, rows: FloatArray, moved: FloatArray, driver: Driver = "tokens") -> Op:
    """Build a memory-bound kernel that moves so many bytes."""
    return Op(
        name=name,
        kind="elementwise",
        component="small_kernels",
        driver=driver,
        family="elementwise",
        dtype="bfloat16",
        repeat=repeat,
        rows=rows,
        shape={"bytes_moved": moved},
        flops=np.zeros_like(rows),
        memory_bytes=moved,
    )


def _collective(
    name: str, kind: str, component: str, repeat: float, message: FloatArray, ranks: int, driver: Driver = "tokens"
) -> Op:
    return Op(
        name=name,
        kind=kind,
        component=component,
        driver=driver,
        family=kind,
        dtype="bfloat16",
        repeat=repeat,
        rows=message,
        shape={"message_bytes": message, "ranks": ranks},
        flops=np.zeros_like(message),
        memory_bytes=2.0 * message,
        message_bytes=message,
    )


def _all_reduce(c: _Context, name: str, repeat: float, ranks: int, tokens: FloatArray) -> Iterator[Op]:
    if ranks > 1:
        message = tokens * c.model.hidden * _bytes(c.model.dtypes.activation)
        yield _collective(name, "all_reduce", "all_reduce", repeat, message, ranks)


def _residual_norm(c: _Context, name: str, repeat: float) -> Op:
    """Residual add fused with the norm reads the stream and the residual and writes both."""
    return _small(name, repeat, c.tokens, c.tokens * c.model.hidden * _bytes(c.model.dtypes.activation) * 4)


def _attention_ops(c: _Context, attention: Attention, count: int) -> Iterator[Op]:
    yield _residual_norm(c, "attention_norm", count)
    if isinstance(attention, GroupedQueryAttention):
        yield from _grouped_query_ops(c, attention, count)
    elif isinstance(attention, LatentAttention):
        yield from _latent_ops(c, attention, count)
    else:
        yield from _linear_attention_ops(c, attention, count)
    yield from _all_reduce(c, "attention_all_reduce", count, c.split.tp, c.tokens)


def _grouped_query_ops(c: _Context, a: GroupedQueryAttention, count: int) -> Iterator[Op]:
    tp, hidden, dtypes = c.split.tp, c.model.hidden, c.model.dtypes
    heads, kv_heads = a.num_heads / tp, max(a.num_kv_heads / tp, 1.0)
    query = heads * a.head_dim * (2 if a.output_gate else 1)
    width = query + 2 * kv_heads * a.head_dim
    yield _gemm("qkv_proj", count, c.tokens, width, hidden, dtypes.attention)
    passes = 1 + (1 if a.qk_norm and "qk_norm_rope" not in c.stack.fused else 0)
    yield _small("rope_and_cache", count * passes, c.tokens, c.tokens * width * 2 * 2)
    shape = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": a.head_dim}
    options = {"window": a.window, "kv_dtype": dtypes.kv_cache}
    new = np.divide(c.prefill, c.sequences, out=np.zeros_like(c.prefill), where=c.sequences > 0)
    pairs = c.sequences * _causal_pairs(new, c.prefix, a.window)
    kv_row = 2 * kv_heads * a.head_dim * _bytes(dtypes.kv_cache)
    reach = np.minimum(c.context, a.window) if a.window else c.context
    yield Op(
        name="attention_prefill",
        kind="attention_prefill",
        component="attention",
        driver="prompt",
        family="attention_prefill",
        dtype=dtypes.activation,
        repeat=count,
        rows=c.prefill,
        shape={"batch": c.sequences, "context": new, "prefix": c.prefix, **shape, **options},
        flops=4.0 * pairs * heads * a.head_dim,
        memory_bytes=c.prefill * width * 2 + c.sequences * (c.prefix + new) * kv_row,
    )
    yield Op(
        name="attention_decode",
        kind="attention_decode",
        component="attention",
        driver="decode",
        family="attention_decode",
        dtype=dtypes.kv_cache,
        repeat=count,
        rows=c.decode,
        shape={"batch": c.decode, "kv_length": c.context, **shape, **options},
        flops=4.0 * c.decode * reach * heads * a.head_dim,
        memory_bytes=c.decode * reach * kv_row + c.decode * heads * a.head_dim * 4,
    )
    if a.output_gate:
        yield _small("output_gate", count, c.tokens, c.tokens * heads * a.head_dim * 2 * 3)
    yield _gemm("o_proj", count, c.tokens, hidden, heads * a.head_dim, dtypes.attention)


def _causal_pairs(new: FloatArray, prefix: FloatArray, window: int | None) -> FloatArray:
    """Query-key pairs of ``new`` tokens after ``prefix`` cached ones, limited to a window where there is one."""
    full = new * prefix + new * (new + 1) / 2
    if window is None:
        return full
    free = np.clip(window - prefix, 0.0, new)
    return free * prefix + free * (free + 1) / 2 + (new - free) * window


def _latent_ops(c: _Context, a: LatentAttention, count: int) -> Iterator[Op]:
    tp, hidden, dtypes = c.split.tp, c.model.hidden, c.model.dtypes
    heads = a.num_heads / tp
    query = a.qk_nope_head_dim + a.qk_rope_head_dim
    latent = a.kv_lora_rank + a.qk_rope_head_dim
    if a.q_lora_rank:
        yield _gemm("qkv_a_proj", count, c.tokens, a.q_lora_rank + latent, hidden, dtypes.attention)
        yield _small("latent_norm", count, c.tokens, c.tokens * (a.q_lora_rank + a.kv_lora_rank) * 2 * 2)
        yield _gemm("q_b_proj", count, c.tokens, heads * query, a.q_lora_rank, dtypes.attention)
    else:
        yield _gemm("q_proj", count, c.tokens, heads * query, hidden, dtypes.attention)
        yield _gemm("kv_a_proj", count, c.tokens, latent, hidden, dtypes.attention)
        yield _small("latent_norm", count, c.tokens, c.tokens * a.kv_lora_rank * 2 * 2)
    yield _small("rope_and_cache", count * 2, c.tokens, c.tokens * (heads * a.qk_rope_head_dim + latent) * 2 * 2)
    if a.index_heads:
        yield _gemm("indexer_proj", count, c.tokens, (a.index_heads + 1) * a.index_head_dim, hidden, dtypes.attention)
    yield from _latent_prefill(c, a, count, heads)
    yield from _latent_decode(c, a, count, heads)
    yield _gemm("o_proj", count, c.tokens, hidden, heads * a.v_head_dim, dtypes.attention)


def _latent_prefill(c: _Context, a: LatentAttention, count: int, heads: float) -> Iterator[Op]:
    """Prompt tokens expand the latent to full keys and values and attend as multi-head attention."""
    dtypes, query = c.model.dtypes, a.qk_nope_head_dim + a.qk_rope_head_dim
    new = np.divide(c.prefill, c.sequences, out=np.zeros_like(c.prefill), where=c.sequences > 0)
    prefix = np.minimum(c.prefix, a.index_top_k) if a.index_top_k else c.prefix
    expanded = np.where(c.prefill > 0, c.sequences * (prefix + new), 0.0)
    yield _gemm(
        "kv_b_proj",
        count,
        expanded,
        heads * (a.qk_nope_head_dim + a.v_head_dim),
        a.kv_lora_rank,
        dtypes.attention,
        "prompt",
    )
    pairs = c.sequences * _causal_pairs(new, prefix, a.index_top_k or None)
    yield Op(
        name="mla_prefill",
        kind="mla_prefill",
        component="attention",
        driver="prompt",
        family="mla_prefill",
        dtype=dtypes.activation,
        repeat=count,
        rows=c.prefill,
        shape={
            "batch": c.sequences,
            "context": new,
            "prefix": prefix,
            "num_heads": heads,
            "kv_lora_rank": a.kv_lora_rank,
            "rope_dim": a.qk_rope_head_dim,
            "nope_dim": a.qk_nope_head_dim,
            "v_dim": a.v_head_dim,
            "kv_dtype": dtypes.kv_cache,
        },
        flops=2.0 * pairs * heads * (query + a.v_head_dim),
        memory_bytes=(c.prefill * (query + a.v_head_dim) + expanded * (query + a.v_head_dim)) * heads * 2,
    )


def _latent_decode(c: _Context, a: LatentAttention, count: int, heads: float) -> Iterator[Op]:
    """Decoded tokens absorb the up-projections into query and output and attend to the latent itself."""
    dtypes, latent = c.model.dtypes, a.kv_lora_rank + a.qk_rope_head_dim
    reach = np.minimum(c.context, a.index_top_k) if a.index_top_k else c.context
    yield _gemm("absorb_key", count, c.decode, heads * a.kv_lora_rank, a.qk_nope_head_dim, "bfloat16", "decode")
    yield Op(
        name="mla_decode",
        kind="mla_decode",
        component="attention",
        driver="decode",
        family="mla_decode",
        dtype=dtypes.kv_cache,
        repeat=count,
        rows=c.decode,
        shape={
            "batch": c.decode,
            "kv_length": reach,
            "num_heads": heads,
            "kv_lora_rank": a.kv_lora_rank,
            "rope_dim": a.qk_rope_head_dim,
            "kv_dtype": dtypes.kv_cache,
        },
        flops=2.0 * c.decode * reach * heads * (latent + a.kv_lora_rank),
        memory_bytes=c.decode * reach * latent * _bytes(dtypes.kv_cache) + c.decode * heads * latent * 4,
    )
    yield _gemm("absorb_value", count, c.decode, heads * a.v_head_dim, a.kv_lora_rank, "bfloat16", "decode")


def _linear_attention_ops(c: _Context, a: GatedDeltaNet | Mamba2, count: int) -> Iterator[Op]:
    tp, hidden, dtypes = c.split.tp, c.model.hidden, c.model.dtypes
    if isinstance(a, GatedDeltaNet):
        keys = a.num_key_heads * a.key_head_dim / tp
        inner = a.num_value_heads * a.value_head_dim / tp
        width, conv = 2 * keys + 2 * inner + 2 * a.num_value_heads / tp, 2 * keys + inner
        state = a.num_value_heads / tp * a.key_head_dim * a.value_head_dim
    else:
        inner = a.num_heads * a.head_dim / tp
        conv = inner + 2 * a.num_groups * a.state_size / tp
        width = inner + conv + a.num_heads / tp
        state = inner * a.state_size
    kind = "gated_delta_net" if isinstance(a, GatedDeltaNet) else "mamba2"
    yield _gemm("in_proj", count, c.tokens, width, hidden, dtypes.attention)
    state_bytes = state * _bytes(dtypes.state)
    phases: tuple[tuple[str, Driver, FloatArray, FloatArray], ...] = (
        ("prefill", "prompt", c.prefill, c.sequences),
        ("decode", "decode", c.decode, c.decode),
    )
    for phase, driver, rows, sequences in phases:
        yield Op(
            name=f"{kind}_{phase}",
            kind=kind,
            component="attention",
            driver=driver,
            family=kind,
            dtype=dtypes.activation,
            repeat=count,
            rows=rows,
            shape={"phase": phase, "tokens": rows, "batch": sequences, "hidden": hidden, "attention": a, "tp": tp},
            flops=rows * (6.0 * state + 2.0 * a.conv_kernel * conv),
            memory_bytes=rows * (conv + 2 * inner) * 2 * 2 + 2 * sequences * state_bytes,
        )
    yield _small("gated_norm", count, c.tokens, c.tokens * inner * 2 * 3)
    yield _gemm("out_proj", count, c.tokens, hidden, inner, dtypes.attention)


def _gated_ffn(
    c: _Context, prefix: str, repeat: float, m: FloatArray, width: float, matrices: int, dtype: str
) -> Iterator[Op]:
    hidden = c.model.hidden
    yield _gemm(f"{prefix}_up", repeat, m, width * (matrices - 1), hidden, dtype)
    yield _small(f"{prefix}_activation", repeat, m, m * width * matrices * 2)
    yield _gemm(f"{prefix}_down", repeat, m, hidden, width, dtype)


def _dense_ffn_ops(c: _Context, ffn: DenseFFN, count: int) -> Iterator[Op]:
    yield _residual_norm(c, "ffn_norm", count)
    width = ffn.intermediate / c.split.tp
    yield from _gated_ffn(c, "ffn", count, c.tokens, width, ffn.matrices, c.model.dtypes.dense_ffn)
    yield from _all_reduce(c, "ffn_all_reduce", count, c.split.tp, c.tokens)


def _moe_ops(c: _Context, moe: MoE, count: int, expert_counts: FloatArray | None) -> Iterator[Op]:
    split, dtypes, hidden = c.split, c.model.dtypes, c.model.hidden
    yield _residual_norm(c, "moe_norm", count)
    yield _gemm("router", count, c.tokens, moe.num_experts + moe.null_experts, hidden, dtypes.activation)
    yield _small("top_k", count, c.tokens, c.tokens * (moe.num_experts + moe.null_experts) * 4 * 2)
    yield from _exchange(c, moe, count, "dispatch")
    active = moe.top_k * moe.num_experts / (moe.num_experts + moe.null_experts)
    assignments = c.group_tokens * active / split.ep
    width = moe.intermediate / split.etp
    weights = moe.matrices * hidden * width * _bytes(dtypes.experts)
    touched = (moe.num_experts / split.ep) * (1 - (1 - active / moe.num_experts) ** c.group_tokens)
    yield Op(
        name="routed_experts",
        kind="moe",
        component="experts",
        driver="experts",
        family="moe",
        dtype=dtypes.experts,
        repeat=count,
        rows=c.group_tokens,
        shape={
            "counts": expert_counts,
            "num_tokens": c.group_tokens,
            "top_k": active,
            "num_experts": moe.num_experts,
            "ep": split.ep,
            "hidden": hidden,
            "intermediate": width,
            "matrices": moe.matrices,
            "exchanged": split.exchanges_tokens and c.stack.exchange != "all_gather",
            "prefill": c.prefill > 0,
        },
        flops=2.0 * assignments * moe.matrices * hidden * width,
        memory_bytes=touched * weights + assignments * (2 * hidden + moe.matrices * width) * 2,
    )
    if moe.shared_intermediate:
        sharded = moe.shared_intermediate / split.tp
        yield from _gated_ffn(c, "shared_experts", count, c.tokens, sharded, moe.matrices, dtypes.experts)
        yield _small("add_shared", count, c.tokens, c.tokens * hidden * 2 * 3)
    yield from _exchange(c, moe, count, "combine")
    yield from _all_reduce(c, "moe_all_reduce", count, split.tp, c.tokens)


def _exchange(c: _Context, moe: MoE, count: int, direction: str) -> Iterator[Op]:
    """Tokens to their experts and back, where data-parallel ranks hold different tokens."""
    split, hidden = c.split, c.model.hidden
    if not split.exchanges_tokens:
        return
    quantised = direction == "dispatch" and c.model.dtypes.experts in {"fp8", "fp8_block"}
    element = 1.0 + 4.0 / 128 if quantised and c.stack.exchange != "all_gather" else 2.0
    if c.stack.exchange == "all_gather":
        kind = "all_gather" if direction == "dispatch" else "reduce_scatter"
        message = c.group_tokens * hidden * element
        yield _collective(f"moe_{direction}", kind, direction, count, message, split.group)
        return
    # Each tensor-parallel peer holds the same tokens and sends its share of them, to every shard of an expert.
    tokens = c.tokens / split.tp * split.etp
    message = tokens * min(moe.top_k, split.ep) * hidden * element
    yield Op(
        name=f"moe_{direction}",
        kind=direction,
        component=direction,
        driver="tokens",
        family=direction,
        dtype=c.model.dtypes.experts,
        repeat=count,
        rows=tokens,
        shape={
            "tokens": tokens,
            "hidden": hidden,
            "top_k": moe.top_k,
            "ranks": split.group,
            "element_bytes": element,
            "num_experts": moe.num_experts,
            "max_nodes": moe.top_k_groups if moe.num_groups > 1 else None,
            "max_rank_share": c.max_rank_share,
            "prefill": c.prefill > 0,
        },
        flops=np.zeros_like(tokens),
        memory_bytes=2 * message,
        message_bytes=message,
    )


def _head_ops(c: _Context) -> Iterator[Op]:
    rows = c.sequences + c.decode
    tp, vocab = c.split.tp, c.model.vocab
    yield _residual_norm(c, "final_norm", 1)
    yield _gemm("lm_head", 1, rows, vocab / tp, c.model.hidden, c.model.dtypes.embedding, "logits")
    if tp > 1:
        yield _collective("gather_logits", "all_gather", "all_reduce", 1, rows * vocab * 2.0, tp, "logits")
    yield _small("sampling", 1, rows, rows * vocab * 4.0 * 3, "logits")
