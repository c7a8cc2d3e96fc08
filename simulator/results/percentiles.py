"""Percentiles of values that occur many times, without repeating them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray


def weighted_percentile(values: FloatArray, counts: NDArray[np.int64], percentile: float) -> float:
    """Return the percentile of ``values``, each repeated ``counts`` times, without repeating them.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Any unit.
    counts : ndarray of int, shape (n,)
        How often each value occurs [1].
    percentile : float
        In 0..100.

    Returns
    -------
    float
        Equal to ``np.percentile(np.repeat(values, counts), percentile)``; 0 where nothing is counted.

    Examples
    --------
    >>> weighted_percentile(np.array([1.0, 2.0]), np.array([1, 3]), 50.0)
    2.0
    """
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[order])
    if upto.size == 0 or upto[-1] == 0:
        return 0.0
    position = percentile / 100 * (upto[-1] - 1)
    low = int(np.floor(position))
    below, above = values[order][np.searchsorted(upto, [low, min(low + 1, upto[-1] - 1)], side="right")]
    return float(below + (above - below) * (position - low))
