"""Ops of the token mixers: grouped-query, latent and linear attention, by phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.arrays import FloatArray
from simulator.kernels.attention import AttentionDecodeShape, AttentionPrefillShape
from simulator.kernels.kernel import dtype_bytes
from simulator.kernels.linear_attention import ConvolutionShape, ScanShape
from simulator.kernels.mla import MlaDecodeShape, MlaPrefillShape
from simulator.ops.ir import Op, StepContext, all_reduce, collective, gemm, residual_norm, small
from workloads.models.mixers import (
    Attention,
    CompressedAttention,
    GatedDeltaNet,
    GroupedQueryAttention,
    KimiDeltaAttention,
    LatentAttention,
    Mamba1,
    Mamba2,
    ShortConvolution,
)
from workloads.models.spec import Phase


def attention_ops(c: StepContext, attention: Attention, count: int) -> Iterator[Op]:
    """List the ops of the token mixers of ``count`` equal layers: norm, projections, attention, all-reduce."""
    yield residual_norm(c, "attention_norm", count)
    if isinstance(attention, GroupedQueryAttention):
        yield from _grouped_query_ops(c, attention, count)
    elif isinstance(attention, LatentAttention):
        yield from _latent_ops(c, attention, count)
    elif isinstance(attention, CompressedAttention):
        yield from _compressed_ops(c, attention, count)
    elif isinstance(attention, ShortConvolution):
        yield from _short_convolution_ops(c, attention, count)
    else:
        yield from _linear_attention_ops(c, attention, count)
    yield from all_reduce(c, "attention_all_reduce", count, c.split.tp, c.tokens)


def _mixing(
    c: StepContext,
    kind: str,
    phase: Phase,
    count: int,
    shape: Any,
    flops: FloatArray,
    memory_bytes: FloatArray,
    *,
    name: str = "",
    backends: tuple[str, ...] = (),
) -> Op:
    """Mix the tokens of one phase, by a kernel that is named as its kind where nothing else is said."""
    return Op(
        name=name or kind,
        kind=kind,
        component="attention",
        driver=phase,
        family=kind,
        dtype=c.model.dtypes.activation,
        backends=backends,
        repeat=count,
        rows=c.prefill if phase == "prefill" else c.decode,
        shape=shape,
        flops=flops,
        memory_bytes=memory_bytes,
    )


def _grouped_query_ops(c: StepContext, a: GroupedQueryAttention, count: int) -> Iterator[Op]:
    tp, hidden, dtypes = c.split.tp, c.model.hidden, c.model.dtypes
    heads, kv_heads = a.num_heads / tp, max(a.num_kv_heads / tp, 1.0)
    width = _projected(a, heads, kv_heads)
    yield gemm("qkv_proj", count, c.tokens, width, hidden, dtypes.attention)
    # A norm over all heads needs the sum of squares of every device before it can scale: no kernel fuses that.
    over_heads = a.qk_norm and a.qk_norm_per_head
    passes = 1 + (1 if a.qk_norm and (over_heads or "qk_norm_rope" not in c.stack.fused) else 0)
    if over_heads and tp > 1:
        sums = c.tokens * 2 * dtype_bytes("float32")
        yield collective("qk_norm_all_reduce", "all_reduce", "all_reduce", count, sums, tp)
    yield small("rope_and_cache", count * passes, c.tokens, c.tokens * width * 2 * 2)
    if a.index_heads:
        yield gemm("indexer_proj", count, c.tokens, (a.index_heads + 1) * a.index_head_dim, hidden, dtypes.attention)
    yield from _grouped_query_attention(c, a, count, heads, kv_heads)
    if a.output_gate or a.head_gate:
        yield small("output_gate", count, c.tokens, c.tokens * heads * a.value_dim * 2 * 3)
    yield gemm("o_proj", count, c.tokens, hidden, heads * a.value_dim, dtypes.attention)


def _projected(a: GroupedQueryAttention, heads: float, kv_heads: float) -> float:
    """Elements per token that the input projection makes of so many heads: queries, their gate, keys and values [1]."""
    gate = heads * a.value_dim * a.output_gate + heads * (a.head_gate + a.relative_dim)
    return heads * a.head_dim + gate + kv_heads * (a.head_dim + (0 if a.shared_kv else a.value_dim))


def _grouped_query_attention(
    c: StepContext, a: GroupedQueryAttention, count: int, heads: float, kv_heads: float
) -> Iterator[Op]:
    """Attend, prompts and decoded tokens apart, with so many query and KV heads on this rank."""
    dtypes, new = c.model.dtypes, c.prompt_length
    pairs = c.sequences * _causal_pairs(new, c.prefix, a.reach)
    width = a.head_dim + a.value_dim
    kv_row = kv_heads * width * dtype_bytes(dtypes.kv_cache)
    reach = np.minimum(c.context, a.reach) if a.reach else c.context
    prompts = AttentionPrefillShape(
        batch=c.sequences,
        context=new,
        prefix=c.prefix,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=a.head_dim,
        window=a.reach,
        dtype=dtypes.activation,
        kv_dtype=dtypes.kv_cache,
    )
    flops = 2.0 * pairs * heads * width
    moved = c.prefill * _projected(a, heads, kv_heads) * 2 + c.sequences * (c.prefix + new) * kv_row
    yield _mixing(c, "attention_prefill", "prefill", count, prompts, flops, moved)
    # Queries of one sequence share its keys and values as the heads of one group do.
    decoded = AttentionDecodeShape(
        batch=c.decode_sequences,
        kv_length=c.context,
        num_heads=heads * c.query_tokens,
        num_kv_heads=kv_heads,
        head_dim=a.head_dim,
        window=a.reach,
        dtype=dtypes.activation,
        kv_dtype=dtypes.kv_cache,
    )
    flops = 2.0 * c.decode * reach * heads * width
    moved = c.decode_sequences * reach * kv_row + c.decode * heads * width * 2
    yield _mixing(c, "attention_decode", "decode", count, decoded, flops, moved)


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
    gate = heads * a.v_head_dim * a.output_gate + heads * a.head_gate
    if gate:
        yield gemm("gate_proj", count, c.tokens, gate, hidden, dtypes.attention)
    yield from _latent_prefill(c, a, count, heads)
    yield from _latent_decode(c, a, count, heads)
    if gate:
        yield small("output_gate", count, c.tokens, c.tokens * heads * a.v_head_dim * 2 * 3)
    yield gemm("o_proj", count, c.tokens, hidden, heads * a.v_head_dim, dtypes.attention)


def _latent_prefill(c: StepContext, a: LatentAttention, count: int, heads: float) -> Iterator[Op]:
    """Prompt tokens expand the latent to full keys and values and attend as multi-head attention."""
    dtypes, query = c.model.dtypes, a.qk_nope_head_dim + a.qk_rope_head_dim
    new = c.prompt_length
    limit = a.index_top_k or a.window
    prefix = np.minimum(c.prefix, limit) if limit else c.prefix
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
    pairs = c.sequences * _causal_pairs(new, prefix, limit)
    shape = MlaPrefillShape(
        batch=c.sequences,
        context=new,
        prefix=prefix,
        num_heads=heads,
        kv_lora_rank=a.kv_lora_rank,
        rope_dim=a.qk_rope_head_dim,
        nope_dim=a.qk_nope_head_dim,
        v_dim=a.v_head_dim,
        dtype=dtypes.activation,
        kv_dtype=dtypes.kv_cache,
    )
    flops = 2.0 * pairs * heads * (query + a.v_head_dim)
    moved = (c.prefill * (query + a.v_head_dim) + expanded * (query + a.v_head_dim)) * heads * 2
    yield _mixing(c, "mla_prefill", "prefill", count, shape, flops, moved)


def _latent_decode(c: StepContext, a: LatentAttention, count: int, heads: float) -> Iterator[Op]:
    """Decoded tokens absorb the up-projections into query and output and attend to the latent itself."""
    dtypes, latent = c.model.dtypes, a.kv_lora_rank + a.qk_rope_head_dim
    limit = a.index_top_k or a.window
    reach = np.minimum(c.context, limit) if limit else c.context
    yield gemm("absorb_key", count, c.decode, heads * a.kv_lora_rank, a.qk_nope_head_dim, "bfloat16", "decode")
    shape = MlaDecodeShape(
        batch=c.decode_sequences,
        kv_length=reach,
        num_heads=heads * c.query_tokens,
        kv_lora_rank=a.kv_lora_rank,
        rope_dim=a.qk_rope_head_dim,
        dtype=dtypes.activation,
        kv_dtype=dtypes.kv_cache,
    )
    flops = 2.0 * c.decode * reach * heads * (latent + a.kv_lora_rank)
    moved = c.decode_sequences * reach * latent * dtype_bytes(dtypes.kv_cache) + c.decode * heads * latent * 4
    yield _mixing(c, "mla_decode", "decode", count, shape, flops, moved)
    yield gemm("absorb_value", count, c.decode, heads * a.v_head_dim, a.kv_lora_rank, "bfloat16", "decode")


def _compressed_ops(c: StepContext, a: CompressedAttention, count: int) -> Iterator[Op]:
    """Attend to a window and to compressed keys, as one kernel each that shares a key among all heads."""
    tp, hidden, dtypes = c.split.tp, c.model.hidden, c.model.dtypes
    heads, groups = a.num_heads / tp, max(a.o_groups / tp, 1.0)
    yield gemm("qkv_a_proj", count, c.tokens, a.q_lora_rank + a.head_dim, hidden, dtypes.attention)
    yield small("latent_norm", count, c.tokens, c.tokens * (a.q_lora_rank + a.head_dim) * 2 * 2)
    yield gemm("q_b_proj", count, c.tokens, heads * a.head_dim, a.q_lora_rank, dtypes.attention)
    yield small("rope_and_cache", count * 2, c.tokens, c.tokens * (heads + 1) * a.head_dim * 2 * 2)
    if a.ratio:
        width = 2 * (a.head_dim + a.index_head_dim) * (2 if a.index_heads else 1) + a.index_heads
        yield gemm("compressor_proj", count, c.tokens, width, hidden, dtypes.activation)
        yield small("compress", count, c.tokens, c.tokens * width * 2 * 2)
    if a.index_heads:
        yield gemm("indexer_proj", count, c.tokens, a.index_heads * a.index_head_dim, a.q_lora_rank, dtypes.attention)
    yield from _compressed_attention(c, a, count, heads, "window", a.window_tokens, 1)
    if a.ratio:
        limit = a.index_top_k * a.ratio if a.index_heads else None
        yield from _compressed_attention(c, a, count, heads, "compressed", limit, a.ratio)
    yield gemm("o_a_proj", count, c.tokens, groups * a.o_lora_rank, heads * a.head_dim / groups, dtypes.attention)
    yield gemm("o_b_proj", count, c.tokens, hidden, groups * a.o_lora_rank, dtypes.attention)


def _compressed_attention(
    c: StepContext, a: CompressedAttention, count: int, heads: float, name: str, limit: int | None, ratio: int
) -> Iterator[Op]:
    """Attend to one key of every ``ratio`` tokens, of the last ``limit``; fewer keys are told as fewer heads."""
    dtypes, new = c.model.dtypes, c.prompt_length
    rank, row = a.head_dim - a.rope_head_dim, a.head_dim * dtype_bytes(dtypes.kv_cache)
    prefix = np.minimum(c.prefix, limit) if limit else c.prefix
    pairs = c.sequences * _causal_pairs(new, prefix, limit) / ratio
    prompts = AttentionPrefillShape(
        batch=c.sequences,
        context=new,
        prefix=c.prefix,
        num_heads=heads / ratio,
        num_kv_heads=min(1.0, heads / ratio),
        head_dim=a.head_dim,
        window=limit,
        dtype=dtypes.activation,
        kv_dtype=dtypes.kv_cache,
    )
    flops = 4.0 * pairs * heads * a.head_dim
    moved = c.prefill * 2 * heads * a.head_dim * 2 + c.sequences * (prefix + new) / ratio * row
    op = _mixing(c, "attention_prefill", "prefill", count, prompts, flops, moved, name=f"{name}_attention_prefill")
    yield op
    reach = (np.minimum(c.context, limit) if limit else c.context) / ratio
    decoded = MlaDecodeShape(
        batch=c.decode_sequences,
        kv_length=reach,
        num_heads=heads * c.query_tokens,
        kv_lora_rank=rank,
        rope_dim=a.rope_head_dim,
        dtype=dtypes.activation,
        kv_dtype=dtypes.kv_cache,
    )
    flops = 4.0 * c.decode * reach * heads * a.head_dim
    moved = c.decode_sequences * reach * row + c.decode * heads * a.head_dim * 4
    yield _mixing(c, "mla_decode", "decode", count, decoded, flops, moved, name=f"{name}_attention_decode")


def _short_convolution_ops(c: StepContext, a: ShortConvolution, count: int) -> Iterator[Op]:
    """Project, gate, convolve, gate and project again."""
    hidden, dtypes, channels = c.model.hidden, c.model.dtypes, a.channels / c.split.tp
    yield gemm("in_proj", count, c.tokens, 3 * channels, hidden, dtypes.attention)
    phases: tuple[tuple[Phase, FloatArray, FloatArray], ...] = (
        ("prefill", c.prefill, c.sequences),
        ("decode", c.decode, c.decode_sequences),
    )
    for phase, rows, sequences in phases:
        batch = np.maximum(sequences, 1.0)
        shape = ConvolutionShape(
            batch=batch, seq_len=np.maximum(rows / batch, 1.0), channels=channels, width=a.conv_kernel
        )
        op = _mixing(
            c,
            "causal_convolution",
            phase,
            count,
            shape,
            rows * 2.0 * a.conv_kernel * channels,
            rows * channels * 2 * 4,
            name=f"short_convolution_{phase}",
            backends=(_CONVOLUTIONS[phase],),
        )
        yield replace(op, family="gated_delta_net")
    yield gemm("out_proj", count, c.tokens, hidden, channels, dtypes.attention)


_Linear = GatedDeltaNet | KimiDeltaAttention | Mamba1 | Mamba2


def _linear_attention_ops(c: StepContext, a: _Linear, count: int) -> Iterator[Op]:
    hidden, dtypes, layer = c.model.hidden, c.model.dtypes, _LinearLayer.of(a, c.split.tp)
    yield gemm("in_proj", count, c.tokens, layer.width, hidden, dtypes.attention)
    if isinstance(a, KimiDeltaAttention) and a.gate_rank:
        yield gemm("gate_b_proj", count * 2, c.tokens, layer.inner, a.gate_rank, dtypes.attention)
    if isinstance(a, Mamba1):
        yield gemm("x_proj", count, c.tokens, a.dt_rank + 2 * a.state_size, layer.inner, dtypes.attention)
        yield gemm("dt_proj", count, c.tokens, layer.inner, a.dt_rank, dtypes.attention)
    yield from _scan_ops(c, layer, count, "prefill")
    yield from _scan_ops(c, layer, count, "decode")
    yield small("gated_norm", count, c.tokens, c.tokens * layer.inner * 2 * 3)
    yield gemm("out_proj", count, c.tokens, hidden, layer.inner, dtypes.attention)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LinearLayer:
    """What a rank holds of a linear-attention layer.

    ``width`` columns of the input projection, ``inner`` elements of its output, ``channels`` and ``taps`` of the
    convolution [1]; ``scan`` has the heads and their sizes, ``scans`` and ``convolutions`` name the kernels by phase.
    """

    kind: str
    width: float
    inner: float
    channels: float
    taps: int
    keys: float
    values: float
    key_dim: int
    value_dim: int
    scans: Mapping[Phase, str]

    @classmethod
    def of(cls, a: _Linear, tp: int) -> _LinearLayer:
        if isinstance(a, KimiDeltaAttention):
            # A decay per channel asks no more passes over the state than one per head.
            keys = values = a.num_heads / tp
            dims = (a.head_dim, a.head_dim)
            queries = inner = values * a.head_dim
            gates = 2 * a.gate_rank if a.gate_rank else 2 * inner
            width, kind = 3 * inner + values + gates, "gated_delta_net"
            scans: Mapping[Phase, str] = _DELTA_RULE
        elif isinstance(a, Mamba1):
            # A state per channel is priced as that of heads of 64 channels.
            keys, values, dims = 1.0, a.inner / tp / 64, (a.state_size, 64)
            queries, inner = 0.0, a.inner / tp
            width, kind = 2 * inner, "mamba2"
            scans = _STATE_SPACE
        elif isinstance(a, GatedDeltaNet):
            keys, values, dims = a.num_key_heads / tp, a.num_value_heads / tp, (a.key_head_dim, a.value_head_dim)
            queries, inner = keys * a.key_head_dim, values * a.value_head_dim
            width, kind = 2 * queries + 2 * inner + 2 * values, "gated_delta_net"
            scans = _DELTA_RULE
        else:
            keys, values, dims = a.num_groups / tp, a.num_heads / tp, (a.state_size, a.head_dim)
            queries, inner = keys * a.state_size, values * a.head_dim
            width, kind = 2 * inner + 2 * queries + values, "mamba2"
            scans = _STATE_SPACE
        return cls(
            kind=kind,
            width=width,
            inner=inner,
            channels=2 * queries + inner,
            taps=a.conv_kernel,
            keys=keys,
            values=values,
            key_dim=dims[0],
            value_dim=dims[1],
            scans=scans,
        )


_DELTA_RULE: Mapping[Phase, str] = {
    "prefill": "chunk_gated_delta_rule",
    "decode": "fused_recurrent_gated_delta_rule",
}
_STATE_SPACE: Mapping[Phase, str] = {"prefill": "chunk_scan", "decode": "state_update"}
_CONVOLUTIONS: Mapping[Phase, str] = {"prefill": "causal_conv1d_fn", "decode": "causal_conv1d_update"}


def _scan_ops(c: StepContext, layer: _LinearLayer, count: int, phase: Phase) -> Iterator[Op]:
    """Convolve and scan the tokens of one phase."""
    rows, sequences = (c.prefill, c.sequences) if phase == "prefill" else (c.decode, c.decode_sequences)
    batch = np.maximum(sequences, 1.0)
    seq_len = np.maximum(rows / batch, 1.0)
    states = layer.values * layer.key_dim * layer.value_dim
    mixed = rows * layer.channels * 2 * 2
    if layer.taps:
        filtered = ConvolutionShape(batch=batch, seq_len=seq_len, channels=layer.channels, width=layer.taps)
        flops, named = rows * 2.0 * layer.taps * layer.channels, f"{layer.kind}_convolution_{phase}"
        kernels = (_CONVOLUTIONS[phase],)
        op = _mixing(c, "causal_convolution", phase, count, filtered, flops, mixed, name=named, backends=kernels)
        yield replace(op, family=layer.kind)
    scanned = ScanShape(
        batch=batch,
        seq_len=seq_len,
        key_heads=layer.keys,
        value_heads=layer.values,
        key_dim=layer.key_dim,
        value_dim=layer.value_dim,
    )
    moved = (
        rows * layer.inner * 2 * 2 * 2
        + 2 * sequences * states * dtype_bytes(c.model.dtypes.state)
        + (0.0 if layer.taps else mixed)
    )
    named, kernels, flops = f"{layer.kind}_{phase}", (layer.scans[phase],), rows * 6.0 * states
    yield _mixing(c, layer.kind, phase, count, scanned, flops, moved, name=named, backends=kernels)
