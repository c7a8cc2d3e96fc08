"""What was measured before, and what has moved since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.rows import Row

HISTORY = Path(__file__).parent / "history.jsonl"
#: Share by which a figure moves from run to run where nothing was changed.
NOISE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A figure that is not what it was: timeouts where it is a time, else the value itself."""

    name: str
    before: float
    now: float


def entry(rows: Sequence[Row], rate: float) -> dict[str, Any]:
    """Return the line of a run: when, which commit, on what, and its figures.

    Parameters
    ----------
    rows : sequence of Row
        What was measured.
    rate : float
        Bare timeouts of SimPy in a second [1/s].
    """
    return {
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "commit": machine.commit(),
        "machine": machine.kind(),
        "timeouts_per_s": round(rate),
        "figures": {row.name: float(f"{figure(row):.5g}") for row in rows},
    }


def figure(row: Row) -> float:
    """Return what compares between machines: timeouts where a row is a time, else its value."""
    return row.value if row.timeouts is None else row.timeouts


def last(kind: Mapping[str, str], file: Path = HISTORY) -> dict[str, Any] | None:
    """Return the latest line of a kind of machine; None where there is none."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    runs: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return next((run for run in reversed(runs) if run["machine"] == kind), None)


def append(run: Mapping[str, Any], file: Path = HISTORY) -> None:
    """Add a line."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(run) + "\n")


def moved(before: Mapping[str, float], now: Mapping[str, float], noise: float = NOISE) -> list[Move]:
    """Return the figures that two runs have in common and that differ by more than noise [1]."""
    both = [Move(name=name, before=before[name], now=value) for name, value in now.items() if name in before]
    return [move for move in both if abs(move.now - move.before) > noise * abs(move.before)]
