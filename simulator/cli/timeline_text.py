"""One drawn step as text: how long, what is hidden, and how far ranks lie apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.cli.console import pairs, percent, seconds
from simulator.cli.explain_text import print_hidden
from simulator.cli.result_text import print_refusals, print_warnings
from simulator.explanation.explanation import hidden_rows
from simulator.scenario.title import title

if TYPE_CHECKING:
    from rich.console import Console

    from simulator.explanation.timeline import StepTimeline
    from simulator.scenario import Scenario


def print_timeline(out: Console, scenario: Scenario, drawn: StepTimeline) -> None:
    """Print the length of the step, its streams, and what communication runs beside."""
    print_refusals(out, drawn.warnings)
    out.print(title(scenario), style="bold")
    out.print(
        f"one {drawn.phase} step, batch {drawn.sequences:,}, context {drawn.length:,} tokens: {seconds(drawn.step_s)}"
    )
    rows = [("overlap", drawn.overlap.replace("_", " "))]
    if drawn.overlap != "none":
        rows.append(("effect", overlap_effect(drawn)))
    for stream in dict.fromkeys(task.stream for task in drawn.schedule.tasks):
        busy = drawn.schedule.busy(stream)
        if busy == 0.0:
            # Collectives between kernels run on the stream of these kernels.
            continue
        rows.append((f"{stream} stream busy", f"{seconds(busy)}, {percent(busy / drawn.step_s)}"))
    if drawn.exchanged_s > 0.0:
        share = f"{seconds(drawn.exchanged_s)}, {percent(drawn.exchanged_s / drawn.step_s)}"
        rows.append(("communication", f"{share}, all-reduces included; {seconds(drawn.exposed_s)} of it exposed"))
    if drawn.rank_experts.shape[2]:
        experts = drawn.rank_experts.sum(axis=(0, 1))
        rows.append(("experts, mean rank", seconds(float(experts.mean()))))
        slowest = float(drawn.rank_experts.max(axis=2).sum())
        rows.append(("experts, slowest rank of each layer", seconds(slowest)))
    out.print(pairs(rows))
    if drawn.exchanged_s > 0.0:
        print_hidden(out, hidden_rows(drawn))
    print_warnings(out, drawn.warnings)


def overlap_effect(drawn: StepTimeline) -> str:
    """Say how much faster or slower overlap makes the step."""
    how = "faster" if drawn.saved_s >= 0.0 else "slower"
    apart = seconds(drawn.step_s + drawn.saved_s)
    return f"makes this step {seconds(abs(drawn.saved_s))} {how} ({apart} -> {seconds(drawn.step_s)})"


def timeline_document(scenario: Scenario, drawn: StepTimeline, written: Path | None) -> dict[str, Any]:
    """Return the JSON document of a drawn step."""
    return {
        "scenario_hash": scenario.hash,
        "scenario": title(scenario),
        "phase": drawn.phase,
        "batch": drawn.sequences,
        "context": drawn.length,
        "step_s": drawn.step_s,
        "overlap": drawn.overlap,
        "saved_s": drawn.saved_s,
        "exchanged_s": drawn.exchanged_s,
        "exposed_s": drawn.exposed_s,
        "hidden": hidden_rows(drawn),
        "warnings": list(drawn.warnings),
        "file": None if written is None else str(written),
    }
