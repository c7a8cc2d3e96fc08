"""What families of Hugging Face configurations have in common: their usual keys, and the usual orders of layers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from workloads.errors import ModelError
from workloads.models.mixers import Attention, GroupedQueryAttention, LatentAttention
from workloads.models.spec import FFN, DenseFFN, Layer, MoE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workloads.models.hf.reader import HfConfig

Layers = tuple[Layer, ...]

# More layers than any model has: a misread number must not become a tuple that fills the memory.
_MOST_LAYERS = 10_000


#: Keys of the number of layers; the first that is there counts.
LAYER_COUNTS = ("num_hidden_layers", "n_layers", "num_layers")


def number_of_layers(config: HfConfig) -> int:
    """Read the number of layers."""
    number = config.integer(*LAYER_COUNTS)
    if not 1 <= number <= _MOST_LAYERS:
        msg = f"{config.where}: num_hidden_layers = {number}; expected 1 to {_MOST_LAYERS}"
        raise ModelError(msg)
    return number


def grouped_query(
    config: HfConfig, *, qk_norm: bool = False, bias: bool = False, window: int | None = None
) -> GroupedQueryAttention:
    """Read softmax attention by its usual keys.

    Parameters
    ----------
    config : HfConfig
        The configuration; ``num_key_value_heads`` and ``head_dim`` may be absent.
    qk_norm, bias : bool
        Whether queries and keys are normalised, and whether projections have biases. No key says so: the family does.
    window : int or None
        Sliding window [tokens]; None attends to all.
    """
    heads = config.integer("num_attention_heads")
    if heads < 1:
        msg = f"{config.where}: num_attention_heads = {heads}; expected at least 1"
        raise ModelError(msg)
    return GroupedQueryAttention(
        num_heads=heads,
        num_kv_heads=config.integer("num_key_value_heads", default=heads),
        head_dim=config.integer("head_dim", "attention_head_dim", default=config.integer("hidden_size") // heads),
        qk_norm=qk_norm,
        bias=bias,
        window=window,
    )


def latent(config: HfConfig) -> LatentAttention:
    """Read multi-head latent attention, with the sparse-attention indexer where the keys are there."""
    return LatentAttention(
        num_heads=config.integer("num_attention_heads"),
        q_lora_rank=config.maybe_integer("q_lora_rank"),
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_head_dim=config.integer("qk_nope_head_dim"),
        qk_rope_head_dim=config.integer("qk_rope_head_dim"),
        v_head_dim=config.integer("v_head_dim"),
        index_heads=config.integer("index_n_heads", default=0),
        index_head_dim=config.integer("index_head_dim", default=0),
        index_top_k=config.integer("index_topk", default=0),
    )


def deepseek_moe(config: HfConfig, *, router_bias: bool) -> MoE:
    """Read a fine-grained MoE with shared experts and group-limited routing."""
    intermediate = config.integer("moe_intermediate_size")
    return MoE(
        num_experts=config.integer("n_routed_experts"),
        top_k=config.integer("num_experts_per_tok"),
        intermediate=intermediate,
        shared_intermediate=intermediate * config.integer("n_shared_experts", default=0),
        num_groups=config.integer("n_group", default=1),
        top_k_groups=config.integer("topk_group", default=1),
        router_bias=router_bias,
    )


def wide_moe(config: HfConfig) -> MoE:
    """Read an MoE whose experts are as wide as ``intermediate_size``."""
    return MoE(
        num_experts=config.integer("num_local_experts", "num_experts"),
        top_k=config.integer("num_experts_per_tok"),
        intermediate=config.integer("intermediate_size"),
    )


def qwen_moe(config: HfConfig) -> MoE:
    """Read a fine-grained MoE with at most one, gated, shared expert."""
    shared = config.integer("shared_expert_intermediate_size", default=0)
    return MoE(
        num_experts=config.integer("num_experts", "num_local_experts"),
        top_k=config.integer("num_experts_per_tok"),
        intermediate=config.integer("moe_intermediate_size"),
        shared_intermediate=shared,
        shared_gate=shared > 0,
    )


def sliding_window(config: HfConfig) -> int | None:
    """Read the window of sliding attention; None where there is none, or one as long as the context."""
    window = config.maybe_integer("sliding_window")
    return None if window and window >= config.integer("max_position_embeddings", default=window + 1) else window


def uniform(config: HfConfig, attention: Attention, ffn: FFN, *, norms: Literal[2, 4] = 2) -> Layers:
    """Repeat one layer.

    Parameters
    ----------
    config : HfConfig
        The configuration, for the number of layers.
    attention, ffn : Attention, FFN
        The token mixer and the dense or MoE part of every layer.
    norms : {2, 4}
        Norms of a layer: before both parts, or before and after.
    """
    return (Layer(attention=attention, ffn=ffn, norms=norms),) * number_of_layers(config)


def sparse_places(config: HfConfig, number: int, first_dense: int = 0) -> list[bool]:
    """Tell which layers have experts, by whichever of the usual keys is there.

    Parameters
    ----------
    config : HfConfig
        The configuration: ``mlp_layer_types`` of transformers 5, a list ``moe_layer_freq`` or ``is_moe_layer``, layers
        that are dense at first, a period, or single layers.
    number : int
        Layers [1].
    first_dense : int
        Dense layers at the start where no key says [1].
    """
    first = config.integer("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", default=first_dense)
    only, step = set(config.layer_numbers("mlp_only_layers", number)), config.period("decoder_sparse_step", default=1)
    listed = isinstance(config.keys.get("moe_layer_freq"), list)
    flags = config.integers("moe_layer_freq") if listed else ()
    frequency = 1 if listed else config.period("moe_layer_freq", default=1)
    if config.has("mlp_layer_types"):
        kinds = config.names("mlp_layer_types", number)
        if unknown := sorted(set(kinds) - {"dense", "sparse", "moe", "hash_moe"}):
            msg = f"{config.where}: mlp_layer_types has {unknown[0]!r}; allowed: dense, sparse, moe, hash_moe"
            raise ModelError(msg)
        return [kind != "dense" for kind in kinds]
    if listed:
        if len(flags) != number:
            msg = f"{config.where}: moe_layer_freq has {len(flags)} entries; expected one per layer, {number}"
            raise ModelError(msg)
        return [bool(flag) for flag in flags]
    return [i >= first and i % frequency == 0 and i not in only and (i + 1) % step == 0 for i in range(number)]


def indexer_places(config: HfConfig, number: int) -> list[bool]:
    """Tell which layers of sparse attention have an indexer; the others attend to what an earlier one chose.

    ``indexer_types`` lists them; its forerunners are ``index_topk_pattern`` (F and S) and ``index_topk_freq`` after
    ``index_skip_topk_offset`` layers.
    """
    offset = config.integer("index_skip_topk_offset", default=2)
    frequency = config.period("index_topk_freq", default=1)
    pattern = config.text("index_topk_pattern") if isinstance(config.keys.get("index_topk_pattern"), str) else None
    if config.has("indexer_types"):
        kinds = config.names("indexer_types", number)
        if unknown := sorted(set(kinds) - {"full", "shared"}):
            msg = f"{config.where}: indexer_types has {unknown[0]!r}; allowed: full, shared"
            raise ModelError(msg)
        return [kind == "full" for kind in kinds]
    if pattern is not None:
        if len(pattern) != number or set(pattern) - {"F", "S"}:
            msg = f"{config.where}: index_topk_pattern = {pattern!r}; expected F or S for each of {number} layers"
            raise ModelError(msg)
        return [letter == "F" for letter in pattern]
    return [max(i - offset + 1, 0) % frequency == 0 for i in range(number)]


def without_indexer(attention: LatentAttention) -> LatentAttention:
    """Return sparse attention that takes what another layer's indexer chose."""
    return dataclasses.replace(attention, index_heads=0, index_head_dim=0, index_pool=0)


def after_dense(config: HfConfig, attention: Attention, moe: MoE) -> Layers:
    """Place MoE blocks after the first dense layers, at the given frequency; indexers where they are."""
    number = number_of_layers(config)
    sparse = sparse_places(config, number)
    dense = None if all(sparse) else DenseFFN(intermediate=config.integer("intermediate_size"))
    mixers: list[Attention] = [attention] * number
    if isinstance(attention, LatentAttention) and attention.index_heads:
        bare = without_indexer(attention)
        mixers = [attention if own else bare for own in indexer_places(config, number)]
    return tuple(Layer(attention=mixer, ffn=moe if s else dense) for mixer, s in zip(mixers, sparse, strict=True))


def sparse_steps(config: HfConfig, attention: Attention, moe: MoE) -> Layers:
    """Place MoE blocks every ``decoder_sparse_step`` layers, but for ``mlp_only_layers``."""
    sparse = sparse_places(config, number_of_layers(config))
    dense = None if all(sparse) else DenseFFN(intermediate=config.integer("intermediate_size"))
    return tuple(Layer(attention=attention, ffn=moe if s else dense) for s in sparse)


def layer_types(config: HfConfig, *, every: str, others: str) -> Sequence[str]:
    """Return the type of each layer: listed, or full attention once in ``every`` so many and ``others`` between."""
    number = number_of_layers(config)
    if config.has("layer_types"):
        return config.names("layer_types", number)
    interval = config.period(every)
    return ["full_attention" if (i + 1) % interval == 0 else others for i in range(number)]


def with_mixers(config: HfConfig, layers: Layers, types: Sequence[str], kinds: Mapping[str, Attention]) -> Layers:
    """Give each layer the mixer of its type.

    Parameters
    ----------
    config : HfConfig
        The configuration, for the message.
    layers : tuple of Layer
        Layers whose feed-forward parts stand.
    types : sequence of str
        Type of each layer, as :func:`layer_types` lists them.
    kinds : mapping of str to Attention
        The token mixer that each type means.
    """
    if unknown := sorted(set(types) - set(kinds)):
        msg = f"{config.where}: layer_types has {unknown[0]!r}; allowed: {', '.join(sorted(kinds))}"
        raise ModelError(msg)
    return tuple(dataclasses.replace(layer, attention=kinds[kind]) for layer, kind in zip(layers, types, strict=True))
