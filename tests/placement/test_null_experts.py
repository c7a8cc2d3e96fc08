"""Assignments to null experts are no load of any rank."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.placement import place
from simulator.placement.replay import replay
from workloads.routing.trace import RoutingTrace


def test_the_mean_load_of_a_rank_leaves_null_experts_out() -> None:
    # Four experts on two ranks and four null experts; half of all assignments are null.
    ids = np.tile(np.array([[0, 5], [3, 6]], dtype=np.uint16)[:, None, :], (4, 3, 1))
    trace = RoutingTrace(expert_ids=ids, sequence_start=np.array([0]), num_experts=8, source="test")
    routing = replay(trace, place("linear", np.ones((3, 4)), ranks=2), concurrency=2)
    assert routing.mean_load == pytest.approx(0.5)
    assert routing.decode.load(0, routing.tokens).mean() == pytest.approx(0.5 * routing.tokens)


def test_without_null_experts_the_mean_load_is_top_k_over_ranks() -> None:
    ids = np.tile(np.array([[0, 2], [1, 3]], dtype=np.uint16)[:, None, :], (4, 3, 1))
    trace = RoutingTrace(expert_ids=ids, sequence_start=np.array([0]), num_experts=4, source="test")
    routing = replay(trace, place("linear", np.ones((3, 4)), ranks=4), concurrency=2)
    assert routing.mean_load == pytest.approx(2 / 4)
