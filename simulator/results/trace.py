"""What a run draws and counts for other tools: spans of work, and times between tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray


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
    """Times between tokens: ``values_s`` [s], each seen ``counts`` times [1]; both shape (distinct gaps,)."""

    values_s: FloatArray
    counts: NDArray[np.int64]
