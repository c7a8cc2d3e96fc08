"""Measurements and fits as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware_profiles.units import format_bytes
from simulator.cli.console import number, percent, table
from simulator.cli.tables import print_table

if TYPE_CHECKING:
    from rich.console import Console

    from validation.fit.calibrate import Calibration
    from validation.measure.suite import Report

#: 90th over 10th percentile of the repeats beyond which other work disturbed a measurement [1].
DISTURBED = 1.5


def print_measured(text: Console, report: Report) -> None:
    """Print what was measured, on what, and what was left out."""
    machine = report.machine
    text.print(
        f"{machine.name}: {machine.units} {'multiprocessors' if machine.kind == 'cuda' else 'cores'} at "
        f"{number(machine.clock / 1e9)} GHz, {format_bytes(machine.cache)} of cache, {format_bytes(machine.memory)} of "
        "memory; " + ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    )
    columns = ("rows", "shortest", "longest")
    grid = table("table", *columns, title=f"measured in {number(report.manifest['seconds'])} s", right=columns)
    for name, rows in report.tables.items():
        latencies = [row["latency_us"] for row in rows]
        grid.add_row(name, str(len(rows)), f"{number(min(latencies))} us", f"{number(max(latencies))} us")
    print_table(text, grid)
    cores = report.manifest["cores"]
    if cores and cores["used"] < cores["usable"]:
        text.print(f"measured on {cores['used']} of {cores['usable']} cores; --threads sets how many")
    for reason in report.left_out:
        text.print(f"left out: {reason}", style="dim")


def print_calibration(text: Console, calibration: Calibration) -> None:
    """Print the accuracy of each fitted table on rows that it was not fitted to, and what stays as it was."""
    columns = ("rows", "held out", "median error", "p90", "bias")
    title = f"{calibration.device}: kernels fitted, judged on rows held out"
    grid = table("kernel table", *columns, title=title, right=columns)
    for fit in calibration.fits:
        shown = (("", fit.test), *fit.regimes.items()) if len(fit.regimes) > 1 else (("", fit.test),)
        for regime, result in shown:
            name, rows = (f"  {regime}", "") if regime else (fit.table, f"{fit.rows:,}")
            figures = (percent(result.median_ape), percent(result.p90_ape), percent(result.bias))
            grid.add_row(name, rows, f"{result.rows:,}", *figures)
    print_table(text, grid)
    for name, reason in calibration.kept.items():
        text.print(f"unchanged: {name}: {reason}")
    if calibration.unknown_ops:
        text.print(f"no kernel is fitted from: {', '.join(calibration.unknown_ops)}", style="dim")
    if calibration.spread > DISTURBED:
        text.print(
            f"other work disturbed the measurement: the repeats of one call differ by a factor of "
            f"{number(calibration.spread)} (median); repeat it on an idle machine"
        )
