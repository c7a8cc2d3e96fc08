"""The clock of a run."""

from __future__ import annotations

import simpy


class Clock(simpy.Environment):
    """A clock that the process under way may move on by itself where nobody else has anything to do meanwhile.

    Most steps of an engine are such: the next thing that happens is their own end. Waiting for it through the queue of
    events would change nothing and take as long as a tenth of the step's own accounting.
    """

    def skip(self, delay: float) -> bool:
        """Move on by a delay [s] unless anything else is due until then, its end included; return whether it did."""
        until, queue = self._now + delay, self._queue
        if queue and queue[0][0] <= until:
            return False
        self._now = until
        return True
