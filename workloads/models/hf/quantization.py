"""Storage dtypes of a model's parts, from every file of a checkpoint that says something of quantisation.

The table may stand in ``config.json`` or beside it: ``hf_quant_config.json`` (modelopt), ``quantize_config.json``
(GPTQ), ``quant_config.json`` (AWQ). Each weight matrix takes the format that the files give its name; a part takes the
format of most of its weights. Routers, norms, embedding and LM head stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hardware_profiles.edge import is_file
from hardware_profiles.files import stamp
from workloads.errors import ModelError
from workloads.models.dtypes import DTYPE_BYTES, USUAL_BLOCKS, dtype_name
from workloads.models.hf.modules import PREFIXES, layer_modules
from workloads.models.hf.reader import HfConfig, read_config
from workloads.models.hf.schemes import Format, Rule, Scheme, fits_name, method_of, named, scheme_of
from workloads.models.spec import DType, DTypes, Layer

if TYPE_CHECKING:
    from collections.abc import Mapping

# Files beside config.json that hold a quantisation table, and the method of those that do not name it.
_BESIDE: Mapping[str, str | None] = {
    "hf_quant_config.json": None,
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_config.json": None,
}
_FIELDS: Mapping[str, str] = {"attention": "attention", "routed_experts": "experts", "dense_ffn": "dense_ffn"}
# Formats that the names of checkpoints promise, and the dtypes that keep the promise.
_PROMISES: Sequence[tuple[str, frozenset[str]]] = (
    (r"nvfp4|fp4", frozenset({"nvfp4", "mxfp4"})),
    (r"mxfp4", frozenset({"mxfp4"})),
    (r"fp8", frozenset({"fp8", "fp8_block"})),
    (r"int4|4bit|w4a16|w4a8|q4", frozenset({"int4", "mxfp4", "nvfp4"})),
    (r"awq|gptq|autoround|auto-round|bnb", frozenset({"int4", "mxfp4", "nvfp4", "int8"})),
    (r"int8|8bit|w8a8|w8a16|q8", frozenset({"int8", "fp8"})),
    (r"quantized|quark|modelopt", frozenset({"fp8", "fp8_block", "int8", "int4", "mxfp4", "nvfp4"})),
)


def quantisation_table(configs: Sequence[HfConfig], path: Path | None) -> tuple[HfConfig | None, tuple[str, ...]]:
    """Find the quantisation table of a checkpoint, and what of it is doubtful.

    Parameters
    ----------
    configs : sequence of HfConfig
        The configuration of the language model, and the one around it where there is one.
    path : Path or None
        The ``config.json``; files beside it are read too.

    Returns
    -------
    HfConfig or None
        The table, with what the file beside the configuration adds to it; ``None`` where nothing is quantised.
    tuple of str
        Contradictions between the files.
    """
    tables = [
        (holder, holder.section(key))
        for holder in configs
        for key in ("quantization_config", "compression_config")
        if holder.has(key)
    ]
    beside = _beside(path) if path is not None else None
    if beside is None:
        return (tables[0][1] if tables else None), ()
    if not tables:
        return beside, ()
    # Around a language model stands what is true of the checkpoint; inside may stand what was true of its original.
    holder, inside = tables[0]
    stale = len(configs) > 1 and holder is configs[0]
    ruling, other = (beside, inside) if stale else (inside, beside)
    algorithms = {table.keys["quant_algo"] for table in (ruling, other) if table.has("quant_algo")}
    methods = {method_of(table).split("-")[0] for table in (ruling, other)}
    if len(algorithms) > 1 or len(methods) > 1:
        return ruling, (f"{inside.where} and {beside.where} disagree on the quantisation; {ruling.where} is used",)
    return HfConfig(keys={**other.keys, **_present(ruling)}, where=ruling.where), ()


def _present(table: HfConfig) -> dict[str, Any]:
    return {key: value for key, value in table.keys.items() if value is not None}


def _beside(path: Path) -> HfConfig | None:
    for name, method in _BESIDE.items():
        # A collection of configurations may put the model's name before both: NAME_config.json, NAME_hf_quant_....
        if not path.name.endswith("config.json"):
            return None
        file = path.with_name(path.name.removesuffix("config.json") + name)
        stamp(file)
        if file == path or not is_file(file):
            continue
        table = read_config(file)
        if table.has("quantization"):
            table = HfConfig(keys=table.section("quantization").keys, where=str(file))
        if method is not None and not table.has("quant_method"):
            table = HfConfig(keys={**table.keys, "quant_method": method}, where=str(file))
        return table
    return None


def _plain_dtype(configs: Sequence[HfConfig]) -> tuple[DType, tuple[str, ...]]:
    """Read the dtype of weights that nothing quantises, and what is doubtful about it."""
    for config in configs:
        for key in ("dtype", "torch_dtype"):
            if not config.has(key) or config.keys[key] == "auto":
                continue
            given = config.text(key)
            try:
                dtype = dtype_name(given)
            except ModelError as error:
                raise ModelError(f"{config.where}: {key}: {error}") from None
            if dtype in ("float32", "bfloat16"):
                return cast("DType", dtype), ()
            told = f"{config.where}: {key} = {given!r} and no quantization_config: weights are read as bfloat16"
            return "bfloat16", (told,)
    return "bfloat16", ()


def dtypes_of(
    configs: Sequence[HfConfig], table: HfConfig | None, layers: Sequence[Layer], hidden: int
) -> tuple[DTypes, tuple[str, ...]]:
    """Read the storage dtypes of a model's parts.

    Parameters
    ----------
    configs : sequence of HfConfig
        The configuration of the language model, and the one around it where there is one, for ``dtype`` and
        ``expert_dtype``.
    table : HfConfig or None
        Its quantisation table, of :func:`quantisation_table`.
    layers : sequence of Layer
        The model's layers: formats are given module by module.
    hidden : int
        Width of the model [elements].

    Returns
    -------
    DTypes
        float16 counts as bfloat16, which has the same size.
    tuple of str
        Parts that are stored in several formats.

    Raises
    ------
    ModelError
        The dtype, the quantisation method, or its number of bits, is not known.
    """
    config = configs[0]
    plain, doubts = _plain_dtype(configs)
    parts: dict[str, DType] = dict.fromkeys(_FIELDS.values(), plain)
    scheme = Scheme() if table is None else scheme_of(table)
    own = _expert_rule(config)
    scheme = Scheme(rules=(*scheme.rules, *own), default=scheme.default, kv_cache=scheme.kv_cache)
    if table is None and not own:
        return DTypes(attention=plain, experts=plain, dense_ffn=plain, embedding=plain), doubts
    where = config.where if table is None else table.where
    shared: DType | None = None
    stored: list[tuple[str, float]] = []
    blocks: list[tuple[str, tuple[int, int]]] = []
    priced_otherwise: list[tuple[int, int]] = []
    notes: list[str] = []
    formats = _weights_by_format(scheme, layers, hidden, plain)
    for part, weights in formats.items():
        total = sum(weights.values())
        (main, most), *others = weights.most_common()
        if part == "shared_experts":
            shared = main.dtype
        else:
            parts[_FIELDS[part]] = main.dtype
        mean = sum(form.size * count for form, count in weights.items()) / total
        if abs(mean - DTYPE_BYTES[main.dtype]) > 1e-4 * mean:
            stored.append((part, mean))
        if main.block not in (None, USUAL_BLOCKS.get(main.dtype)):
            blocks.append((part, main.block))
            priced_otherwise += [main.block] if main.dtype == "fp8_block" else []
        if any(form.dtype != main.dtype for form, _ in others):
            notes.append(
                f"{where}: {most / total:.0%} of the weights of {part} are {main.dtype}, the rest "
                f"{', '.join(sorted({form.dtype for form, _ in others}))}: all are sized, and work is priced as "
                f"{main.dtype}"
            )
    notes += [
        f"{where}: {outputs} x {inputs} weights share a scale: they are sized and divided as such, and work is priced "
        "as in blocks of 128 x 128"
        for outputs, inputs in dict.fromkeys(priced_otherwise)
    ]
    head = next((rule.format for rule in scheme.rules if fits_name(rule.pattern, "lm_head")), None)
    if head is not None:
        stored.append(("lm_head", head.size))
    for part, field in _FIELDS.items():
        # A part that the model lacks takes the format of all, so that what is made of it by hand does too.
        if part not in formats and scheme.default is not None and not scheme.rules:
            parts[field] = scheme.default.dtype
    dtypes = DTypes(
        attention=parts["attention"],
        experts=parts["experts"],
        dense_ffn=parts["dense_ffn"],
        embedding=plain,
        kv_cache=scheme.kv_cache,
        shared_experts=None if shared == parts["experts"] else shared,
        stored=tuple(sorted(stored)),
        blocks=tuple(sorted(blocks)),
    )
    return dtypes, tuple(notes)


def _expert_rule(config: HfConfig) -> tuple[Rule, ...]:
    """Read ``expert_dtype`` of DeepSeek-V4, which is no part of its quantisation table."""
    if not config.has("expert_dtype"):
        return ()
    kinds: Mapping[str, Format | None] = {
        "fp4": named("mxfp4"),
        "mxfp4": named("mxfp4"),
        "fp8": named("fp8_block"),
        "bf16": None,
        "bfloat16": None,
    }
    given = config.text("expert_dtype")
    if given not in kinds:
        msg = f"{config.where}: expert_dtype = {given!r}; expected one of {', '.join(kinds)}"
        raise ModelError(msg)
    return (Rule("experts", kinds[given]),)


def _weights_by_format(
    scheme: Scheme, layers: Sequence[Layer], hidden: int, plain: DType
) -> dict[str, Counter[Format]]:
    """Count the weights of each part by the format that they are stored in."""
    format_of = _lookup(scheme)
    found: dict[str, Counter[Format]] = defaultdict(Counter)
    modules = {layer: tuple(layer_modules(layer, hidden)) for layer in dict.fromkeys(layers)}
    for index, layer in enumerate(layers):
        for part, names, weights in modules[layer]:
            if weights <= 0:
                continue  # a misread size, which the checks of the model tell
            form = format_of(index, names)
            found[part][named(plain) if form is None else form] += weights  # type: ignore[assignment]
    return found


# Modules outside the layers of the language model whose names have numbers, too.
_ELSEWHERE = re.compile(r"mtp|vision|visual|audio|talker|encoder|vit|sam_model")
_NUMBERED = re.compile(r"^(?:[\w.*]*\.)?layers\.(\d+)\.(.+)$")


def _lookup(scheme: Scheme) -> Callable[[int, tuple[str, ...]], Format | None]:
    """Sort rules by the layer that they name, so that each module meets only the few that may fit it."""
    by_layer: dict[int, list[tuple[int, Rule]]] = defaultdict(list)
    anywhere: list[tuple[int, Rule]] = []
    for place, rule in enumerate(scheme.rules):
        numbered = None if rule.pattern.startswith("re:") else _NUMBERED.match(rule.pattern)
        if numbered is not None and not _ELSEWHERE.search(rule.pattern):
            by_layer[int(numbered[1])].append((place, Rule(numbered[2], rule.format)))
        else:
            anywhere.append((place, rule))
    fits: dict[tuple[int, tuple[str, ...], int | None], bool] = {}

    def general(place: int, rule: Rule, index: int, names: tuple[str, ...]) -> bool:
        # Only a pattern with a number in it can tell one layer from another.
        layer = index if re.search(r"\d|\\d|\[", rule.pattern) else None
        key = (place, names, layer)
        if key not in fits:
            fits[key] = any(fits_name(rule.pattern, full) for full in _full_names(index, names))
        return fits[key]

    def format_of(index: int, names: tuple[str, ...]) -> Format | None:
        hits = [
            (place, rule.format)
            for place, rule in by_layer.get(index, ())
            if any(fits_name(rule.pattern, name) for name in names)
        ]
        hits += [(place, rule.format) for place, rule in anywhere if general(place, rule, index, names)]
        return min(hits, key=lambda hit: hit[0])[1] if hits else scheme.default

    return format_of


def _full_names(index: int, names: tuple[str, ...]) -> Iterator[str]:
    for prefix in PREFIXES:
        for name in names:
            yield f"{prefix}.{index}.{name}"


def unkept_promise(name: str, dtypes: DTypes) -> str | None:
    """Say which format a checkpoint's name promises that none of its files confirms; ``None`` where none is."""
    held = {dtypes.attention, dtypes.experts, dtypes.dense_ffn, dtypes.shared, dtypes.embedding}
    for pattern, kept in _PROMISES:
        found = re.search(rf"(?:^|[^a-z0-9])(?:{pattern})(?:$|[^a-z0-9])", name.lower())
        if found and not held & kept:
            word = found[0].strip("-_. /")
            return (
                f"the name {name!r} says {word.upper()}, which no file confirms: read as "
                f"{', '.join(sorted(held))}; put hf_quant_config.json or quantization_config beside it, or set "
                "model.weights"
            )
    return None
