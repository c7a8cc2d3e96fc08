"""A model as TOML: read, write. The format is described in docs/formats/models.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from hardware_profiles import edge
from hardware_profiles.errors import nearest
from hardware_profiles.files import stamp
from workloads.errors import ModelError
from workloads.models.checks import checked
from workloads.models.mixers import MIXERS, Attention
from workloads.models.spec import (
    FFN,
    ActiveConvention,
    DenseFFN,
    DTypes,
    Layer,
    ModelSpec,
    MoE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_FFN: Mapping[str, type[FFN]] = {"dense": DenseFFN, "moe": MoE}
_NONE = "none"
_LAYER_KEYS = ("count", "attention", "ffn", "norms")
_PUBLISHED = {
    "total": "published_total",
    "active": "published_active",
    "active_convention": "published_active_convention",
}
# Keys that describe the file's place in a library, not the model; `note` and published.source are for the reader.
_LIBRARY_KEYS = ("base", "aliases", "variants", "note")
_PLAIN_KEYS = ("name", "hidden", "vocab", "tied_embeddings", "mtp_layers", "encoders", "max_context", "source")
_TABLE_KEYS = ("published", "dtypes", "attention", "ffn", "layers", "mtp")
# Longest repeating pattern of layers that the writer looks for.
_LONGEST_PATTERN = 16

# More layers than any model has: a slip of the pen must not fill the memory.
_MOST_LAYERS = 10_000

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, or say in one message why it cannot be read."""
    stamp(path)
    return edge.read_toml(path, ModelError)


def spec_from_table(table: Mapping[str, Any], where: str) -> ModelSpec:
    """Build a model from the table of a model file; ``where`` names the file in messages."""
    _known(table, (*_PLAIN_KEYS, *_TABLE_KEYS, *_LIBRARY_KEYS), where)
    fields = {key: table[key] for key in _PLAIN_KEYS if key in table}
    published = _subtable(table, "published", where)
    _known(published, (*_PUBLISHED, "source"), f"{where}: published")
    for key, field in _PUBLISHED.items():
        if key in published:
            fields[field] = published[key]
    fields["dtypes"] = _dtypes(_subtable(table, "dtypes", where), f"{where}: dtypes")
    fields["layers"] = _layers(table, where, "layers")
    fields["mtp_blocks"] = _layers(table, where, "mtp")
    return checked(_build(ModelSpec, fields, where), where)


def _dtypes(table: Mapping[str, Any], where: str) -> DTypes:
    """Build the dtypes; ``stored`` is a table of bytes per element by part, ``blocks`` of outputs and inputs."""
    stored = tuple(sorted(_subtable(table, "stored", where).items()))
    blocks = sorted(_subtable(table, "blocks", where).items())
    given = tuple((part, tuple(block) if isinstance(block, list) else block) for part, block in blocks)
    return _build(DTypes, {**table, "stored": stored, "blocks": given}, where)


def _layers(table: Mapping[str, Any], where: str, key: str) -> tuple[Layer, ...]:
    attentions = _kinds(table, "attention", MIXERS, where)
    ffns = _kinds(table, "ffn", _FFN, where)
    runs = table.get(key, [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        msg = f"{where}: {key} = {edge.shown(runs)}; expected an array of tables, [[{key}]]"
        raise ModelError(msg)
    layers: list[Layer] = []
    for index, run in enumerate(runs):
        place = f"{where}: {key}[{index}]"
        _known(run, _LAYER_KEYS, place)
        count = run.get("count", 1)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST_LAYERS:
            msg = f"{place}: count = {count!r}; expected an integer from 1 to {_MOST_LAYERS}"
            raise ModelError(msg)
        mixers = _pattern(run, "attention", attentions, place)
        blocks = _pattern(run, "ffn", ffns, place)
        norms = {"norms": run["norms"]} if "norms" in run else {}
        if len(layers) + count > _MOST_LAYERS:
            msg = f"{place}: makes more than {_MOST_LAYERS} layers; expected fewer"
            raise ModelError(msg)
        for i in range(count):
            fields = {"attention": mixers[i % len(mixers)], "ffn": blocks[i % len(blocks)], **norms}
            layers.append(_build(Layer, fields, place))
    return tuple(layers)


def _kinds(table: Mapping[str, Any], key: str, kinds: Mapping[str, type[T]], where: str) -> dict[str, T]:
    """Build the named mixers or FFNs of a file."""
    found: dict[str, T] = {}
    for name, fields in _subtable(table, key, where).items():
        place = f"{where}: {key}.{name}"
        if not isinstance(fields, dict):
            msg = f"{place} = {fields!r}; expected a table"
            raise ModelError(msg)
        given = fields.get("kind")
        if not isinstance(given, str) or given not in kinds:
            msg = f"{place}: kind = {edge.shown(given)}; {nearest(str(given)[:60], kinds)}"
            raise ModelError(msg)
        rest = {field: value for field, value in fields.items() if field != "kind"}
        found[name] = _build(kinds[fields["kind"]], rest, place)
    return found


def _pattern(run: Mapping[str, Any], key: str, named: Mapping[str, T], where: str) -> list[T | None]:
    """Resolve the name, or the cycle of names, that a run of layers gives for its mixers or FFNs."""
    if key not in run:
        msg = f"{where}: missing key '{key}'; expected a name of [{key}], a list of them, or '{_NONE}'"
        raise ModelError(msg)
    names = run[key] if isinstance(run[key], list) else [run[key]]
    for name in names:
        if not isinstance(name, str) or (name != _NONE and name not in named):
            msg = f"{where}: {key} = {edge.shown(name)}; {nearest(str(name)[:60], [*named, _NONE])}"
            raise ModelError(msg)
    if not names:
        msg = f"{where}: {key} = []; expected at least one name"
        raise ModelError(msg)
    return [None if name == _NONE else named[name] for name in names]


def _subtable(table: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        msg = f"{where}: {key} = {value!r}; expected a table"
        raise ModelError(msg)
    return value


def _known(table: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in table:
        if key not in allowed:
            msg = f"{where}: unknown key '{key}'; {nearest(key, allowed)}"
            raise ModelError(msg)


def _build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Fill a dataclass from a table, checking names and types."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    _known(table, tuple(fields), where)
    for name, field in fields.items():
        if name in table:
            _check_type(table[name], str(field.type), f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if field.type == "int | None":
                continue
            msg = f"{where}: missing key '{name}'"
            raise ModelError(msg)
    optional = {name: None for name, field in fields.items() if field.type == "int | None"}
    return kind(**{**optional, **table})


def _check_type(value: object, annotation: str, where: str) -> None:
    expected: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "int | None": (int, type(None)),
        "Literal[2, 3]": (int,),
        "bool": (bool,),
        "str": (str,),
        "DType": (str,),
        "DType | None": (str, type(None)),
        "float | None": (int, float, type(None)),
    }
    kinds = expected.get(annotation)
    wrong_bool = isinstance(value, bool) and annotation != "bool"
    if kinds is not None and (wrong_bool or not isinstance(value, kinds)):
        word = {"int": "an integer", "bool": "true or false", "str": "text"}.get(kinds[0].__name__, "a number")
        msg = f"{where} = {value!r}; expected {'a number' if float in kinds else word}"
        raise ModelError(msg)
    if annotation == "ActiveConvention" and value not in get_args(ActiveConvention):
        msg = f"{where} = {value!r}; {nearest(str(value), get_args(ActiveConvention))}"
        raise ModelError(msg)


def spec_to_table(spec: ModelSpec) -> dict[str, Any]:
    """Describe a model as the table of a model file: runs of layers over named mixers and FFNs."""
    given = _given(spec)
    table: dict[str, Any] = {key: given[key] for key in _PLAIN_KEYS if key in given}
    if published := {key: given[field] for key, field in _PUBLISHED.items() if field in given}:
        table["published"] = published
    if dtypes := _given(spec.dtypes):
        tables = {"stored": dict(spec.dtypes.stored), "blocks": {p: list(b) for p, b in spec.dtypes.blocks}}
        table["dtypes"] = dtypes | {key: tables[key] for key in tables if key in dtypes}
    every = (*spec.layers, *spec.mtp_blocks)
    mixers: dict[Attention | None, str] = _names([layer.attention for layer in every], MIXERS)
    blocks: dict[FFN | None, str] = _names([layer.ffn for layer in every], _FFN)
    table["attention"] = {name: _describe(mixer, MIXERS) for mixer, name in mixers.items() if mixer is not None}
    table["ffn"] = {name: _describe(block, _FFN) for block, name in blocks.items() if block is not None}
    for key, layers in (("layers", spec.layers), ("mtp", spec.mtp_blocks)):
        if layers or key == "layers":
            table[key] = _runs_of(layers, mixers, blocks)
    return table


def _runs_of(
    layers: Sequence[Layer], mixers: Mapping[Attention | None, str], blocks: Mapping[FFN | None, str]
) -> list[dict[str, Any]]:
    """Write layers as runs of patterns, by the names of their mixers and FFNs."""
    runs = []
    for count, pattern in _runs(layers):
        run: dict[str, Any] = {"count": count}
        run["attention"] = _shortest([mixers[layer.attention] for layer in pattern])
        run["ffn"] = _shortest([blocks[layer.ffn] for layer in pattern])
        runs.append(run | {key: norms for key, norms in _given(pattern[0]).items() if key == "norms"})
    return runs


def save_model(spec: ModelSpec, path: str | Path) -> None:
    """Write a model as TOML; :func:`workloads.models.library.load_model` reads it back equal.

    Raises
    ------
    ModelError
        The file cannot be written.
    """
    import tomli_w  # loaded here: only writing needs it

    from hardware_profiles.outputs import write_file

    write_file(path, tomli_w.dumps(spec_to_table(spec)), ModelError, parents=False)


def _names(values: Sequence[T | None], kinds: Mapping[str, type[T]]) -> dict[T | None, str]:
    """Name each distinct mixer or FFN after its kind, numbered where a kind occurs more than once."""
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    by_kind = {cls: kind for kind, cls in kinds.items()}
    names: dict[T | None, str] = {None: _NONE}
    for value in distinct:
        kind = by_kind[type(value)]
        alike = [other for other in distinct if type(other) is type(value)]
        names[value] = kind if len(alike) == 1 else f"{kind}_{alike.index(value) + 1}"
    return names


def _describe(value: Attention | FFN, kinds: Mapping[str, type[Any]]) -> dict[str, Any]:
    kind = next(kind for kind, cls in kinds.items() if cls is type(value))
    return {"kind": kind, **_given(value)}


def _given(value: object) -> dict[str, Any]:
    """List the fields of a dataclass that are not at their default, nor None."""
    fields = dataclasses.fields(value)  # type: ignore[arg-type]
    found = {field.name: getattr(value, field.name) for field in fields}
    defaults = {field.name: field.default for field in fields}
    return {name: given for name, given in found.items() if given is not None and given != defaults[name]}


def _runs(layers: Sequence[Layer]) -> Iterator[tuple[int, Sequence[Layer]]]:
    """Split layers into runs that repeat a pattern, greedily by the length covered; norms are equal within a run."""
    start = 0
    while start < len(layers):
        best, pattern = 0, layers[start : start + 1]
        for period in range(1, _LONGEST_PATTERN + 1):
            cycle = layers[start : start + period]
            if len({layer.norms for layer in cycle}) > 1:
                break
            rest = layers[start:]
            covered = next((i for i, layer in enumerate(rest) if layer != cycle[i % len(cycle)]), len(rest))
            if covered > best and (period == 1 or covered >= 2 * period):
                best, pattern = covered, cycle
        yield best, pattern
        start += best


def _shortest(names: list[str]) -> str | list[str]:
    return names[0] if len(set(names)) == 1 else names
