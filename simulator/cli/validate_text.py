"""Predictions beside measurements, published figures and a baseline, as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from simulator.cli.console import number, percent, table
from simulator.cli.tables import print_table
from validation.regression.report import change_text, failures, figure_text, summary_line
from validation.serving.points import METRICS

if TYPE_CHECKING:
    from rich.console import Console

    from validation.accuracy import Accuracy
    from validation.kernels.validate import KernelReport
    from validation.papers.report import PaperReport
    from validation.regression.regress import Outcome
    from validation.serving.validate import Row, ServingReport

#: Most rows of a comparison that a terminal shows; files hold all.
MOST_ROWS = 40


def print_kernels(text: Console, report: KernelReport) -> None:
    """Print the accuracy by op, what was left aside, and the worst rows."""
    columns = ("rows", "median error", "p90", "bias", "in 80 % interval", "extrapolated")
    grid = table("op", *columns, "rests on", title=f"{report.device}: predicted and measured", right=columns)

    def add(name: str, result: Accuracy, coverage: float, *more: str) -> None:
        figures = (percent(result.median_ape), percent(result.p90_ape), percent(result.bias), percent(coverage))
        grid.add_row(name, f"{result.rows:,}", *figures, *more)

    for name, op in report.ops.items():
        add(name, op.overall, op.coverage_80, percent(op.extrapolated), ", ".join(op.evidence))
        for part, (result, coverage) in op.parts.items():
            add(f"  {part.replace('_', '-')}", result, coverage, "", "")
    print_table(text, grid)
    for name, op in report.ops.items():
        for reason, count in op.skipped.items():
            text.print(f"skipped: {name}: {count:,} rows: {reason}")
    if report.unknown_ops:
        text.print(f"unknown ops, left aside: {', '.join(report.unknown_ops)}")
    for name, op in report.ops.items():
        for row in op.worst:
            shape = ", ".join(f"{key} {_plain(value)}" for key, value in row.items() if not key.endswith("_us"))
            text.print(
                f"worst: {name}: measured {number(row['measured_us'])} us, predicted {number(row['predicted_us'])} us; "
                f"{shape}",
                style="dim",
            )


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:g}"


def print_papers(text: Console, report: PaperReport) -> None:
    """Print every check, why figures are not met and rows have no check, and what counts."""
    columns = ("check", "quantity", "published", "predicted", "error", "evidence", "outcome")
    bounds = {"equal": "", "at_least": ">= ", "at_most": "<= "}
    for paper, verdicts in groupby(report.verdicts, key=lambda verdict: verdict.paper):
        grid = table(*columns, title=paper, right=("published", "predicted", "error"))
        for verdict in verdicts:
            check = verdict.check
            published = f"{bounds[check.kind]}{number(check.published, 4)} {check.unit}"
            evidence = f"{check.evidence}, fitted" if check.fitted else check.evidence
            figures = (published, number(verdict.predicted, 4), percent(verdict.error))
            grid.add_row(check.check_id, check.quantity, *figures, evidence, verdict.outcome)
        print_table(text, grid)
    for verdict in report.verdicts:
        said = verdict.check.off or verdict.check.missed
        if verdict.outcome != "within" and said:
            text.print(f"{verdict.outcome}: {verdict.check.check_id}: {said}")
    for (paper, reason, needs), rows in report.without_check().items():
        text.print(f"no check: {paper}: {', '.join(rows)}: {reason}; needs: {needs}", style="dim")
    _print_evidence(text, report)


def _print_evidence(text: Console, report: PaperReport) -> None:
    """Print the number of checks by evidence, of rows by outcome, and the two that count."""
    columns = ("within", "missed", "off", "fitted, not counted")
    grid = table("evidence", *columns, title="checks", right=columns)
    for evidence, counts in report.by_evidence().items():
        grid.add_row(evidence, *map(str, counts))
    print_table(text, grid)
    summary = report.summary()
    text.print(
        f"rows: {summary['rows']}, of which {summary['rows_within']} met, {summary['rows_missed']} missed, "
        f"{summary['rows_off']} off, {summary['rows_fitted']} only fitted, {summary['rows_quoted']} only quoted, "
        f"{summary['rows_not_expressible']} not expressible"
    )
    text.print(report.headline())


def print_serving(text: Console, report: ServingReport) -> None:
    """Print every run, the accuracy by model and device and over all, and what was skipped."""

    def cell(row: Row, metric: str, unit: float) -> str:
        measured, predicted = row.point.measured.get(metric, math.nan), row.played.predicted[metric]
        error = predicted / measured - 1.0
        return f"{number(measured * unit)} {number(predicted * unit)} {percent(error):>8}"

    columns = ("TTFT ms", "TPOT ms", "E2EL s", "tok/s/GPU")
    grid = table("run", *columns, title="measured, predicted, error", right=columns)
    for row in report.rows:
        units = zip(METRICS, (1e3, 1e3, 1.0, 1.0), strict=True)
        grid.add_row(row.point.id, *(cell(row, metric, unit) for metric, unit in units))
    print_table(text, grid)
    headings = ("rows", "median error", "p90", "bias", "Spearman", "lowest", "in 80 % interval")
    grid = table("metric", *headings, title="accuracy", right=headings)
    parts = {"all": list(report.rows)} | report.groups()
    for name, rows in parts.items():
        for metric, result in report.summary(rows).items():
            shares = (result.median_ape, result.p90_ape, result.bias)
            ranks = (number(result.spearman), number(result.spearman_lowest))
            if result.rows:
                label = f"{metric}: {name}"
                grid.add_row(label, str(result.rows), *map(percent, shares), *ranks, percent(result.coverage_80))
    print_table(text, grid)
    for point, reason in report.skipped:
        text.print(f"skipped: {point.id}: {reason}")


def print_outcomes(text: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the failures as a table of before and after, and the summary."""
    failed = failures(outcomes)
    if failed:
        grid = table("figure", "before", "after", "change", "", right=("before", "after", "change"))
        for o in failed[:MOST_ROWS]:
            grid.add_row(o.key, figure_text(o.key, o.before), figure_text(o.key, o.after), change_text(o), o.status)
        print_table(text, grid)
        if len(failed) > MOST_ROWS:
            text.print(f"and {len(failed) - MOST_ROWS:,} more; --markdown FILE writes all")
    text.print(summary_line(outcomes))
