"""Import of Hugging Face configurations: ``config.json`` in, :class:`~workloads.models.spec.ModelSpec` out.

``model_type`` chooses the family. A configuration of several modalities is read through its ``text_config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import ModelError
from workloads.models.checks import checked
from workloads.models.hf import families as families
from workloads.models.hf import hybrids
from workloads.models.hf.encoders import encoder_parameters
from workloads.models.hf.keys import unknown_keys, warn_of
from workloads.models.hf.layered import read_layers
from workloads.models.hf.parts import LAYER_COUNTS, number_of_layers
from workloads.models.hf.quantization import dtypes_of, quantisation_table, unkept_promise
from workloads.models.hf.reader import HfConfig, read_config
from workloads.models.hf.schemes import method_of
from workloads.models.hf.unknown import unknown_family
from workloads.models.hf.usual import Features, usual
from workloads.models.spec import ActiveConvention, ModelSpec

if TYPE_CHECKING:
    from workloads.models.hf.families import Family

#: The families that can be read, by ``model_type``.
FAMILIES: Mapping[str, Family] = {
    "afmoe": usual(Features(qk_norm="head", gate="element", norms=4)),
    "aria_text": usual(Features(wide=True, router_bias=False)),
    "axk1": usual(Features(norms=3, dense_norms=2)),
    "bailing_hybrid": hybrids.bailing_hybrid,
    "bailing_moe": families.bailing_moe,
    "bailing_moe_linear": families.bailing_moe_linear,
    "bailing_moe_linear_v2": families.bailing_moe_linear,
    "bailing_moe_v2": families.bailing_moe,
    "beam": usual(Features(qk_norm="head", gate="element", norms=4)),
    "cohere2_moe": usual(Features(wide=True, router_bias=False, norms=1)),
    "dbrx": families.dbrx,
    "deepseek": families.deepseek_v1,
    "deepseek_ocr2_text": usual(Features(router_bias=False)),
    "deepseek_v2": families.deepseek_v2,
    "deepseek_v3": families.deepseek_v3,
    "deepseek_v32": families.deepseek_v3,
    "deepseek_v4": hybrids.deepseek_v4,
    "dots1": usual(Features(qk_norm="head")),
    "dots3_note_text": usual(Features(gate="head")),
    "ernie4_5_moe": families.ernie4_5_moe,
    "ernie4_5_moe_vl": hybrids.ernie4_5_vl,
    "ernie4_5_vl_moe_text": hybrids.ernie4_5_vl,
    "exaone_moe": usual(Features(qk_norm="head", first_dense=1)),
    "flex_olmo": usual(Features(qk_norm="span", wide=True, router_bias=False)),
    "flint": usual(Features(qk_norm="head", sinks="all")),
    "gemma3_text": families.gemma3,
    "gemma4_text": hybrids.gemma4,
    "glm4_moe": families.glm4_moe,
    "glm4_moe_lite": families.deepseek_v3,
    "glm4v_moe_text": families.glm4_moe,
    "glm5_next_text": hybrids.glm5_next,
    "glm_moe_dsa": families.deepseek_v3,
    "gpt_oss": families.gpt_oss,
    "granitemoe": families.granitemoe,
    "granitemoe_swa": usual(Features(wide=True, router_bias=False, sinks="all")),
    "granitemoehybrid": hybrids.granitemoe_hybrid,
    "granitemoeshared": families.granitemoe,
    "grok-1": families.grok,
    "hunyuan_v1_moe": families.hunyuan_moe,
    "hy_v3": usual(Features(qk_norm="head", first_dense=1)),
    "hy_v4": hybrids.hy_v4,
    "hy_v4_vl_text": hybrids.hy_v4,
    "inkling2_text": hybrids.inkling2,
    "inkling_text": hybrids.inkling,
    "jamba": hybrids.jamba,
    "kimi_k2": families.deepseek_v3,
    "kimi_k25": families.deepseek_v3,
    "kimi_linear": hybrids.kimi_linear,
    "kolibri1": usual(Features(qk_norm="head", norms=4)),
    "laguna": usual(Features(qk_norm="head", gate="head")),
    "lara_mini": hybrids.lara,
    "lfm2_moe": hybrids.lfm2_moe,
    "llama": families.llama,
    "llama4_text": families.llama4,
    "longcat_flash": hybrids.longcat_flash,
    "mellum": usual(Features(qk_norm="head", router_bias=False)),
    "mimo_v2_flash": usual(Features(sinks="local", local_kv=2)),
    "minimax": families.minimax,
    "minimax_m1": families.minimax,
    "minimax_m2": families.minimax_m2,
    "minimax_m3_vl_text": hybrids.minimax_m3,
    "minimax_text_01": families.minimax,
    "mistral": families.llama,
    "mistral4": usual(Features()),
    "mistral_large4_text": hybrids.mistral_large4,
    "mixtral": families.mixtral,
    "muse_spark_text": usual(Features(gate="element", norms=6)),
    "nemotron_h": families.nemotron_h,
    "olmoe": families.olmoe,
    "phimoe": families.phimoe,
    "qwen2": families.qwen2,
    "qwen2_moe": families.qwen2_moe,
    "qwen3": families.qwen3,
    "qwen3_5_moe_text": families.qwen3_next,
    "qwen3_moe": families.qwen3_moe,
    "qwen3_next": families.qwen3_next,
    "qwen3_omni_moe_text": families.qwen3_moe,
    "qwen3_vl_moe_text": families.qwen3_moe,
    "sarvam_mla": usual(Features(first_dense=1)),
    "sarvam_moe": usual(Features(qk_norm="head", first_dense=1)),
    "solar_open": usual(Features()),
    "step3p5": usual(Features(qk_norm="head", gate="head")),
    "step3p7": usual(Features(qk_norm="head", gate="head")),
    "unlimited_ocr_text": usual(Features(router_bias=False)),
}
# Families whose embedding is the LM head where the configuration does not say.
_TIED_BY_DEFAULT = frozenset(
    {"ernie4_5_moe", "ernie4_5_moe_vl", "gemma3_text", "gemma4_text", "grok-1", "hunyuan_v1_moe", "lfm2_moe"}
)
# How the publisher of a family counts active parameters, where it is not all of them (sources: the built-in models).
_ACTIVE_CONVENTION: Mapping[str, ActiveConvention] = {
    "deepseek_v2": "without_embedding",
    "deepseek_v3": "without_embedding",
    "deepseek_v32": "without_embedding",
    "glm4_moe": "without_embedding_and_head",
    "glm_moe_dsa": "without_embedding_and_head",
    "gpt_oss": "without_embedding",
    "minimax": "without_embedding_and_head",
    "minimax_m1": "without_embedding_and_head",
    "minimax_text_01": "without_embedding_and_head",
    "minimax_m2": "without_embedding_and_head",
}
_DEFAULT_CONTEXT = 131072
# Where configurations of several modalities keep the language model, outermost first.
_WRAPPERS = ("thinker_config", "text_config", "llm_config", "language_config")


def from_hf_config(source: str | Path | Mapping[str, Any]) -> ModelSpec:
    """Read a model from a Hugging Face configuration.

    Parameters
    ----------
    source : str, Path or mapping
        Path of a ``config.json``, or its content.

    Returns
    -------
    ModelSpec
        The text model: vision and audio encoders are left out. It is named after the file, or after its folder where
        the file is called ``config.json``.

    Raises
    ------
    ModelError
        The file is missing, empty, truncated or malformed; ``model_type`` is unknown (the family whose keys are nearest
        is named, and the keys that it does not know); a key is missing or has the wrong type; or the sizes contradict
        each other.
    """
    outer = read_config(source)
    path = None if isinstance(source, Mapping) else Path(source)
    config = _text_config(outer)
    _require_kind_per_layer(config)
    layers = read_layers(FAMILIES[config.model_type], config)
    hidden = config.integer("hidden_size", "d_model")
    holders = (config,) if config is outer else (config, outer)
    table, contradictions = quantisation_table(holders, path)
    dtypes, mixtures = dtypes_of(holders, table, layers, hidden)
    name = _name(source, outer)
    promise = unkept_promise(name, dtypes)
    encoders, towers = encoder_parameters(outer, config)
    spec = ModelSpec(
        name=name,
        hidden=hidden,
        vocab=config.integer("vocab_size", "padded_vocab_size"),
        layers=layers,
        tied_embeddings=_tied(outer, config),
        mtp_layers=_mtp_layers(config),
        mtp_blocks=families.nemotron_mtp(config) if config.model_type == "nemotron_h" else (),
        max_context=config.integer("max_position_embeddings", "max_seq_len", default=_DEFAULT_CONTEXT),
        dtypes=dtypes,
        published_active_convention=_ACTIVE_CONVENTION.get(config.model_type, "all"),
        source=f"Hugging Face configuration {outer.where}",
        encoders=encoders,
        quant_method="" if table is None else method_of(table),
        notes=(*_unknown(outer, config), *towers, *contradictions, *mixtures, *(() if promise is None else (promise,))),
    )
    return checked(spec, outer.where)


def _text_config(outer: HfConfig) -> HfConfig:
    """Find the language model: the configuration itself, or the text model that it wraps."""
    if not outer.has("model_type"):
        msg = f"{outer.where}: missing key 'model_type'; is it a Hugging Face config.json?"
        raise ModelError(msg)
    config = outer
    for key in _WRAPPERS:
        if config.has(key):
            inner = config.section(key)
            # An inner configuration without a type is the outer family's language model.
            kind = inner.keys.get("model_type") or f"{config.model_type.removesuffix('_text')}_text"
            config = HfConfig(keys={**inner.keys, "model_type": kind}, where=inner.where, asked=inner.asked)
    if config.model_type not in FAMILIES:
        raise ModelError(unknown_family(config, FAMILIES))
    return config


def _require_kind_per_layer(config: HfConfig) -> None:
    """Refuse lists of kinds that are no list of this model's layers, whether or not its family reads them."""
    for key in ("layer_types", "mlp_layer_types"):
        kinds = config.keys.get(key)
        if isinstance(kinds, list) and kinds and any(config.keys.get(name) for name in LAYER_COUNTS):
            number = number_of_layers(config)
            if len(kinds) not in (number, number + _mtp_layers(config)):
                msg = f"{config.where}: {key} has {len(kinds)} entries; expected one per layer, {number}"
                raise ModelError(msg)


def _unknown(outer: HfConfig, config: HfConfig) -> tuple[str, ...]:
    """Warn of keys that the reader did not look at."""
    found = [warn_of(config, unknown_keys(config), config.model_type)]
    if outer is not config:
        found.append(warn_of(outer, unknown_keys(outer, around=True), outer.model_type))
    return tuple(note for note in found if note is not None)


def _tied(outer: HfConfig, config: HfConfig) -> bool:
    # The outer flag rules, as it does where transformers ties the weights of the whole model.
    tied = [holder for holder in (outer, config) if holder.has("tie_word_embeddings")]
    holder = tied[0] if tied else config
    key = "tie_word_embeddings" if tied or not config.has("tie_embedding") else "tie_embedding"
    return holder.flag(key, default=config.model_type in _TIED_BY_DEFAULT)


def _mtp_layers(config: HfConfig) -> int:
    if not config.flag("use_mtp", default=True):
        return 0
    return config.integer("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", default=0)


def _name(source: str | Path | Mapping[str, Any], outer: HfConfig) -> str:
    if isinstance(source, Mapping):
        return str(outer.keys.get("_name_or_path") or outer.model_type)
    path = Path(source)
    return path.resolve().parent.name if path.name == "config.json" else path.stem
