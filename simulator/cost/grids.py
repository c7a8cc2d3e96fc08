"""Lookup of precomputed times in a microsecond: linear interpolation of log time over log axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Smallest time that a grid tells apart from none [s].
_FLOOR = 1e-12
_NOTHING = math.log(_FLOOR) + 0.5


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
        self._axes = [(a.offset, math.log2(a.low + a.offset), a.per_octave, a.size - 1) for a in axes]
        # NOTE: nested lists, because indexing an array for one number is five times slower.
        self._logs = np.log(np.maximum(times, _FLOOR)).tolist()

    def at(self, *values: float) -> float:
        """Return the time at one point [s]."""
        places = []
        for value, (offset, first, per_octave, last) in zip(values, self._axes, strict=True):
            place = (math.log2(max(value + offset, 1e-9)) - first) * per_octave
            index = min(max(int(place), 0), last - 1)
            places.append((index, min(max(place - index, 0.0), 1.0)))
        blend = _blend(self._logs, places, 0)
        return 0.0 if blend < _NOTHING else math.exp(blend)


def _blend(table: Any, places: list[tuple[int, float]], depth: int) -> float:
    index, share = places[depth]
    low, high = table[index], table[index + 1]
    if depth < len(places) - 1:
        low = _blend(low, places, depth + 1)
        high = _blend(high, places, depth + 1) if share else low
    blended: float = low + share * (high - low)
    return blended
