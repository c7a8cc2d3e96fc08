"""Families whose layers mix tokens in several ways, or whose experts stand beside something else.

Each is one small function: a configuration's keys in, the model's layers out.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from workloads.errors import ModelError
from workloads.models.hf.parts import (
    Layers,
    grouped_query,
    indexer_places,
    latent,
    layer_types,
    number_of_layers,
    sliding_window,
    sparse_places,
    with_mixers,
    without_indexer,
)
from workloads.models.hf.usual import Features, attention_kinds, dense_ffn, experts, usual
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
from workloads.models.spec import FFN, DenseFFN, Layer, MoE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workloads.models.hf.reader import HfConfig

# Older names of the kinds of layers, as transformers 5 maps them.
_KINDS: Mapping[str, str] = {
    "mamba": "linear_attention",
    "mamba2": "linear_attention",
    "attention": "full_attention",
    "kda": "linear_attention",
    "conv": "conv",
}


def _layers(mixers: Sequence[Attention], sparse: Sequence[bool], moe: MoE | None, dense: FFN | None) -> Layers:
    return tuple(
        Layer(attention=mixer, ffn=moe if has_experts else dense)
        for mixer, has_experts in zip(mixers, sparse, strict=True)
    )


def _blocks(config: HfConfig, features: Features, first_dense: int = 0) -> tuple[list[bool], MoE | None, FFN | None]:
    """Read which layers have experts, the experts, and the dense FFN of the others."""
    sparse = sparse_places(config, number_of_layers(config), first_dense)
    return sparse, experts(config, features) if any(sparse) else None, None if all(sparse) else dense_ffn(config)


def deepseek_v4(config: HfConfig) -> Layers:
    """DeepSeek-V4: windows beside compressed keys, chosen by an indexer or all of them; several residual streams.

    The maps between ``hc_mult`` streams and a block, ``(hc_mult + 2) hc_mult`` rows of all streams, are counted with
    the norms. Layers that route by a hash of the token keep their router.
    """
    number = number_of_layers(config)
    plain = CompressedAttention(
        num_heads=config.integer("num_attention_heads"),
        head_dim=config.integer("head_dim"),
        q_lora_rank=config.integer("q_lora_rank"),
        o_lora_rank=config.integer("o_lora_rank"),
        o_groups=config.integer("o_groups"),
        window_tokens=config.integer("sliding_window"),
        rope_head_dim=config.integer("qk_rope_head_dim", default=config.integer("head_dim") // 8),
    )
    rates = config.section("compress_rates").keys if config.has("compress_rates") else {}
    index = {
        "index_heads": config.integer("index_n_heads"),
        "index_head_dim": config.integer("index_head_dim"),
        "index_top_k": config.integer("index_topk"),
    }
    sparse_rate = int(rates.get("compressed_sparse_attention", 4))
    kinds: Mapping[str, Attention] = {
        "sliding_attention": plain,
        "compressed_sparse_attention": dataclasses.replace(plain, ratio=sparse_rate, **index),
        "heavily_compressed_attention": dataclasses.replace(
            plain, ratio=int(rates.get("heavily_compressed_attention", 128))
        ),
    }
    if config.has("layer_types"):
        types: Sequence[str] = config.names("layer_types", number)
    else:
        ratios = config.integers("compress_ratios")
        if len(ratios) < number:
            msg = f"{config.where}: compress_ratios has {len(ratios)} entries; expected one per layer, {number}"
            raise ModelError(msg)
        # The entries beyond the layers are those of multi-token prediction.
        types = [
            "sliding_attention"
            if ratio == 0
            else "compressed_sparse_attention"
            if ratio == sparse_rate
            else "heavily_compressed_attention"
            for ratio in ratios[:number]
        ]
    for key in ("num_hash_layers", "mlp_layer_types"):
        config.has(key)  # which of the routers hash changes no size
    streams = config.integer("hc_mult", default=0)
    maps = 2 * (streams + 2) * streams * streams
    moe = experts(config, Features())
    layers = (Layer(attention=plain, ffn=moe, norms=2 + maps),) * number
    return with_mixers(config, layers, types, kinds)


def gemma4(config: HfConfig) -> Layers:
    """Gemma 4: five sliding layers to one full, whose values are its keys; experts beside a dense FFN.

    The dense FFN, which every token meets too, is described as a shared expert.
    """
    number = number_of_layers(config)
    local = dataclasses.replace(grouped_query(config, qk_norm=True), window=config.maybe_integer("sliding_window"))
    full = dataclasses.replace(
        local,
        window=None,
        head_dim=config.integer("global_head_dim", default=local.head_dim),
        num_kv_heads=config.integer("num_global_key_value_heads", default=local.num_kv_heads),
        shared_kv=config.flag("attention_k_eq_v", default=False),
    )
    for key in ("hidden_size_per_layer_input", "num_kv_shared_layers"):
        if config.integer(key, default=0):
            msg = f"{config.where}: {key} = {config.integer(key)}; expected 0: what layers share is not described"
            raise ModelError(msg)
    dense = DenseFFN(intermediate=config.integer("intermediate_size"))
    ffn: FFN = dense
    norms = 4
    if config.flag("enable_moe_block", default=False):
        moe = experts(config, Features())  # the scale of each expert stands for a selection bias
        ffn, norms = dataclasses.replace(moe, shared_intermediate=dense.intermediate), 8
    types = layer_types(config, every="sliding_window_pattern", others="sliding_attention")
    layers = (Layer(attention=full, ffn=ffn, norms=norms),) * number
    return with_mixers(config, layers, types, {"sliding_attention": local, "full_attention": full})


def _kimi_delta(config: HfConfig, *, gate_rank: int) -> KimiDeltaAttention:
    own = config.section("linear_attn_config") if config.has("linear_attn_config") else config
    return KimiDeltaAttention(
        num_heads=own.integer("linear_num_heads", "num_heads", default=config.integer("num_attention_heads")),
        head_dim=own.integer("linear_head_dim", "head_dim"),
        conv_kernel=own.integer("linear_conv_kernel_dim", "short_conv_kernel_size"),
        gate_rank=gate_rank,
    )


def _delta_kinds(config: HfConfig, number: int) -> Sequence[str]:
    """Return the kinds of layers: listed, or the numbers of the full ones, counted from 1."""
    if config.has("layer_types"):
        return [_KINDS.get(kind, kind) for kind in config.names("layer_types", number)]
    if config.has("linear_attn_config"):
        full = set(config.section("linear_attn_config").layer_numbers("full_attn_layers", number, first=1))
        return ["full_attention" if i + 1 in full else "linear_attention" for i in range(number)]
    every = config.period("layer_group_size", "full_attention_interval")
    return ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(number)]


def kimi_linear(config: HfConfig) -> Layers:
    """Kimi-Linear: three layers of Kimi delta attention to one of latent attention without positions."""
    sparse, moe, dense = _blocks(config, Features(), first_dense=1)
    delta = _kimi_delta(config, gate_rank=0)
    kinds: Mapping[str, Attention] = {
        "linear_attention": dataclasses.replace(delta, gate_rank=delta.head_dim),
        "full_attention": latent(config),
    }
    layers = _layers([kinds["full_attention"]] * len(sparse), sparse, moe, dense)
    return with_mixers(config, layers, _delta_kinds(config, len(layers)), kinds)


def bailing_hybrid(config: HfConfig) -> Layers:
    """Ling 2.5 and later: Kimi delta attention with gates of full rank, and gated latent attention once per group."""
    sparse, moe, dense = _blocks(config, Features())
    full = dataclasses.replace(latent(config), head_gate=True)
    kinds: Mapping[str, Attention] = {"linear_attention": _kimi_delta(config, gate_rank=0), "full_attention": full}
    layers = _layers([full] * len(sparse), sparse, moe, dense)
    return with_mixers(config, layers, _delta_kinds(config, len(layers)), kinds)


def glm5_next(config: HfConfig) -> Layers:
    """GLM-5-Next: Kimi delta attention, and sparse latent attention whose indexer pools; several residual streams."""
    sparse, moe, dense = _blocks(config, Features())
    number = len(sparse)
    full = dataclasses.replace(latent(config), index_pool=config.integer("index_kpool", default=0))
    delta = _kimi_delta(config, gate_rank=0)
    streams = config.integer("hc_mult", default=0)
    indexed = indexer_places(config, number)
    kinds = [_KINDS.get(kind, kind) for kind in config.names("layer_types", number)]
    mixers: list[Attention] = [
        dataclasses.replace(delta, gate_rank=delta.head_dim)
        if kind == "linear_attention"
        else full
        if own
        else without_indexer(full)
        for kind, own in zip(kinds, indexed, strict=True)
    ]
    maps = 2 * (streams + 2) * streams * streams
    return tuple(dataclasses.replace(layer, norms=2 + maps) for layer in _layers(mixers, sparse, moe, dense))


def hy_v4(config: HfConfig) -> Layers:
    """Hunyuan 4: gated sparse latent attention with sinks and shared indexers; several residual streams.

    The maps of the streams, ``2 hc_mult`` rows of all streams for each block, are counted with the norms.
    """
    streams = config.integer("hc_mult", default=0)
    layers = usual(Features(sinks="all", gate="element"))(config)
    return tuple(dataclasses.replace(layer, norms=2 + 4 * streams * streams) for layer in layers)


def mistral_large4(config: HfConfig) -> Layers:
    """Mistral Large 4: sparse latent attention, without positions (and as wide) on one layer in four."""
    number = number_of_layers(config)
    if config.has("kv_source_layers") and config.integers("kv_source_layers") != list(range(number)):
        msg = f"{config.where}: kv_source_layers shares caches between layers, which is not described"
        raise ModelError(msg)
    every = config.period("no_rope_layer_interval", default=4)
    rotary = config.integers("no_rope_layers") or [int((i + 1) % every != 0) for i in range(number)]
    if len(rotary) != number:
        msg = f"{config.where}: no_rope_layers has {len(rotary)} entries; expected one per layer, {number}"
        raise ModelError(msg)
    layers = usual(Features(first_dense=1))(config)
    return tuple(layer if flag else _without_positions(layer) for layer, flag in zip(layers, rotary, strict=True))


def _without_positions(layer: Layer) -> Layer:
    attention = layer.attention
    if not isinstance(attention, LatentAttention):
        return layer
    width = attention.qk_nope_head_dim + attention.qk_rope_head_dim
    return dataclasses.replace(
        layer, attention=dataclasses.replace(attention, qk_nope_head_dim=width, qk_rope_head_dim=0)
    )


# Sizes of Inkling that count less than a thousandth of a percent.
_SMALL_OF_INKLING = (
    "rel_extent",
    "conv_kernel_size",
    "number_of_conv_states",
    "shared_expert_sink",
    "rms_norm_eps_moe_gate",
    "mtp_hidden_states_first",
    "n_layers_per_attn_res_block",
    "unpadded_vocab_size",
)


def inkling(config: HfConfig) -> Layers:
    """Inkling: attention with relative biases; convolutions of four taps after each block, counted with the norms."""
    for key in _SMALL_OF_INKLING:
        config.has(key)
    return usual(Features(qk_norm="head", norms=10))(config)


def inkling2(config: HfConfig) -> Layers:
    """Inkling 2: gated attention with sinks per token, relative biases and convolutions, which differ on full layers.

    The sinks' projection has the shape of a gate per head. Queries over earlier layers, the convolutions after a block
    and the weights of those on full layers are counted with the norms.
    """
    for key in _SMALL_OF_INKLING:
        config.has(key)
    layers = usual(Features(gate="element", norms=12))(config)
    kinds = attention_kinds(config, len(layers))
    return tuple(
        dataclasses.replace(
            layer,
            attention=dataclasses.replace(layer.attention, head_gate=True)
            if isinstance(layer.attention, GroupedQueryAttention)
            else layer.attention,
            norms=layer.norms + (68 if kind == "hybrid" else 0),
        )
        for layer, kind in zip(layers, kinds, strict=True)
    )


def granitemoe_hybrid(config: HfConfig) -> Layers:
    """Granite 4: Mamba2 and attention without positions, each with experts and a shared FFN."""
    number = number_of_layers(config)
    full = grouped_query(config, bias=config.flag("attention_bias", default=False))
    heads = config.integer("mamba_n_heads", default=128)
    inner = config.integer("mamba_expand", default=2) * config.integer("hidden_size")
    head_dim = config.keys.get("mamba_d_head")
    mamba = Mamba2(
        num_heads=heads,
        head_dim=config.integer("mamba_d_head") if isinstance(head_dim, int) else inner // max(heads, 1),
        state_size=config.integer("mamba_d_state", default=256),
        num_groups=config.integer("mamba_n_groups", default=1),
        conv_kernel=config.integer("mamba_d_conv", default=4),
    )
    config.has("mamba_d_head")
    shared = config.integer("shared_intermediate_size", default=0)
    ffn: FFN = DenseFFN(intermediate=shared)
    if config.integer("num_local_experts", default=0):
        routed = experts(config, Features(wide=True, router_bias=False))
        ffn = dataclasses.replace(routed, shared_intermediate=shared)
    kinds = config.names("layer_types" if config.has("layer_types") else "layers_block_type", number)
    mixers: Mapping[str, Attention] = {"linear_attention": mamba, "full_attention": full}
    layers = (Layer(attention=full, ffn=ffn),) * number
    return with_mixers(config, layers, [_KINDS.get(kind, kind) for kind in kinds], mixers)


def jamba(config: HfConfig) -> Layers:
    """Jamba: Mamba1 with an attention layer, and dense FFNs with a layer of experts, each at a period and an offset."""
    number, hidden = number_of_layers(config), config.integer("hidden_size")
    rank = config.keys.get("mamba_dt_rank")
    config.has("mamba_dt_rank")
    mamba = Mamba1(
        inner=config.integer("mamba_expand", default=2) * hidden,
        state_size=config.integer("mamba_d_state", default=16),
        dt_rank=rank if isinstance(rank, int) else -(-hidden // 16),
        conv_kernel=config.integer("mamba_d_conv", default=4),
    )
    full = grouped_query(config)
    moe = experts(config, Features(wide=True, router_bias=False))
    dense = dense_ffn(config)
    every, offset = (
        config.integer("attn_layer_period", default=8),
        config.integer("attn_layer_offset", default=4),
    )
    period, start = (
        config.integer("expert_layer_period", default=2),
        config.integer("expert_layer_offset", default=1),
    )
    listed = [_KINDS.get(kind, kind) for kind in config.listed("layers_block_type") or config.listed("layer_types")]
    if not listed:
        listed = ["full_attention" if i % max(every, 1) == offset else "linear_attention" for i in range(number)]
    sparse = [moe.num_experts > 1 and i % max(period, 1) == start for i in range(number)]
    layers = _layers([full] * number, sparse, moe, dense)
    return with_mixers(config, layers, listed, {"linear_attention": mamba, "full_attention": full})


def longcat_flash(config: HfConfig) -> Layers:
    """LongCat-Flash: two blocks of latent attention and dense FFN per layer, and experts on a shortcut around them.

    A layer is described as two layers and a lone block of experts; ``zero_expert_num`` experts do nothing.
    """
    attention, dense = latent(config), dense_ffn(config)
    moe = dataclasses.replace(experts(config, Features()), null_experts=config.integer("zero_expert_num", default=0))
    block = Layer(attention=attention, ffn=dense)
    return (block, block, Layer(attention=None, ffn=moe, norms=0)) * number_of_layers(config)


def lfm2_moe(config: HfConfig) -> Layers:
    """LFM2-MoE: gated short convolutions with attention now and then; the first layers dense."""
    sparse, moe, dense = _blocks(config, Features(router_bias=config.flag("use_expert_bias", default=True)))
    full = grouped_query(config, qk_norm=True)
    convolution = ShortConvolution(
        channels=config.integer("hidden_size"), conv_kernel=config.integer("conv_L_cache", default=3)
    )
    kinds = [_KINDS.get(kind, kind) for kind in config.names("layer_types", len(sparse))]
    mixers: Mapping[str, Attention] = {"conv": convolution, "full_attention": full}
    return with_mixers(config, _layers([full] * len(sparse), sparse, moe, dense), kinds, mixers)


def lara(config: HfConfig) -> Layers:
    """Lara: gated delta nets between sliding and full attention."""
    sparse, moe, dense = _blocks(config, Features(router_bias=False))
    full = grouped_query(config, qk_norm=True, bias=config.flag("attention_bias", default=False))
    linear = GatedDeltaNet(
        num_key_heads=config.integer("linear_num_key_heads"),
        num_value_heads=config.integer("linear_num_value_heads"),
        key_head_dim=config.integer("linear_key_head_dim"),
        value_head_dim=config.integer("linear_value_head_dim"),
        conv_kernel=config.integer("linear_conv_kernel_dim"),
    )
    mixers: Mapping[str, Attention] = {
        "linear_attention": linear,
        "full_attention": full,
        "sliding_attention": dataclasses.replace(full, window=sliding_window(config)),
    }
    kinds = config.names("layer_types", len(sparse))
    return with_mixers(config, _layers([full] * len(sparse), sparse, moe, dense), kinds, mixers)


def ernie4_5_vl(config: HfConfig) -> Layers:
    """ERNIE 4.5 VL: text tokens have experts of their own; those of images are counted with the encoders."""
    number = number_of_layers(config)
    width, routed = first_of_two(config, "moe_intermediate_size"), first_of_two(config, "moe_num_experts")
    moe = MoE(
        num_experts=routed,
        top_k=config.integer("moe_k"),
        intermediate=width,
        shared_intermediate=width * config.integer("moe_num_shared_experts", default=0),
        router_bias=True,
    )
    if config.has("mlp_layer_types"):
        sparse = sparse_places(config, number)
    else:
        first, last = (
            first_of_two(config, "moe_layer_start_index"),
            first_of_two(config, "moe_layer_end_index", number - 1),
        )
        every = config.period("moe_layer_interval", default=1)
        last = number - 1 if last < 0 else last
        sparse = [first <= i <= last and (i + 1) % every == 0 for i in range(number)]
    dense = DenseFFN(intermediate=config.integer("intermediate_size"))
    attention = grouped_query(config, bias=config.flag("use_bias", default=False))
    return _layers([attention] * number, sparse, moe, dense)


def first_of_two(config: HfConfig, key: str, default: int | None = None) -> int:
    """Return an integer that may be a pair: that of text, that of images."""
    if isinstance(config.keys.get(key), list) and config.keys[key]:
        return config.integers(key)[0]
    return config.integer(key, default=default)


def minimax_m3(config: HfConfig) -> Layers:
    """MiniMax-M3: attention, on most layers to blocks that an index of a few heads chooses; a shared expert."""
    number = number_of_layers(config)
    old = config.section("sparse_attention_config") if config.has("sparse_attention_config") else config
    full = grouped_query(config, qk_norm=True)
    sparse = dataclasses.replace(
        full,
        index_heads=old.integer("index_n_heads", "sparse_num_index_heads", default=4),
        index_head_dim=old.integer("index_head_dim", "sparse_index_dim", default=128),
        index_top_k=old.integer("index_block_size", "sparse_block_size", default=128)
        * (
            old.integer("index_topk_blocks", "sparse_topk_blocks", default=16)
            + old.integer("index_local_blocks", "sparse_local_block", default=1)
        ),
    )
    if config.has("layer_types"):
        kinds: Sequence[str] = config.names("layer_types", number)
    else:
        flags = old.integers("sparse_attention_freq") or [0] * number
        kinds = ["minimax_m3_sparse" if flag else "full_attention" for flag in flags]
    mixers: Mapping[str, Attention] = {"minimax_m3_sparse": sparse, "full_attention": full}
    has_experts, moe, dense = _blocks(config, Features(wide=True))
    return with_mixers(config, _layers([full] * number, has_experts, moe, dense), kinds, mixers)
