"""The lines of the table: what was measured, and whether it meets its goal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.pace import Timed

#: How many of a unit are in a second.
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    value : float
        What was measured, in ``unit``.
    timeouts : float, optional
        A time, in bare timeouts of SimPy in the same run [1].
    target : str
        Its goal; empty where none was set.
    met : bool, optional
        Whether it meets the goal.
    """

    name: str
    value: float
    unit: str
    timeouts: float | None = None
    target: str = ""
    met: bool | None = None


def step(name: str, timed: Timed, *, most: float | None = None) -> Row:
    """State the time of a step, judged in timeouts."""
    row = _timed(name, timed, "us")
    if most is None:
        return row
    return Row(**{**fields(row), "target": f"at most {most:g} timeouts", "met": timed.timeouts <= most})


def took(name: str, timed: Timed, unit: str = "s", *, most: float | None = None) -> Row:
    """State a time, judged in its unit."""
    row = _timed(name, timed, unit)
    if most is None:
        return row
    return Row(**{**fields(row), "target": f"at most {most:g} {unit}", "met": row.value <= most})


def amount(name: str, value: float, unit: str = "1", *, most: float | None = None) -> Row:
    """State what is no time, judged by an upper bound."""
    if most is None:
        return Row(name=name, value=value, unit=unit)
    bound = f"at most {most:g}" if unit == "1" else f"at most {most:g} {unit}"
    return Row(name=name, value=value, unit=unit, target=bound, met=value <= most)


def fields(row: Row) -> dict[str, Any]:
    """Return a row as plain values."""
    return {name: getattr(row, name) for name in Row.__dataclass_fields__}


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """Show a row: name, value with unit, timeouts, goal, and whether it is met."""
    value = _digits(row.value) if row.unit == "1" else f"{_digits(row.value)} {row.unit}"
    timeouts = "" if row.timeouts is None else _digits(row.timeouts)
    met = "" if row.met is None else ("yes" if row.met else "no")
    return row.name, value, timeouts, row.target, met


def _timed(name: str, timed: Timed, unit: str) -> Row:
    return Row(name=name, value=timed.seconds * _PER_SECOND[unit], unit=unit, timeouts=timed.timeouts)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
