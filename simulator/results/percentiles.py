"""Percentiles of values that occur many times, without repeating them and without sorting all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray

#: Values [any unit], and how often each occurs [1]; both shape (n,).
Counted = tuple[FloatArray, NDArray[np.int64]]
#: One value in so many says about where the others lie [1].
_SAMPLED = 256


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
    return weighted_percentiles(lambda: [(values, counts)], [percentile])[0]


def weighted_percentiles(parts: Callable[[], Iterable[Counted]], percentiles: Sequence[float]) -> list[float]:
    """Return percentiles of values that come in parts, as :func:`weighted_percentile` does.

    Parameters
    ----------
    parts : callable
        Gives the parts, the same ones each time it is called.
    percentiles : sequence of float
        In 0..100.

    Notes
    -----
    A sample of the values cuts their range into bins. How much each bin counts tells where a percentile lies; only the
    values of that bin are sorted.
    """
    edges = np.unique(np.concatenate([np.empty(0), *(values[::_SAMPLED] for values, _ in parts())]))
    upto = np.zeros(len(edges) + 1, dtype=np.int64)
    for values, counts in parts():
        bins = edges.searchsorted(values, side="right")
        # Sums of whole numbers below 2^53 are exact.
        upto += np.bincount(bins, counts, minlength=len(upto)).astype(np.int64)
    upto = np.cumsum(upto)
    if not upto[-1]:
        return [0.0] * len(percentiles)
    positions = [percentile / 100 * (int(upto[-1]) - 1) for percentile in percentiles]
    ranks = np.array([[int(at), min(int(at) + 1, int(upto[-1]) - 1)] for at in positions])
    homes = upto.searchsorted(ranks, side="right")
    found = np.empty(ranks.shape)
    for home in np.unique(homes):
        inside = [_inside(values, counts, edges, int(home)) for values, counts in parts()]
        values, counts = (np.concatenate(each) for each in zip(*inside, strict=True))
        order = np.argsort(values, kind="stable")
        before = int(upto[home - 1]) if home else 0
        within = np.cumsum(counts[order]).searchsorted(ranks[homes == home] - before, side="right")
        found[homes == home] = values[order][within]
    return [
        float(low + (high - low) * (at - rank))
        for (low, high), at, (rank, _) in zip(found, positions, ranks, strict=True)
    ]


def _inside(values: FloatArray, counts: NDArray[np.int64], edges: FloatArray, home: int) -> Counted:
    """Return what lies in a bin."""
    chosen = edges.searchsorted(values, side="right") == home
    return values[chosen], counts[chosen]
