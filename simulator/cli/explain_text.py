"""One step, op by op, as text: where the time goes, and why each op takes as long as it does."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from simulator.cli.console import bar, number, percent, seconds, table
from simulator.cli.head_text import print_head
from simulator.cli.result_text import imbalance_text, print_refusals, print_warnings
from simulator.cli.tables import print_table
from simulator.results.values import Explanation
from simulator.scenario.title import title
from simulator.step.components import COMPONENTS, component_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Row = dict[Hashable, Any]


#: What helps a kernel, and what does not, by what it waits for.
_HELPS: Mapping[str, tuple[str, str]] = {
    "memory": ("memory bandwidth, fewer bits, more rows per weight read", "FLOP/s"),
    "compute": ("FLOP/s, fewer bits", "memory bandwidth"),
    "launch": ("fusing kernels, larger batches", "a faster device"),
    "latency": ("larger batches, fewer and larger kernels or messages", "FLOP/s or bandwidth"),
    "link": ("link bandwidth, fewer bytes", "FLOP/s"),
    "scale_up": ("bandwidth inside a node, fewer bytes", "FLOP/s"),
    "scale_out": ("bandwidth between nodes, fewer bytes or nodes", "FLOP/s"),
    "imbalance": ("another placement, redundant slots", "a faster device"),
    "host": ("another stack, larger batches", "a faster device"),
}


def print_explanation(out: Console, explanation: Explanation) -> None:
    """Print the op table, grouped by component with totals, then the equation, inputs and source of each op."""
    groups = component_rows(explanation)
    print_refusals(out, explanation.warnings)
    print_head(out, explanation.scenario, "one step explained", explanation.setup)
    out.print(
        f"one {explanation.phase} step, batch {explanation.batch:,}, context {explanation.context:,} tokens: "
        f"{seconds(explanation.step_s)}"
    )
    for line in conclusion(explanation):
        out.print(line)
    _print_times(out, groups)
    if explanation.hidden is not None:
        print_hidden(out, explanation.hidden.to_dict("records"))
    _print_reasons(out, groups)
    print_warnings(out, explanation.warnings)


def conclusion(explanation: Explanation) -> list[str]:
    """Say in two lines what bounds most of the step and what helps, and what the answer rests on."""
    rows = [row for row in explanation.ops.to_dict("records") if row["time_s"] > 0]
    total = sum(float(row["time_s"]) for row in rows)
    bounds, grades = dict[str, float](), dict[str, float]()
    for row in rows:
        time, grade = float(row["time_s"]), str(row["evidence"]).partition(",")[0]
        bounds[row["bound"]] = bounds.get(row["bound"], 0.0) + time
        grades[grade] = grades.get(grade, 0.0) + time
    if not bounds:
        return []
    bound = max(bounds, key=bounds.__getitem__)
    longest = max((row for row in rows if row["bound"] == bound), key=lambda row: float(row["time_s"]))
    helps, idle = _HELPS.get(bound, ("", ""))
    said = f"{percent(bounds[bound] / total)} of the step is bound by {bound}"
    said += f", most of it {longest['name']} ({percent(float(longest['time_s']) / total)})"
    said += f"; what helps: {helps}; what does not: {idle}" if helps else ""
    named = sorted(((time, grade) for grade, time in grades.items() if grade), reverse=True)
    found = [said, "it rests on: " + ", ".join(f"{grade} {percent(time / total)}" for time, grade in named)]
    if explanation.imbalance_cost is not None:
        found.append(f"cost of imbalance: {imbalance_text(explanation.imbalance_cost)}")
    return found


def component_rows(explanation: Explanation) -> dict[str, list[Row]]:
    """Group the ops that take time by component, in the order of the breakdown, the longest op first."""
    rows: list[Row] = [row for row in explanation.ops.to_dict("records") if row["time_s"] != 0]
    found = {row["component"] for row in rows}
    order = [c for c in COMPONENTS if c in found] + sorted(found - set(COMPONENTS))
    return {
        component: sorted((r for r in rows if r["component"] == component), key=lambda r: -float(r["time_s"]))
        for component in order
    }


def _print_times(out: Console, groups: dict[str, list[Row]]) -> None:
    total = sum(float(row["time_s"]) for rows in groups.values() for row in rows)
    numbers = ["times", "each", "per step", "share"]
    result = table("op", *numbers, "", "bound", "evidence", right=numbers)
    for component, rows in groups.items():
        time = sum(float(row["time_s"]) for row in rows)
        name = component_words(component)
        result.add_row(name, "", "", seconds(time), percent(time / total), bar(time / total), "", "", style="bold")
        for row in rows:
            result.add_row(*_time_cells(row, total))
    result.add_section()
    result.add_row("step", "", "", seconds(total), style="bold")
    print_table(out, result, ("", "times", "each"))


def _time_cells(row: Row, total: float) -> list[str | Text]:
    time, repeat = float(row["time_s"]), float(row["repeat"])
    # What the evidence rests on follows the comma; it stands with the reasons, where there is room for it.
    status = str(row["evidence"]).partition(",")[0].removesuffix(" kernels")
    error = row.get("error")
    spread = "" if error is None or math.isnan(error) else f" ±{100 * error:.0f} %"
    return [
        f"  {row['name']}",
        number(repeat),
        seconds(time / repeat),
        seconds(time),
        percent(time / total),
        bar(time / total),
        str(row["bound"]),
        f"{status}{spread}",
    ]


def print_hidden(out: Console, rows: Sequence[Mapping[Any, Any]]) -> None:
    """Print what every kind of communication runs beside; what runs beside nothing is exposed."""
    result = table(
        "message", "beside", "per step", "share", title="communication beside computing", right=("per step", "share")
    )
    for message in dict.fromkeys(str(row["message"]) for row in rows):
        own = [row for row in rows if row["message"] == message]
        whole = sum(float(row["time_s"]) for row in own)
        result.add_row(message, "", seconds(whole), "", style="bold")
        for row in own:
            beside = "nothing: exposed" if row["beside"] == "nothing" else str(row["beside"])
            result.add_row("", beside, seconds(float(row["time_s"])), percent(float(row["time_s"]) / whole))
    print_table(out, result)


def _print_reasons(out: Console, groups: dict[str, list[Row]]) -> None:
    """Print equation, inputs and their origin once for the ops that share them all."""
    reasons: dict[tuple[str, ...], list[str]] = {}
    for rows in groups.values():
        for row in rows:
            owner = row.get("kernel_of") if "." in str(row["kernel"]) else None
            kernel = f"{row['kernel']} of {owner}" if owner else str(row["kernel"])
            reason = (str(row["equation"]), str(row["inputs"]), kernel, str(row["source"]), str(row["evidence"]))
            reasons.setdefault(reason, []).append(str(row["name"]))
    result = table("op", "why", title="equations, inputs and sources")
    for (equation, inputs, *origin), names in reasons.items():
        lines = [equation, inputs, "; ".join(text for text in origin if text)]
        result.add_row("\n".join(names), "\n".join(line for line in lines if line))
    print_table(out, result)


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """Return the JSON document of an explanation."""
    groups = component_rows(explanation)
    return {
        "scenario_hash": explanation.scenario.hash,
        "scenario": title(explanation.scenario),
        "setup": None if explanation.setup is None else explanation.setup.document(),
        "phase": explanation.phase,
        "batch": explanation.batch,
        "context": explanation.context,
        "step_s": explanation.step_s,
        "conclusion": conclusion(explanation),
        "imbalance_cost": None if explanation.imbalance_cost is None else asdict(explanation.imbalance_cost),
        "components": {component: sum(row["time_s"] for row in rows) for component, rows in groups.items()},
        "ops": explanation.ops.to_dict("records"),
        "hidden": [] if explanation.hidden is None else explanation.hidden.to_dict("records"),
        "warnings": list(explanation.warnings),
    }
