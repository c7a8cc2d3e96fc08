"""The running batch of an instance: who decodes on which rank, and the KV cache that they hold."""

from __future__ import annotations

import numpy as np

from simulator.arrays import FloatArray
from simulator.serving.recorder import ColumnRecorder


class Batch:
    """Requests and KV tokens by data-parallel rank, advanced by counting decode steps.

    A rank on which n requests decode gains n tokens per step, or n times ``accepted_per_step`` where drafts are
    accepted, so what it holds is a line over the step counter, and only requests that come and go are touched.

    Parameters
    ----------
    dp : int
        Data-parallel attention ranks [1].
    accepted_per_step : float
        Tokens that a decode step adds to a request [1].
    moves : ColumnRecorder, optional
        Told what a rank holds each time that somebody begins or ceases to decode there, where that is asked for
        afterwards instead of from step to step; rows as :class:`simulator.serving.step_log.StepLog` describes them.

    Attributes
    ----------
    index : int
        Decode steps so far [1].
    gain : float
        Tokens that a decode step adds to a request [tokens].
    position : float
        Tokens that a request has gained which decoded in all of them [tokens].
    origin : float
        Tokens that all who decode would have held before any of them [tokens].
    rows, sequences : list of int
        Requests that decode on each rank, and those that hold KV cache there, prompts included [1].
    most_rows : int
        Requests that decode on the rank with most of them [1].
    running, held : int
        Requests that decode on all ranks, and those that hold KV cache [1].
    prompts : int
        KV tokens of prompts that are not computed yet, over all ranks [tokens].
    """

    __slots__ = (
        "_alone",
        "_decoding",
        "_moves",
        "_origin",
        "_origins",
        "_prompts",
        "_ranks_with",
        "gain",
        "held",
        "index",
        "most_rows",
        "origin",
        "position",
        "prompts",
        "rows",
        "running",
        "sequences",
    )

    def __init__(self, dp: int, accepted_per_step: float = 1, moves: ColumnRecorder | None = None) -> None:
        self.index = self.running = self.held = 0
        # NOTE: of whole numbers of tokens a float is exact up to 2^53, so sums over millions of steps are.
        self.gain: float = accepted_per_step
        self.position: float = 0.0
        self.rows, self.sequences = [0] * dp, [0] * dp
        # Tokens that a rank's requests would have held at step 0, and those of prompts that are not computed yet.
        self._origin: list[float] = [0.0] * dp
        self._prompts = [0] * dp
        self.origin: float = 0.0
        self.prompts = 0
        self._alone, self._moves = dp == 1, moves
        # NOTE: origins and rows once more as arrays, in which the rank with most context is found quickly.
        self._origins: FloatArray = np.zeros(dp)
        self._decoding: FloatArray = np.zeros(dp)
        # How many ranks have so many requests that decode, and the most that one has.
        self._ranks_with = [dp]
        self.most_rows = 0

    def step(self, steps: int = 1) -> None:
        """Let every request that decodes gain the tokens of a step, or of several."""
        self.index += steps
        self.position = self.index * self.gain

    def admit(self, rank: int, prompt: int) -> None:
        """Reserve KV cache for a prompt."""
        self._prompts[rank] += prompt
        self.prompts += prompt
        self.sequences[rank] += 1
        self.held += 1

    def drop(self, rank: int, prompt: int) -> None:
        """Give the KV cache of an uncomputed prompt back."""
        self._prompts[rank] -= prompt
        self.prompts -= prompt
        self.sequences[rank] -= 1
        self.held -= 1

    def join(self, rank: int, prompt: int) -> None:
        """Let a request decode whose prompt is computed."""
        self._prompts[rank] -= prompt
        self.prompts -= prompt
        rows = self.rows[rank] + 1
        if rows > self.most_rows:
            self.most_rows = rows
            if rows == len(self._ranks_with):
                self._ranks_with.append(0)
        self._move(rank, prompt, rows, 1)

    def leave(self, rank: int, tokens: float) -> None:
        """Take out a request that decodes and holds so many tokens."""
        self.sequences[rank] -= 1
        self.held -= 1
        rows = self.rows[rank]
        self._move(rank, -tokens, rows - 1, -1)
        if rows == self.most_rows and not self._ranks_with[rows]:
            self.most_rows = rows - 1

    def hold(self, rank: int) -> None:
        """Take back the last step of a request of a rank, which decodes and did not go in it."""
        self._origin[rank] -= self.gain
        self.origin -= self.gain
        if not self._alone:
            self._origins[rank] = self._origin[rank]

    def _move(self, rank: int, tokens: float, rows: int, more: int) -> None:
        origin = tokens - more * self.position
        self._origin[rank] += origin
        self.origin += origin
        self._ranks_with[rows - more] -= 1
        self._ranks_with[rows] += 1
        self.rows[rank] = rows
        self.running += more
        if self._moves is not None:
            self._moves.add((self.index, rank, self._origin[rank], rows))
        elif not self._alone:
            self._origins[rank], self._decoding[rank] = self._origin[rank], rows

    @property
    def context(self) -> float:
        """KV tokens of the requests that decode, over all ranks [tokens]."""
        return self.origin + self.running * self.position

    def tokens_on(self, rank: int) -> float:
        """KV tokens that are taken on one rank, those of uncomputed prompts included [tokens]."""
        return self._origin[rank] + self.rows[rank] * self.position + self._prompts[rank]

    def counters(self) -> dict[str, float]:
        """Return all that it counts, by name."""
        ranks = range(len(self.rows))
        return {
            "running": self.running,
            "holding KV cache": self.held,
            "KV tokens of answers": self.context,
            "KV tokens of prompts": self.prompts,
            "ranks that decode": sum(self.rows[rank] > 0 for rank in ranks),
            "ranks that hold requests": sum(self.sequences[rank] > 0 for rank in ranks),
            "ranks that hold tokens": sum(self.tokens_on(rank) != 0 for rank in ranks),
        }

    def longest(self) -> tuple[int, float]:
        """Return the requests that decode on the rank with most context [1], and that context [tokens].

        Not where what ranks hold is recorded to be asked for afterwards.
        """
        if self._alone:
            return self.running, self.origin + self.running * self.position
        rank = (self._origins + self._decoding * self.position).argmax().item()
        return self.rows[rank], self._origin[rank] + self.rows[rank] * self.position

    def longest_ahead(self, steps: int) -> tuple[int, FloatArray]:
        """Look ahead at steps in which nobody comes or goes, as far as one rank has most context in all of them.

        Returns
        -------
        sequences : int
            Requests that decode on that rank [1].
        contexts : array, shape (steps at most,)
            Its context in each step [tokens].
        """
        positions = self.position + np.arange(steps) * self.gain
        if self._alone:
            return self.running, np.asarray(self.origin + self.running * positions)
        contexts = self._origins + self._decoding * positions[:, None]
        longest = contexts.argmax(axis=1)
        others = longest != longest[0]
        same = int(others.argmax()) if others.any() else steps
        return self.rows[longest[0]], np.asarray(contexts[:same, longest[0]])
