"""What users see of an instance's work: first tokens, the time between tokens, and ends."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from simulator.arrays import FloatArray
from simulator.serving.state import RunState


class TokensOut:
    """Records the tokens of one instance.

    Parameters
    ----------
    run_state : RunState
        The requests and where they are recorded.
    behind : int
        Steps after which a step's first and last tokens reach the user [1].

    Attributes
    ----------
    last : float
        When the requests that decode emitted their last token [s].
    step : int
        Steps so far; the instance counts them [1].
    late : deque
        What is not delivered yet: after which step it is, the request, and whether it has ended.
    """

    __slots__ = ("_behind", "_fresh", "_gaps", "_records", "_state", "last", "late", "step")

    def __init__(self, run_state: RunState, behind: int) -> None:
        self._state, self._records, self._gaps, self._behind = (
            run_state.state,
            run_state.records,
            run_state.gaps,
            behind,
        )
        self.last = 0.0
        # Requests that joined since the last decode step, and when they emitted their last token.
        self._fresh: dict[int, float] = {}
        self.step = 0
        self.late: deque[tuple[int, int, bool]] = deque()

    def emit(self, request: int, now: float) -> None:
        """Count the token that a computed prompt yields."""
        state = self._state
        state.generated[request] += 1
        if state.generated[request] == 1:
            self._records.first_token[request] = now
            if self._behind:
                self.late.append((self.step + self._behind, request, False))
        else:
            self._gaps.add((now - state.paused.pop(request, now), 1, now))
        self._fresh[request] = now

    def decoded(self, running: int, now: float, held: Sequence[int] = ()) -> None:
        """Count the tokens of a decode step in which so many requests ran, but for those that were held back."""
        fresh = self._fresh
        if held:
            kept = {request: fresh.pop(request, self.last) for request in held}
            self.decoded(running - len(held), now)
            fresh.update(kept)
            return
        if not fresh:
            if running:
                self._gaps.add((now - self.last, running, now))
        else:
            if running > len(fresh):
                self._gaps.add((now - self.last, running - len(fresh), now))
            together: dict[float, int] = {}
            for since in fresh.values():
                together[since] = together.get(since, 0) + 1
            for since, count in together.items():
                self._gaps.add((now - since, count, now))
            fresh.clear()
        self.last = now

    def decoded_all(self, running: int, ends: FloatArray) -> None:
        """Count the tokens of decode steps in a row in which so many requests ran, and which end at such times [s]."""
        self.decoded(running, float(ends[0]))
        if len(ends) > 1:
            rows = np.empty((len(ends) - 1, 3))
            rows[:, 0], rows[:, 1], rows[:, 2] = ends[1:] - ends[:-1], running, ends[1:]
            self._gaps.extend(rows)
            self.last = float(ends[-1])

    def pause(self, request: int) -> None:
        """Keep when a request that is put back emitted its last token."""
        self._state.paused[request] = self._fresh.pop(request, self.last)

    def end(self, request: int) -> bool:
        """Take note that a request has all its tokens; return whether its user has them too."""
        self._fresh.pop(request, None)
        if self._behind:
            self.late.append((self.step + self._behind, request, True))
        return not self._behind

    def delivered(self, now: float, *, everything: bool = False) -> list[int]:
        """Deliver what is due, or all there is, and return the requests that have ended."""
        late, ended = self.late, []
        due = math.inf if everything else self.step
        while late and late[0][0] <= due:
            _, request, over = late.popleft()
            if over:
                ended.append(request)
            else:
                self._records.first_token[request] = now
        return ended
