"""How unevenly decode batches of any size load single experts, tabulated: neighbouring batches share the work."""

from __future__ import annotations

import threading
from bisect import bisect_right

from simulator.arrays import FloatArray
from simulator.placement.replay import RoutingReplay, spread_of_counts

#: The largest batch up to which each is a point, and points per octave beyond it [tokens], [1].
_EACH, _PER_OCTAVE = 64, 12
_NAN = float("nan")


class SpreadTable:
    """Answers of :func:`~simulator.placement.replay.expert_spread` for one routing, linear between points.

    Every batch up to 64 tokens is a point, and twelve in each octave beyond: the imbalance of small batches is steep,
    and that of larger ones smooth. A point is counted when it is first needed.

    Parameters
    ----------
    routing : RoutingReplay or None
        The routing trace on its placement; ``None`` for a dense model.
    windows : int
        Parts of the trace that are counted [1].
    slots : array, shape (layers,), or None
        As for :func:`~simulator.placement.replay.expert_spread` [1].
    """

    def __init__(self, routing: RoutingReplay | None, windows: int, slots: FloatArray | None = None) -> None:
        self._routing, self._windows, self._slots = routing, windows, slots
        self._points = sorted(
            {*range(1, _EACH), *(round(_EACH * 2.0 ** (place / _PER_OCTAVE)) for place in range(18 * _PER_OCTAVE + 1))}
        )
        self._known: dict[int, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def at(self, tokens: int) -> tuple[float, float]:
        """Return the imbalance and the share of active slots of a batch of so many tokens [1]."""
        if tokens < 1:
            return _NAN, _NAN
        if self._routing is None:
            return 1.0, 1.0
        place = min(bisect_right(self._points, tokens) - 1, len(self._points) - 2)
        low, high = self._points[place], self._points[place + 1]
        self._count(self._routing, (low,) if tokens == low else (low, high))
        if tokens == low:
            return self._known[low]
        share = (tokens - low) / (high - low)
        imbalance, active = (a + share * (b - a) for a, b in zip(self._known[low], self._known[high], strict=True))
        return imbalance, active

    def _count(self, routing: RoutingReplay, points: tuple[int, ...]) -> None:
        with self._lock:
            for point in points:
                if point not in self._known:
                    self._known[point] = spread_of_counts(routing.counts("decode", point, self._windows), self._slots)
