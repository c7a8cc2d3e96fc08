"""The array types that function signatures name, as :mod:`workloads.arrays` has them, and sums over short axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.arrays import FloatArray, IdArray, IntArray

__all__ = ["FloatArray", "IdArray", "IntArray", "last_sum", "weighted_sum"]


def last_sum(values: FloatArray) -> FloatArray:
    """Sum over the last axis, which is short: several times as quick as ``values.sum(axis=-1)`` then."""
    return np.asarray(np.einsum("...i->...", values), dtype=np.float64)


def weighted_sum(weights: FloatArray, values: NDArray[Any]) -> FloatArray:
    """Sum over the first axis of many rows, each counted ``weights`` times.

    Not as a product of BLAS: for rows by the thousand that starts threads, which spin on all cores long after.
    """
    return np.asarray(np.einsum("i,i...->...", weights, values), dtype=np.float64)
