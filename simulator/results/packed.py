"""Columns of many rows, kept in parts that are as small as their values allow.

A day of requests takes ten million steps. As numbers of eight bytes their twenty columns, and what is computed from
them, do not fit where the simulator should run; but most columns are counts, or the same for hours. Whoever sums up
goes part by part; whoever asks for a column gets it made anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray

#: Rows of a part: their numbers stay in the cache of a core, and places among them take two bytes [1].
PART = 1 << 16
#: Whole numbers are kept in the first of these that holds them.
_COUNTS = (np.uint8, np.uint16, np.uint32)
#: Share of a part below which values other than zero are kept with their places [1].
_FEW = 0.25
#: Rows that are looked at before a column is taken for one of counts [1].
_GLANCE = 64


class PackedColumns(Mapping[str, FloatArray]):
    """Named columns of one length, without loss.

    Parameters
    ----------
    names : tuple of str
        The columns.

    Attributes
    ----------
    rows : int
        Their length [1].
    """

    __slots__ = ("_chosen", "_names", "_parts", "rows")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names, self.rows = names, 0
        self._parts: list[tuple[int, tuple[_Packed, ...]]] = []
        #: Of each part the rows that are shown; all where absent.
        self._chosen: list[NDArray[np.bool_]] | None = None

    @classmethod
    def of(cls, columns: Mapping[str, FloatArray]) -> PackedColumns:
        """Pack columns that are at hand."""
        packed = cls(tuple(columns))
        packed.append([np.asarray(values, np.float64) for values in columns.values()])
        return packed

    def append(self, columns: Sequence[FloatArray]) -> None:
        """Add rows: one array, shape (rows,), for each column."""
        for first in range(0, len(columns[0]), PART):
            part = [values[first : first + PART] for values in columns]
            self._parts.append((len(part[0]), tuple(_pack(values) for values in part)))
            self.rows += len(part[0])

    def chosen(self, rows: NDArray[np.bool_]) -> PackedColumns:
        """Show only some rows, shape (rows,); nothing is copied."""
        view = PackedColumns(self._names)
        ends = np.cumsum([size for size, _ in self._parts])
        view._parts, view._chosen, view.rows = self._parts, np.split(rows, ends[:-1]), int(rows.sum())
        return view

    def parts(self) -> Iterator[dict[str, FloatArray]]:
        """Yield the columns part by part, in the order of their rows."""
        return map(self._part, range(len(self._parts)))

    def _part(self, index: int) -> dict[str, FloatArray]:
        return {name: self._values(index, place) for place, name in enumerate(self._names)}

    def _values(self, index: int, place: int) -> FloatArray:
        rows, packed = self._parts[index]
        values = _unpacked(packed[place], rows)
        return values if self._chosen is None else values[self._chosen[index]]

    def between(self, first: int, last: int) -> dict[str, FloatArray]:
        """Return the columns of rows from the first up to, and not with, the last."""
        found, begin = [], 0
        for index, (rows, _) in enumerate(self._parts):
            end = begin + (rows if self._chosen is None else int(self._chosen[index].sum()))
            if first < end and begin < last:
                inside = slice(max(first - begin, 0), last - begin)
                found.append({name: values[inside] for name, values in self._part(index).items()})
            begin = end
        return {name: np.concatenate([np.empty(0), *(part[name] for part in found)]) for name in self._names}

    def __getitem__(self, name: str) -> FloatArray:
        if name not in self._names:
            raise KeyError(name)
        place, column, begin = self._names.index(name), np.empty(self.rows), 0
        for index in range(len(self._parts)):
            values = self._values(index, place)
            column[begin : begin + len(values)] = values
            begin += len(values)
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def parts_of(columns: Mapping[str, FloatArray]) -> Iterator[Mapping[str, FloatArray]]:
    """Yield columns part by part; as a whole where they are not packed."""
    return columns.parts() if isinstance(columns, PackedColumns) else iter((columns,))


def total(columns: Mapping[str, FloatArray], name: str) -> float:
    """Sum a column up."""
    return float(sum(float(part[name].sum()) for part in parts_of(columns)))


#: One value for all rows, all values, or those other than zero with their places.
_Packed = float | NDArray[np.generic] | tuple[NDArray[np.uint16], FloatArray]


def _pack(values: FloatArray) -> _Packed:
    first = float(values[0])
    if (values == first).all():
        return first
    glance = values[:_GLANCE]
    if (glance == np.rint(glance)).all():
        low, high = float(values.min()), float(values.max())
        for kind in _COUNTS:
            if low >= 0.0 and high <= np.iinfo(kind).max:
                counts = values.astype(kind)
                if (counts == values).all():
                    return counts
                break
    places = np.flatnonzero(values)
    if len(places) < _FEW * len(values):
        return places.astype(np.uint16), values[places]
    return np.array(values)


def _unpacked(packed: _Packed, rows: int) -> FloatArray:
    if isinstance(packed, float):
        return np.full(rows, packed)
    if isinstance(packed, tuple):
        values = np.zeros(rows)
        values[packed[0]] = packed[1]
        return values
    return packed.astype(np.float64)
