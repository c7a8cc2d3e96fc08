"""What a run draws and counts for other tools: spans of work, and times between tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from simulator.arrays import FloatArray
from simulator.results.packed import parts_of
from simulator.results.percentiles import Counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A span of work on a stream: ``start_s`` and ``duration_s`` in seconds, ``arguments`` shown on click."""

    track: str
    thread: str
    name: str
    start_s: float
    duration_s: float
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGaps:
    """Times between tokens: column ``gap_s`` [s], each seen by so many requests (``tokens``) [1]."""

    columns: Mapping[str, FloatArray]

    def parts(self) -> Iterator[Counted]:
        """Yield times [s] and their counts [1], as many at once as are kept together."""
        for part in parts_of(self.columns):
            yield part["gap_s"], part["tokens"].astype(np.int64)
