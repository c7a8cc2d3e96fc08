"""A request trace: when requests arrive and how long their prompts and answers are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTrace:
    """Requests in order of arrival, as columns.

    Attributes
    ----------
    arrival : float64 array, shape (requests,)
        Time since the start of the trace [s], non-decreasing. All zero in a closed loop.
    input_tokens, output_tokens : int64 array, shape (requests,)
        Prompt and answer lengths, at least 1.
    concurrency : int or None
        In a closed loop, requests in flight at any time: the next starts when one ends. ``None`` = open loop.
    block_hashes : tuple of tuple of int, or None
        Prefix-cache block ids per request, where the trace has them.
    block_tokens : int
        Tokens per hash block [tokens].
    """

    arrival: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    concurrency: int | None = None
    block_hashes: tuple[tuple[int, ...], ...] | None = None
    block_tokens: int = 512

    def __len__(self) -> int:
        """Count the requests."""
        return len(self.arrival)
