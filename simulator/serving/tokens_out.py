"""What users see of an instance's work: first tokens, the time between tokens, and ends."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.serving.state import Books


class TokensOut:
    """Records the tokens of one instance.

    Parameters
    ----------
    books : Books
        The requests and where they are recorded.
    behind : int
        Steps after which a step's first and last tokens reach the user [1].

    Attributes
    ----------
    last : float
        When the requests that decode emitted their last token [s].
    """

    __slots__ = ("_behind", "_fresh", "_gaps", "_late", "_records", "_state", "_step", "last")

    def __init__(self, books: Books, behind: int) -> None:
        self._state, self._records, self._gaps, self._behind = books.state, books.records, books.gaps, behind
        self.last = 0.0
        # Requests that joined since the last decode step, and when they emitted their last token.
        self._fresh: dict[int, float] = {}
        self._step = 0
        # What is not delivered yet: after which step it is, the request, and whether it has ended.
        self._late: deque[tuple[int, int, bool]] = deque()

    def emit(self, request: int, now: float) -> None:
        """Count the token that a computed prompt yields."""
        state = self._state
        state.generated[request] += 1
        if state.generated[request] == 1:
            self._records.first_token[request] = now
            if self._behind:
                self._late.append((self._step + self._behind, request, False))
        else:
            self._gaps.add((now - state.paused.pop(request, now), 1, now))
        self._fresh[request] = now

    def decoded(self, running: int, now: float) -> None:
        """Count the tokens of a decode step in which so many requests ran."""
        fresh = self._fresh
        if running > len(fresh):
            self._gaps.add((now - self.last, running - len(fresh), now))
        if fresh:
            for since in fresh.values():
                self._gaps.add((now - since, 1, now))
            fresh.clear()
        self.last = now

    def pause(self, request: int) -> None:
        """Keep when a request that is put back emitted its last token."""
        self._state.paused[request] = self._fresh.pop(request, self.last)

    def end(self, request: int) -> bool:
        """Take note that a request has all its tokens; return whether its user has them too."""
        self._fresh.pop(request, None)
        if self._behind:
            self._late.append((self._step + self._behind, request, True))
        return not self._behind

    def next_step(self) -> None:
        """Count a step."""
        self._step += 1

    def delivered(self, now: float, *, everything: bool = False) -> list[int]:
        """Deliver what is due, or all there is, and return the requests that have ended."""
        late, ended = self._late, []
        due = math.inf if everything else self._step
        while late and late[0][0] <= due:
            _, request, over = late.popleft()
            if over:
                ended.append(request)
            else:
                self._records.first_token[request] = now
        return ended

    @property
    def behind(self) -> bool:
        """Whether anything is not delivered yet."""
        return bool(self._late)
