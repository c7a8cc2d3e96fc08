"""What was measured, as a table on the screen and on the page of the documentation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.history import Move
from benchmarks.pace import ROOT
from benchmarks.rows import Row, cells

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: written by make bench -->", "<!-- end of results -->"
HEADS = ("what", "value", "timeouts", "goal", "met")


def markdown(results: Mapping[str, Any]) -> str:
    """Write results as the table of the documentation."""
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = [f"Machine: {about}.", "", f"| {' | '.join(HEADS)} |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(cells(Row(**row))) + " |" for row in results["rows"]]
    return "\n".join(lines)


def write_page(results: Mapping[str, Any]) -> None:
    """Put the table into its page."""
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{markdown(results)}\n{END}{tail}", encoding="utf-8")


def show(rows: Sequence[Row], about: Mapping[str, str]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADS, caption=", ".join(f"{key} {value}" for key, value in about.items()))
    for row in rows:
        table.add_row(*cells(row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print("Times are CPU seconds; 'timeouts' is how many bare timeouts SimPy passes in that time, here and now.")


def tell(moves: Sequence[Move], before: Mapping[str, Any] | None) -> None:
    """Print what moved since the last run of this kind of machine."""
    if before is None:
        print("No earlier run of this kind of machine is recorded.")
        return
    print(f"Since {before['date']} ({before['commit']}), {len(moves)} of the figures moved by more than noise:")
    for move in moves:
        share = move.now / move.before - 1 if move.before else float("inf")
        print(f"  {move.name}: {move.before:.4g} -> {move.now:.4g} ({share:+.0%})")


def unsteady(rates: Mapping[str, Sequence[float]], bound: float = 1.25) -> None:
    """Name the cases during which the machine changed its speed by more than a bound [1]."""
    for case, taken in rates.items():
        if max(taken) > bound * min(taken):
            print(f"unsteady: {case}: {min(taken) / 1e6:.2f} to {max(taken) / 1e6:.2f} M timeouts/s")
