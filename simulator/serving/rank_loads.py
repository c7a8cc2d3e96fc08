"""How many requests the ranks of an instance have, and which of them takes the next."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

#: Requests of a rank that is closed, so that others are always preferred [1].
_CLOSED = 1 << 40


class RankLoads:
    """Outstanding requests by rank.

    Parameters
    ----------
    dp : int
        Ranks [1].

    Attributes
    ----------
    total : int
        Outstanding requests over all ranks [1].
    closed : set of int
        Ranks that take no requests.
    """

    __slots__ = ("_dp", "_each", "_heap", "_listed", "closed", "total")

    def __init__(self, dp: int) -> None:
        self._dp, self._each = dp, [0] * dp
        self.total = 0
        self.closed: set[int] = set()
        # Loads of ranks as ``load * dp + rank``, the smallest first. Every rank is listed with its load or a smaller
        # one, perhaps several times with different ones, so that looking for the idlest does not look at all ranks.
        self._heap = list(range(dp))
        self._listed = set(self._heap)

    def add(self, rank: int, requests: int = 1) -> None:
        """Count further requests of a rank, or fewer where negative."""
        load = self._each[rank] = self._each[rank] + requests
        self.total += requests
        if requests < 0:
            self._list(load * self._dp + rank)

    def _list(self, entry: int) -> None:
        if entry not in self._listed:
            self._listed.add(entry)
            heappush(self._heap, entry)

    def idlest(self) -> int:
        """Return the open rank with the fewest requests, the first of several."""
        if self.closed:
            loads = self._loads()
            return loads.index(min(loads))
        heap, each, dp = self._heap, self._each, self._dp
        while True:
            load, rank = divmod(heap[0], dp)
            if load == each[rank]:
                return rank
            self._listed.discard(heappop(heap))
            if load < each[rank]:
                self._list(each[rank] * dp + rank)

    def fitting(self, cached: Sequence[int]) -> int:
        """Return the rank with most of a prompt in its cache, unless it has twice the requests of the idlest.

        Parameters
        ----------
        cached : sequence of int
            Tokens of the prompt in the cache of each rank [tokens].
        """
        loads = self._loads()
        bound = 2 * min(loads) + 1
        return max(range(len(loads)), key=lambda rank: (cached[rank] if loads[rank] <= bound else 0, -loads[rank]))

    def _loads(self) -> list[int]:
        if not self.closed:
            return self._each
        return [_CLOSED if rank in self.closed else load for rank, load in enumerate(self._each)]
