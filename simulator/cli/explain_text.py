"""One step, op by op, as text: where the time goes, and why each op takes as long as it does."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from simulator.cli.console import bar, number, percent, seconds, table
from simulator.cli.result_text import print_warnings
from simulator.results import COMPONENTS, Explanation

if TYPE_CHECKING:
    from rich.console import Console

Row = dict[Hashable, Any]


def print_explanation(out: Console, explanation: Explanation) -> None:
    """Print the op table, grouped by component with totals, then the equation, inputs and source of each op."""
    groups = component_rows(explanation)
    out.print(explanation.scenario.name, style="bold")
    out.print(
        f"one {explanation.phase} step, batch {explanation.batch}, context {explanation.context} tokens: "
        f"{seconds(explanation.step_s)}"
    )
    _print_times(out, groups)
    _print_reasons(out, groups)
    print_warnings(out, explanation.warnings)


def component_rows(explanation: Explanation) -> dict[str, list[Row]]:
    """Group the ops that take time by component, in the order of the breakdown, the longest op first."""
    rows: list[Row] = [row for row in explanation.ops.to_dict("records") if row["time_s"] > 0]
    found = {row["component"] for row in rows}
    order = [c for c in COMPONENTS if c in found] + sorted(found - set(COMPONENTS))
    return {
        component: sorted((r for r in rows if r["component"] == component), key=lambda r: -float(r["time_s"]))
        for component in order
    }


def _print_times(out: Console, groups: dict[str, list[Row]]) -> None:
    total = sum(float(row["time_s"]) for rows in groups.values() for row in rows)
    result = table("op", "times", "each", "per step", "share", "", "bound", "evidence")
    for column in (1, 2, 3, 4):
        result.columns[column].justify = "right"
    for component, rows in groups.items():
        time = sum(float(row["time_s"]) for row in rows)
        share = time / total if total else math.nan
        name = component.replace("_", " ")
        result.add_row(name, "", "", seconds(time), percent(share), bar(share), "", "", style="bold")
        for row in rows:
            result.add_row(*_time_cells(row, total))
    result.add_section()
    result.add_row("step", "", "", seconds(total), "", "", "", "", style="bold")
    out.print(result)


def _time_cells(row: Row, total: float) -> tuple[Any, ...]:
    time, repeat = float(row["time_s"]), float(row["repeat"])
    error = row.get("error")
    spread = "" if error is None or math.isnan(error) else f" ±{100 * error:.0f} %"
    return (
        f"  {row['name']}",
        number(repeat),
        seconds(time / repeat if repeat else math.nan),
        seconds(time),
        percent(time / total),
        bar(time / total),
        str(row["bound"]),
        f"{row['evidence']}{spread}",
    )


def _print_reasons(out: Console, groups: dict[str, list[Row]]) -> None:
    """Print equation, inputs and source once for the ops that share all three."""
    reasons: dict[tuple[str, str, str, str], list[str]] = {}
    for rows in groups.values():
        for row in rows:
            reason = (str(row["kernel"]), str(row["equation"]), str(row["inputs"]), str(row["source"]))
            reasons.setdefault(reason, []).append(str(row["name"]))
    result = table("op", "why", title="equations, inputs and sources")
    for (kernel, equation, inputs, source), names in reasons.items():
        lines = [equation, inputs, " - ".join(text for text in (kernel, source) if text)]
        result.add_row("\n".join(names), "\n".join(line for line in lines if line))
    out.print(result)


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """Return the JSON document of an explanation."""
    groups = component_rows(explanation)
    return {
        "scenario_hash": explanation.scenario.hash,
        "scenario": explanation.scenario.name,
        "phase": explanation.phase,
        "batch": explanation.batch,
        "context": explanation.context,
        "step_s": explanation.step_s,
        "components": {component: sum(row["time_s"] for row in rows) for component, rows in groups.items()},
        "ops": explanation.ops.to_dict("records"),
        "warnings": list(explanation.warnings),
    }
