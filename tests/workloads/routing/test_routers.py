"""Routers choose as their papers say, and what they leave out does no work anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.placement import place
from simulator.placement.replay import replay
from workloads.errors import WorkloadError
from workloads.routing.files import read_routing_trace, save_routing_trace
from workloads.routing.generators import generate_routing
from workloads.routing.routers import (
    ROUTERS,
    capacity,
    drop_over_capacity,
    drop_trace,
    expert_choice,
    group_limited,
    null_experts,
    route,
    sigmoid_with_bias,
    softmax_top_k,
    top_p,
    trace_from_choices,
)
from workloads.routing.stats import active_experts, expert_load, imbalance_by_batch, repeat_fraction
from workloads.routing.trace import routing_fault, with_experts

NEEDED = {
    "softmax_top_k": {"top_k": 2},
    "sigmoid_with_bias": {"top_k": 2},
    "group_limited": {"top_k": 2, "num_groups": 4, "top_k_groups": 2},
    "top_p": {"p": 0.7},
    "null_experts": {"top_k": 3, "num_null": 4},
    "expert_choice": {"capacity_factor": 1.5, "top_k": 2},
}


def logits(tokens=40, experts=8, seed=0):
    return np.random.default_rng(seed).normal(size=(tokens, experts))


@given(kind=st.sampled_from(sorted(ROUTERS)), tokens=st.integers(1, 30), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_router_returns_distinct_experts_or_empty_slots(kind, tokens, seed):
    ids = route(kind, logits(tokens, seed=seed), **NEEDED[kind])
    assert len(ids) == tokens
    assert routing_fault(ids[:, None], np.zeros(1, int), 8, padded=True) is None


@given(shift=st.floats(-5, 5), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_constant_added_to_the_logits_changes_no_softmax_choice(shift, seed):
    plain = logits(seed=seed)
    for kind in ("softmax_top_k", "top_p"):
        np.testing.assert_array_equal(route(kind, plain, **NEEDED[kind]), route(kind, plain + shift, **NEEDED[kind]))


def test_top_k_takes_the_largest_logits_in_their_order():
    assert softmax_top_k(np.array([[0.1, 3.0, 2.0, -1.0]]), top_k=2).tolist() == [[1, 2]]


def test_a_bias_moves_the_choice_towards_its_expert():
    plain = np.array([[1.0, 0.9, 0.0]])
    assert sigmoid_with_bias(plain, top_k=1).tolist() == [[0]]
    assert sigmoid_with_bias(plain, top_k=1, bias=[0.0, 0.1, 0.0]).tolist() == [[1]]


def test_groups_are_ranked_by_the_sum_of_their_two_best_scores():
    # The best single expert is in group 0, the best two together are in group 1.
    row = np.array([[5.0, -5.0, 2.0, 2.0, 0.0, 0.0]])
    assert sorted(group_limited(row, top_k=2, num_groups=3, top_k_groups=1)[0].tolist()) == [2, 3]
    assert group_limited(row, top_k=2, num_groups=3, top_k_groups=1, best=1)[0].tolist() == [0, 1]


@given(seed=st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_a_group_limited_token_uses_no_more_groups_than_it_may(seed):
    ids = group_limited(logits(30, 64, seed), top_k=8, num_groups=8, top_k_groups=4)
    assert max(len(set(row)) for row in (ids // 8).tolist()) <= 4


@pytest.mark.parametrize("p", [5e-324, 1e-12, 1e-9, 1e-3])
def test_top_p_takes_the_likeliest_expert_however_little_is_to_be_covered(p: float):
    assert top_p(np.log([[0.2, 0.5, 0.3], [0.4, 0.35, 0.25]]), p=p).tolist() == [[1], [0]]


def test_top_p_takes_as_few_experts_as_cover_it():
    shares = np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25]])
    assert top_p(np.log(shares), p=0.6).tolist() == [[0, 3], [0, 1]]
    assert top_p(np.log(shares), p=1.0).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert top_p(np.log(shares), p=1.0, most=2).tolist() == [[0, 1], [0, 1]]


def test_null_experts_leave_a_token_with_fewer_real_ones():
    row = np.array([[2.0, 1.0, -1.0, -2.0]])
    assert null_experts(row, top_k=3, num_null=2).tolist() == [[0, 1]]
    assert null_experts(row, top_k=2, num_null=2, null_logit=5.0).tolist() == [[4]]


def test_expert_choice_gives_every_expert_equally_many_tokens():
    ids = expert_choice(logits(40), capacity_factor=1.0, top_k=2)
    assert np.bincount(ids.ravel(), minlength=9)[:8].tolist() == [10] * 8


def test_dropping_takes_the_last_tokens_of_a_full_expert():
    ids = np.array([[0, 1], [0, 2], [0, 1], [1, 0]])
    assert drop_over_capacity(ids, 3, 2).tolist() == [[0, 1], [0, 2], [3, 1], [3, 3]]


def test_first_choices_come_first_if_asked():
    ids = np.array([[1, 0], [0, 1]])
    assert drop_over_capacity(ids, 2, 1, choices_first=True).tolist() == [[1, 2], [0, 2]]
    assert drop_over_capacity(ids, 2, 1).tolist() == [[1, 0], [2, 2]]


def made(**changes):
    sizes = {"tokens": 600, "layers": 3, "num_experts": 16, "top_k": 2, "seed": 2, "exponent": 1.0}
    return generate_routing("zipf", **(sizes | changes))


def test_a_capacity_drops_more_towards_the_end_of_a_batch_and_keeps_every_expert_within_it():
    dropped = drop_trace(made(), 1.0, 200)
    empty = (dropped.expert_ids == 16).sum(axis=(1, 2)).reshape(3, 200).sum(axis=0)
    assert empty[:50].sum() < empty[-50:].sum() / 3
    for first in range(0, 600, 200):
        part = dropped.expert_ids[first : first + 200]
        counts = np.stack([np.bincount(part[:, layer].ravel(), minlength=17)[:16] for layer in range(3)])
        assert counts.max() <= capacity(200, 16, 2, 1.0)


def test_a_generous_capacity_drops_nothing():
    np.testing.assert_array_equal(drop_trace(made(), 16.0, 600).expert_ids, made().expert_ids)


def test_empty_slots_load_no_expert_and_no_rank():
    dropped = drop_trace(made(), 1.0, 200)
    kept = int((dropped.expert_ids < 16).sum())
    assert kept < dropped.expert_ids.size
    assert int(expert_load(dropped).sum()) == kept
    placement = place("linear", expert_load(dropped).astype(float), 4)
    served = replay(dropped, placement, concurrency=2)
    assert int(served.prefill.load(0, dropped.tokens).sum()) == kept
    assert int(served.counts("prefill", dropped.tokens, 1).sum()) == kept
    assert active_experts(dropped, 600).max() <= 16
    assert np.isfinite(imbalance_by_batch(dropped, 4, 50)).all()
    assert (repeat_fraction(dropped) <= 1).all()


def test_replayed_rank_loads_of_a_dropped_trace_equal_a_direct_count():
    dropped = drop_trace(made(), 1.0, 100)
    served = replay(dropped, place("linear", expert_load(dropped).astype(float), 4), concurrency=3)
    part = dropped.expert_ids[30:130]
    direct = np.stack([np.bincount(part[:, layer].ravel() // 4, minlength=5)[:4] for layer in range(3)], axis=1)
    np.testing.assert_array_equal(served.prefill.load(30, 100), direct)


@pytest.mark.parametrize("name", ["t.npz", "t.parquet"])
def test_a_padded_trace_is_saved_and_read_back(tmp_path, name):
    dropped = drop_trace(made(), 1.0, 200)
    save_routing_trace(dropped, tmp_path / name)
    again = read_routing_trace(tmp_path / name)
    assert again.padded
    assert again.num_experts == 16
    np.testing.assert_array_equal(again.expert_ids, dropped.expert_ids)


def test_experts_nobody_chose_can_be_added_to_a_padded_trace():
    dropped = drop_trace(made(), 1.0, 200)
    wider = with_experts(dropped, 300)
    np.testing.assert_array_equal(expert_load(wider)[:, :16], expert_load(dropped))
    assert expert_load(wider)[:, 16:].sum() == 0


def test_an_id_out_of_range_is_an_error_even_where_slots_may_be_empty():
    fault = routing_fault(np.array([[[0, 9]]]), np.zeros(1, int), 8, padded=True)
    assert fault == "token 0, layer 0: expert 9 does not exist, expected 0 to 7, or 8 for an empty slot"


def test_layers_of_different_width_become_one_trace():
    trace = trace_from_choices([np.array([[0], [1]]), np.array([[0, 1], [2, 3]])], np.array([0]), 4, "by hand")
    assert trace.padded
    assert trace.expert_ids.tolist() == [[[0, 4], [0, 1]], [[1, 4], [2, 3]]]


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("softmax_topk", {}, "router.kind: unknown kind 'softmax_topk'; did you mean 'softmax_top_k'"),
        ("softmax_top_k", {"top_k": 9}, "top_k: got 9, expected a whole number of at least 1 and at most 8"),
        ("top_p", {"p": 0.0}, "p: got 0.0, expected a number above 0"),
        ("top_p", {"q": 1}, "router.q: top_p has no such parameter"),
        ("group_limited", {"top_k": 2, "num_groups": 3}, "num_groups: 3 do not divide the 8 experts"),
        ("null_experts", {"top_k": 1}, "router.num_null: missing"),
        ("sigmoid_with_bias", {"top_k": 1, "bias": [1.0]}, "bias: got shape (1,), expected one finite number"),
    ],
)
def test_wrong_routers_and_parameters_are_explained(kind, changes, expected):
    with pytest.raises(WorkloadError) as error:
        route(kind, logits(), **changes)
    assert expected in str(error.value)


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(WorkloadError, match="logits: got shape"):
        softmax_top_k(np.array([[np.nan, 1.0]]), top_k=1)
