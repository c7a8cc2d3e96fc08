"""Results, estimates and findings as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from simulator.cli.console import bar, count, number, percent, seconds, table
from simulator.cli.head_text import print_head
from simulator.cli.tables import print_table
from simulator.feasibility.asked import refusals
from simulator.results.setup import Setup
from simulator.results.summary import has_objective
from simulator.results.values import (
    Distribution,
    Estimate,
    Finding,
    ImbalanceCost,
    Measured,
    Result,
    SessionSummary,
    Summary,
)
from simulator.scenario.sections import Slo
from simulator.step.components import COMPONENTS, component_words

if TYPE_CHECKING:
    from rich.console import Console

_LATENCIES = (
    ("ttft_s", "TTFT", "time to first token"),
    ("tpot_s", "TPOT", "time per output token"),
    ("itl_s", "ITL", "between two tokens"),
    ("e2el_s", "E2EL", "end to end"),
)


#: Expert imbalance and share of experts touched of a model without experts [1].
_DENSE = (1.0, 1.0)


def print_result(out: Console, result: Result) -> None:
    """Print the headline numbers, latencies, breakdown and warnings of a run."""
    summary = result.summary
    cost = [] if result.imbalance_cost is None else [("cost of imbalance", imbalance_text(result.imbalance_cost))]
    rows = [
        *_throughput(summary, result.setup, result.measured),
        *_run(result),
        *_state(summary, result.setup),
        *cost,
        *_uncertainty(summary),
    ]
    if result.scaling is not None:
        held = result.scaling.summary
        average = f"{number(summary.devices_mean)} {_device(result.setup)}s on average"
        text = f"{average}, {count(held.devices_peak)} at most; see moesim scale"
        rows.insert(0, ("while it scales", text))
    print_refusals(out, result.warnings)
    print_head(out, result.scenario, "simulated", result.setup, rows)
    _print_latencies(out, summary, result.sessions)
    for role, time in result.pool_times.items():
        print_breakdown(out, time.breakdown, time.steps, f"{role} pool: ")
    if not result.pool_times:
        print_breakdown(out, result.breakdown, summary.measured_steps)
    print_warnings(out, result.warnings)


def print_estimate(out: Console, estimate: Estimate) -> None:
    """Print the closed-form answer; its breakdown is per second, so that only shares are shown."""
    summary = estimate.summary
    slo = estimate.scenario.slo
    rows = [
        *_throughput(summary, estimate.setup),
        *_means(summary, slo),
        *_state(summary, estimate.setup),
        *_uncertainty(summary),
    ]
    print_refusals(out, estimate.warnings)
    print_head(out, estimate.scenario, "estimated, without events", estimate.setup, rows)
    _print_latencies(out, summary)
    print_breakdown(out, estimate.breakdown)
    print_warnings(out, estimate.warnings)


def _device(setup: Setup | None) -> str:
    return "device" if setup is None else setup.device_word


def _throughput(s: Summary, setup: Setup | None, measured: Measured | None = None) -> list[tuple[str, str]]:
    served = "served"
    if measured is not None and not math.isnan(measured.served_error):
        served += f" (± {measured.served_error:.0%})".replace("%", " %")
    return _measured(
        (
            f"tokens/s per {_device(setup)}",
            (s.output_tokens_per_s_per_gpu, number, "output"),
            (s.input_tokens_per_s_per_gpu, number, "input"),
            (s.total_tokens_per_s_per_gpu, number, "total"),
        ),
        (
            "tokens/s in all",
            (s.output_tokens_per_s, number, "output"),
            (s.input_tokens_per_s, number, "input"),
            (s.total_tokens_per_s, number, "total"),
        ),
        ("tokens/s per user", (s.output_tokens_per_s_per_user, number, "while an answer comes (1 / mean TPOT)")),
        (
            "requests/s",
            (s.offered_rps, number, "offered"),
            (s.request_throughput_rps, number, served),
            (s.slo_share, percent, "of requests within the SLO"),
        ),
        ("cost", (s.usd_per_million_output_tokens, number, "USD per million output tokens")),
    )


def _means(s: Summary, slo: Slo) -> list[tuple[str, str]]:
    """Say whether means keep the objectives; a closed form does not tell requests apart, and so knows no share."""
    if not has_objective(slo):
        return []
    names = " and ".join(name for name, limit in (("TTFT", slo.ttft), ("TPOT", slo.tpot), ("E2EL", slo.e2el)) if limit)
    verdict = "met" if s.goodput_rps > 0 else "missed"
    return [("SLO by means", f"{verdict} by the mean {names}; which share of requests meets it, moesim simulate tells")]


def _run(result: Result) -> list[tuple[str, str]]:
    s, whole = result.summary, result.whole_run
    pace = s.engine_steps / s.wall_s if s.wall_s > 0 else math.nan
    done = f"{s.requests_completed:,} request{'s' * (s.requests_completed != 1)} completed in {seconds(s.simulated_s)}"
    rows = [("measured", _window(result.measured) + done)]
    if whole is not None and whole.duration_s > s.simulated_s:
        text = (
            f"{number(whole.request_throughput_rps)} requests/s and {number(whole.output_tokens_per_s_per_gpu)} output "
            f"tokens/s per {_device(result.setup)} in {seconds(whole.duration_s)}, as a benchmark counts"
        )
        rows.append(("whole run", text))
    return [
        *rows,
        ("engine", f"{s.engine_steps:,} steps in {seconds(s.wall_s)} of wall time ({number(pace)} steps/s)"),
        ("preemptions", f"{s.preemptions:,}"),
        *_measured(("prefix cache", (s.prefix_hits, percent, "of prompt tokens found"))),
        *([("retries", f"{s.retries:,} requests sent in again")] if s.retries else []),
    ]


def _window(measured: Measured | None) -> str:
    """Name the part of the run that is measured."""
    if measured is None:
        return ""
    words = {
        "asked": "as [run] says",
        "steady": "steady state",
        "transient": "first to last arrival",
        "overloaded": "while the queue grows",
        "whole": "the whole run",
    }
    return f"{words[measured.kind]}, from {seconds(measured.begin_s)} on: "


def _state(s: Summary, setup: Setup | None) -> list[tuple[str, str]]:
    # Experts that no ranks share are as loaded on each as on the mean.
    shared = setup is None or any(pool.ep > 1 for pool in setup.pools)
    ranks = (
        "rank imbalance",
        (s.rank_imbalance_mean, number, "on average"),
        (s.rank_imbalance_p99, number, "at p99 (most loaded rank over mean)"),
    )
    experts = (
        "expert imbalance",
        (s.expert_imbalance_mean, number, "(most loaded expert over mean)"),
        (s.active_experts_mean, percent, "of experts touched by a decode step"),
    )
    return _measured(
        ("batch and queue", (s.batch_size_mean, number, "running"), (s.queue_length_mean, number, "waiting (means)")),
        ("KV cache", (s.kv_use_mean, percent, "used on average"), (s.kv_use_max, percent, "at most")),
        ("utilisation", (s.mfu, percent, "of peak FLOP/s (MFU)"), (s.mbu, percent, "of memory bandwidth (MBU)")),
        *([ranks] if shared else []),
        *([] if (s.expert_imbalance_mean, s.active_experts_mean) == _DENSE else [experts]),
    )


def imbalance_text(cost: ImbalanceCost) -> str:
    """Say what uneven routing costs a step: what is waited for, and what the mean rank computes more or less."""
    if not (_shows(cost.waiting_s) or _shows(cost.experts_s)):
        return f"none: {cost.phase} step {seconds(cost.step_s)}, as with balanced routing"
    touched = f"{percent(cost.active)} of experts touched, {percent(cost.balanced_active)} if balanced"
    of_waiting = f" (of which {_signed(cost.messages_s)} in dispatch and combine)" if _shows(cost.messages_s) else ""
    tiles_s = cost.experts_s - cost.unread_s
    parts = [
        f"{_signed(cost.waiting_s)} waiting for the busiest rank{of_waiting}" if _shows(cost.waiting_s) else "",
        f"{_signed(cost.unread_s)} weights not read ({touched})" if _shows(cost.unread_s) else "",
        f"{_signed(tiles_s)} the mean rank's experts, whose rows fill tiles otherwise" if _shows(tiles_s) else "",
    ]
    steps = f"{cost.phase} step {seconds(cost.step_s)}, {seconds(cost.balanced_step_s)} with balanced routing"
    return f"{', '.join(part for part in parts if part)}: {steps}"


def _shows(time: float) -> bool:
    """Whether a time is more than the rounding of sums, a thousandth of a microsecond."""
    return abs(time) >= 1e-9


def _signed(time: float) -> str:
    return f"{'+' if time > 0 else '-'}{seconds(abs(time))}"


def _uncertainty(s: Summary) -> list[tuple[str, str]]:
    low, high = s.interval_80
    if math.isnan(low) or math.isnan(high):
        return []
    return [("80 % interval", f"times from {number(low)} to {number(high)} of those shown")]


def _measured(*rows: tuple[str, *tuple[tuple[float, Callable[[float], str], str], ...]]) -> list[tuple[str, str]]:
    """Phrase what was measured; a row where nothing was is left out."""
    phrased = []
    for name, *values in rows:
        texts = [f"{wording(value)} {meaning}" for value, wording, meaning in values if not math.isnan(value)]
        if texts:
            phrased.append((name, ", ".join(texts)))
    return phrased


def _print_latencies(out: Console, summary: Summary, sessions: SessionSummary | None = None) -> None:
    columns = ("mean", "p50", "p90", "p99")
    # A closed form knows means only; empty columns would say nothing.
    shown = [c for c in columns if any(not math.isnan(getattr(getattr(summary, k), c)) for k, _, _ in _LATENCIES)]
    result = table("latency", "", *shown, right=shown)
    for key, name, meaning in _LATENCIES:
        distribution: Distribution = getattr(summary, key)
        result.add_row(name, meaning, *(seconds(getattr(distribution, column)) for column in shown))
    if sessions is not None:
        whole = f"{sessions.turns_mean:.3g} turns on average, think times included"
        for name, meaning, distribution in (
            ("TTFT", "of first turns", sessions.ttft_first_s),
            ("TTFT", "of later turns", sessions.ttft_later_s),
            ("session", whole, sessions.session_s),
        ):
            result.add_row(name, meaning, *(seconds(getattr(distribution, column)) for column in shown))
    print_table(out, result)


def print_breakdown(out: Console, breakdown: Mapping[str, float], steps: float | None = None, whose: str = "") -> None:
    """Print the share of each component, and its time per step where there are steps.

    Parameters
    ----------
    out : Console
        Where to.
    breakdown : Mapping of str to float
        Seconds by component.
    steps : float, optional
        Engine steps that these are of [1].
    whose : str
        The pool, where there are two.
    """
    total = sum(breakdown.values())
    columns = ["per step", "share"] if steps else ["share"]
    result = table(f"{whose}where the time goes", *columns, "", right=columns)
    order = [*COMPONENTS, *(key for key in breakdown if key not in COMPONENTS)]
    for component in order:
        time = breakdown.get(component, 0.0)
        share = time / total if total > 0 else 0.0
        # Less than this is the rounding of sums.
        if share > 1e-9:
            per_step = [seconds(time / steps)] if steps else []
            result.add_row(component_words(component), *per_step, percent(share), bar(share))
    print_table(out, result)


def print_refusals(out: Console, warnings: Sequence[str]) -> None:
    """Print above an answer that its server would not give it."""
    for refusal in refusals(warnings):
        out.print(f"warning: {refusal}; what follows is what it would give", style="bold yellow")


def print_warnings(out: Console, warnings: Sequence[str]) -> None:
    """Print the warnings, one per line, but for those that stand above."""
    above = refusals(warnings)
    for warning in warnings:
        if warning not in above:
            out.print(f"warning: {warning}", style="yellow")


def print_findings(out: Console, name: str, findings: Iterable[Finding]) -> None:
    """Print everything that a check found, the gravest first."""
    order = {"error": 0, "warning": 1, "note": 2}
    ranked = sorted(findings, key=lambda finding: order[finding.level])
    if not ranked:
        out.print(f"{name}: nothing to report")
        return
    result = table("level", "where", "finding")
    for finding in ranked:
        remedy = f"\nremedy: {finding.remedy}" if finding.remedy else ""
        result.add_row(finding.level, finding.where, finding.message + remedy)
    print_table(out, result)
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
