"""Sessions: requests that a client sends a while after the answer to another."""

from __future__ import annotations

import numpy as np

from workloads.requests.trace import RequestTrace
from workloads.requests.turns import first_requests, follows


class Sessions:
    """Which requests of a run follow which, and how many of each session are not answered yet.

    Parameters
    ----------
    trace : RequestTrace
        Requests, some of which follow others.

    Attributes
    ----------
    first : list of int
        The requests with which sessions begin, in order.
    """

    __slots__ = ("_delay", "_earliest", "_first_of", "_left", "_others", "_turns", "first")

    def __init__(self, trace: RequestTrace) -> None:
        after = np.full(len(trace), -1) if trace.after is None else trace.after
        first_of = first_requests(trace)
        self._first_of: list[int] = first_of.tolist()
        self._left: list[int] = np.bincount(first_of, minlength=len(trace)).tolist()
        self._delay = [0.0] * len(trace) if trace.delay is None else trace.delay.tolist()
        # In a closed loop nothing has a time of its own.
        self._earliest = [0.0] * len(trace) if trace.concurrency is not None else trace.arrival.tolist()
        self._turns: dict[int, list[int]] = {}
        for request in np.flatnonzero(after >= 0).tolist():
            self._turns.setdefault(int(after[request]), []).append(request)
        # Answers that a request waits for beside the last one, which sends it.
        self._others: dict[int, int] = {}
        for request, others in (trace.also or {}).items():
            self._others[request] = len(others)
            for other in others:
                self._turns.setdefault(other, []).append(request)
        self.first: list[int] = np.flatnonzero(after < 0).tolist()

    def after(self, request: int, now: float) -> list[tuple[int, float]]:
        """Return the requests that wait for nothing more once one is answered now, and when each is sent [s]."""
        due = []
        for turn in self._turns.get(request, ()):
            if self._others.get(turn, 0):
                self._others[turn] -= 1
            else:
                due.append((turn, max(now + self._delay[turn], self._earliest[turn])))
        return due

    def over(self, request: int) -> bool:
        """Count an answered request; return whether it was the last of its session."""
        first = self._first_of[request]
        self._left[first] -= 1
        return not self._left[first]


def sessions_of(trace: RequestTrace) -> Sessions | None:
    """Return the sessions of a trace; ``None`` where no request follows another."""
    return Sessions(trace) if follows(trace) else None
