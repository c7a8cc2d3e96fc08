"""``moesim scale``: one mechanism in detail, or all of them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator import api
from simulator.cli.answer import print_json
from simulator.cli.console import console, number, pairs, percent, print_next, seconds, table
from simulator.cli.head_text import setup_rows
from simulator.cli.keep import keep, least_bytes, require_kept
from simulator.cli.progress import progress_bar
from simulator.cli.tables import print_table
from simulator.elastic.mechanisms import MECHANISMS
from simulator.errors import InfeasibleScenario, MoesimError, ScenarioError
from simulator.export.folders import check_output_folder
from simulator.results.values import Result, Scaling, ScalingSummary
from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.scenario.title import title

if TYPE_CHECKING:
    from rich.console import Console

#: The mechanism that takes no time: what no other can be better than.
_IDEAL = "ideal"
_BLOCKS = " ▁▂▃▄▅▆▇█"
#: Columns of a line of blocks.
_LINE = 72


def answer_scale(scenario: Scenario, *, compare: bool, out: Path | None, as_json: bool, progress: bool) -> None:
    """Play a scenario that scales and print what happened.

    Parameters
    ----------
    scenario : Scenario
        What is played.
    compare : bool
        Play it with every mechanism and print one table, instead of one run in full.
    out : Path or None
        Folder for the one result.
    as_json, progress : bool
        Whether standard output is a JSON document, and whether a bar is drawn.

    Raises
    ------
    MoesimError
        The scenario does not scale or cannot run; with ``compare`` only where no mechanism can run.
    """
    if compare:
        if out is not None:
            raise ScenarioError("--out: one result goes into a folder; leave out --compare")
        _answer_comparison(scenario, as_json=as_json, progress=progress)
        return
    if not asks(scenario, "elastic"):
        raise ScenarioError(
            f"{scenario.name}: elastic.mechanism: nothing scales; choose one of {', '.join(MECHANISMS)}, "
            "as in --set elastic.mechanism=elastic, or --compare"
        )
    if out is not None:
        out = check_output_folder(out, least_bytes(scenario))
    with progress_bar("simulating", enabled=progress) as told:
        result = api.simulate(scenario, progress=told)
    lost = None if out is None else keep(result, out)
    if as_json:
        print_json(result.document())
        require_kept(lost)
        return
    text = console()
    print_scaling(text, result)
    require_kept(lost)
    if out is not None:
        text.print(f"written to {out}")
    print_next(text, "the same with --compare, for every mechanism side by side")


def compare_mechanisms(scenario: Scenario, *, progress: bool = False) -> dict[str, Result | MoesimError]:
    """Play a scenario with every mechanism; one that cannot run gives its reason instead of a result."""
    found: dict[str, Result | MoesimError] = {}
    for mechanism in MECHANISMS:
        without = scenario.elastic.without if mechanism == "elastic" else ()
        choice = scenario.elastic.model_copy(update={"mechanism": mechanism, "without": without})
        try:
            with progress_bar(mechanism, enabled=progress) as told:
                found[mechanism] = api.simulate(scenario.model_copy(update={"elastic": choice}), progress=told)
        except MoesimError as error:
            found[mechanism] = error
    return found


def _answer_comparison(scenario: Scenario, *, as_json: bool, progress: bool) -> None:
    found = compare_mechanisms(scenario, progress=progress)
    if all(isinstance(each, MoesimError) for each in found.values()):
        reasons = dict.fromkeys(str(each) for each in found.values())
        raise InfeasibleScenario("no mechanism can run this scenario:\n" + "\n".join(reasons))
    if as_json:
        documents = {name: _document(each) for name, each in found.items()}
        print_json({"mechanisms": documents, "verdict": comparison_verdict(found)})
        return
    text = console()
    setup = next((each.setup for each in found.values() if isinstance(each, Result) and each.setup is not None), None)
    text.print(title(scenario), style="bold")
    if setup is not None:
        text.print(pairs(setup_rows(setup)))
    grid = table(
        "mechanism",
        "within SLO",
        "TTFT p99",
        "TPOT p99",
        "ready in",
        "down",
        "changes",
        "devices",
        "peak",
        "memory GB",
        "device-h",
        "USD",
        right=("within SLO", "TTFT p99", "TPOT p99", "ready in", "down", "changes", "devices", "peak"),
    )
    for name, each in found.items():
        if isinstance(each, Result) and each.scaling is not None:
            grid.add_row(name, *_row(each, each.scaling))
    print_table(text, grid, ("device-h", "memory GB", "changes", "peak", "down"))
    for name, each in found.items():
        if isinstance(each, MoesimError):
            text.print(f"{name}: {each}")
    text.print("ready in: from a command until the new size serves; down: time in which nobody served", style="dim")
    text.print(comparison_verdict(found), soft_wrap=True)
    if best := best_mechanism(found):
        print_next(text, f"the same with --set elastic.mechanism={best} instead of --compare, change by change")
    for warning in dict.fromkeys(w for each in found.values() if isinstance(each, Result) for w in each.warnings):
        text.print(f"warning: {warning}", style="yellow")


def best_mechanism(found: Mapping[str, Result | MoesimError]) -> str | None:
    """Name the mechanism under which most requests meet the objective, the cheapest of equals; none where none ran."""
    played = _played(found)
    return max(played, key=lambda name: (played[name].attainment, -played[name].device_hours), default=None)


def _played(found: Mapping[str, Result | MoesimError]) -> dict[str, ScalingSummary]:
    """Keep the runs of mechanisms that exist."""
    return {
        name: each.scaling.summary
        for name, each in found.items()
        if isinstance(each, Result) and each.scaling is not None and name != _IDEAL
    }


def comparison_verdict(found: Mapping[str, Result | MoesimError]) -> str:
    """Say which mechanism serves best, which costs least, and how far both are from changes that take no time."""
    played, best = _played(found), best_mechanism(found)
    if best is None:
        return "verdict: no mechanism that exists can run this scenario"
    cheapest = min(played, key=lambda name: played[name].device_hours)

    def said(name: str) -> str:
        return f"{percent(played[name].attainment)} within the SLO at {number(played[name].device_hours)} device-hours"

    text = f"verdict: {best} serves best, {said(best)}"
    text += ", and costs least" if cheapest == best else f"; {cheapest} costs least, {said(cheapest)}"
    ideal = found.get(_IDEAL)
    if isinstance(ideal, Result) and ideal.scaling is not None:
        limit = ideal.scaling.summary
        text += f"; changes that take no time would have {percent(limit.attainment)} at {number(limit.device_hours)}"
    return text


def _document(each: Result | MoesimError) -> dict[str, Any]:
    if isinstance(each, MoesimError):
        return {"error": {"kind": type(each).__name__, "message": str(each)}}
    return each.document()


def _row(result: Result, scaling: Scaling) -> tuple[str, ...]:
    summary = scaling.summary
    return (
        percent(summary.attainment),
        seconds(result.summary.ttft_s.p99),
        seconds(result.summary.tpot_s.p99),
        seconds(summary.latency_mean_s),
        seconds(summary.downtime_s) if summary.downtime_s else "0",
        str(summary.changes),
        number(summary.devices_mean),
        str(summary.devices_peak),
        number(summary.memory_peak_bytes / 1e9),
        number(summary.device_hours),
        number(summary.cost_usd),
    )


def print_scaling(text: Console, result: Result) -> None:
    """Print headline numbers, changes with their phases, and a timeline of one run."""
    scaling = result.scaling
    if scaling is None:
        return
    summary = scaling.summary
    text.print(f"{title(result.scenario)}: {summary.mechanism}, policy {summary.policy}", style="bold")
    text.print(
        pairs(
            [
                *([] if result.setup is None else setup_rows(result.setup)),
                ("within SLO", f"{percent(summary.attainment)} of requests"),
                ("requests/s", number(summary.requests_per_s)),
                ("latency", f"TTFT {_latency(result.summary.ttft_s)}, TPOT {_latency(result.summary.tpot_s)}"),
                ("changes", f"{summary.changes}, {seconds(summary.latency_mean_s)} on average until ready"),
                ("downtime", seconds(summary.downtime_s) if summary.downtime_s else "none"),
                ("devices", f"{number(summary.devices_mean)} on average, {summary.devices_peak} at most"),
                ("memory", f"{number(summary.memory_peak_bytes / 1e9)} GB at most, over all devices"),
                ("cost", f"{number(summary.device_hours)} device-hours, {number(summary.cost_usd)} USD"),
            ]
        )
    )
    _print_changes(text, scaling)
    _print_timeline(text, scaling)
    for warning in result.warnings:
        text.print(f"warning: {warning}", style="yellow")


def _latency(distribution: Any) -> str:
    return f"{seconds(distribution.p50)} median, {seconds(distribution.p99)} p99"


def _print_changes(text: Console, scaling: Scaling) -> None:
    grid = table("at", "size", "ready in", "serves in", "old gone in", "GB moved", "peak GB", "phases")
    phases = scaling.phases.to_dict("records")
    for index, row in enumerate(scaling.changes.to_dict("records")):
        own = (phase for phase in phases if phase["change"] == index)
        names = ", ".join(f"{phase['phase']} {seconds(phase['end_s'] - phase['start_s'])}" for phase in own)
        command = row["command_s"]
        grid.add_row(
            seconds(command) if command else "0",
            f"{row['before']} to {row['after']}",
            *(seconds(row[name] - command) for name in ("ready_s", "switched_s", "released_s")),
            number(row["moved_bytes"] / 1e9),
            number(row["memory_bytes"] / 1e9),
            names or "none",
        )
    print_table(text, grid, ("peak GB", "GB moved", "old gone in"))


def _print_timeline(text: Console, scaling: Scaling) -> None:
    frame = scaling.timeline
    rows = []
    for name, column, unit in (
        ("arrivals", "arrivals_per_s", "requests/s"),
        ("finished", "requests_per_s", "requests/s"),
        ("devices", "devices", "held"),
        ("in SLO", "attainment", ""),
    ):
        values = frame[column].to_numpy(np.float64)
        most = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
        said = percent(most) if column == "attainment" else f"{number(most)} {unit}"
        rows.append((name, f"{blocks(values)} {said} at most"))
    text.print(pairs(rows))


def blocks(values: Any, width: int = _LINE) -> str:
    """Draw values as a line of blocks, the largest one full, each the mean of those that share a column.

    Examples
    --------
    >>> blocks(np.array([0.0, 1.0, 2.0]))
    ' ▄█'
    """
    filled = np.nan_to_num(np.asarray(values, dtype=np.float64))
    columns = [part.mean() for part in np.array_split(filled, min(width, len(filled)))]
    most = max(columns, default=0.0) or 1.0
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * max(value, 0.0) / most)] for value in columns)
