"""The clock of a run: the one place that knows more of SimPy than its documentation promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from heapq import heappush
from typing import Any, cast

import simpy
from simpy.core import EmptySchedule
from simpy.events import NORMAL


class Notice(simpy.Event):
    """An event that happens where it is given, before those in the queue, and not through it."""

    def give(self, value: object) -> None:
        """Let it happen now, with a value."""
        waiting, self.callbacks = cast("list[Any]", self.callbacks), cast("Any", None)
        self._ok, self._value = True, value
        for callback in waiting:
            callback(self)


class _Due(simpy.Event):
    """An event that happens when its turn in the queue comes."""

    def __init__(self, env: simpy.Environment) -> None:
        super().__init__(env)
        self._ok, self._value = True, None


class Clock(simpy.Environment):
    """A clock that the process under way may move on by itself, and that calls functions without processes.

    Notes
    -----
    Of SimPy's own names it uses the time ``_now``, the heap ``_queue`` of events, whose entries are their time, their
    priority, their number of the count ``_eid`` and they themselves, and of an event ``_ok``, ``_value`` and the list
    ``callbacks``. ``tests/serving/test_clock.py`` fails where a
    release of SimPy changes them.
    """

    def skip(self, delay: float) -> bool:
        """Move on by a delay [s] unless anything else is due until then, its end included; return whether it did.

        Most steps of an engine are such: the next thing that happens is their own end. Waiting for it through the queue
        of events would change nothing and take as long as a tenth of the step's own accounting.
        """
        until, queue = self._now + delay, self._queue
        if queue and queue[0][0] <= until:
            return False
        self._now = until
        return True

    @property
    def due(self) -> float:
        """When the next event is due [s]; never where there is none."""
        return self._queue[0][0] if self._queue else math.inf

    def go_to(self, time: float) -> None:
        """Move on to a time before the next event is due [s]."""
        self._now = time

    def later(self, delay: float, then: Callable[[Any], object], value: object) -> None:
        """Call a function with a value after a delay [s], without the cost of a process."""
        cast("list[Any]", self.timeout(delay, value).callbacks).append(lambda event: then(event.value))

    def at(self, time: float, then: Callable[[], object]) -> None:
        """Call a function at a time to come [s], to the last bit, which a delay from now would miss."""
        event = _Due(self)
        cast("list[Any]", event.callbacks).append(lambda _event: then())
        heappush(self._queue, (time, NORMAL, next(self._eid), event))

    def follow(self, way: Generator[simpy.Event, Any, None], value: object = None) -> None:
        """Run a generator at once up to an event that has not happened yet, and on from there when it does.

        It is like a process that nobody waits for or interrupts, and puts no events of its own into the queue.
        """
        try:
            event = way.send(value)
            while event.processed:
                event = way.send(event.value)
        except StopIteration:
            return
        cast("list[Any]", event.callbacks).append(lambda happened: self.follow(way, happened.value))

    def reach(self, event: simpy.Event) -> bool:
        """Let things happen until an event has; return ``False`` where nothing is left to happen before it does."""
        step, awaited = self.step, cast("Any", event)
        try:
            # NOTE: an event that has happened has no callbacks any more; this is asked once per event of the run.
            while awaited.callbacks is not None:
                step()
        except EmptySchedule:
            return False
        return True
