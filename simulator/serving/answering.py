"""Requests of an instance that decode: at which step each ends, and which of a rank came last.

All of them gain the same in a decode step, so the step at which each will be done is known when it begins, and only
those that end in a step are looked at in it.
"""

from __future__ import annotations

from heapq import heappop, heappush

from simulator.serving.recorder import RequestRecorder
from simulator.serving.state import RequestState


class Answering:
    """The requests that decode on one instance.

    Parameters
    ----------
    state : RequestState
        When they end: ``due``, -1 for one that does not decode.
    records : RequestRecorder
        Where they are.
    instance, dp : int
        Which instance this is, and its ranks [1].
    """

    __slots__ = ("_ending", "_instance", "_order", "_records", "_state", "_steps")

    def __init__(self, state: RequestState, records: RequestRecorder, instance: int, dp: int) -> None:
        self._state, self._records, self._instance = state, records, instance
        # Requests by the decode step at whose end they may end, and these steps as a heap.
        self._ending: dict[int, list[int]] = {}
        self._steps: list[int] = []
        # Requests by rank in the order in which they began, with some that have left.
        self._order: list[list[int]] = [[] for _ in range(dp)]

    @property
    def next_end(self) -> int:
        """The next decode step at whose end a request may end; far away where none decodes."""
        return self._steps[0] if self._steps else 1 << 60

    def add(self, request: int, rank: int, rows: int) -> None:
        """Take in a request of a rank on which so many decode."""
        self.note_end(request)
        order = self._order[rank]
        order.append(request)
        if len(order) > 64 + 4 * rows:
            self._order[rank] = self._left(rank)

    def note_end(self, request: int) -> None:
        """Take note of when a request ends now."""
        due = self._state.due[request]
        ending = self._ending.get(due)
        if ending is None:
            self._ending[due] = [request]
            heappush(self._steps, due)
        else:
            ending.append(request)

    def ended(self, step: int) -> list[int]:
        """Take out the requests that may end at the end of the next decode step that has some."""
        heappop(self._steps)
        return self._ending.pop(step)

    def pop_youngest(self, rank: int) -> int:
        """Take out the request of a rank that came last among the least urgent."""
        order = self._order[rank] = self._left(rank)
        urgency = self._state.priority
        last = max(range(len(order)), key=lambda place: (urgency[order[place]] if urgency else 0, place))
        return order.pop(last)

    def _left(self, rank: int) -> list[int]:
        """Requests that decode on a rank, in the order in which they began."""
        due, places, ranks, own = self._state.due, self._records.instance, self._records.rank, self._instance
        return [each for each in self._order[rank] if due[each] >= 0 and places[each] == own and ranks[each] == rank]
