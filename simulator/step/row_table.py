"""Times by component against a number of rows: priced at the points of a grid, linear between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray

#: Rows by which tables are longer; every whole multiple is a point of the grid [tokens].
_EDGE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTable:
    """Times of ops that rows drive.

    Attributes
    ----------
    grid : array, shape (points,)
        Rows, ascending from 0 [tokens].
    seconds : array, shape (points, components with ops)
        Times by component in the order of ``OP_COMPONENTS`` [s].
    """

    grid: FloatArray
    seconds: FloatArray

    @property
    def most(self) -> int:
        """Rows that the table reaches to [tokens]."""
        return int(self.grid[-1])

    @property
    def nbytes(self) -> int:
        """Size of the table [bytes]."""
        return self.grid.nbytes + self.seconds.nbytes

    def at(self, rows: NDArray[np.int64]) -> FloatArray:
        """Return the times of so many rows, shape (rows, components with ops) [s]."""
        found = np.zeros((len(rows), self.seconds.shape[1]))
        for index, column in enumerate(self.seconds.T):
            if column.any():
                found[:, index] = np.interp(rows, self.grid, column)
        return found

    def every(self) -> FloatArray:
        """Return the times of all components together by the number of rows, shape (most rows + 1,) [s]."""
        total: FloatArray = self.at(np.arange(self.most + 1)).sum(axis=1)
        return total


def row_grid(most: int) -> FloatArray:
    """Every count to 128, every eighth to 1024, and every sixty-fourth with the next: where tiles and waves step.

    It ends at the first multiple of 64 from ``most`` on, which is a point of every grid that goes beyond: a table that
    reaches further has the same values where this one has some.
    """
    end = -(-max(most, 1) // _EDGE) * _EDGE
    edges = np.arange(128, end + 1, _EDGE)
    grid = np.unique(np.concatenate([np.arange(0, 129), np.arange(136, 1025, 8), edges, edges + 1]))
    return grid[grid <= end].astype(np.float64)
