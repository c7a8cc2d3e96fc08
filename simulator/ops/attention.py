"""Ops of the token mixers: grouped-query, latent and linear attention, by phase."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simulator.arrays import FloatArray
from simulator.ops.ir import Driver, Op, StepContext, all_reduce, collective, dtype_bytes, gemm, residual_norm, small
from workloads.models.spec import Attention, GatedDeltaNet, GroupedQueryAttention, LatentAttention, Mamba2


def attention_ops(c: StepContext, attention: Attention, count: int) -> Iterator[Op]:
    yield residual_norm(c, "attention_norm", count)
    if isinstance(attention, GroupedQueryAttention):
        yield from _grouped_query_ops(c, attention, count)
    elif isinstance(attention, LatentAttention):
        yield from _latent_ops(c, attention, count)
    else:
        yield from _linear_attention_ops(c, attention, count)
    yield from all_reduce(c, "attention_all_reduce", count, c.split.tp, c.tokens)


def _grouped_query_ops(c: StepContext, a: GroupedQueryAttention, count: int) -> Iterator[Op]:
    tp, hidden, dtypes = c.split.tp, c.model.hidden, c.model.dtypes
    heads, kv_heads = a.num_heads / tp, max(a.num_kv_heads / tp, 1.0)
    query = heads * a.head_dim * (2 if a.output_gate else 1)
    width = query + 2 * kv_heads * a.head_dim
    yield gemm("qkv_proj", count, c.tokens, width, hidden, dtypes.attention)
    # A norm over all heads needs the sum of squares of every device before it can scale: no kernel fuses that.
    over_heads = a.qk_norm and a.qk_norm_per_head
    passes = 1 + (1 if a.qk_norm and (over_heads or "qk_norm_rope" not in c.stack.fused) else 0)
    if over_heads and tp > 1:
        sums = c.tokens * 2 * dtype_bytes("float32")
        yield collective("qk_norm_all_reduce", "all_reduce", "all_reduce", count, sums, tp)
    yield small("rope_and_cache", count * passes, c.tokens, c.tokens * width * 2 * 2)
    shape = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": a.head_dim}
    options = {"window": a.window, "kv_dtype": dtypes.kv_cache}
    new = c.prompt_length
    pairs = c.sequences * _causal_pairs(new, c.prefix, a.window)
    kv_row = 2 * kv_heads * a.head_dim * dtype_bytes(dtypes.kv_cache)
    reach = np.minimum(c.context, a.window) if a.window else c.context
    yield Op(
        name="attention_prefill",
        kind="attention_prefill",
        component="attention",
        driver="prefill",
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
        # Queries of one sequence share its keys and values as the heads of one group do.
        shape={
            "batch": c.decode_sequences,
            "kv_length": c.context,
            **shape,
            "num_heads": heads * c.query_tokens,
            **options,
        },
        flops=4.0 * c.decode * reach * heads * a.head_dim,
        memory_bytes=c.decode_sequences * reach * kv_row + c.decode * heads * a.head_dim * 4,
    )
    if a.output_gate:
        yield small("output_gate", count, c.tokens, c.tokens * heads * a.head_dim * 2 * 3)
    yield gemm("o_proj", count, c.tokens, hidden, heads * a.head_dim, dtypes.attention)


def _causal_pairs(new: FloatArray, prefix: FloatArray, window: int | None) -> FloatArray:
    """Query-key pairs of ``new`` tokens after ``prefix`` cached ones, limited to a window where there is one."""
    full = new * prefix + new * (new + 1) / 2
    if window is None:
        return full
    free = np.clip(window - prefix, 0.0, new)
    return free * prefix + free * (free + 1) / 2 + (new - free) * window


def _latent_ops(c: StepContext, a: LatentAttention, count: int) -> Iterator[Op]:
    tp, hidden, dtypes = c.split.tp, c.model.hidden, c.model.dtypes
    heads = a.num_heads / tp
    query = a.qk_nope_head_dim + a.qk_rope_head_dim
    latent = a.kv_lora_rank + a.qk_rope_head_dim
    if a.q_lora_rank:
        yield gemm("qkv_a_proj", count, c.tokens, a.q_lora_rank + latent, hidden, dtypes.attention)
        yield small("latent_norm", count, c.tokens, c.tokens * (a.q_lora_rank + a.kv_lora_rank) * 2 * 2)
        yield gemm("q_b_proj", count, c.tokens, heads * query, a.q_lora_rank, dtypes.attention)
    else:
        yield gemm("q_proj", count, c.tokens, heads * query, hidden, dtypes.attention)
        yield gemm("kv_a_proj", count, c.tokens, latent, hidden, dtypes.attention)
        yield small("latent_norm", count, c.tokens, c.tokens * a.kv_lora_rank * 2 * 2)
    yield small("rope_and_cache", count * 2, c.tokens, c.tokens * (heads * a.qk_rope_head_dim + latent) * 2 * 2)
    if a.index_heads:
        yield gemm("indexer_proj", count, c.tokens, (a.index_heads + 1) * a.index_head_dim, hidden, dtypes.attention)
    yield from _latent_prefill(c, a, count, heads)
    yield from _latent_decode(c, a, count, heads)
    yield gemm("o_proj", count, c.tokens, hidden, heads * a.v_head_dim, dtypes.attention)


def _latent_prefill(c: StepContext, a: LatentAttention, count: int, heads: float) -> Iterator[Op]:
    """Prompt tokens expand the latent to full keys and values and attend as multi-head attention."""
    dtypes, query = c.model.dtypes, a.qk_nope_head_dim + a.qk_rope_head_dim
    new = c.prompt_length
    prefix = np.minimum(c.prefix, a.index_top_k) if a.index_top_k else c.prefix
    expanded = np.where(c.prefill > 0, c.sequences * (prefix + new), 0.0)
    yield gemm(
        "kv_b_proj",
        count,
        expanded,
        heads * (a.qk_nope_head_dim + a.v_head_dim),
        a.kv_lora_rank,
        dtypes.attention,
        "prefill",
    )
    pairs = c.sequences * _causal_pairs(new, prefix, a.index_top_k or None)
    yield Op(
        name="mla_prefill",
        kind="mla_prefill",
        component="attention",
        driver="prefill",
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


def _latent_decode(c: StepContext, a: LatentAttention, count: int, heads: float) -> Iterator[Op]:
    """Decoded tokens absorb the up-projections into query and output and attend to the latent itself."""
    dtypes, latent = c.model.dtypes, a.kv_lora_rank + a.qk_rope_head_dim
    reach = np.minimum(c.context, a.index_top_k) if a.index_top_k else c.context
    yield gemm("absorb_key", count, c.decode, heads * a.kv_lora_rank, a.qk_nope_head_dim, "bfloat16", "decode")
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
            "batch": c.decode_sequences,
            "kv_length": reach,
            "num_heads": heads * c.query_tokens,
            "kv_lora_rank": a.kv_lora_rank,
            "rope_dim": a.qk_rope_head_dim,
            "kv_dtype": dtypes.kv_cache,
        },
        flops=2.0 * c.decode * reach * heads * (latent + a.kv_lora_rank),
        memory_bytes=c.decode_sequences * reach * latent * dtype_bytes(dtypes.kv_cache) + c.decode * heads * latent * 4,
    )
    yield gemm("absorb_value", count, c.decode, heads * a.v_head_dim, a.kv_lora_rank, "bfloat16", "decode")


def _linear_attention_ops(c: StepContext, a: GatedDeltaNet | Mamba2, count: int) -> Iterator[Op]:
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
    yield gemm("in_proj", count, c.tokens, width, hidden, dtypes.attention)
    state_bytes = state * dtype_bytes(dtypes.state)
    phases: tuple[tuple[str, Driver, FloatArray, FloatArray], ...] = (
        ("prefill", "prefill", c.prefill, c.sequences),
        ("decode", "decode", c.decode, c.decode_sequences),
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
    yield small("gated_norm", count, c.tokens, c.tokens * inner * 2 * 3)
    yield gemm("out_proj", count, c.tokens, hidden, inner, dtypes.attention)
