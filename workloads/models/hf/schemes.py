"""Dialects of quantisation files: each becomes one scheme, the format of every module by its name.

A dialect is a table of the ``quantization_config`` of a ``config.json``, or of a file beside it. What they have in
common: formats of modules by name, modules left alone, a format for the rest, and the KV cache's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from hardware_profiles.edge import reason, shown
from hardware_profiles.errors import nearest
from workloads.errors import ModelError
from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.spec import DType

if TYPE_CHECKING:
    from workloads.models.hf.reader import HfConfig


class Format(NamedTuple):
    """How weights are stored.

    ``dtype`` computes with them, ``size`` counts bytes per element, scales included [bytes], and ``block`` the outputs
    and inputs that share a scale [elements], where the file says so.
    """

    dtype: DType
    size: float
    block: tuple[int, int] | None = None


class Rule(NamedTuple):
    """The format of the modules that a pattern names; ``None`` leaves them as they are."""

    pattern: str
    format: Format | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Formats of modules by name: the first rule that fits decides, else ``default``."""

    rules: tuple[Rule, ...] = ()
    default: Format | None = None
    kv_cache: DType = "bfloat16"


def scheme_of(section: HfConfig) -> Scheme:
    """Read a quantisation table of any dialect.

    Raises
    ------
    ModelError
        The method, or its number of bits, is not known, or a list is not one.
    """
    method = method_of(section)
    if method not in _DIALECTS:
        msg = f"{section.where}: quant_method = {method!r}; {nearest(method, _DIALECTS)}"
        raise ModelError(msg)
    return _DIALECTS[method](section)


#: Most patterns of modules that are left alone, each of which meets every module; plain names may be any number [1].
_MOST_PATTERNS = 250


def named(dtype: DType) -> Format:
    """Return the format with the usual scales of its dtype."""
    return Format(dtype, DTYPE_BYTES[dtype])


def method_of(section: HfConfig) -> str:
    """Return the dialect's name, in lower case and with dashes, or what its keys give away."""
    if section.has("quant_method"):
        return section.text("quant_method").lower().rsplit("/", 1)[-1].replace("_", "-")
    telling = {
        "quant_algo": "modelopt",
        "quantized_layers": "modelopt",
        "global_quant_config": "quark",
        "config_groups": "compressed-tensors",
        "w_bit": "awq",
        "load_in_4bit": "bitsandbytes",
        "load_in_8bit": "bitsandbytes",
        "desc_act": "gptq",
        "zero_point": "awq",
    }
    found = next((method for key, method in telling.items() if section.has(key)), None)
    if found is None:
        msg = f"{section.where}: missing key 'quant_method', and no other key tells the method"
        raise ModelError(msg)
    return found


def _grouped(dtype: DType, section: HfConfig, *, zeros: float = 0.0) -> Format:
    """Size a format with a two-byte scale (and ``zeros`` bytes of zero point) per group, where the group is told."""
    group = section.integer("group_size", "q_group_size", default=0)
    bits = 1.0 if dtype == "int8" else 0.5
    if group < -1 or (group == 0 and any(section.has(key) for key in ("group_size", "q_group_size"))):
        msg = f"{section.where}: group_size = {group}; expected -1 (a scale per row) or a number above 0"
        raise ModelError(msg)
    if group > 0:
        return Format(dtype, bits + (2.0 + zeros) / group, (1, group))
    # A scale per row of weights, which -1 means, is next to nothing.
    return Format(dtype, bits) if group < 0 or section.keys.get("strategy") == "channel" else named(dtype)


def _by_bits(section: HfConfig, *, eight: DType, four: DType) -> DType:
    bits = section.integer("num_bits", "bits", "w_bit", "nbits", "weight_bits")
    if bits not in (4, 8):
        msg = f"{section.where}: {bits}-bit weights; expected 4 or 8"
        raise ModelError(msg)
    return eight if bits == 8 else four


def _integer_weights(section: HfConfig) -> Format:
    dtype = _by_bits(section, eight="int8", four="int4")
    zeros = 0.5 if section.has("zero_point") and section.flag("zero_point", default=False) else 0.0
    return _grouped(dtype, section, zeros=zeros)


def _left_alone(section: HfConfig) -> Iterator[Rule]:
    """List the modules left alone: dotted names, with ``*``, or ``re:`` and a regular expression."""
    for key in (
        "modules_to_not_convert",
        "ignored_layers",
        "ignore",
        "exclude_modules",
        "exclude",
        "exclude_layers",
        "llm_int8_skip_modules",
        "skip_modules",
        "modules_to_skip",
        "excluded_layers",
    ):
        names = section.listed(key)
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            msg = f"{section.where}: {key} = {names!r}; expected a list of module names"
            raise ModelError(msg)
        patterns = [name for name in names if _is_pattern(name)]
        if len(patterns) > _MOST_PATTERNS:
            msg = f"{section.where}: {key} has {len(patterns):,} patterns, expected at most {_MOST_PATTERNS:,}"
            raise ModelError(msg)
        for name in patterns:
            _compiled(name, section.where, key)
        yield from (Rule(name, None) for name in names)


def _compiled(pattern: str, where: str, key: str) -> None:
    """Refuse a pattern that is no regular expression, naming its key."""
    try:
        fits_name(pattern, "")
    except re.error as error:
        msg = f"{where}: {key}: {shown(pattern)} is not a regular expression: {reason(error)}"
        raise ModelError(msg) from error


def fits_name(pattern: str, module: str) -> bool:
    """Tell whether a pattern names a module: parts of its dotted name, with ``*``, or ``re:`` and a regular expression.

    Files list thousands of plain names, which are compared as they are.
    """
    if _is_pattern(pattern):
        return _matcher(pattern).search(module) is not None
    return f".{pattern.rstrip('.')}." in f".{module}."


def _is_pattern(name: str) -> bool:
    return "*" in name or name.startswith("re:")


@lru_cache(maxsize=4096)
def _matcher(pattern: str) -> re.Pattern[str]:
    if pattern.startswith("re:"):
        return re.compile(rf"^(?:{pattern.removeprefix('re:')})")
    return re.compile(r"(?:^|\.)" + re.escape(pattern.rstrip(".")).replace(r"\*", ".*") + r"(?:\.|$)")


def _plain(form: Callable[[HfConfig], Format]) -> Callable[[HfConfig], Scheme]:
    """Make a dialect of one format for all modules but those left alone."""
    return lambda section: Scheme(rules=tuple(_left_alone(section)), default=form(section), kv_cache=_kv_cache(section))


def _fp8(section: HfConfig) -> Format:
    return _fp8_blocks(section, "weight_block_size") if section.has("weight_block_size") else named("fp8")


def _fp8_blocks(section: HfConfig, key: str) -> Format:
    """Read the outputs and inputs that share a four-byte scale, such as [128, 128], which they are where none says."""
    given = section.keys[key] if section.has(key) else [128, 128]
    block = [int(side) for side in re.findall(r"\d+", given)] if isinstance(given, str) else given
    if not (isinstance(block, list) and len(block) == 2 and all(type(side) is int and side > 0 for side in block)):
        msg = f"{section.where}: {key} = {shown(given)}; expected two numbers above 0, such as [128, 128]"
        raise ModelError(msg)
    outputs, inputs = block
    return Format("fp8_block", 1.0 + 4.0 / (outputs * inputs), (outputs, inputs))


def _weights(weights: HfConfig) -> Format:
    """Read the ``weights`` of a group of compressed-tensors."""
    if weights.has("quant_algo") and not weights.has("num_bits"):
        return _algorithm(weights) or named("bfloat16")
    kind = weights.text("type") if weights.has("type") else "float"
    if kind == "int":
        return _grouped(_by_bits(weights, eight="int8", four="int4"), weights)
    bits = weights.integer("num_bits")
    group = weights.integer("group_size", default=0)
    if bits == 8 and group == _MX_GROUP:
        return Format("fp8", 1.0 + 1.0 / _MX_GROUP)
    block = weights.keys.get("strategy") == "block" or weights.has("block_structure")
    four: DType = "mxfp4" if group == _MX_GROUP else "nvfp4"
    if bits == 8 and block:
        return _fp8_blocks(weights, "block_structure")
    return named(_by_bits(weights, eight="fp8", four=four))


def _groups(section: HfConfig) -> tuple[list[Rule], Format | None]:
    """Read ``config_groups``: modules by name or pattern, or a class of modules, which means all the rest."""
    rules: list[Rule] = []
    default: Format | None = None
    groups = section.section("config_groups")
    if not groups.keys:
        msg = f"{groups.where} is empty; expected a group of weights"
        raise ModelError(msg)
    for name in groups.keys:
        group = groups.section(name)
        if not group.has("weights"):
            continue  # a group of activations or caches alone
        form = _weights(group.section("weights"))
        targets = [target for target in group.listed("targets") if isinstance(target, str)]
        for target in targets:
            if target.startswith("re:") or "." in target or "*" in target:
                _compiled(target, group.where, "targets")
                rules.append(Rule(target, form))
            elif target in _EXPERT_CLASSES:
                rules.append(Rule("experts", form))
            else:
                default = default or form
        default = default if targets else default or form
    return rules, default


def _compressed_tensors(section: HfConfig) -> Scheme:
    rules, default = _groups(section)
    return Scheme(rules=(*_left_alone(section), *rules), default=default, kv_cache=_kv_cache(section))


def _algorithm(section: HfConfig) -> Format | None:
    """Read the ``quant_algo`` of modelopt; ``None`` where it quantises nothing."""
    given = section.text("quant_algo") if section.has("quant_algo") else "NONE"
    name = given.upper()
    if name not in _ALGORITHMS:
        msg = f"{section.where}: quant_algo = {given!r}; {nearest(name, _USUAL_ALGORITHMS)}"
        raise ModelError(msg)
    dtype = _ALGORITHMS[name]
    if dtype is None:
        return None
    if name == "MXFP8":
        return Format("fp8", 1.0 + 1.0 / _MX_GROUP)
    return _grouped(dtype, section) if dtype == "int4" else named(dtype)


def _modelopt(section: HfConfig) -> Scheme:
    rules = [*_left_alone(section)]
    default: Format | None = None
    mixed = section.has("quant_algo") and section.text("quant_algo").upper() in _MIXED
    if section.has("quantized_layers"):
        layers = section.section("quantized_layers")
        rules += [Rule(name, _algorithm(layers.section(name))) for name in layers.keys]
    if mixed and not section.has("quantized_layers") and not section.has("config_groups"):
        msg = (
            f"{section.where}: quant_algo = {section.text('quant_algo')!r} says that formats differ from module to "
            "module, and no quantized_layers says which; expected it here or in hf_quant_config.json beside config.json"
        )
        raise ModelError(msg)
    if mixed and not section.has("quantized_layers"):
        by_name, default = _groups(section)
        rules += by_name
    elif not mixed:
        default = _algorithm(section)
    return Scheme(rules=tuple(rules), default=default, kv_cache=_kv_cache(section))


def _quark_weight(table: HfConfig) -> Format | None:
    """Read the ``weight`` of a quark table; ``None`` where it leaves weights as they are."""
    if not table.has("weight"):
        return None
    weight = table.keys["weight"]
    # Weights quantised twice (int4 that expands to fp8) are stored as the last of the list says.
    chosen = weight[-1] if isinstance(weight, list) and weight else weight
    if not isinstance(chosen, Mapping):
        msg = f"{table.where}: weight = {weight!r}; expected an object"
        raise ModelError(msg)
    spec = table.within(chosen, "weight")
    dtype, group = spec.text("dtype").lower(), spec.integer("group_size", default=0)
    if dtype.startswith(("fp4", "mxfp4")):
        return named("mxfp4" if group in (0, _MX_GROUP) else "nvfp4")
    if dtype.startswith("fp8"):
        return named("fp8_block" if spec.keys.get("qscheme") == "per_block" else "fp8")
    if dtype in ("int4", "uint4"):
        return _grouped("int4", spec)
    if dtype in ("int8", "uint8"):
        return named("int8")
    if dtype in ("bfloat16", "float16", "float32"):
        return None
    msg = f"{spec.where}: dtype = {dtype!r}; expected fp4, fp8_e4m3, fp8_e5m2, int4 or int8"
    raise ModelError(msg)


def _quark(section: HfConfig) -> Scheme:
    rules = [*_left_alone(section)]
    if section.has("layer_quant_config"):
        layers = section.section("layer_quant_config")
        rules += [Rule(name, _quark_weight(layers.section(name))) for name in layers.keys]
    if not section.has("global_quant_config") and not section.has("layer_quant_config"):
        msg = f"{section.where}: neither global_quant_config nor layer_quant_config; expected the format of the weights"
        raise ModelError(msg)
    default = _quark_weight(section.section("global_quant_config")) if section.has("global_quant_config") else None
    kv_cache = _kv_cache(section)
    if section.has("kv_cache_quant_config") and kv_cache == "bfloat16":
        caches = section.section("kv_cache_quant_config")
        texts = str(dict(caches.keys)).lower()
        kv_cache = "fp8" if "fp8" in texts else "int8" if "int8" in texts else kv_cache
    return Scheme(rules=tuple(rules), default=default, kv_cache=kv_cache)


def _auto_round_weights(section: HfConfig) -> Format | None:
    data_type = section.text("data_type").lower() if section.has("data_type") else "int"
    bits = section.integer("bits", default=4)
    if bits >= 16:
        return None
    if data_type.startswith(("mx_fp", "mxfp")):
        return named("mxfp4") if bits == 4 else Format("fp8", 1.0 + 1.0 / _MX_GROUP)
    if data_type.startswith(("nv_fp", "nvfp", "fp4")):
        return named("nvfp4")
    if data_type.startswith("fp"):
        return named("fp8")
    if section.keys.get("group_size") == 0:  # one scale for a whole matrix
        return Format(_by_bits(section, eight="int8", four="int4"), bits / 8)
    return _integer_weights(section)


def _auto_round(section: HfConfig) -> Scheme:
    rules = [*_left_alone(section)]
    if section.has("extra_config"):
        extra = section.section("extra_config")
        for name in extra.keys:
            pattern = name if "*" not in name or not name.startswith(".*") else f"re:{name}"
            _compiled(pattern, extra.where, name)
            inherited = {**section.keys, **extra.section(name).keys}
            rules.append(Rule(pattern, _auto_round_weights(section.within(inherited, f"extra_config: {name}"))))
    return Scheme(rules=tuple(rules), default=_auto_round_weights(section), kv_cache=_kv_cache(section))


def _gptq(section: HfConfig) -> Scheme:
    """Read GPTQ; ``dynamic`` of GPTQModel skips (``-:``) or changes (``+:``) modules by regular expression."""
    rules = [*_left_alone(section)]
    if section.has("dynamic"):
        dynamic = section.section("dynamic")
        for name in dynamic.keys:
            pattern = f"re:.*(?:{name[2:] if name[:2] in ('-:', '+:') else name})"
            _compiled(pattern, dynamic.where, name)
            if name.startswith("-:"):
                rules.append(Rule(pattern, None))
            else:
                changed = {**section.keys, **dynamic.section(name).keys}
                rules.append(Rule(pattern, _integer_weights(section.within(changed, f"dynamic: {name}"))))
    return Scheme(rules=tuple(rules), default=_integer_weights(section), kv_cache=_kv_cache(section))


def _bitsandbytes(section: HfConfig) -> Format:
    if not section.flag("load_in_4bit", default=False) and not section.flag("_load_in_4bit", default=False):
        return named("int8")
    # One float32 scale per 64 weights; quantised once more, a byte per 64 and a float32 per 256 of those.
    double = section.flag("bnb_4bit_use_double_quant", default=False)
    return Format("int4", 0.5 + (1.0 / 64 + 4.0 / 64 / 256 if double else 4.0 / 64))


def _experts_only(dtype: DType, rest: DType | None) -> Callable[[HfConfig], Scheme]:
    """Make a dialect that quantises the routed experts, and the rest in another format or not at all."""
    return lambda section: Scheme(
        rules=(*_left_alone(section), Rule("experts", named(dtype))),
        default=None if rest is None else named(rest),
        kv_cache=_kv_cache(section),
    )


def _torchao(section: HfConfig) -> Format:
    text = str(section.keys.get("quant_type", section.keys.get("quant_config", ""))).lower()
    if "float8" in text or "fp8" in text:
        return named("fp8")
    if "int4" in text or "uint4" in text:
        # A scale and a zero point of two bytes each per group, of 128 where the file does not say.
        told = re.search(r"group_?size\W{1,4}(\d+)", f"{text} {section.keys.get('quant_type_kwargs')}")
        group = int(told[1]) if told else 128
        if group < 1:
            raise ModelError(f"{section.where}: group_size = {group}; expected a number above 0")
        return Format("int4", 0.5 + (2.0 + 2.0) / group, (1, group))
    if "int8" in text:
        return named("int8")
    msg = f"{section.where}: quant_type = {text[:80]!r}; expected one of float8, int8 or int4 weights"
    raise ModelError(msg)


def _quanto(section: HfConfig) -> Format:
    kinds: Mapping[str, DType] = {"int8": "int8", "int4": "int4", "float8": "fp8"}
    weights = section.text("weights")
    if weights not in kinds:
        msg = f"{section.where}: weights = {weights!r}; {nearest(weights, kinds)}"
        raise ModelError(msg)
    return named(kinds[weights])


def _hqq(section: HfConfig) -> Format:
    nested = section.section("quant_config") if section.has("quant_config") else section
    inner = nested.section("weight_quant_params") if nested.has("weight_quant_params") else nested
    return _integer_weights(inner)


def _fp_quant(section: HfConfig) -> Format:
    kind = section.text("forward_dtype").lower() if section.has("forward_dtype") else "nvfp4"
    return named("mxfp4" if kind.startswith("mx") else "nvfp4")


_MX_GROUP = 32
_EXPERT_CLASSES = ("RoutedExperts", "FusedMoE", "MoEGMM")
_MIXED = ("MIXED_PRECISION", "MIXED")
_ALGORITHMS: Mapping[str, DType | None] = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_DEFAULT": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_PB_REAL": "fp8_block",
    "FP8_2D_BLOCKWISE_WEIGHT_ONLY": "fp8_block",
    "FP8_BLOCK_SCALES": "fp8_block",
    "MXFP8": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "NVFP4_SVDQUANT": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "W4A8_NVFP4_FP8": "nvfp4",
    "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
    "W4A8_MXFP4_MXFP8": "mxfp4",
    "W4A16_MXFP4": "mxfp4",
    "W4A16": "int4",
    "W4A16_AWQ": "int4",
    "W4A16_GPTQ": "int4",
    "W4A8_AWQ": "int4",
    "INT4_AWQ": "int4",
    "W8A16": "int8",
    "W8A16_GPTQ": "int8",
    "INT8": "int8",
    "INT8_SQ": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "W8A8_SQ_PER_TENSOR_PLUGIN": "int8",
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": "int8",
    "NO_QUANT": None,
    "NONE": None,
    "UNQUANTIZED": None,
}
_USUAL_ALGORITHMS = ("FP8", "FP8_PB_WO", "NVFP4", "MXFP4", "W4A16_AWQ", "W4A8_AWQ", "INT8_SQ", "MIXED_PRECISION")
_INTEGER = _plain(_integer_weights)
_DIALECTS: Mapping[str, Callable[[HfConfig], Scheme]] = {
    "fp8": _plain(_fp8),
    "fbgemm-fp8": _plain(_fp8),
    "finegrained-fp8": _plain(lambda section: _fp8_blocks(section, "weight_block_size")),
    "w8a8-fp8": _plain(_fp8),
    "ptpc-fp8": _plain(_fp8),
    "mxfp4": _plain(lambda _: named("mxfp4")),
    "mxfp8": _plain(lambda _: Format("fp8", 1.0 + 1.0 / _MX_GROUP)),
    "nvfp4": _plain(lambda _: named("nvfp4")),
    "petit-nvfp4": _plain(lambda _: named("nvfp4")),
    "fp-quant": _plain(_fp_quant),
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "modelopt-fp8": _modelopt,
    "modelopt-mxfp8": _modelopt,
    "modelopt-mixed": _modelopt,
    "quark": _quark,
    "auto-round": _auto_round,
    "autoround": _auto_round,
    "inc": _auto_round,
    "awq": _INTEGER,
    "awq-marlin": _INTEGER,
    "gemm": _INTEGER,
    "gptq": _gptq,
    "gptq-marlin": _gptq,
    "gptqmodel": _gptq,
    "marlin": _INTEGER,
    "moe-wna16": _INTEGER,
    "bitsandbytes": _plain(_bitsandbytes),
    "hqq": _plain(_hqq),
    "quanto": _plain(_quanto),
    "torchao": _plain(_torchao),
    "eetq": _plain(lambda _: named("int8")),
    "w8a8-int8": _plain(lambda _: named("int8")),
    "blockwise-int8": _plain(lambda _: named("int8")),
    "experts-int8": _experts_only("int8", None),
    "w4afp8": _experts_only("int4", "fp8_block"),
}


def _kv_cache(section: HfConfig) -> DType:
    """Read the KV cache's dtype: a table of compressed-tensors, or the text of modelopt."""
    for key in ("kv_cache_scheme", "kv_cache_quant_algo", "kv_cache_quant_method", "kv_cache_dtype"):
        given: Any = section.keys.get(key)
        if isinstance(given, Mapping):
            if given.get("num_bits") == 8:
                return "int8" if given.get("type") == "int" else "fp8"
            if given.get("num_bits") == 4:
                return "nvfp4"
        elif isinstance(given, str):
            text = given.upper()
            for word, dtype in _CACHES:
                if word in text:
                    return dtype
    return "bfloat16"


_CACHES: Sequence[tuple[str, DType]] = (("FP8", "fp8"), ("NVFP4", "nvfp4"), ("INT8", "int8"))
