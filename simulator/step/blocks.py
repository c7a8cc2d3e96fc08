"""The blocks of the MoE layers of a step against the tokens of a rank: what a schedule moves as one.

Ops are priced as for the step tables and summed by :attr:`~simulator.ops.Op.block`. Everything from the first MoE
layer to the last counts as *inside*: a batch that is split stays split from the one to the other. What lies before and
after (embedding, dense layers at the start, LM head) is *outside*.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray
from simulator.cost.model import OpTime
from workloads.models.spec import ModelSpec, MoE

#: Columns of a block table, all over the whole step [s]: computing inside before the dispatch, shared experts,
#: dispatch and combine, what these add per unit of (imbalance - 1), what they hold of the compute units, and the rest.
_COLUMNS = (
    "compute",
    "shared",
    "dispatch",
    "combine",
    "uneven_dispatch",
    "uneven_combine",
    "dispatch_unit_seconds",
    "combine_unit_seconds",
    "outside",
)


@dataclass(slots=True, kw_only=True)
class BlockTimes:
    """Blocks of a step with so many rows on a rank, over all its layers [s].

    ``uneven_dispatch`` and ``uneven_combine`` are what dispatch and combine add per unit of (imbalance - 1) [s];
    ``dispatch_unit_seconds`` and ``combine_unit_seconds`` their time by the share of the compute units that they take
    from kernels beside them [s]; ``dispatch_stretch`` and ``combine_stretch`` how much longer they take beside
    kernels, factors [1].
    """

    compute: float
    shared: float
    dispatch: float
    combine: float
    uneven_dispatch: float
    uneven_combine: float
    dispatch_unit_seconds: float
    combine_unit_seconds: float
    outside: float
    dispatch_stretch: float = 1.0
    combine_stretch: float = 1.0

    @property
    def dispatch_units(self) -> float:
        """Share of the compute units that the dispatch takes [1]."""
        return self.dispatch_unit_seconds / self.dispatch if self.dispatch > 0.0 else 0.0

    @property
    def combine_units(self) -> float:
        """Share of the compute units that the combine takes [1]."""
        return self.combine_unit_seconds / self.combine if self.combine > 0.0 else 0.0


class BlockTable:
    """Blocks over the rows of a rank, linear between the points of a grid.

    Parameters
    ----------
    grid : array, shape (points,)
        Rows, ascending [tokens].
    columns : array, shape (points, columns)
        In the order of ``BlockTimes`` [s].
    stretch : (float, float)
        How much longer dispatch and combine take beside kernels, factors [1].
    """

    __slots__ = ("_columns", "_grid", "_known", "_stretch")

    def __init__(self, grid: FloatArray, columns: FloatArray, stretch: tuple[float, float] = (1.0, 1.0)) -> None:
        self._grid: list[float] = grid.tolist()
        self._columns = columns
        self._stretch = {"dispatch_stretch": stretch[0], "combine_stretch": stretch[1]}
        self._known: dict[int, BlockTimes] = {}

    def at(self, rows: int) -> BlockTimes:
        """Return the blocks of a step of so many rows."""
        found = self._known.get(rows)
        if found is None:
            low = min(max(bisect_right(self._grid, rows) - 1, 0), len(self._grid) - 2)
            share = (rows - self._grid[low]) / (self._grid[low + 1] - self._grid[low])
            row = self._columns[low] + min(share, 1.0) * (self._columns[low + 1] - self._columns[low])
            found = self._known[rows] = BlockTimes(**dict(zip(_COLUMNS, row.tolist(), strict=True)), **self._stretch)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What lies between the first and the last MoE layer: shares of the attention and dense layers [1], MoE layers."""

    attention: float
    dense: float
    layers: int

    def share(self, block: str) -> float:
        """Share of a block of ops that lies inside [1]."""
        return {"ends": 0.0, "attention": self.attention, "dense": self.dense}.get(block, 1.0)


def inside(model: ModelSpec) -> Inside:
    """Count what lies between the first and the last MoE layer."""
    moe = [index for index, layer in enumerate(model.layers) if isinstance(layer.ffn, MoE)]
    first, last = (moe[0], moe[-1]) if moe else (len(model.layers), -1)

    def share(where: Sequence[int]) -> float:
        return sum(first <= index <= last for index in where) / len(where) if where else 0.0

    attention = [index for index, layer in enumerate(model.layers) if layer.attention]
    dense = [index for index, layer in enumerate(model.layers) if layer.ffn and not isinstance(layer.ffn, MoE)]
    return Inside(attention=share(attention), dense=share(dense), layers=len(moe))


def block_table(
    grid: FloatArray,
    even: Sequence[OpTime],
    uneven: Sequence[OpTime],
    units: Sequence[FloatArray],
    stretch: Sequence[float],
    where: Inside,
) -> BlockTable:
    """Sum priced ops by block.

    Parameters
    ----------
    grid : array, shape (points,)
        Rows that the ops were priced at [tokens].
    even, uneven : sequence of OpTime
        Ops that tokens drive, priced with an even load and with twice the mean on the busiest rank.
    units : sequence of array
        Share of the compute units that each op takes where it is an exchange [1].
    stretch : sequence of float
        How much longer each op takes beside kernels where it is an exchange, a factor [1].
    where : Inside
        What counts as inside.
    """
    columns = dict.fromkeys(_COLUMNS, np.zeros(len(grid)))
    for time, busier, taken in zip(even, uneven, units, strict=True):
        block, seconds = time.op.block, time.seconds
        share = where.share(block)
        name = {"dispatch": "dispatch", "combine": "combine", "shared": "shared"}.get(block, "compute")
        columns[name] = columns[name] + share * seconds
        columns["outside"] = columns["outside"] + (1.0 - share) * seconds
        if block in ("dispatch", "combine"):
            columns[f"uneven_{block}"] = columns[f"uneven_{block}"] + (busier.seconds - seconds)
            columns[f"{block}_unit_seconds"] = columns[f"{block}_unit_seconds"] + taken * seconds
    longest = {"dispatch": 1.0, "combine": 1.0}
    for time, factor in zip(even, stretch, strict=True):
        if time.op.block in longest:
            longest[time.op.block] = max(longest[time.op.block], factor)
    table = np.stack([columns[name] for name in _COLUMNS], axis=1)
    return BlockTable(grid, table, (longest["dispatch"], longest["combine"]))
