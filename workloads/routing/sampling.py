"""Drawing distinct experts: successive sampling without replacement, exact and vectorised.

A router's choice is modelled as successive sampling: the first expert is drawn from the popularity, each next one
from the popularity of those not yet chosen. That is the law of Gumbel top-k [1]_. Here it is drawn by rejection: draw
every slot independently through the inverse cumulative popularity, then redraw each slot that repeats a lower one.
The values below a slot only ever gain members while they settle, so a slot's last draw is a draw from the popularity
restricted to what its lower slots left over, as it should be. With top_k far below the number of experts few rows
need a second draw, which is much faster than one Gumbel variate per expert. The last few rows, and those that still
repeat after ``MAX_REDRAWS`` rounds (a popularity so skewed that rejection stalls, or top_k near the number of experts),
are settled by Gumbel top-k from their first unsettled slot on.

References
----------
.. [1] W. Kool, H. van Hoof, M. Welling, "Stochastic Beams and Where to Find Them", ICML 2019, section 2.3.
.. [2] H.-C. Chen, Y. Asau, "On Generating Random Variates from an Empirical Distribution", AIIE Transactions 6, 1974.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_REDRAWS = 24
MOST_KEYS = 1 << 20  # Gumbel variates that are held at once
FEW_KEYS = 4096  # Gumbel variates that cost about as much as one more round of redraws
FINER_BUCKETS, FINE_GUIDE = 16, 1 << 14  # most draws end where they begin; a guide that stays in the first cache
GUIDED_STEPS = 4  # a draw takes less than one on average; stragglers are searched for
# An expert that a generator gives (almost) no popularity can still be drawn once all others are taken.
LEAST_POPULARITY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Popularity:
    """Popularities ready to draw from.

    Attributes
    ----------
    weights : float64 array, shape (rows, experts)
        Probability of each expert; rows sum to 1.
    cumulative : float64 array, shape (rows * experts + 1,)
        Cumulative probability of each row plus the row's index, so that one search serves all rows; then infinity.
    guide : int32 array, shape (rows * buckets,)
        Where in ``cumulative`` to begin for a draw that falls into each of a row's equal buckets [2]_. The number of
        buckets is a power of two, which makes a draw's bucket exact.
    """

    weights: NDArray[np.float64]
    cumulative: NDArray[np.float64]
    guide: NDArray[np.int32]


def prepare_popularity(weights: NDArray[np.floating]) -> Popularity:
    """Normalise rows of weights.

    Parameters
    ----------
    weights : float array, shape (rows, experts)
        Relative popularity of each expert, at least 0.
    """
    shares = np.asarray(weights, np.float64)
    shares = np.maximum(shares / shares.sum(axis=1, keepdims=True), LEAST_POPULARITY)
    shares /= shares.sum(axis=1, keepdims=True)
    cumulative = np.cumsum(shares, axis=1)
    cumulative[:, -1] = 1.0
    row = np.arange(len(shares))[:, None]
    flat = np.append((cumulative + row).ravel(), np.inf)
    buckets = 1 << (shares.shape[1] - 1).bit_length()
    if len(shares) * buckets * FINER_BUCKETS <= FINE_GUIDE:
        buckets *= FINER_BUCKETS
    # What a search for the start of each of perhaps a million buckets would find, exactly: they are a power of two.
    reached = np.ceil(flat[:-1] * buckets).astype(np.int64)
    guide = np.cumsum(np.bincount(reached)[: len(shares) * buckets])
    return Popularity(weights=shares, cumulative=flat, guide=guide.astype(np.int32))


def draw_distinct(
    rng: np.random.Generator,
    popularity: Popularity,
    row: NDArray[np.integer],
    top_k: int,
    held: NDArray[np.integer] | None = None,
    held_count: NDArray[np.integer] | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Draw ``top_k`` distinct experts per item.

    Parameters
    ----------
    rng : numpy.random.Generator
        The ``routing`` stream.
    popularity : Popularity
        Popularities.
    row : integer array, shape (items,)
        The row of the popularity that each item draws from.
    top_k : int
        Experts per item, at most the experts (or the allowed ones).
    held, held_count : integer arrays, shapes (top_k, items) and (items,), optional
        Distinct allowed experts that an item has already, in its first ``held_count`` slots.
    allowed : bool array, shape (items, experts), optional
        Experts that each item may choose; all by default.

    Returns
    -------
    integer array, shape (top_k, items)
        Expert ids in the order drawn.
    """
    experts = popularity.weights.shape[1]
    ids = np.empty((top_k, len(row)), np.int16 if experts <= np.iinfo(np.int16).max else np.int32)
    if held is None and allowed is None and 2 * top_k > experts:
        return _draw_most(rng, popularity, row, ids)
    if held is None or held_count is None:
        for slot in range(top_k):
            ids[slot] = _draw(rng, popularity, row)
    else:
        missing = np.flatnonzero(np.arange(top_k)[:, None] >= held_count)
        ids[:] = held
        ids.reshape(-1)[missing] = _draw(rng, popularity, row[missing % len(row)])
    items: NDArray[np.integer] = np.arange(len(row))
    items, wrong = _unsettled(ids, items, allowed)
    for _ in range(MAX_REDRAWS):
        if len(items) * experts <= FEW_KEYS:
            break
        slots, position = wrong.nonzero()
        ids[slots, items[position]] = _draw(rng, popularity, row[items[position]])
        items, wrong = _unsettled(ids, items, allowed)
    if len(items):
        weights, closed = popularity.weights[row[items]], None if allowed is None else ~allowed[items]
        ids[:, items] = _gumbel(rng, weights, ids.take(items, axis=1), wrong, closed)
    return ids


def _draw_most(
    rng: np.random.Generator, popularity: Popularity, row: NDArray[np.integer], ids: NDArray[Any]
) -> NDArray[Any]:
    """Fill items that choose most of the experts, where drawing anew what was drawn twice would never end."""
    top_k, items = ids.shape
    experts = popularity.weights.shape[1]
    if top_k == experts:
        # Whoever chooses all of them has nothing to draw but their order, which is then that of their popularity.
        ids[:] = np.argsort(-popularity.weights, axis=1, kind="stable").T[:, row]
        return ids
    size = max(MOST_KEYS // experts, 1)
    for first in range(0, items, size):
        part = slice(first, first + size)
        weights = popularity.weights[row[part]]
        ids[:, part] = _gumbel(rng, weights, ids[:, part], np.ones((top_k, len(weights)), bool), None)
    return ids


def _draw(rng: np.random.Generator, popularity: Popularity, row: NDArray[np.integer]) -> NDArray[np.integer]:
    """One independent draw per item through the inverse cumulative popularity."""
    rows, experts = popularity.weights.shape
    buckets = len(popularity.guide) // rows
    share = rng.random(len(row))
    target = row + share
    found = popularity.guide[row * buckets + (share * buckets).astype(np.int64)]
    passed = popularity.cumulative[found] <= target
    found += passed
    behind = passed.nonzero()[0]
    for _ in range(GUIDED_STEPS - 1):
        if not len(behind):
            break
        behind = behind[popularity.cumulative[found[behind]] <= target[behind]]
        found[behind] += 1
    found[behind] = np.searchsorted(popularity.cumulative, target[behind], side="right")
    # Adding the row can round a draw just below 1 up to the next row.
    return np.asarray(np.minimum(found - row * experts, experts - 1))


def _unsettled(
    ids: NDArray[np.integer], items: NDArray[np.integer], allowed: NDArray[np.bool_] | None
) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
    """Find the items in play with a slot to redraw, and those slots, shape (top_k, items)."""
    play = ids.take(items, axis=1)
    wrong = np.zeros(play.shape, bool)
    for slot in range(1, len(play)):
        np.logical_or.reduce(play[:slot] == play[slot], axis=0, out=wrong[slot])
    if allowed is not None:
        wrong |= ~allowed[items, play]
    again = np.flatnonzero(wrong.any(axis=0))
    return items[again], wrong.take(again, axis=1)


def _gumbel(
    rng: np.random.Generator,
    weights: NDArray[np.float64],
    ids: NDArray[np.integer],
    wrong: NDArray[np.bool_],
    closed: NDArray[np.bool_] | None,
) -> NDArray[np.integer]:
    """Fill each item from its first wrong slot on with the Gumbel top-k of the experts still open to it."""
    top_k, items = ids.shape
    first = wrong.argmax(axis=0)
    slot, item = np.arange(top_k)[:, None], np.arange(items)
    settled = slot < first
    # The largest log(weight) plus Gumbel variate is the smallest exponential variate over the weight.
    keys = -np.log(1.0 - rng.random(weights.shape)) / weights
    keys[settled.nonzero()[1], ids[settled]] = np.inf
    if closed is not None:
        keys[closed] = np.inf
    most = top_k - int(first.min())
    few = np.argpartition(keys, most - 1, axis=1)[:, :most]
    best = few[item[:, None], keys[item[:, None], few].argsort(axis=1)]
    return np.where(settled, ids, best[item, np.maximum(slot - first, 0)])
