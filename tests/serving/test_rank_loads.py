"""The idlest rank is found without looking at all ranks, and is the one that a look at all would find."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simulator.serving.batch import Batch
from simulator.serving.rank_loads import RankLoads


@given(dp=st.integers(1, 9), seed=st.integers(0, 2**32 - 1), closed=st.booleans())
def test_the_idlest_rank_is_the_first_with_the_fewest_requests(dp: int, seed: int, closed: bool) -> None:
    rng, loads, each = np.random.default_rng(seed), RankLoads(dp), [0] * dp
    if closed and dp > 1:
        loads.closed.add(dp - 1)
    for _ in range(200):
        open_ranks = each[: dp - 1] if loads.closed else each
        rank = loads.idlest()
        assert rank == open_ranks.index(min(open_ranks))
        if rng.random() < 0.6:
            loads.add(rank)
            each[rank] += 1
        elif sum(each):
            leaving = int(rng.choice(np.flatnonzero(each)))
            gone = int(rng.integers(1, each[leaving] + 1))
            loads.add(leaving, -gone)
            each[leaving] -= gone
    assert loads.total == sum(each)


def test_what_is_kept_of_idle_ranks_does_not_grow_with_requests() -> None:
    loads = RankLoads(4)
    for _ in range(4 * 8):
        loads.add(loads.idlest())
    for request in range(10_000):
        loads.add(request % 4, -1)
        loads.add(loads.idlest())
    assert len(loads._heap) <= 4 * 9


@given(dp=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_the_most_rows_are_those_of_the_rank_with_most(dp: int, seed: int) -> None:
    rng, batch = np.random.default_rng(seed), Batch(dp)
    for _ in range(100):
        rank = int(rng.integers(dp))
        if rng.random() < 0.5 or not batch.rows[rank]:
            batch.admit(rank, 3)
            batch.join(rank, 3)
        else:
            batch.leave(rank, 3)
        assert batch.most_rows == max(batch.rows)
