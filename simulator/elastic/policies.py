"""When to change size: what is observed, and the size that each policy asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray
from simulator.scenario.sections import ElasticChoice

_UP: Mapping[str, float] = {"queue": 4.0, "slo": 0.9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a policy sees of the deployment.

    Attributes
    ----------
    now : float
        Time since the start [s].
    size : int
        Attention ranks of all instances together [1].
    waiting, running : int
        Requests that wait for admission, and those that are being answered [1].
    slots : int
        Requests that one rank may run at once [1].
    attainment : float
        Share of the requests of the last window that met the objective; NaN where there were none [1].
    rate : float
        Requests per second that arrived in the last window [1/s].
    forecast : float
        Requests per second that the trace has in the time ahead [1/s].
    capacity : float
        Requests per second that one rank can serve [1/s].
    """

    now: float
    size: int
    waiting: int
    running: int
    slots: int
    attainment: float
    rate: float
    forecast: float
    capacity: float

    def fits(self, size: int, target: float) -> bool:
        """Whether ranks of that number would carry the present load within the target."""
        load = max(self.rate / self.capacity, (self.running + self.waiting) / self.slots)
        return load <= target * size


def wanted_size(choice: ElasticChoice, seen: Observation) -> int:
    """Return the size that the policy asks for [ranks], before bounds, steps and patience.

    Notes
    -----
    ``schedule`` reads the events. ``queue`` grows by a step above ``up`` waiting requests per rank, ``slo`` below an
    attainment of ``up``; both shrink by a step where nobody waits (and, for ``slo``, the objective is met) and the
    smaller deployment would carry the load within ``target``. ``utilisation`` asks for the size at which the occupied
    slots are ``target`` of all slots, ``predictive`` for that at which the arrivals ahead are ``target`` of what the
    ranks can serve; both keep what they have while the load is within ``band`` of the target.
    """
    return _POLICIES[choice.policy](choice, seen)


def _schedule(choice: ElasticChoice, seen: Observation) -> int:
    due = [event for event in choice.events if event.at <= seen.now]
    return max(due, key=lambda event: event.at).size if due else seen.size


def _queue(choice: ElasticChoice, seen: Observation) -> int:
    if seen.waiting > threshold(choice) * seen.size:
        return seen.size + choice.step
    return _smaller(choice, seen) if seen.waiting == 0 else seen.size


def _slo(choice: ElasticChoice, seen: Observation) -> int:
    limit = threshold(choice)
    if seen.attainment < limit:
        return seen.size + choice.step
    return seen.size if seen.waiting else _smaller(choice, seen)


def _utilisation(choice: ElasticChoice, seen: Observation) -> int:
    return _to_target(choice, seen.size, (seen.running + seen.waiting) / seen.slots)


def _predictive(choice: ElasticChoice, seen: Observation) -> int:
    return _to_target(choice, seen.size, max(seen.forecast, seen.rate) / seen.capacity)


_POLICIES: Mapping[str, Callable[[ElasticChoice, Observation], int]] = {
    "schedule": _schedule,
    "queue": _queue,
    "slo": _slo,
    "utilisation": _utilisation,
    "predictive": _predictive,
}


def threshold(choice: ElasticChoice) -> float:
    """The threshold of growth: what the scenario says, or the default of its policy [1]."""
    return choice.up if choice.up is not None else _UP.get(choice.policy, 1.0)


def _smaller(choice: ElasticChoice, seen: Observation) -> int:
    smaller = seen.size - choice.step
    return smaller if smaller > 0 and seen.fits(smaller, choice.target) else seen.size


def _to_target(choice: ElasticChoice, size: int, load: float) -> int:
    """Size at which ``load`` full ranks are the target; the present one within the band."""
    if abs(load / (choice.target * size) - 1.0) <= choice.band:
        return size
    return max(math.ceil(load / choice.target - 1e-9), 1)


@dataclass(slots=True)
class Governor:
    """Bounds what a policy asks for: sizes on the grid, looks that agree, and rest after a change.

    Attributes
    ----------
    choice : ElasticChoice
        Step, patience and cooldown.
    base, smallest, largest : int
        The size that the grid starts from, and its ends [ranks].
    """

    choice: ElasticChoice
    base: int
    smallest: int
    largest: int
    _asked: int = 0
    _looks: int = 0
    _changed: float = -math.inf

    def settle(self, seen: Observation) -> int:
        """Return the size to change to now; the present one where nothing is to be done."""
        target = self.on_grid(wanted_size(self.choice, seen))
        scheduled = self.choice.policy == "schedule"
        direction = (target > seen.size) - (target < seen.size)
        self._looks = self._looks + 1 if direction == self._asked else 1
        self._asked = direction
        if direction == 0 or scheduled:
            return target
        rest = self.choice.cooldown_up if direction > 0 else self.choice.cooldown_down
        if self._looks < self.choice.patience or seen.now - self._changed < rest:
            return seen.size
        return target

    def changed(self, now: float) -> None:
        """Note that a change has ended."""
        self._changed, self._looks = now, 0

    def on_grid(self, size: int) -> int:
        """Round up to the grid of steps around the base size, within the bounds [ranks]."""
        step = self.choice.step
        stepped = self.base + math.ceil((size - self.base) / step) * step
        while stepped > self.largest:
            stepped -= step
        while stepped < self.smallest:
            stepped += step
        return stepped


def forecast_rate(arrival: FloatArray, now: float, ahead: float) -> float:
    """Arrivals per second of a trace in the time ahead [1/s]; ``arrival`` is sorted [s]."""
    first, last = np.searchsorted(arrival, (now, now + ahead))
    return float(last - first) / ahead
