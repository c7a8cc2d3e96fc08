"""Recording into columns: one row per engine step and per request, kept as arrays."""

from __future__ import annotations

from array import array
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.results.packed import PART, PackedColumns


class ColumnRecorder:
    """Collects rows of numbers and packs them, so that memory grows by what their values take and no more.

    Parameters
    ----------
    columns : tuple of str
        Names of the columns; every row has one number for each.
    """

    __slots__ = ("_full", "_kept", "_pack", "_packed", "_width")

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._width = len(columns)
        self._pack = Struct(f"{len(columns)}d").pack
        # NOTE: packed row by row, because a list of tuples of floats takes twice as long to make into an array.
        self._packed = bytearray()
        self._full = max(PART * 8 * len(columns), 1)
        self._kept = PackedColumns(columns)

    def add(self, row: tuple[float, ...]) -> None:
        """Append one row."""
        self._packed += self._pack(*row)
        if len(self._packed) >= self._full:
            self._keep()

    def extend(self, rows: FloatArray) -> None:
        """Append several rows, shape (rows, columns)."""
        self._packed += rows.tobytes()
        if len(self._packed) >= self._full:
            self._keep()

    def columns(self) -> PackedColumns:
        """Return what was recorded, rows in the order of their recording."""
        self._keep()
        return self._kept

    def arrays(self) -> dict[str, FloatArray]:
        """Return one array per column."""
        return dict(self.columns())

    def _keep(self) -> None:
        """Pack what has come since the last time."""
        if not self._packed:
            return
        table = np.frombuffer(self._packed).reshape(-1, self._width)
        for first in range(0, len(table), PART):
            self._kept.append(list(np.ascontiguousarray(table[first : first + PART].T)))
        self._packed = bytearray()


class RequestRecorder:
    """Times and places of every request, as preallocated columns of so many numbers.

    Columns are arrays of the standard library, which read and write single numbers faster than numpy's; numpy sees
    them without copying through :func:`column`.

    Parameters
    ----------
    requests : int
        How many requests the run has.
    """

    __slots__ = (
        "admitted",
        "arrival",
        "cached",
        "computed",
        "finish",
        "first_token",
        "instance",
        "preemptions",
        "rank",
        "retries",
        "sent",
    )

    def __init__(self, requests: int) -> None:
        self.arrival, self.admitted, self.computed, self.sent, self.first_token, self.finish = (
            array("d", [float("nan")]) * requests for _ in range(6)
        )
        self.instance, self.rank = (array("q", [-1]) * requests for _ in range(2))
        self.preemptions, self.retries, self.cached = (array("q", [0]) * requests for _ in range(3))


def column(values: array[float] | array[int]) -> NDArray[Any]:
    """Show a column as a numpy array without copying it."""
    return np.frombuffer(values, dtype=np.float64 if values.typecode == "d" else np.int64)
