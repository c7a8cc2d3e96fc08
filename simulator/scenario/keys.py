"""Every key of a scenario with its type, default and meaning, read from the scenario's own model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hardware_profiles.units import format_bytes
from simulator.scenario import Scenario

#: Marks between which a page holds the table of keys.
BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"

_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key: its dotted name, what it takes, its default (empty where it is required or may be absent), meaning."""

    name: str
    takes: str
    default: str
    required: bool
    meaning: str


def scenario_keys() -> tuple[Key, ...]:
    """List the keys of a scenario in the order of the file."""
    read = Scenario.model_json_schema(mode="validation")
    written = Scenario.model_json_schema(mode="serialization")
    return tuple(_keys(read, written, read, written, ""))


def markdown() -> str:
    """Return the keys as a Markdown table."""
    rows = [
        f"| `{key.name}` | {key.takes.replace('|', chr(92) + '|')} | {_default(key)} | {key.meaning} |"
        for key in scenario_keys()
    ]
    return "\n".join(["| key | takes | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _default(key: Key) -> str:
    return "required" if key.required else f"`{key.default}`" if key.default else ""


def _keys(
    read: Mapping[str, Any],
    written: Mapping[str, Any],
    read_root: Mapping[str, Any],
    written_root: Mapping[str, Any],
    prefix: str,
) -> Iterator[Key]:
    for name, value in read["properties"].items():
        as_read = _resolved(value, read_root)
        as_written = _resolved(written["properties"][name], written_root)
        if "properties" in as_read:
            yield from _keys(as_read, as_written, read_root, written_root, f"{prefix}{name}.")
            continue
        # As it is written: quantities with their unit.
        default = written["properties"][name].get("default")
        stated = "" if default in (None, []) else str(default)
        if stated and as_read.get("quantity") == "size":
            stated = format_bytes(value["default"])
        yield Key(
            name=prefix + name,
            takes=_takes(as_read),
            default=stated.lower() if isinstance(default, bool) else stated,
            required=name in read.get("required", ()),
            meaning=value.get("description", ""),
        )


def _resolved(value: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference, and leave out that a value may be absent."""
    if "anyOf" in value:
        present = [option for option in value["anyOf"] if option.get("type") != "null"]
        return _resolved(present[0], root)
    if "$ref" in value:
        resolved: Mapping[str, Any] = root["$defs"][value["$ref"].rsplit("/", 1)[-1]]
        return resolved
    return value


def _takes(read: Mapping[str, Any]) -> str:
    if "enum" in read:
        return " | ".join(read["enum"])
    if read["type"] == "array":
        items = read["items"]
        plain = "numbers" if items.get("type") == "number" else "tables"
        return f"list of {' | '.join(items['enum']) if 'enum' in items else plain}"
    if "quantity" in read:
        return f"{read['quantity']} with its unit"
    noun = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}[read["type"]]
    bounds = [f"{sign} {read[bound]:g}" for bound, sign in _BOUNDS if bound in read]
    return " ".join([noun, ", ".join(bounds)]).strip()


def with_table(page: str) -> str:
    """Return a page with the table between its two marks replaced by the one of today."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{markdown()}\n\n{END}{after}"
