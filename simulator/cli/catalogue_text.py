"""Catalogues as text: tables of entries, and one entry in full."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hardware_profiles.units import format_bytes, format_rate
from simulator.cli.console import count_text, number, pairs, table
from simulator.cli.tables import print_table
from simulator.export.catalogues import Row

if TYPE_CHECKING:
    from rich.console import Console

#: Heading and wording of the columns whose values have a unit; other columns are shown as they are.
_COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "memory_bytes": ("memory", format_bytes),
    "memory_bandwidth_bytes_per_s": ("bandwidth", format_rate),
    "bfloat16_flops_per_s": ("peak bf16", lambda rate: format_rate(rate, "FLOP/s")),
    "link_bytes_per_s": ("NIC", format_rate),
    "parameters": ("parameters", count_text),
    "active_parameters": ("active", count_text),
    "kv_bytes_per_token": ("KV per token", format_bytes),
    "weight_bytes": ("weights", format_bytes),
}


#: Columns that a narrow window does without; ``moesim show`` has them.
_SPARED = ("file", "required", "default", "vendor", "architecture")


def print_list(out: Console, kind: str, rows: list[Row]) -> None:
    """Print one catalogue as a table."""
    if not rows:
        out.print(f"no {kind}")
        return
    headings = {key: _COLUMNS[key][0] if key in _COLUMNS else key.replace("_", " ") for key in rows[0]}
    right = {headings[key] for key in rows[0] if type(rows[0][key]) in (int, float)}
    result = table(*headings.values(), right=right)
    for row in rows:
        result.add_row(*(_cell(key, value) for key, value in row.items()))
    print_table(out, result, _SPARED)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in _COLUMNS:
        return _COLUMNS[key][1](value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "kernels":
        return str(value).replace("relative's kernels: ", "")
    return str(value)


def print_entry(out: Console, document: Row) -> None:
    """Print everything about one entry."""
    out.print(f"{document['kind']} {document['name']}", style="bold")
    if document["kind"] == "preset":
        out.print(f"{document['file']}\n", style="dim")
        out.print(document["toml"], end="")
        return
    out.print(pairs((key, _fact(value)) for key, value in document["facts"].items()))
    if document["kind"] == "model":
        _print_model(out, document)
    else:
        _print_quantities(out, document["quantities"])
        if "conditions" in document:
            _print_conditions(out, document["conditions"])


def _fact(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return number(value, 4) if isinstance(value, float) else str(value)


def _print_quantities(out: Console, rows: list[Row]) -> None:
    result = table("quantity", "value", "status", "source", right=["value"])
    for row in rows:
        error = "" if row["error"] is None else f" ±{100 * row['error']:.0f} %"
        unit = "" if row["unit"] in {"1", "flag", "choice"} else f" {row['unit']}"
        source = f"{row['source']}; {row['note']}" if row["note"] else row["source"]
        stated = f"{row['stated']:.6g}" if row["unit"] not in {"flag", "choice"} else str(row["stated"]).lower()
        result.add_row(row["key"], f"{stated}{unit}{error}", row["status"], source)
    print_table(out, result)


def _print_conditions(out: Console, rows: list[Row]) -> None:
    """List what a stack refuses or runs otherwise, with its names and numbers and where each was read."""
    result = table("effect", "condition", "of what", "source")
    about = {"rule", "effect", "source", "status", "note", "versions", "remedy", "says"}
    for row in rows:
        named = [f"{key} {_fact(value)}" for key, value in row.items() if key not in about]
        result.add_row(row["effect"], row["says"], "; ".join(named), row["source"])
    print_table(out, result)


def _print_model(out: Console, document: Row) -> None:
    shapes = table("layers", "at", "attention", "ffn", right=["layers"])
    for kind in document["layers"]:
        places = _ranges(kind["layers"])
        shapes.add_row(str(len(kind["layers"])), places, _block(kind["attention"]), _block(kind["ffn"]))
    print_table(out, shapes)
    parts = table("part", "parameters", "active", "weights", right=["parameters", "active", "weights"])
    for part in document["parts"]:
        parts.add_row(
            part["part"].replace("_", " "),
            count_text(part["parameters"]),
            count_text(part["active_parameters"]),
            format_bytes(part["weight_bytes"]),
        )
    print_table(out, parts)
    flops, context = document["flops_per_token"], document["flops_context"]
    for warning in document["warnings"]:
        out.print(f"warning: {warning}", style="yellow", markup=False)
    out.print(
        pairs(
            [
                ("total", f"{count_text(document['parameters'], 4)} parameters (without MTP)"),
                ("active", f"{count_text(document['active_parameters'], 4)} parameters"),
                (
                    "active without embedding",
                    f"{count_text(document['active_parameters_without_embedding'], 4)} parameters",
                ),
                ("weights", format_bytes(document["weight_bytes"])),
                ("KV cache", f"{format_bytes(document['kv_bytes_per_token'])} per token"),
                ("state", f"{format_bytes(document['state_bytes_per_sequence'])} per sequence"),
                (f"prefill of {context} tokens", f"{format_rate(flops['prefill'], 'FLOP')} per token"),
                (f"decode at {context} tokens", f"{format_rate(flops['decode'], 'FLOP')} per token"),
            ]
        )
    )


def _ranges(indices: Sequence[int], most: int = 3) -> str:
    """Write sorted numbers as ranges, the first few of them."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], index]
        else:
            ranges.append([index])
    shown = [f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in ranges[:most]]
    return ", ".join(shown) + (", ..." if len(ranges) > most else "")


def _block(block: Mapping[str, Any] | None) -> str:
    if block is None:
        return "-"
    fields = ", ".join(f"{key} {value}" for key, value in block.items() if key != "kind" and value is not False)
    return f"{block['kind']}: {fields}"
