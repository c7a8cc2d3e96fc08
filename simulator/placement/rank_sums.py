"""The load of every rank by any window of a token order, exactly: running sums, as fine as they are used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import IdArray, IntArray
from simulator.placement.slots import Placement

#: Tokens between two rows of the sums that few have asked yet: quick to make, and small [tokens].
_COARSE = 16
#: Windows asked for after which finer sums pay: what is counted beside coarse ones has then cost as much [1].
_PATIENCE = 2000
#: Largest size of the sums of one order [bytes]; where not every token has room for a row, every second has, and so on.
SUMS_ROOM = 80e6
#: Tokens whose assignments are counted at a time: what is made on the way stays in the cache [tokens].
_CHUNK = 64


class RankSums:
    """Assignments to every rank at every layer in windows of one token order.

    Running sums are kept before every ``stride``-th token, and the tokens between are counted one by one.

    Parameters
    ----------
    slot_ids : integer array, shape (tokens, layers, top_k)
        Slot that serves each assignment, in prompt order; the number of slots where none does.
    placement : Placement
        Experts on ranks.
    turn : int64 array, shape (ranks, layers)
        Assignments of all tokens together [1].
    order : int64 array, shape (tokens,), optional
        Prompt-order index of each token of the order; that of prompts where absent.

    Attributes
    ----------
    tokens : int
        Tokens of the order [tokens].
    """

    __slots__ = (
        "_asked",
        "_cell",
        "_finest",
        "_full",
        "_kind",
        "_latest",
        "_order",
        "_placement",
        "_rows",
        "_slot_ids",
        "_turn",
        "_turns",
        "tokens",
    )

    def __init__(
        self,
        slot_ids: IdArray,
        placement: Placement,
        turn: NDArray[np.int64],
        order: NDArray[np.int64] | None = None,
    ) -> None:
        self.tokens = len(slot_ids)
        self._slot_ids, self._order, self._turn, self._placement = slot_ids, order, turn, placement
        # Where slots count at the first layer in flat rows; the last is for assignments that no slot serves.
        self._cell = np.append(np.arange(placement.slots) // placement.slots_per_rank, placement.ranks) * turn.shape[1]
        most = 2 * int(turn.max(initial=0))
        self._kind = np.dtype(np.uint16 if most < 2**16 else np.uint32 if most < 2**32 else np.uint64)
        # Rows and stride change together, for other threads may read them meanwhile.
        self._rows: tuple[NDArray[np.unsignedinteger], int] = np.zeros((0, *turn.shape), dtype=self._kind), 0
        self._asked = 0
        # Tokens between two rows where they fill their room.
        self._finest, row = 1, turn.size * self._kind.itemsize
        while (self.tokens // self._finest + 1) * row > SUMS_ROOM and self._finest < self.tokens:
            self._finest *= 2
        # Whether every assignment is to some rank.
        self._full = int(turn.sum()) == slot_ids.size
        self._turns: tuple[int, NDArray[np.unsignedinteger]] = 1, turn.astype(self._kind)
        # The place where the latest window that was asked for ended, and the sums before it.
        self._latest: tuple[int, NDArray[np.unsignedinteger]] = 0, np.zeros(turn.shape, dtype=self._kind)

    def ordered(self, order: NDArray[np.int64]) -> RankSums:
        """Return the sums of another order of the same tokens."""
        return RankSums(self._slot_ids, self._placement, self._turn, order)

    @property
    def stride(self) -> int:
        """Tokens between two rows as they are now; 0 where there are none yet [tokens]."""
        return self._rows[1]

    @property
    def nbytes(self) -> int:
        """Size of the rows as they are now [bytes]."""
        return self._rows[0].nbytes

    def load(self, start: int, count: int) -> NDArray[np.unsignedinteger]:
        """Assignments of ``count`` tokens from ``start`` on, around the end; shape (ranks, layers) [1].

        ``start`` lies within the order, its end included. Windows of up to one turn have a type that holds the sum of
        two of them; longer ones have 32 bits, 64 where they could need more.
        """
        rows, stride = self._rows
        stop = start + count
        if stride == 1 and stop < len(rows):
            difference: NDArray[np.unsignedinteger] = rows[stop] - rows[start]
            return difference
        return self._around(start, count)

    def loads(self, starts: IntArray, counts: IntArray) -> NDArray[np.unsignedinteger]:
        """Assignments of many windows, each as :meth:`load` tells them; shape (windows, ranks, layers) [1]."""
        turns, rest = np.divmod(counts, self.tokens)
        last = starts + rest
        around = np.flatnonzero(last > self.tokens)
        last[around] -= self.tokens
        # A window often begins where the one before it ends.
        places, where = np.unique(np.concatenate((starts, last)), return_inverse=True)
        sums = self._before(places)
        total: NDArray[np.unsignedinteger] = sums[where[len(starts) :]]
        total -= sums[where[: len(starts)]]
        total[around] += self._turn.astype(self._kind)
        whole = int(turns.max(initial=0))
        most = (whole + 1) * int(self._turn.max(initial=0))
        if most >= 2 ** (8 * self._kind.itemsize):
            total = total.astype(np.uint32 if most < 2**32 else np.uint64)
        for count in np.unique(turns).tolist() if whole else ():
            several = (self._turn * count).astype(total.dtype)
            if count == turns.min() == whole:
                total += several
            else:
                total[turns == count] += several
        return total

    def next_loads(self, start: int, count: int, windows: int) -> NDArray[np.unsignedinteger]:
        """Assignments of windows of ``count`` tokens that follow each other; shape (windows, ranks, layers) [1]."""
        rows, stride = self._asked_rows(windows)
        stop = start + count * windows
        if stride != 1 or stop >= len(rows):
            return self.loads((start + count * np.arange(windows)) % self.tokens, np.full(windows, count))
        sums = rows[start : stop + 1 : count]
        difference: NDArray[np.unsignedinteger] = sums[1:] - sums[:-1]
        return difference

    def _before(self, places: IntArray) -> NDArray[np.unsignedinteger]:
        """Assignments of all tokens before each of many places; shape (places, ranks, layers) [1]."""
        rows, stride = self._asked_rows(len(places))
        sums: NDArray[np.unsignedinteger] = rows[places // stride]
        rest = places % stride
        if rest.any():
            tokens = np.repeat(places - rest - np.cumsum(rest) + rest, rest) + np.arange(int(rest.sum()))
            cells = self._cells(tokens, np.repeat(np.arange(len(places)) * self._turn.size, rest)[:, None, None])
            np.add.at(sums.reshape(-1), cells, self._kind.type(1))
        return sums

    def refine(self) -> None:
        """Expect many windows to be asked for: sums are as fine as they may be from the next on."""
        self._asked = max(self._asked, _PATIENCE)

    def _around(self, start: int, count: int) -> NDArray[np.unsignedinteger]:
        """Return the load of a window that may go round the end, from sums that may not have a row for its ends."""
        turns, rest = divmod(count, self.tokens)
        wide = np.uint32 if (turns + 1) * self.tokens * self._slot_ids.shape[2] < 2**32 else np.uint64
        if len(self._turn) == 1 and self._full:
            # One rank has it all, whichever tokens come first.
            return np.full(self._turn.shape, count * self._slot_ids.shape[2], dtype=wide)
        rows, stride = self._asked_rows()
        last = start + rest if start + rest <= self.tokens else start + rest - self.tokens
        # Differences are right even where they pass through zero on the way, as counters go round.
        place, before = self._latest
        if place != start:
            before = self._sum_before(start, rows, stride)
        until = self._sum_before(last, rows, stride)
        # A window often begins where the one before it ended.
        if last < self.tokens:
            self._latest = last, until
        load: NDArray[np.unsignedinteger] = until - before
        if last < start:
            load += self._turn.astype(self._kind)
        if not turns:
            return load
        if self._turns[0] != turns or self._turns[1].dtype != wide:
            self._turns = turns, (self._turn * turns).astype(wide)
        total: NDArray[np.unsignedinteger] = load + self._turns[1]
        return total

    def _sum_before(self, place: int, rows: NDArray[np.unsignedinteger], stride: int) -> NDArray[np.unsignedinteger]:
        """Assignments of all tokens before a place; shape (ranks, layers) [1]."""
        total: NDArray[np.unsignedinteger] = rows[place // stride]
        if place % stride:
            total = total.copy()
            np.add.at(total.reshape(-1), self._cells(slice(place - place % stride, place)), self._kind.type(1))
        return total

    def _asked_rows(self, windows: int = 1) -> tuple[NDArray[np.unsignedinteger], int]:
        """Return rows and stride, coarse at first, and as fine as they may be once that pays."""
        self._asked += windows
        stride = self._finest
        if self._asked <= _PATIENCE:
            stride = max(_COARSE, stride)
        rows = self._rows
        if not rows[1] or rows[1] > stride:
            rows = self._rows = self._summed(stride), stride
        return rows

    def _summed(self, stride: int) -> NDArray[np.unsignedinteger]:
        """Sum up to every ``stride``-th token; shape (tokens // stride + 1, ranks, layers)."""
        size, chunk = self._turn.size, max(_CHUNK // stride, 1) * stride
        rows = np.zeros((self.tokens // stride + 1, *self._turn.shape), dtype=self._kind)
        flat, one = rows.reshape(-1), self._kind.type(1)
        end = self.tokens - self.tokens % stride
        for start in range(0, end, chunk):
            stop = min(start + chunk, end)
            row = np.repeat(np.arange(start // stride + 1, stop // stride + 1) * size, stride)
            np.add.at(flat, self._cells(slice(start, stop), row[:, None, None]), one)
        # NOTE: row by row, because a cumulative sum over the first axis strides through memory and is ten times slower.
        for index in range(len(rows) - 1):
            np.add(rows[index], rows[index + 1], out=rows[index + 1])
        return rows

    def _cells(self, tokens: slice | IntArray, row: NDArray[np.int64] | int = 0) -> NDArray[np.int64]:
        """Return where the assignments of tokens are counted in flat rows that begin at ``row``."""
        ids = self._slot_ids[tokens if self._order is None else self._order[tokens]]
        cells = self._cell.take(ids)
        cells += np.arange(cells.shape[1])[:, None]
        cells += row
        flat: NDArray[np.int64] = cells.reshape(-1) if self._full else cells[ids < self._placement.slots]
        return flat
