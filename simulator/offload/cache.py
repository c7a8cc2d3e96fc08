"""Which experts a device keeps when it cannot hold all of them, and how often the right one is there.

One pass over the steps serves any number of capacities and layers: what a policy prefers does not depend on the
capacity, so that a larger cache always holds what a smaller one holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.arrays import FloatArray, IntArray
from simulator.errors import ScenarioError, nearest

CachePolicy = Literal["random", "lru", "lfu", "belady"]
POLICIES: tuple[CachePolicy, ...] = get_args(CachePolicy)
#: Steps whose needs are spread out at a time, to bound the memory.
_CHUNK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCacheRun:
    """Hits and misses of expert caches.

    Attributes
    ----------
    capacities : int64 array, shape (capacities,)
        Experts that each cache holds [1].
    hits, misses : int64 array, shape (capacities, steps, caches)
        Experts of a step that were there, and that had to be fetched [1].
    """

    capacities: IntArray
    hits: IntArray
    misses: IntArray

    @property
    def hit_rate(self) -> FloatArray:
        """Share of the needed experts that were there, by capacity, shape (capacities,) [1]; NaN if none was needed."""
        hits, misses = self.hits.sum(axis=(1, 2)), self.misses.sum(axis=(1, 2))
        total = hits + misses
        return np.asarray(np.divide(hits, total, out=np.full(len(total), np.nan), where=total > 0))


def replay_cache(
    experts: ArrayLike,
    num_experts: int,
    capacity: int | Sequence[int],
    policy: CachePolicy,
    *,
    window: int | None = None,
    seed: int = 0,
) -> ExpertCacheRun:
    """Replay the experts that steps need through caches that begin empty.

    Parameters
    ----------
    experts : integer array, shape (steps,), (steps, slots) or (steps, caches, slots)
        Experts that each step needs; with three axes as in a routing trace, every layer having a cache of its own.
        The id ``num_experts`` marks an empty slot; an expert that a step names twice counts once.
    num_experts : int
        Experts of each cache's layer [1].
    capacity : int or sequence of int
        Experts that a cache holds, at least 1 [1]; several are answered in one pass.
    policy : {"random", "lru", "lfu", "belady"}
        What goes when room is needed: any, the least recently used, the least frequently used so far, or the one whose
        next use is furthest in the future.
    window : int, optional
        ``belady``: steps that it can look ahead [1]; experts that it does not see coming go first, the least recently
        used before others. All of the future where absent; 0 is ``lru``.
    seed : int
        ``random``: seed of the draws.

    Returns
    -------
    ExpertCacheRun

    Raises
    ------
    ScenarioError
        An id, a capacity, the window or the policy is not possible.

    Notes
    -----
    An expert must be in the cache to be computed, so those of a step stay before all others. Experts that are needed
    together and do not fit together are all computed, one group after another, and the policy chooses among them who
    remains. All misses cost the same. Every policy ranks experts by a number that does not depend on the capacity;
    such caches include each other [1]_, so that more capacity never adds a miss. ``belady`` with all of the future is
    the best that any policy of this kind can do [2]_.

    References
    ----------
    .. [1] R. L. Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems Journal 9(2), 1970.
    .. [2] L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2),
       1966.

    Examples
    --------
    >>> run = replay_cache([0, 1, 2, 0, 1, 2], 3, [1, 2, 3], "belady")
    >>> run.hits.sum(axis=(1, 2)).tolist()
    [0, 2, 3]
    """
    ids, capacities = _checked(experts, num_experts, capacity, policy, window)
    steps, caches, slots = ids.shape
    wish = _Wishes(ids, num_experts, policy, steps if window is None else window, seed)
    each = np.arange(caches)[:, None]
    cached = np.zeros((len(capacities), caches, num_experts), dtype=bool)
    hits, needed = np.zeros((len(capacities), steps, caches), np.int64), np.zeros((steps, caches), np.int64)
    cut = np.broadcast_to((num_experts - capacities)[:, None, None], (len(capacities), caches, 1))
    first = 2.0 * (steps + 1) * (steps * slots + 1)
    for start in range(0, steps, _CHUNK):
        count = min(_CHUNK, steps - start)
        needs = np.zeros((count, caches, num_experts + 1), dtype=bool)
        needs[np.arange(count)[:, None, None], each, ids[start : start + count]] = True
        needed[start : start + count] = needs[..., :num_experts].sum(axis=-1)
        for step, now in enumerate(needs[..., :num_experts], start):
            hits[:, step] = (cached & now).sum(axis=-1)
            wanted = wish.at(step, now)
            held = np.where(cached | now, wanted + first * now, -np.inf)
            least = np.take_along_axis(np.sort(held, axis=-1), cut, axis=-1)
            cached = held >= np.maximum(least, -1.0)
    return ExpertCacheRun(capacities=capacities, hits=hits, misses=needed - hits)


class _Wishes:
    """How much a policy wants to keep each expert: a number that grows with the wish, -1 or more, without ties."""

    def __init__(self, ids: IntArray, num_experts: int, policy: CachePolicy, horizon: int, seed: int) -> None:
        steps, caches, slots = ids.shape
        self._ids, self._policy, self._steps, self._slots, self._horizon = ids, policy, steps, slots, horizon
        self._each = np.arange(caches)[:, None]
        # The last column takes the empty slots.
        self._last = np.full((caches, num_experts + 1), -1.0)
        self._uses = np.zeros((caches, num_experts))
        self._upcoming = np.full((caches, num_experts + 1), steps, dtype=np.int64)
        self._following = future_uses(ids, num_experts) if policy == "belady" else None
        self._rng = np.random.default_rng(seed)
        # Every use has a number of its own, so that no two experts tie.
        self._place = np.arange(slots, dtype=np.float64)

    def at(self, step: int, now: NDArray[np.bool_]) -> FloatArray:
        """Note the uses of a step and return the wishes after it, shape (caches, experts)."""
        if self._policy == "random":
            return self._rng.random(now.shape)
        ids, scale = self._ids[step], float(self._steps * self._slots + 1)
        self._last[self._each, ids] = step * self._slots + self._place
        last = self._last[:, :-1]
        if self._policy == "lfu":
            self._uses += now
            return np.asarray(self._uses * scale + last)
        if self._following is None:
            return last
        self._upcoming[self._each, ids] = self._following[step]
        upcoming = self._upcoming[:, :-1]
        # What comes soon before what comes late, and both before what is not seen coming.
        seen = (upcoming < self._steps) & (upcoming - step <= self._horizon)
        return np.asarray(last + seen * (2.0 * self._steps - upcoming) * scale)


def future_uses(experts: IntArray, num_experts: int) -> IntArray:
    """Tell for every use of an expert at which step the same cache needs it again.

    Parameters
    ----------
    experts : int64 array, shape (steps, caches, slots)
        Experts that each step needs.
    num_experts : int
        Experts per cache [1].

    Returns
    -------
    int64 array, same shape
        The next step after its own that names the expert; the number of steps where none does.

    Examples
    --------
    >>> future_uses(np.array([0, 1, 0]).reshape(3, 1, 1), 2).ravel().tolist()
    [2, 3, 3]
    """
    steps, caches, slots = experts.shape
    step = np.broadcast_to(np.arange(steps)[:, None, None], experts.shape)
    owner = (np.arange(caches)[:, None] * (num_experts + 1) + experts).ravel()
    order = np.lexsort((step.ravel(), owner))
    when, who = step.ravel()[order], owner[order]
    after = np.full(len(order), steps, dtype=np.int64)
    # An expert that a step names twice has its next use after the last of its uses in that step.
    for index in range(1, slots + 1):
        if index >= len(order):
            break
        later = (who[index:] == who[:-index]) & (when[index:] > when[:-index]) & (after[:-index] == steps)
        after[:-index][later] = when[index:][later]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = after
    return found.reshape(experts.shape)


def _checked(
    experts: ArrayLike, num_experts: int, capacity: int | Sequence[int], policy: str, window: int | None
) -> tuple[IntArray, IntArray]:
    """Bring the needs into three axes and the capacities into one."""
    if policy not in POLICIES:
        raise ScenarioError(f"expert cache: unknown policy {policy!r}; {nearest(policy, POLICIES)}")
    ids = np.asarray(experts)
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise ScenarioError(f"expert cache: expert ids are whole numbers, got {ids.dtype}")
    if ids.ndim not in (1, 2, 3):
        raise ScenarioError(
            f"expert cache: got an array of {ids.ndim} axes, expected (steps,), (steps, slots) or "
            "(steps, caches, slots)"
        )
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= num_experts:
        raise ScenarioError(
            f"expert cache: ids from {ids.min()} to {ids.max()}, expected 0 to {num_experts - 1}, or {num_experts} for "
            "an empty slot"
        )
    capacities = np.atleast_1d(np.asarray(capacity, dtype=np.int64))
    if capacities.ndim > 1 or not len(capacities) or capacities.min() < 1:
        raise ScenarioError(f"expert cache: capacity: got {capacity!r}, expected at least 1 expert")
    if window is not None and window < 0:
        raise ScenarioError(f"expert cache: window: got {window}, expected at least 0 steps")
    shape = {1: (len(ids), 1, 1), 2: (len(ids), 1, -1), 3: ids.shape}[ids.ndim]
    wide = ids.astype(np.int64).reshape(shape) if ids.size else np.zeros((len(ids), 1, 1), np.int64) + num_experts
    return wide, np.minimum(capacities, num_experts)
