"""Import of Hugging Face configurations: ``config.json`` in, :class:`~workloads.models.spec.ModelSpec` out.

``model_type`` chooses the family. A configuration of several modalities is read through its ``text_config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import nearest
from workloads.errors import ModelError
from workloads.models.checks import checked
from workloads.models.hf import families as families
from workloads.models.hf.quantization import dtypes_of, quantisation_table, unkept_promise
from workloads.models.hf.reader import HfConfig, read_config
from workloads.models.spec import ActiveConvention, ModelSpec

if TYPE_CHECKING:
    from workloads.models.hf.families import Family

#: The families that can be read, by ``model_type``.
FAMILIES: Mapping[str, Family] = {
    "bailing_moe": families.bailing_moe,
    "dbrx": families.dbrx,
    "deepseek": families.deepseek_v1,
    "deepseek_v2": families.deepseek_v2,
    "deepseek_v3": families.deepseek_v3,
    "deepseek_v32": families.deepseek_v3,
    "ernie4_5_moe": families.ernie4_5_moe,
    "gemma3_text": families.gemma3,
    "glm4_moe": families.glm4_moe,
    "glm4_moe_lite": families.deepseek_v3,
    "glm4v_moe_text": families.glm4_moe,
    "glm_moe_dsa": families.deepseek_v3,
    "gpt_oss": families.gpt_oss,
    "granitemoe": families.granitemoe,
    "granitemoeshared": families.granitemoe,
    "grok-1": families.grok,
    "hunyuan_v1_moe": families.hunyuan_moe,
    "kimi_k2": families.deepseek_v3,
    "kimi_k25": families.deepseek_v3,
    "llama": families.llama,
    "llama4_text": families.llama4,
    "minimax": families.minimax,
    "minimax_m1": families.minimax,
    "minimax_m2": families.minimax_m2,
    "minimax_text_01": families.minimax,
    "mistral": families.llama,
    "mixtral": families.mixtral,
    "nemotron_h": families.nemotron_h,
    "olmoe": families.olmoe,
    "phimoe": families.phimoe,
    "qwen2": families.qwen2,
    "qwen2_moe": families.qwen2_moe,
    "qwen3": families.qwen3,
    "qwen3_5_moe_text": families.qwen3_next,
    "qwen3_moe": families.qwen3_moe,
    "qwen3_next": families.qwen3_next,
    "qwen3_vl_moe_text": families.qwen3_moe,
}
# Families whose embedding is the LM head where the configuration does not say.
_TIED_BY_DEFAULT = frozenset({"ernie4_5_moe", "gemma3_text", "grok-1", "hunyuan_v1_moe"})
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
        The file is missing, empty, truncated or malformed; ``model_type`` is unknown (the nearest are named); a key
        is missing or has the wrong type; or the sizes contradict each other.
    """
    outer = read_config(source)
    path = None if isinstance(source, Mapping) else Path(source)
    config = _text_config(outer)
    layers = FAMILIES[config.model_type](config)
    hidden = config.integer("hidden_size", "d_model")
    holders = (config,) if config is outer else (config, outer)
    table, contradictions = quantisation_table(holders, path)
    dtypes, mixtures = dtypes_of(config, table, layers, hidden)
    name = _name(source, outer)
    promise = unkept_promise(name, dtypes)
    spec = ModelSpec(
        name=name,
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=layers,
        tied_embeddings=_tied(outer, config),
        mtp_layers=_mtp_layers(config),
        max_context=config.integer("max_position_embeddings", "max_seq_len", default=_DEFAULT_CONTEXT),
        dtypes=dtypes,
        published_active_convention=_ACTIVE_CONVENTION.get(config.model_type, "all"),
        source=f"Hugging Face configuration {outer.where}",
        notes=(*contradictions, *mixtures, *(() if promise is None else (promise,))),
    )
    return checked(spec, outer.where)


def _text_config(outer: HfConfig) -> HfConfig:
    """Find the language model: the configuration itself, or the text model that it wraps."""
    if not outer.has("model_type"):
        msg = f"{outer.where}: missing key 'model_type'; is it a Hugging Face config.json?"
        raise ModelError(msg)
    config = outer.section("text_config") if outer.has("text_config") else outer
    if config.model_type not in FAMILIES:
        msg = f"{config.where}: unknown model_type {config.model_type!r}; {_hint(config.model_type)}"
        raise ModelError(msg)
    return config


def _hint(model_type: str) -> str:
    close = nearest(model_type, FAMILIES)
    return close if close.startswith("allowed") else f"{close} allowed: {', '.join(FAMILIES)}"


def _tied(outer: HfConfig, config: HfConfig) -> bool:
    # The outer flag rules, as it does where transformers ties the weights of the whole model.
    holder = outer if outer.has("tie_word_embeddings") else config
    return holder.flag("tie_word_embeddings", default=config.model_type in _TIED_BY_DEFAULT)


def _mtp_layers(config: HfConfig) -> int:
    if not config.flag("use_mtp", default=True):
        return 0
    return config.integer("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", default=0)


def _name(source: str | Path | Mapping[str, Any], outer: HfConfig) -> str:
    if isinstance(source, Mapping):
        return str(outer.keys.get("_name_or_path") or outer.model_type)
    path = Path(source)
    return path.resolve().parent.name if path.name == "config.json" else path.stem
