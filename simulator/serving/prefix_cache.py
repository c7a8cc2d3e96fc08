"""Prefix caching: KV blocks of prompts that later prompts with the same beginning need not compute again."""

from __future__ import annotations

from collections.abc import Sequence

#: The hash blocks of every prompt of a run, shape (requests, blocks of the prompt).
Blocks = Sequence[Sequence[int]]


class PrefixCache:
    """KV blocks of one rank, shared by the requests that hold them and kept afterwards while there is room.

    A block that no request holds is idle; idle blocks give way to others, the longest unused first.

    Parameters
    ----------
    block_tokens : int
        Tokens of one block [tokens].
    """

    __slots__ = ("_holders", "_idle", "block_tokens")

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._holders: dict[int, int] = {}
        # NOTE: in order of release; a dict keeps that order and forgets from its front in constant time.
        self._idle: dict[int, None] = {}

    @property
    def held_tokens(self) -> int:
        """Tokens of blocks that requests hold, each block once [tokens]."""
        return len(self._holders) * self.block_tokens

    @property
    def idle_tokens(self) -> int:
        """Tokens of blocks that nobody holds [tokens]."""
        return len(self._idle) * self.block_tokens

    def match(self, blocks: Sequence[int]) -> int:
        """Count the leading blocks that are here [1]."""
        holders, idle = self._holders, self._idle
        for count, block in enumerate(blocks):
            if block not in holders and block not in idle:
                return count
        return len(blocks)

    def match_held(self, blocks: Sequence[int]) -> int:
        """Count the leading blocks that some request holds [1]."""
        for count, block in enumerate(blocks):
            if block not in self._holders:
                return count
        return len(blocks)

    def hold(self, blocks: Sequence[int]) -> None:
        """Hold blocks for one request; those that are not here yet are added."""
        holders, idle = self._holders, self._idle
        for block in blocks:
            idle.pop(block, None)
            holders[block] = holders.get(block, 0) + 1

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of blocks of one request; the last of a prompt are the first to be forgotten."""
        holders, idle = self._holders, self._idle
        for block in reversed(blocks):
            holders[block] -= 1
            if not holders[block]:
                del holders[block]
                idle[block] = None

    def add_idle(self, blocks: Sequence[int]) -> None:
        """Add blocks that came from elsewhere and that nobody holds yet."""
        for block in reversed(blocks):
            if block not in self._holders:
                self._idle.pop(block, None)
                self._idle[block] = None

    def shrink(self, tokens: float) -> None:
        """Forget idle blocks until they take up at most so many tokens."""
        idle, most = self._idle, max(int(tokens // self.block_tokens), 0)
        while len(idle) > most:
            del idle[next(iter(idle))]

    def clear(self) -> None:
        """Forget everything, as a restart does."""
        self._holders.clear()
        self._idle.clear()
