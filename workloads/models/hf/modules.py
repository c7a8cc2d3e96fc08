"""The weight matrices of a layer under the names that quantisation files give them.

A list of modules to leave alone, or of formats by module, names them as the checkpoint or the engine does; each matrix
therefore has several names. One routed expert, the first, stands for all of its layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

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
from workloads.models.sizes import layer_parameters
from workloads.models.spec import Layer, MoE

#: What comes before the number of a layer in the names of its modules.
PREFIXES = (
    "model.layers",
    "language_model.model.layers",
    "model.language_model.layers",
    "language_model.layers",
    "backbone.layers",
    "layers",
)

# Holders of softmax attention and of recurrent mixers, by the class that describes them.
_SOFTMAX = ("self_attn", "attn", "mixer", "attention")
_RECURRENT = {
    "GatedDeltaNet": ("linear_attn", "self_attn", "linear_attention"),
    "KimiDeltaAttention": ("self_attn", "linear_attn"),
    "Mamba1": ("mamba", "mixer"),
    "Mamba2": ("mixer", "mamba"),
    "ShortConvolution": ("conv", "short_conv"),
}
_DENSE = ("mlp", "feed_forward", "mixer", "ffn")
_EXPERTS = ("mlp.experts", "block_sparse_moe.experts", "feed_forward.experts", "mixer.experts", "ffn.experts")
_SHARED = ("shared_experts", "shared_expert", "shared_mlp", "shared_experts.0")
# The names of the three matrices of an FFN: gate, up, down; a fused pair bears either of its members' names.
_GATE, _UP, _DOWN = ("gate_proj", "gate_up_proj", "w1"), ("up_proj", "gate_up_proj", "w3"), ("down_proj", "w2")


class Module(NamedTuple):
    """A weight matrix of a layer: the part it belongs to, its names after the layer's number, its elements [1]."""

    part: str
    names: tuple[str, ...]
    weights: float


def layer_modules(layer: Layer, hidden: int) -> Iterator[Module]:
    """List the weight matrices of one layer that a format may apply to.

    Parameters
    ----------
    layer : Layer
        The layer.
    hidden : int
        Width of the model [elements].
    """
    counts = layer_parameters(layer, hidden)
    if layer.attention is not None:
        yield from _attention(layer.attention, hidden, counts["attention"].matrices)
    if isinstance(layer.ffn, MoE):
        names = [f"{holder}.0" for holder in _EXPERTS] + list(_EXPERTS)
        yield from _ffn("routed_experts", names, counts["routed_experts"].matrices, layer.ffn.matrices)
        if "shared_experts" in counts:
            shared = [f"{holder}.{name}" for holder in (*_DENSE, "block_sparse_moe") for name in _SHARED]
            yield from _ffn("shared_experts", shared, counts["shared_experts"].matrices, layer.ffn.matrices)
    elif layer.ffn is not None:
        yield from _ffn("dense_ffn", _DENSE, counts["dense_ffn"].matrices, layer.ffn.matrices)


def _ffn(part: str, holders: list[str] | tuple[str, ...], weights: float, matrices: int) -> Iterator[Module]:
    kinds = (_GATE, _UP, _DOWN) if matrices == 3 else (_UP, _DOWN)
    for kind in kinds:
        yield Module(part, tuple(f"{holder}.{name}" for holder in holders for name in kind), weights / matrices)


def _attention(attention: Attention, hidden: int, total: float) -> Iterator[Module]:
    def named(weights: float, *names: str) -> Module:
        return Module("attention", tuple(f"{holder}.{name}" for holder in holders for name in names), weights)

    holders = _RECURRENT.get(type(attention).__name__, _SOFTMAX)
    if isinstance(attention, GroupedQueryAttention):
        width = hidden * attention.head_dim
        queries, keys = attention.num_heads * width, attention.num_kv_heads * width
        yield named(queries * (1 + attention.output_gate), "q_proj", "qkv_proj", "wq", "q_gate_proj", "qkv")
        yield named(keys, "k_proj", "qkv_proj", "wk", "qkv")
        if not attention.shared_kv:
            yield named(keys, "v_proj", "qkv_proj", "wv", "qkv")
        yield named(queries, "o_proj", "out_proj", "wo", "dense")
    elif isinstance(attention, LatentAttention):
        heads, rank = attention.num_heads, attention.q_lora_rank
        queries = heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim)
        latent, out = attention.kv_lora_rank, heads * attention.v_head_dim * hidden
        if rank is None:
            yield named(hidden * queries, "q_proj")
        else:
            yield named(hidden * rank, "q_a_proj", "fused_qkv_a_proj_with_mqa", "wq_a")
            yield named(rank * queries, "q_b_proj", "wq_b")
        yield named(
            hidden * (latent + attention.qk_rope_head_dim), "kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa", "wkv_a"
        )
        yield named(latent * heads * (attention.qk_nope_head_dim + attention.v_head_dim), "kv_b_proj", "wkv_b")
        yield named(out, "o_proj", "wo")
        if attention.index_heads:
            rows = (rank or hidden) * attention.index_heads * attention.index_head_dim
            yield named(rows, "indexer.wq_b")
            yield named(hidden * attention.index_head_dim, "indexer.wk")
    else:
        # The projections to the inside of such a mixer are named in a dozen ways; they count as one.
        back = _output_weights(attention, hidden)
        yield named(total - back, "in_proj", "in_proj_qkvz", "in_proj_qkv", "q_proj", "qkv_proj", "wq_b", "q_b_proj")
        yield named(back, "out_proj", "o_proj", "wo_b", "o_b_proj")


def _output_weights(attention: Attention, hidden: int) -> float:
    """Weights of the projection back to the model's width of a mixer that is neither grouped-query nor latent [1]."""
    if isinstance(attention, CompressedAttention):
        return attention.o_lora_rank * (attention.num_heads * attention.head_dim + attention.o_groups * hidden)
    if isinstance(attention, GatedDeltaNet):
        return attention.num_value_heads * attention.value_head_dim * hidden
    if isinstance(attention, ShortConvolution):
        return attention.channels * hidden
    if isinstance(attention, KimiDeltaAttention | Mamba1 | Mamba2):
        return attention.inner * hidden
    return 0.0
