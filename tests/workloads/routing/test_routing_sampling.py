"""Rejection draws follow the law of successive sampling exactly, whichever path settles them."""

from itertools import permutations

import numpy as np
import pytest

import workloads.routing.sampling as sampling
from workloads.routing.sampling import draw_distinct, prepare_popularity
from workloads.streams import stream

WEIGHTS = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
DRAWS = 100_000


def expected_law(weights, top_k, start=()):
    """Probability of each ordered choice, by its definition."""
    law = {}
    for choice in permutations(range(len(weights)), top_k):
        if choice[: len(start)] != tuple(start):
            continue
        left, probability = weights.sum() - weights[list(start)].sum(), 1.0
        for expert in choice[len(start) :]:
            probability *= weights[expert] / left
            left -= weights[expert]
        law[choice] = probability
    return law


def observed_law(ids):
    choices, counts = np.unique(ids.T, axis=0, return_counts=True)
    return {tuple(choice): count / ids.shape[1] for choice, count in zip(choices.tolist(), counts, strict=True)}


def assert_same_law(ids, law):
    observed = observed_law(ids)
    assert set(observed) <= set(law)
    for choice, probability in law.items():
        error = 5 * np.sqrt(probability * (1 - probability) / ids.shape[1]) + 1e-9
        assert observed.get(choice, 0.0) == pytest.approx(probability, abs=error), choice


@pytest.mark.parametrize("redraws", [0, 1, 24])
def test_draws_follow_successive_sampling_by_rejection_and_by_gumbel(monkeypatch, redraws):
    monkeypatch.setattr(sampling, "MAX_REDRAWS", redraws)
    monkeypatch.setattr(sampling, "FEW_KEYS", 0)
    rows = np.zeros(DRAWS, np.int64)
    ids = draw_distinct(stream(1, "routing"), prepare_popularity(WEIGHTS[None]), rows, 3)
    assert_same_law(ids, expected_law(WEIGHTS, 3))


def test_draws_follow_the_law_where_a_few_stragglers_are_settled_early():
    rows = np.zeros(100, np.int64)
    rng = stream(1, "routing")
    popularity = prepare_popularity(WEIGHTS[None])
    ids = np.concatenate([draw_distinct(rng, popularity, rows, 3) for _ in range(500)], axis=1)
    assert_same_law(ids, expected_law(WEIGHTS, 3))


@pytest.mark.parametrize("redraws", [0, 24])
def test_held_experts_stay_and_the_rest_follows_the_law(monkeypatch, redraws):
    monkeypatch.setattr(sampling, "MAX_REDRAWS", redraws)
    monkeypatch.setattr(sampling, "FEW_KEYS", 0)
    rows = np.zeros(DRAWS, np.int64)
    held = np.full((3, DRAWS), 99)
    held[0] = 1
    ids = draw_distinct(
        stream(1, "routing"), prepare_popularity(WEIGHTS[None]), rows, 3, held, np.ones(DRAWS, np.int64)
    )
    assert_same_law(ids, expected_law(WEIGHTS, 3, start=(1,)))


@pytest.mark.parametrize("redraws", [0, 24])
def test_only_allowed_experts_are_drawn_and_by_their_share(monkeypatch, redraws):
    monkeypatch.setattr(sampling, "MAX_REDRAWS", redraws)
    monkeypatch.setattr(sampling, "FEW_KEYS", 0)
    rows = np.zeros(DRAWS, np.int64)
    allowed = np.tile([True, False, True, True, False], (DRAWS, 1))
    ids = draw_distinct(stream(1, "routing"), prepare_popularity(WEIGHTS[None]), rows, 2, allowed=allowed)
    law = expected_law(WEIGHTS[[0, 2, 3]], 2)
    back = np.array([0, 2, 3])
    assert_same_law(ids, {tuple(back[list(choice)].tolist()): p for choice, p in law.items()})


def test_every_item_draws_from_its_own_row():
    popularity = prepare_popularity(np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]))
    rows = np.array([0, 1] * 500)
    ids = draw_distinct(stream(1, "routing"), popularity, rows, 2)
    assert (np.sort(ids[:, rows == 0], axis=0) == [[0], [1]]).all()
    assert (np.sort(ids[:, rows == 1], axis=0) == [[2], [3]]).all()


def test_an_expert_without_popularity_is_drawn_only_when_no_other_is_left():
    popularity = prepare_popularity(np.array([[1.0, 1e-30, 0.0]]))
    ids = draw_distinct(stream(1, "routing"), popularity, np.zeros(100, np.int64), 3)
    assert (ids[0] == 0).all()
    assert (np.sort(ids, axis=0) == [[0], [1], [2]]).all()


def test_most_of_the_experts_are_drawn_by_the_same_law():
    ids = draw_distinct(stream(1, "routing"), prepare_popularity(WEIGHTS[None]), np.zeros(DRAWS, np.int64), 3)
    assert_same_law(ids, expected_law(WEIGHTS, 3))


@pytest.mark.parametrize(("experts", "top_k"), [(512, 300), (512, 512), (4096, 4096)])
def test_tokens_that_choose_most_of_many_experts_are_drawn_at_once(monkeypatch, experts, top_k):
    def fail(*_):
        raise AssertionError("redrawing so many never ends")

    monkeypatch.setattr(sampling, "_unsettled", fail)
    popularity = prepare_popularity(np.linspace(1.0, 2.0, experts)[None])
    ids = draw_distinct(stream(1, "routing"), popularity, np.zeros(64, np.int64), top_k)
    assert [len(np.unique(column)) for column in ids.T] == [top_k] * 64
