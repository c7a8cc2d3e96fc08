"""Lookup of precomputed times in a microsecond: linear interpolation of log time over log axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.arrays import FloatArray

#: Smallest time that a grid tells apart from none [s].
_FLOOR = 1e-12
_NOTHING = math.log(_FLOOR) + 0.5
#: Offset, log2 of the first point, points per octave, index of the last point.
_Axis = tuple[float, float, float, int]
#: Index of the point below, and how far a value is on the way to the next.
Place = tuple[int, float]


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

    __slots__ = ("_array", "_axes", "_logs")

    def __init__(self, axes: tuple[LogAxis, ...], price: Callable[..., FloatArray]) -> None:
        mesh = np.meshgrid(*(axis.points for axis in axes), indexing="ij")
        times = np.broadcast_to(price(*mesh), mesh[0].shape)
        self._axes: list[_Axis] = [(a.offset, math.log2(a.low + a.offset), a.per_octave, a.size - 1) for a in axes]
        self._array: FloatArray = np.log(np.maximum(times, _FLOOR))
        # NOTE: nested lists, because indexing an array for one number is five times slower.
        self._logs = self._array.tolist()

    def at(self, *values: float) -> float:
        """Return the time at one point [s]."""
        return self.at_places(self.places(*values))

    def places(self, *values: float) -> list[Place]:
        """Find a point on the axes, to be looked up in this grid and in others over the same axes."""
        return [_place(value, axis) for value, axis in zip(values, self._axes, strict=True)]

    def at_places(self, places: list[Place]) -> float:
        """Return the time at one point that :meth:`places` found [s]."""
        blend = _blend(self._logs, places, 0)
        return 0.0 if blend < _NOTHING else math.exp(blend)

    def at_all(self, *values: ArrayLike) -> FloatArray:
        """Return the times at many points [s]; the values broadcast, and so does the result.

        Notes
        -----
        What :meth:`at` returns of each, up to the rounding of the logarithms.
        """
        places = [
            _places(np.asarray(value, dtype=np.float64), axis) for value, axis in zip(values, self._axes, strict=True)
        ]
        blended = _blend_all(self._array, places)
        return np.where(blended < _NOTHING, 0.0, np.exp(blended))

    def line(self, value: float) -> TimeLine:
        """Fix the first of two axes at a value."""
        index, share = _place(value, self._axes[0])
        logs = [low + share * (high - low) for low, high in zip(self._logs[index], self._logs[index + 1], strict=True)]
        return TimeLine(self._axes[1], logs)


class TimeLine:
    """Times over one log axis: what a grid of two axes is where the first is fixed."""

    __slots__ = ("_first", "_last", "_logs", "_offset", "_per_octave")

    def __init__(self, axis: _Axis, logs: list[float]) -> None:
        self._offset, self._first, self._per_octave, self._last = axis
        self._logs = logs

    def at(self, value: float) -> float:
        """Return the time at one point [s]."""
        # NOTE: as _place does; engines ask once a step, and a call costs as much as the logarithm.
        place = (math.log2(max(value + self._offset, 1e-9)) - self._first) * self._per_octave
        if 0.0 < place < self._last:
            index = int(place)
            share = place - index
        else:
            index, share = (0, 0.0) if place <= 0.0 else (self._last - 1, 1.0)
        low, high = self._logs[index], self._logs[index + 1]
        blend = low + share * (high - low)
        return 0.0 if blend < _NOTHING else math.exp(blend)

    def at_all(self, values: ArrayLike) -> FloatArray:
        """Return the times at many points, shape as theirs [s]."""
        axis = self._offset, self._first, self._per_octave, self._last
        blended = _blend_all(np.asarray(self._logs), [_places(np.asarray(values, dtype=np.float64), axis)])
        return np.where(blended < _NOTHING, 0.0, np.exp(blended))


def _place(value: float, axis: _Axis) -> Place:
    offset, first, per_octave, last = axis
    place = (math.log2(max(value + offset, 1e-9)) - first) * per_octave
    if place <= 0.0:
        return 0, 0.0
    if place >= last:
        return last - 1, 1.0
    index = int(place)
    return index, place - index


def _blend(table: Any, places: list[Place], depth: int) -> float:
    index, share = places[depth]
    low, high = table[index], table[index + 1]
    if depth < len(places) - 1:
        low = _blend(low, places, depth + 1)
        high = _blend(high, places, depth + 1) if share else low
    blended: float = low + share * (high - low)
    return blended


def _places(values: FloatArray, axis: _Axis) -> tuple[NDArray[np.intp], FloatArray]:
    """Find many values on an axis: as :func:`_place` finds each."""
    offset, first, per_octave, last = axis
    places = np.clip((np.log2(np.maximum(values + offset, 1e-9)) - first) * per_octave, 0.0, last)
    index = np.minimum(places.astype(np.intp), last - 1)
    return index, places - index


def _blend_all(table: FloatArray, places: list[tuple[NDArray[np.intp], FloatArray]]) -> FloatArray:
    """Blend the corners of the cells around many points, the last axis first."""
    indices, shares = zip(*places, strict=True)
    corners = [
        table[tuple(index + up for index, up in zip(indices, corner, strict=True))]
        for corner in product((0, 1), repeat=len(places))
    ]
    for share in shares[::-1]:
        corners = [low + share * (high - low) for low, high in zip(corners[::2], corners[1::2], strict=True)]
    return np.asarray(corners[0])
