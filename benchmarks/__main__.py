"""Measure the simulator itself: its engine, its sweeps, its start, and how they grow.

``python -m benchmarks`` prints a table and what moved since the last run of this kind of machine, writes
``results.json`` beside this file and the table of ``docs/benchmarks.md``, and adds a line to ``history.jsonl``.
``--quick`` measures what most often moves and ``--case NAME`` one case; both write nothing.

Every case runs in a process of its own, so that its peak memory is its own. Work is timed in CPU seconds, which other
processes on the machine disturb least, and in timeouts, which machines have in common.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import history, machine, report
from benchmarks.cases import CASES, QUICK
from benchmarks.pace import ROOT, Pace
from benchmarks.rows import Row, fields

RESULTS = Path(__file__).parent / "results.json"


def run_case(name: str) -> dict[str, Any]:
    """Run a case here and return its rows and the machine's pace all through it."""
    pace = Pace()
    rows = CASES[name](pace)
    return {"rows": [fields(row) for row in rows], "rates": pace.rates}


def measure(names: Sequence[str]) -> tuple[list[Row], dict[str, list[float]]]:
    """Run cases, each in a process of its own."""
    rows, rates = [], {}
    for name in names:
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks", "--case", name, "--json"]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout)
        rows += [Row(**row) for row in found["rows"]]
        rates[name] = found["rates"]
    print(file=sys.stderr)
    return rows, rates


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the simulator itself.")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}; write nothing")
    parser.add_argument("--case", choices=CASES, help="only one; write nothing")
    parser.add_argument("--json", action="store_true", help="print one case as JSON")
    given = parser.parse_args()
    if given.case and given.json:
        print(json.dumps(run_case(given.case)))
        return
    load = os.getloadavg()[0]
    rows, rates = measure([given.case] if given.case else QUICK if given.quick else tuple(CASES))
    taken = [rate for each in rates.values() for rate in each]
    about = machine.about(load, taken)
    report.show(rows, about)
    report.unsteady(rates)
    run, before = history.entry(rows, statistics.median(taken)), history.last(machine.kind())
    report.tell(history.moved(before["figures"], run["figures"]) if before else [], before)
    if given.quick or given.case:
        return
    results = {"machine": about, "rows": [fields(row) for row in rows]}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    report.write_page(results)
    history.append(run)


if __name__ == "__main__":
    main()
