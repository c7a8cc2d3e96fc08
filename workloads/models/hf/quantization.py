"""Storage dtypes from the ``quantization_config`` of a Hugging Face configuration.

Formats: fp8 (per-tensor and block-scaled), fbgemm_fp8, mxfp4, compressed-tensors, modelopt, awq, gptq, bitsandbytes.
A part counts as quantised when most of its modules are; routers and norms never are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import nearest
from workloads.errors import ModelError
from workloads.models.spec import DType, DTypes, Layer, MoE

if TYPE_CHECKING:
    from workloads.models.hf.reader import HfConfig

# The names that publishers give to the modules of each part, one representative per part and layer.
_MODULES = {
    "attention": ("self_attn.o_proj", "linear_attn.out_proj", "mixer.out_proj"),
    "experts": ("mlp.experts.0.down_proj", "block_sparse_moe.experts.0.w2", "feed_forward.experts.down_proj"),
    "dense_ffn": ("mlp.down_proj", "feed_forward.down_proj", "mixer.down_proj"),
}
_PREFIXES = ("model.layers", "language_model.model.layers", "model.language_model.layers", "backbone.layers")


def dtypes_of(config: HfConfig, layers: Sequence[Layer]) -> DTypes:
    """Read the storage dtypes of a model's parts.

    Parameters
    ----------
    config : HfConfig
        The configuration that holds ``quantization_config`` and ``torch_dtype`` (both optional).
    layers : sequence of Layer
        The model's layers: an ignore list names modules layer by layer.

    Returns
    -------
    DTypes
        float16 counts as bfloat16, which has the same size.

    Raises
    ------
    ModelError
        The quantisation method, or its number of bits, is not known.
    """
    plain: DType = "float32" if config.keys.get("torch_dtype", config.keys.get("dtype")) == "float32" else "bfloat16"
    unquantised = dict.fromkeys(("attention", "experts", "dense_ffn", "embedding"), plain)
    if not config.has("quantization_config"):
        return DTypes(**unquantised)
    section = config.section("quantization_config")
    method = section.text("quant_method")
    if method not in _METHODS:
        msg = f"{section.where}: quant_method = {method!r}; {nearest(method, _METHODS)}"
        raise ModelError(msg)
    weights = _METHODS[method](section)
    ignored = _ignored(section)
    dtypes = unquantised | {part: weights for part in _MODULES if _quantised(part, ignored, layers)}
    # Every format here leaves the embedding; an LM head is quantised only where no list spares it, and rarely then.
    return DTypes(**dtypes, kv_cache=_kv_cache(section))


def _fp8(section: HfConfig) -> DType:
    return "fp8_block" if section.has("weight_block_size") else "fp8"


def _by_bits(section: HfConfig, *, eight: DType, four: DType) -> DType:
    bits = section.integer("num_bits", "bits", "w_bit")
    if bits not in (4, 8):
        msg = f"{section.where}: {bits}-bit weights; expected 4 or 8"
        raise ModelError(msg)
    return eight if bits == 8 else four


def _integer_weights(section: HfConfig) -> DType:
    return _by_bits(section, eight="int8", four="int4")


def _compressed_tensors(section: HfConfig) -> DType:
    groups = section.section("config_groups")
    if not groups.keys:
        msg = f"{groups.where} is empty; expected a group of weights"
        raise ModelError(msg)
    weights = groups.section(next(iter(groups.keys))).section("weights")
    if weights.text("type") == "int":
        return _integer_weights(weights)
    block = weights.keys.get("strategy") == "block"
    four: DType = "nvfp4" if weights.integer("group_size", default=16) == 16 else "mxfp4"
    return _by_bits(weights, eight="fp8_block" if block else "fp8", four=four)


def _modelopt(section: HfConfig) -> DType:
    algorithms: Mapping[str, DType] = {"FP8": "fp8", "NVFP4": "nvfp4", "FP8_PB_WO": "fp8_block", "MXFP4": "mxfp4"}
    algorithm = section.text("quant_algo")
    if algorithm not in algorithms:
        msg = f"{section.where}: quant_algo = {algorithm!r}; {nearest(algorithm, algorithms)}"
        raise ModelError(msg)
    return algorithms[algorithm]


def _bitsandbytes(section: HfConfig) -> DType:
    return "int4" if section.flag("load_in_4bit", default=False) else "int8"


_METHODS: Mapping[str, Callable[[HfConfig], DType]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": lambda _: "mxfp4",
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "awq": _integer_weights,
    "gptq": _integer_weights,
    "bitsandbytes": _bitsandbytes,
}


def _kv_cache(section: HfConfig) -> DType:
    scheme: Any = section.keys.get("kv_cache_scheme")
    compressed = isinstance(scheme, Mapping) and scheme.get("num_bits") == 8
    return "fp8" if compressed or section.keys.get("kv_cache_quant_algo") == "FP8" else "bfloat16"


def _ignored(section: HfConfig) -> list[re.Pattern[str]]:
    """Compile the lists of modules left alone: dotted names, with ``*``, or ``re:`` and a regular expression."""
    patterns: list[re.Pattern[str]] = []
    for key in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "llm_int8_skip_modules"):
        names = section.keys.get(key) or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            msg = f"{section.where}: {key} = {names!r}; expected a list of module names"
            raise ModelError(msg)
        for name in names:
            try:
                patterns.append(_pattern(name))
            except re.error as error:
                msg = f"{section.where}: {key}: {name!r} is not a regular expression: {error}"
                raise ModelError(msg) from error
    return patterns


def _pattern(name: str) -> re.Pattern[str]:
    if name.startswith("re:"):
        return re.compile(rf"^(?:{name.removeprefix('re:')})")
    return re.compile(r"(?:^|\.)" + re.escape(name).replace(r"\*", ".*") + r"(?:\.|$)")


def _quantised(part: str, ignored: Sequence[re.Pattern[str]], layers: Sequence[Layer]) -> bool:
    """Tell whether most layers with this part have it outside the ignore list."""
    spared = [_spared(part, index, ignored) for index, layer in enumerate(layers) if _holds(layer, part)]
    return sum(spared) * 2 < len(spared) if spared else not ignored


def _holds(layer: Layer, part: str) -> bool:
    if part == "attention":
        return layer.attention is not None
    return layer.ffn is not None and isinstance(layer.ffn, MoE) == (part == "experts")


def _spared(part: str, index: int, ignored: Sequence[re.Pattern[str]]) -> bool:
    names = [f"{prefix}.{index}.{module}" for prefix in _PREFIXES for module in _MODULES[part]]
    return any(pattern.search(name) for pattern in ignored for name in names)
