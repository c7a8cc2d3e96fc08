"""The usual shape of a mixture of experts, read by the keys that most families share.

Attention is grouped-query, or latent where ``kv_lora_rank`` is given, of a kind per layer (``layer_types``); each layer
has a dense FFN or experts (``mlp_layer_types`` and its forerunners). What no key says, a family's :class:`Features` do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from workloads.errors import ModelError
from workloads.models.hf.parts import (
    Layers,
    grouped_query,
    indexer_places,
    latent,
    number_of_layers,
    sparse_places,
    without_indexer,
)
from workloads.models.mixers import Attention, GroupedQueryAttention, LatentAttention
from workloads.models.spec import FFN, DenseFFN, Layer, MoE

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads.models.hf.reader import HfConfig

#: Keys of the number of experts, of how many a token takes and of how wide one is; the first that is there counts.
EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "moe_top_k")
WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size")
_SHARED_NUMBER = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
_SHARED_WIDTH = (
    "moe_shared_expert_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_experts_intermediate_size",
    "share_expert_dim",
    "shared_intermediate_size",
)
_WINDOW = ("sliding_window", "sliding_window_size", "attention_chunk_size")
_LOCAL = ("sliding_attention", "chunked_attention", "reference_sliding_attention", "hybrid_sliding")
_GLOBAL = ("full_attention", "indexed_attention", "attention", "hybrid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What of a family no key of its configuration says, or says only where it differs from this.

    ``qk_norm`` is per head, or spans the heads; ``sinks`` on layers of all kinds or on local ones; ``gate`` one column
    per element or per head; ``wide`` experts are as wide as ``intermediate_size``; ``norms`` vectors of the model's
    width per layer; ``first_dense`` layers have a dense FFN where no key says which; local
    layers have ``local_kv`` times as many KV heads.
    """

    qk_norm: Literal["", "head", "span"] = ""
    bias: bool = False
    output_bias: bool = False
    sinks: Literal["", "all", "local"] = ""
    gate: Literal["", "element", "head"] = ""
    router_bias: bool = True
    shared_gate: bool = False
    wide: bool = False
    norms: int = 2
    dense_norms: int | None = None
    first_dense: int = 0
    local_kv: int = 1


def usual(features: Features) -> Callable[[HfConfig], Layers]:
    """Make the reader of a family of the usual shape."""

    def read(config: HfConfig) -> Layers:
        number = number_of_layers(config)
        mixers = mixers_by_layer(config, features, number)
        sparse = sparse_places(config, number, features.first_dense)
        moe = experts(config, features) if any(sparse) else None
        dense = None if all(sparse) else dense_ffn(config)
        layers = []
        for mixer, has_experts in zip(mixers, sparse, strict=True):
            ffn: FFN | None = moe if has_experts else dense
            norms = features.norms if has_experts or features.dense_norms is None else features.dense_norms
            layers.append(Layer(attention=mixer, ffn=ffn, norms=norms))
        return tuple(layers)

    return read


def dense_ffn(config: HfConfig) -> DenseFFN:
    """Read the dense FFN by its usual keys."""
    return DenseFFN(intermediate=config.integer("dense_intermediate_size", "intermediate_size", "ffn_hidden_size"))


def experts(config: HfConfig, features: Features) -> MoE:
    """Read a mixture of experts by its usual keys."""
    width = config.integer(*(() if features.wide else WIDTH), "intermediate_size")
    if any(config.has(key) for key in _SHARED_WIDTH):
        shared = config.integer(*_SHARED_WIDTH)
        number = next((config.integer(key) for key in _SHARED_NUMBER if config.has(key)), 1)
        shared = shared if number else 0
    else:
        shared = width * config.integer(*_SHARED_NUMBER, default=0)
    routed = config.integer(*EXPERTS)
    groups = config.integer("n_group", "num_expert_group", default=1)
    return MoE(
        num_experts=routed,
        top_k=config.integer(*TOP_K),
        intermediate=width,
        shared_intermediate=shared,
        shared_gate=features.shared_gate and shared > 0,
        num_groups=groups,
        top_k_groups=config.integer("topk_group", default=1) if groups > 1 else 1,
        router_bias=features.router_bias,
        latent=config.integer("moe_latent_size", "moe_hidden_size", "routed_expert_hidden_size", default=0),
    )


def attention_kinds(config: HfConfig, number: int) -> Sequence[str]:
    """Return the kind of each layer's attention: listed, or one full layer in so many, or all alike."""
    if config.has("layer_types"):
        return config.names("layer_types", number)
    if config.has("hybrid_layer_pattern"):
        flags = config.integers("hybrid_layer_pattern")
        if len(flags) != number:
            msg = f"{config.where}: hybrid_layer_pattern has {len(flags)} entries; expected one per layer, {number}"
            raise ModelError(msg)
        return ["sliding_attention" if flag else "full_attention" for flag in flags]
    every = config.integer("sliding_window_pattern", "global_attn_every_n_layers", default=0)
    if every > 1 and any(config.has(key) for key in _WINDOW):
        return ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(number)]
    return ["full_attention"] * number


def mixers_by_layer(config: HfConfig, features: Features, number: int) -> list[Attention]:
    """Read the softmax attention of each layer."""
    kinds = attention_kinds(config, number)
    if unknown := sorted(set(kinds) - {*_LOCAL, *_GLOBAL}):
        msg = f"{config.where}: layer_types has {unknown[0]!r}; allowed: {', '.join(sorted({*_LOCAL, *_GLOBAL}))}"
        raise ModelError(msg)
    full = softmax(config, features)
    local = _local(config, features, full)
    windows = [config.maybe_integer(key) for key in _WINDOW if config.has(key)]
    window = windows[0] if windows else None
    indexed = indexer_places(config, number)
    mixers: list[Attention] = []
    for index, kind in enumerate(kinds):
        mixer = local if kind in _LOCAL else full
        if isinstance(mixer, LatentAttention) and not indexed[index]:
            mixer = without_indexer(mixer)
        if kind in _LOCAL and window:
            mixer = dataclasses.replace(mixer, window=window)
            if isinstance(mixer, LatentAttention):
                mixer = dataclasses.replace(without_indexer(mixer), index_top_k=0)
        if features.sinks == "all" or (features.sinks == "local" and kind in _LOCAL):
            mixer = dataclasses.replace(mixer, sinks=True)
        mixers.append(mixer)
    return mixers


def _local(
    config: HfConfig, features: Features, full: GroupedQueryAttention | LatentAttention
) -> GroupedQueryAttention | LatentAttention:
    """Read the heads of local layers, where they differ from those of full ones."""
    if isinstance(full, LatentAttention):
        return full
    head_dim = config.integer("swa_head_dim", default=full.head_dim)
    value = config.integer("swa_v_head_dim", default=full.value_dim)
    return dataclasses.replace(
        full,
        num_heads=config.integer("swa_num_attention_heads", "num_sliding_attention_heads", default=full.num_heads),
        num_kv_heads=config.integer("swa_num_key_value_heads", default=features.local_kv * full.num_kv_heads),
        head_dim=head_dim,
        value_head_dim=None if value == head_dim else value,
    )


def softmax(config: HfConfig, features: Features) -> GroupedQueryAttention | LatentAttention:
    """Read one attention that sees all tokens."""
    if config.has("kv_lora_rank"):
        return dataclasses.replace(
            latent(config), output_gate=features.gate == "element", head_gate=features.gate == "head"
        )
    bias = config.flag("attention_bias", default=features.bias)
    attention = grouped_query(
        config,
        qk_norm=config.flag("use_qk_norm", default=True) if features.qk_norm else False,
        bias=bias,
    )
    value = config.integer("v_head_dim", default=attention.head_dim)
    return dataclasses.replace(
        attention,
        qk_norm_per_head=features.qk_norm == "span",
        output_bias=features.output_bias and bias,
        value_head_dim=None if value == attention.head_dim else value,
        relative_dim=config.integer("d_rel", default=0),
        output_gate=features.gate == "element",
        head_gate=features.gate == "head",
    )
