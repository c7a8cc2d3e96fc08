"""Results, estimates and findings as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from simulator.cli.console import bar, number, pairs, percent, seconds, table
from simulator.results import COMPONENTS, Distribution, Estimate, Finding, Result, Summary
from simulator.scenario import Scenario

if TYPE_CHECKING:
    from rich.console import Console

_LATENCIES = (
    ("ttft_s", "TTFT", "time to first token"),
    ("tpot_s", "TPOT", "time per output token"),
    ("itl_s", "ITL", "between two tokens"),
    ("e2el_s", "E2EL", "end to end"),
)


def print_result(out: Console, result: Result) -> None:
    """Print the headline numbers, latencies, breakdown and warnings of a run."""
    summary = result.summary
    _print_head(out, result.scenario, "simulated")
    out.print(pairs([*_throughput(summary), *_run(summary), *_state(summary), *_uncertainty(summary)]))
    _print_latencies(out, summary)
    print_breakdown(out, result.breakdown, max(summary.engine_steps, 1))
    print_warnings(out, result.warnings)


def print_estimate(out: Console, estimate: Estimate) -> None:
    """Print the closed-form answer."""
    summary = estimate.summary
    _print_head(out, estimate.scenario, "estimated, without events")
    out.print(pairs([*_throughput(summary), *_state(summary), *_uncertainty(summary)]))
    _print_latencies(out, summary)
    print_breakdown(out, estimate.breakdown, max(summary.engine_steps, 1))
    print_warnings(out, estimate.warnings)


def _print_head(out: Console, scenario: Scenario, how: str) -> None:
    split = scenario.parallelism
    parts = [f"{k} {getattr(split, k)}" for k in ("tp", "dp", "pp", "ep", "instances") if getattr(split, k) > 1]
    out.print(scenario.name, style="bold")
    out.print(
        f"{scenario.model.name} on {scenario.hardware.device}, {', '.join(parts) or 'one device'}, "
        f"{scenario.stack.name}; {how}; scenario {scenario.hash}",
        style="dim",
    )


def _throughput(s: Summary) -> list[tuple[str, str]]:
    return [
        (
            "tokens/s per GPU",
            f"{number(s.output_tokens_per_s_per_gpu)} output, {number(s.input_tokens_per_s_per_gpu)} input, "
            f"{number(s.total_tokens_per_s_per_gpu)} total",
        ),
        ("requests/s", f"{number(s.request_throughput_rps)}, of which within the SLO {number(s.goodput_rps)}"),
        ("cost", f"{number(s.usd_per_million_output_tokens)} USD per million output tokens"),
    ]


def _run(s: Summary) -> list[tuple[str, str]]:
    pace = s.engine_steps / s.wall_s if s.wall_s > 0 else math.nan
    return [
        ("requests", f"{s.requests_completed:,} completed in {seconds(s.simulated_s)} simulated"),
        ("engine", f"{s.engine_steps:,} steps in {seconds(s.wall_s)} of wall time ({number(pace)} steps/s)"),
        ("preemptions", f"{s.preemptions:,}"),
    ]


def _state(s: Summary) -> list[tuple[str, str]]:
    return [
        ("batch, queue", f"{number(s.batch_size_mean)} running, {number(s.queue_length_mean)} waiting (means)"),
        ("KV cache", f"{percent(s.kv_use_mean)} used on average, {percent(s.kv_use_max)} at most"),
        ("utilisation", f"MFU {percent(s.mfu)}, MBU {percent(s.mbu)}"),
        (
            "expert imbalance",
            f"{number(s.imbalance_mean)} on average, {number(s.imbalance_p99)} at p99 (most loaded rank over mean)",
        ),
    ]


def _uncertainty(s: Summary) -> list[tuple[str, str]]:
    low, high = s.interval_80
    if math.isnan(low) or math.isnan(high):
        return []
    return [("80 % interval", f"times from {number(low)} to {number(high)} of those shown")]


def _print_latencies(out: Console, summary: Summary) -> None:
    columns = ("mean", "p50", "p90", "p99")
    # A closed form knows means only; empty columns would say nothing.
    shown = [c for c in columns if any(not math.isnan(getattr(getattr(summary, k), c)) for k, _, _ in _LATENCIES)]
    result = table("latency", "", *shown, right=shown)
    for key, name, meaning in _LATENCIES:
        distribution: Distribution = getattr(summary, key)
        result.add_row(name, meaning, *(seconds(getattr(distribution, column)) for column in shown))
    out.print(result)


def print_breakdown(out: Console, breakdown: Mapping[str, float], steps: int) -> None:
    """Print the time of each component, as a share and per engine step."""
    total = sum(breakdown.values())
    result = table("where the time goes", "per step", "share", "", right=["per step", "share"])
    order = [*COMPONENTS, *(key for key in breakdown if key not in COMPONENTS)]
    for component in order:
        time = breakdown.get(component, 0.0)
        if time > 0 and total > 0:
            share = time / total
            result.add_row(component.replace("_", " "), seconds(time / steps), percent(share), bar(share))
    out.print(result)


def print_warnings(out: Console, warnings: Sequence[str]) -> None:
    """Print the warnings, one per line."""
    for warning in warnings:
        out.print(f"warning: {warning}", style="yellow")


def print_findings(out: Console, name: str, findings: Iterable[Finding]) -> None:
    """Print everything that a check found, the gravest first."""
    order = {"error": 0, "warning": 1, "note": 2}
    ranked = sorted(findings, key=lambda finding: order[finding.level])
    if not ranked:
        out.print(f"{name}: nothing to report")
        return
    result = table("level", "where", "finding", "remedy")
    for finding in ranked:
        result.add_row(finding.level, finding.where, finding.message, finding.remedy)
    out.print(result)
    counts = {level: sum(finding.level == level for finding in ranked) for level in order}
    out.print(f"{name}: " + ", ".join(f"{count} {level}{'s' * (count != 1)}" for level, count in counts.items()))


def findings_document(name: str, findings: Sequence[Finding]) -> dict[str, object]:
    """Return the JSON document of a check."""
    return {
        "scenario": name,
        "findings": [asdict(finding) for finding in findings],
        "errors": sum(finding.level == "error" for finding in findings),
        "warnings": sum(finding.level == "warning" for finding in findings),
    }
