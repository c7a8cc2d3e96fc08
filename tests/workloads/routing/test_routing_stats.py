"""Counts of experts and ranks agree with counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.errors import WorkloadError
from workloads.routing.generators import generate_routing
from workloads.routing.stats import (
    active_experts,
    expert_load,
    imbalance,
    imbalance_by_batch,
    linear_placement,
    rank_load,
    repeat_fraction,
)
from workloads.routing.trace import RoutingTrace

SMALL = RoutingTrace(
    expert_ids=np.array([[[0, 1]], [[0, 2]], [[0, 1]], [[3, 2]], [[1, 2]]]),
    sequence_start=np.array([0, 3]),
    num_experts=4,
    source="by hand",
)


def test_small_counts_are_right():
    assert expert_load(SMALL).tolist() == [[3, 3, 3, 1]]
    assert rank_load(SMALL, linear_placement(SMALL, 2), 2).tolist() == [[6, 4]]
    assert imbalance_by_batch(SMALL, 2, 2).tolist() == [[1.5], [1.0]]
    assert imbalance_by_batch(SMALL, 2, 2, np.array([[0, 1, 1, 0]])).tolist() == [[1.0], [1.0]]
    assert active_experts(SMALL, 2).tolist() == [[3], [4]]


def test_repeats_are_counted_within_sequences_only():
    assert repeat_fraction(SMALL).tolist() == [pytest.approx(3 / 6)]


@given(
    kind=st.sampled_from(["uniform", "layer_skew", "sticky"]),
    tokens=st.integers(8, 60),
    ranks=st.sampled_from([1, 2, 4, 8]),
    batch=st.integers(1, 8),
    seed=st.integers(0, 50),
)
def test_counts_conserve_tokens_and_agree_with_each_other(kind, tokens, ranks, batch, seed):
    trace = generate_routing(kind, tokens=tokens, layers=2, num_experts=16, top_k=3, seed=seed)
    placement = np.random.default_rng(seed).integers(ranks, size=(2, 16))
    load = rank_load(trace, placement, ranks)
    assert load.sum(axis=1).tolist() == [tokens * 3] * 2
    whole = imbalance_by_batch(trace, ranks, tokens, placement)
    np.testing.assert_allclose(whole[0], imbalance(load))
    ratios = imbalance_by_batch(trace, ranks, batch, placement)
    assert ratios.shape == (tokens // batch, 2)
    assert (ratios >= 1).all()
    assert (ratios <= ranks).all()
    active = active_experts(trace, batch)
    assert (active >= 3).all()
    assert (active <= min(16, 3 * batch)).all()


def test_one_rank_is_always_balanced():
    trace = generate_routing("zipf", tokens=64, layers=2, num_experts=8, top_k=2, seed=0, exponent=2.0)
    assert (imbalance_by_batch(trace, 1, 8) == 1).all()


def test_ranks_that_do_not_divide_the_experts_are_refused():
    with pytest.raises(WorkloadError, match="ranks: 3 do not divide the 4 experts"):
        linear_placement(SMALL, 3)


@pytest.mark.parametrize("function", [active_experts, lambda trace, batch: imbalance_by_batch(trace, 2, batch)])
def test_a_batch_larger_than_the_trace_is_refused(function):
    with pytest.raises(WorkloadError, match="batch: got 6 tokens"):
        function(SMALL, 6)


def test_a_placement_must_fit_the_trace():
    with pytest.raises(WorkloadError, match=r"placement: got shape \(1, 3\)"):
        rank_load(SMALL, np.zeros((1, 3), int), 2)
    with pytest.raises(WorkloadError, match="placement: ranks 0 to 2, expected 0 to 1"):
        rank_load(SMALL, np.array([[0, 1, 2, 0]]), 2)


def test_single_token_sequences_have_no_repeats_to_count():
    lone = RoutingTrace(expert_ids=SMALL.expert_ids, sequence_start=np.arange(5), num_experts=4, source="by hand")
    assert np.isnan(repeat_fraction(lone)).all()
