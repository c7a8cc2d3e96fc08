"""A routing trace: the experts that every token chose at every MoE layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingTrace:
    """Recorded or generated top-k expert ids, tokens of a sequence in order.

    Attributes
    ----------
    expert_ids : integer array, shape (tokens, layers, top_k)
        Logical expert ids.
    sequence_start : int64 array, shape (sequences,)
        Index of the first token of each sequence, ascending; the first is 0.
    num_experts : int
        Experts per layer, so that one nobody chose still counts.
    source : str
        Where it came from: a path, or a generator with its parameters.
    """

    expert_ids: NDArray[np.integer]
    sequence_start: NDArray[np.int64]
    num_experts: int
    source: str

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.expert_ids.shape[0])

    @property
    def layers(self) -> int:
        """Number of MoE layers."""
        return int(self.expert_ids.shape[1])

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return int(self.expert_ids.shape[2])
