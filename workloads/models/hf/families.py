"""One small function per model family: a configuration's keys in, the model's layers out.

Defaults of absent keys are those of the family's published configuration class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from workloads.errors import ModelError
from workloads.models.hf.parts import (
    Layers,
    after_dense,
    deepseek_moe,
    grouped_query,
    latent,
    layer_types,
    number_of_layers,
    qwen_moe,
    sliding_window,
    sparse_steps,
    uniform,
    wide_moe,
    with_mixers,
)
from workloads.models.hf.reader import HfConfig
from workloads.models.hf.usual import Features, experts
from workloads.models.mixers import Attention, GatedDeltaNet, GroupedQueryAttention, Mamba2
from workloads.models.spec import DenseFFN, Layer, MoE

Family = Callable[[HfConfig], Layers]


def deepseek_v1(config: HfConfig) -> Layers:
    """DeepSeekMoE: softmax attention, shared and fine-grained experts."""
    return after_dense(config, grouped_query(config), deepseek_moe(config, router_bias=False))


def deepseek_v2(config: HfConfig) -> Layers:
    """DeepSeek-V2: latent attention (softmax attention in its small vision models), softmax router."""
    attention: Attention = latent(config) if config.flag("use_mla", default=True) else grouped_query(config)
    return after_dense(config, attention, deepseek_moe(config, router_bias=False))


def deepseek_v3(config: HfConfig) -> Layers:
    """DeepSeek-V3 and its relatives: latent attention (sparse where indexed), sigmoid router with a selection bias."""
    return after_dense(config, latent(config), deepseek_moe(config, router_bias=True))


def glm4_moe(config: HfConfig) -> Layers:
    """GLM-4.5: softmax attention with biases, sigmoid router with a selection bias."""
    attention = grouped_query(
        config, qk_norm=config.flag("use_qk_norm", default=False), bias=config.flag("attention_bias", default=False)
    )
    return after_dense(config, attention, deepseek_moe(config, router_bias=True))


def bailing_moe(config: HfConfig) -> Layers:
    """Ling: as DeepSeekMoE, under other keys; from the second on with groups of experts and a selection bias."""
    biased = config.flag("moe_router_enable_expert_bias", default=False)
    attention = grouped_query(
        config,
        qk_norm=config.flag("use_qk_norm", default=False),
        bias=config.flag("use_qkv_bias", default=False),
    )
    attention = dataclasses.replace(attention, output_bias=config.flag("use_bias", default=False))
    return after_dense(config, attention, experts(config, Features(router_bias=biased)))


def bailing_moe_linear(config: HfConfig) -> Layers:
    """Ling and Ring with lightning attention, and one softmax layer to each group."""
    layers = bailing_moe(config)
    full = layers[0].attention
    number, every = len(layers), config.period("layer_group_size")
    heads, head_dim = config.integer("num_attention_heads"), config.integer("head_dim", default=128)
    linear = GatedDeltaNet(
        num_key_heads=heads,
        num_value_heads=heads,
        key_head_dim=head_dim,
        value_head_dim=head_dim,
        conv_kernel=0,
        learned_decay=False,
    )
    # The layers that no whole group takes up are softmax layers, too.
    types = [
        "full_attention" if (i + 1) % every == 0 or i >= number // every * every else "linear_attention"
        for i in range(number)
    ]
    kinds: Mapping[str, Attention | None] = {"linear_attention": linear, "full_attention": full}
    return tuple(dataclasses.replace(layer, attention=kinds[kind]) for layer, kind in zip(layers, types, strict=True))


def mixtral(config: HfConfig) -> Layers:
    """Mixtral: few wide experts at every layer."""
    attention = grouped_query(config, window=sliding_window(config))
    return uniform(config, attention, wide_moe(config))


def phimoe(config: HfConfig) -> Layers:
    """Phi-3.5-MoE: as Mixtral, with layer norms (weight and bias) and attention biases."""
    bias = config.flag("attention_bias", default=False)
    attention = grouped_query(config, bias=bias, window=sliding_window(config))
    attention = dataclasses.replace(attention, output_bias=bias)
    return uniform(config, attention, wide_moe(config), norms=4)


def minimax_m2(config: HfConfig) -> Layers:
    """MiniMax-M2: query and key norms that span the heads, sigmoid router with a selection bias."""
    attention = dataclasses.replace(
        grouped_query(config, qk_norm=config.flag("use_qk_norm", default=False)),
        qk_norm_per_head=config.keys.get("qk_norm_type") == "per_layer",
    )
    moe = dataclasses.replace(
        wide_moe(config),
        shared_intermediate=config.integer("shared_intermediate_size", default=0),
        router_bias=config.flag("use_routing_bias", default=False),
    )
    return uniform(config, attention, moe)


def granitemoe(config: HfConfig) -> Layers:
    """Granite MoE, with shared experts in its later form."""
    shared = config.integer("shared_intermediate_size", default=0)
    moe = dataclasses.replace(wide_moe(config), shared_intermediate=shared)
    return uniform(config, grouped_query(config, bias=config.flag("attention_bias", default=False)), moe)


def grok(config: HfConfig) -> Layers:
    """Grok-1: few wide experts, norms before and after each block."""
    return uniform(config, grouped_query(config), wide_moe(config), norms=4)


def olmoe(config: HfConfig) -> Layers:
    """OLMoE: query and key norms that span the heads."""
    attention = dataclasses.replace(grouped_query(config, qk_norm=True), qk_norm_per_head=True)
    return uniform(config, attention, wide_moe(config))


def qwen2_moe(config: HfConfig) -> Layers:
    """Qwen1.5 and Qwen2 MoE: biased attention, gated shared expert."""
    return sparse_steps(config, grouped_query(config, bias=config.flag("qkv_bias", default=True)), qwen_moe(config))


def qwen3_moe(config: HfConfig) -> Layers:
    """Qwen3 MoE: query and key norms, no shared expert."""
    attention = grouped_query(config, qk_norm=True, bias=config.flag("attention_bias", default=False))
    return sparse_steps(config, attention, qwen_moe(config))


def qwen3_next(config: HfConfig) -> Layers:
    """Qwen3-Next and Qwen3.5: three gated delta nets to one gated attention."""
    full = grouped_query(config, qk_norm=True, bias=config.flag("attention_bias", default=False))
    full = dataclasses.replace(full, output_gate=config.flag("attn_output_gate", default=True))
    linear = GatedDeltaNet(
        num_key_heads=config.integer("linear_num_key_heads"),
        num_value_heads=config.integer("linear_num_value_heads"),
        key_head_dim=config.integer("linear_key_head_dim"),
        value_head_dim=config.integer("linear_value_head_dim"),
        conv_kernel=config.integer("linear_conv_kernel_dim"),
    )
    layers = sparse_steps(config, full, qwen_moe(config))
    kinds: Mapping[str, Attention] = {"linear_attention": linear, "full_attention": full}
    return with_mixers(
        config, layers, layer_types(config, every="full_attention_interval", others="linear_attention"), kinds
    )


def gpt_oss(config: HfConfig) -> Layers:
    """gpt-oss: sliding and full attention in turn, sinks, biases everywhere."""
    full = grouped_query(config, bias=config.flag("attention_bias", default=True))
    full = dataclasses.replace(full, sinks=True, output_bias=full.bias)
    window = dataclasses.replace(full, window=config.integer("sliding_window"))
    layers = uniform(config, full, dataclasses.replace(wide_moe(config), bias=True))
    kinds: Mapping[str, Attention] = {"sliding_attention": window, "full_attention": full}
    return with_mixers(config, layers, config.names("layer_types", len(layers)), kinds)


def llama4(config: HfConfig) -> Layers:
    """Llama 4: chunked attention with a full layer every fourth, a shared expert, MoE every few layers.

    A chunk of n tokens is described as a window of n, which bounds it from above. Its query and key norms have no
    weights.
    """
    full = grouped_query(config, bias=config.flag("attention_bias", default=False))
    chunked = dataclasses.replace(full, window=config.maybe_integer("attention_chunk_size"))
    width = config.integer("intermediate_size")
    moe = dataclasses.replace(wide_moe(config), shared_intermediate=width)
    dense = DenseFFN(intermediate=config.integer("intermediate_size_mlp"))
    step = config.period("interleave_moe_layer_step", default=1)
    rope = config.integers("no_rope_layers")  # 1 where the layer has rotary embeddings, and chunks
    every = config.period("no_rope_layer_interval", default=4)
    number = number_of_layers(config)
    if rope and len(rope) != number:
        msg = f"{config.where}: no_rope_layers has {len(rope)} entries; expected one per layer, {number}"
        raise ModelError(msg)
    local = [bool(flag) for flag in rope] or [(i + 1) % every != 0 for i in range(number)]
    if config.has("layer_types"):
        local = [kind == "chunked_attention" for kind in config.names("layer_types", number)]
    listed = set(config.layer_numbers("moe_layers", number)) or {i for i in range(number) if (i + 1) % step == 0}
    return tuple(
        Layer(attention=chunked if local[i] else full, ffn=moe if i in listed else dense) for i in range(number)
    )


def minimax(config: HfConfig) -> Layers:
    """MiniMax-01 and M1: lightning attention with a softmax layer now and then."""
    full = grouped_query(config)
    linear = GatedDeltaNet(
        num_key_heads=full.num_heads,
        num_value_heads=full.num_heads,
        key_head_dim=full.head_dim,
        value_head_dim=full.head_dim,
        conv_kernel=0,
        learned_decay=False,
    )
    layers = uniform(config, full, wide_moe(config))
    if config.has("attn_type_list"):
        types: Sequence[str] = [
            "full_attention" if kind else "linear_attention" for kind in config.integers("attn_type_list")
        ]
        if len(types) != len(layers):
            msg = f"{config.where}: attn_type_list has {len(types)} entries; expected {len(layers)}"
            raise ModelError(msg)
    else:
        types = config.names("layer_types", len(layers))
    return with_mixers(config, layers, types, {"linear_attention": linear, "full_attention": full})


_NEMOTRON_BLOCKS: Mapping[str, str] = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "*",
    "full_attention": "*",
    "moe": "E",
    "mlp": "-",
}


def _nemotron_pattern(config: HfConfig, keys: Sequence[str]) -> str:
    """Return a letter per block: the pattern, or the list that transformers 5 writes for it; empty without either."""
    for key in keys:
        if isinstance(config.keys.get(key), str):
            return config.text(key)
        if config.has(key):
            kinds = [str(kind) for kind in config.listed(key)]
            if unknown := sorted(set(kinds) - set(_NEMOTRON_BLOCKS)):
                msg = f"{config.where}: {key} has {unknown[0]!r}; allowed: {', '.join(_NEMOTRON_BLOCKS)}"
                raise ModelError(msg)
            return "".join(_NEMOTRON_BLOCKS[kind] for kind in kinds)
    return ""


def nemotron_h(config: HfConfig) -> Layers:
    """Nemotron-H: Mamba2 (M), attention (*), MoE (E) and dense FFN (-) as lone blocks; 2-matrix FFNs.

    With ``moe_latent_size`` the routed experts work in a latent (Nemotron 3 Super and Ultra).
    """
    pattern = _nemotron_pattern(config, ("hybrid_override_pattern", "layers_block_type", "layer_types"))
    layers = _nemotron_blocks(config, pattern or config.text("hybrid_override_pattern"))
    number = config.integer("num_hidden_layers", default=len(layers))
    if len(layers) != number:
        msg = f"{config.where}: hybrid_override_pattern has {len(layers)} blocks; expected {number}"
        raise ModelError(msg)
    return layers


def nemotron_mtp(config: HfConfig) -> Layers:
    """Read the blocks of one layer of multi-token prediction of Nemotron 3."""
    return _nemotron_blocks(config, _nemotron_pattern(config, ("mtp_hybrid_override_pattern", "mtp_layers_block_type")))


def _nemotron_blocks(config: HfConfig, pattern: str) -> Layers:
    mamba = Mamba2(
        num_heads=config.integer("mamba_num_heads"),
        head_dim=config.integer("mamba_head_dim"),
        state_size=config.integer("ssm_state_size"),
        num_groups=config.integer("n_groups", "mamba_n_groups"),
        conv_kernel=config.integer("conv_kernel", "mamba_d_conv"),
    )
    blocks: dict[str, Layer] = {"M": Layer(attention=mamba, ffn=None, norms=1)}
    if "*" in pattern:
        blocks["*"] = Layer(attention=grouped_query(config), ffn=None, norms=1)
    if "-" in pattern:
        dense = DenseFFN(intermediate=config.integer("intermediate_size"), matrices=2)
        blocks["-"] = Layer(attention=None, ffn=dense, norms=1)
    if "E" in pattern:
        moe = dataclasses.replace(deepseek_moe(config, router_bias=True), matrices=2)
        shared = config.integer("n_shared_experts", default=0) and config.integer("moe_shared_expert_intermediate_size")
        latent_width = config.integer("moe_latent_size", default=0)
        moe = dataclasses.replace(moe, shared_intermediate=shared, latent=latent_width)
        blocks["E"] = Layer(attention=None, ffn=moe, norms=1)
    if unknown := sorted(set(pattern) - set(blocks)):
        msg = f"{config.where}: hybrid_override_pattern has {unknown[0]!r}; allowed: M, *, E, -"
        raise ModelError(msg)
    return tuple(blocks[symbol] for symbol in pattern)


def dbrx(config: HfConfig) -> Layers:
    """DBRX: its keys sit in ``attn_config`` and ``ffn_config``."""
    heads = config.integer("n_heads")
    attention = GroupedQueryAttention(
        num_heads=heads,
        num_kv_heads=config.section("attn_config").integer("kv_n_heads"),
        head_dim=config.integer("d_model") // max(heads, 1),
    )
    experts = config.section("ffn_config")
    moe = MoE(
        num_experts=experts.integer("moe_num_experts"),
        top_k=experts.integer("moe_top_k"),
        intermediate=experts.integer("ffn_hidden_size"),
    )
    return uniform(config, attention, moe)


def ernie4_5_moe(config: HfConfig) -> Layers:
    """ERNIE 4.5: MoE from a start layer to an end layer, shared experts, router bias."""
    width = config.integer("moe_intermediate_size")
    moe = MoE(
        num_experts=config.integer("moe_num_experts"),
        top_k=config.integer("moe_k"),
        intermediate=width,
        shared_intermediate=width * config.integer("moe_num_shared_experts", default=0),
        router_bias=True,
    )
    dense = DenseFFN(intermediate=config.integer("intermediate_size"))
    number = number_of_layers(config)
    first, interval = config.integer("moe_layer_start_index"), config.integer("moe_layer_interval", default=1)
    last = config.integer("moe_layer_end_index", default=-1)
    last = number - 1 if last == -1 else last
    attention = grouped_query(config, bias=config.flag("use_bias", default=False))
    sparse = [first <= i <= last and (i + 1) % max(interval, 1) == 0 for i in range(number)]
    return tuple(Layer(attention=attention, ffn=moe if s else dense) for s in sparse)


def hunyuan_moe(config: HfConfig) -> Layers:
    """Hunyuan MoE: query and key norms, one shared expert."""
    width = config.integer("moe_intermediate_size", "intermediate_size")
    moe = MoE(
        num_experts=config.integer("num_experts"),
        top_k=config.integer("moe_topk"),
        intermediate=width,
        shared_intermediate=width * config.integer("num_shared_expert", default=1),
    )
    attention = grouped_query(
        config, qk_norm=config.flag("use_qk_norm", default=True), bias=config.flag("attention_bias", default=False)
    )
    return uniform(config, attention, moe)


def llama(config: HfConfig) -> Layers:
    """Llama, Mistral and their like: dense, no biases unless said."""
    attention = grouped_query(
        config,
        bias=config.flag("attention_bias", default=False),
        window=sliding_window(config),
    )
    return uniform(config, attention, DenseFFN(intermediate=config.integer("intermediate_size")))


def qwen2(config: HfConfig) -> Layers:
    """Qwen2: dense, biased queries, keys and values."""
    return uniform(config, grouped_query(config, bias=True), DenseFFN(intermediate=config.integer("intermediate_size")))


def qwen3(config: HfConfig) -> Layers:
    """Qwen3: dense, query and key norms."""
    attention = grouped_query(config, qk_norm=True, bias=config.flag("attention_bias", default=False))
    return uniform(config, attention, DenseFFN(intermediate=config.integer("intermediate_size")))


def gemma3(config: HfConfig) -> Layers:
    """Gemma 3: dense, five sliding layers to one full, norms before and after each block."""
    full = grouped_query(config, qk_norm=True)
    window = dataclasses.replace(full, window=config.integer("sliding_window"))
    ffn = DenseFFN(intermediate=config.integer("intermediate_size"))
    types = layer_types(config, every="sliding_window_pattern", others="sliding_attention")
    mixers = {"sliding_attention": window, "full_attention": full}
    return with_mixers(config, uniform(config, full, ffn, norms=4), types, mixers)
