"""Lookup of precomputed times in a microsecond: linear interpolation of log time over log axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Smallest time that a grid tells apart from none [s].
_FLOOR = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAxis:
    """Points spaced evenly in log2(value + offset); values outside are clamped to the ends.

    ``offset`` keeps an axis that starts at zero finite.
    """

    low: float
    high: float
    per_octave: float
    offset: float = 0.0

    @property
    def size(self) -> int:
        """Number of points, at least 2."""
        octaves = math.log2((self.high + self.offset) / (self.low + self.offset))
        return max(math.ceil(octaves * self.per_octave), 1) + 1

    @property
    def points(self) -> FloatArray:
        """Values of the points, shape (size,)."""
        first = math.log2(self.low + self.offset)
        return np.asarray(2.0 ** (first + np.arange(self.size) / self.per_octave) - self.offset)

    def locate(self, value: float) -> tuple[int, float]:
        """Return the point below ``value`` and the share of the way to the next."""
        first = math.log2(self.low + self.offset)
        place = (math.log2(max(value + self.offset, 1e-9)) - first) * self.per_octave
        last = self.size - 1
        if place <= 0.0:
            return 0, 0.0
        if place >= last:
            return last - 1, 1.0
        index = int(place)
        return index, place - index


class TimeGrid:
    """Times over two or three log axes, interpolated in log space.

    Parameters
    ----------
    axes : tuple of LogAxis
        Two or three axes.
    price : callable
        Maps meshed arrays, one per axis, to times of the same shape [s].
    """

    __slots__ = ("_axes", "_logs")

    def __init__(self, axes: tuple[LogAxis, ...], price: Callable[..., FloatArray]) -> None:
        mesh = np.meshgrid(*(axis.points for axis in axes), indexing="ij")
        times = np.broadcast_to(price(*mesh), mesh[0].shape)
        self._axes = axes
        # NOTE: nested lists, because indexing an array for one number is five times slower.
        self._logs = np.log(np.maximum(times, _FLOOR)).tolist()

    def at(self, *values: float) -> float:
        """Return the time at one point [s]."""
        blend = _blend(self._logs, [axis.locate(v) for axis, v in zip(self._axes, values, strict=True)], 0)
        return 0.0 if blend < -27.0 else math.exp(blend)


def _blend(table: list[float] | list[list[float]], places: list[tuple[int, float]], depth: int) -> float:
    index, share = places[depth]
    if depth == len(places) - 1:
        return table[index] + share * (table[index + 1] - table[index])  # type: ignore[operator]
    low = _blend(table[index], places, depth + 1)  # type: ignore[arg-type]
    if share == 0.0:
        return low
    return low + share * (_blend(table[index + 1], places, depth + 1) - low)  # type: ignore[arg-type]
