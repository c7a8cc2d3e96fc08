"""Recording into columns: one row per engine step and per request, kept as arrays."""

from __future__ import annotations

from array import array
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray


class ColumnRecorder:
    """Collects rows of numbers and packs them, so that memory grows by 8 bytes a number and no more.

    Parameters
    ----------
    columns : tuple of str
        Names of the columns; every row has one number for each.
    """

    __slots__ = ("_columns", "_pack", "_packed")

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._pack = Struct(f"{len(columns)}d").pack
        # NOTE: packed row by row, because a list of tuples of floats takes twice as long to make into an array.
        self._packed = bytearray()

    def add(self, row: tuple[float, ...]) -> None:
        """Append one row."""
        self._packed += self._pack(*row)

    def extend(self, rows: FloatArray) -> None:
        """Append several rows, shape (rows, columns)."""
        self._packed += rows.tobytes()

    def arrays(self) -> dict[str, FloatArray]:
        """Return one array per column, rows in the order of their recording; nothing can be added afterwards."""
        table = np.frombuffer(self._packed).reshape(-1, len(self._columns))
        return {name: table[:, index] for index, name in enumerate(self._columns)}


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
