"""Traffic matrices: what they count, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ScenarioError
from simulator.kernels.expert_exchange import distinct
from simulator.kernels.traffic import (
    Traffic,
    contiguous_homes,
    domains_of,
    even_traffic,
    sharded_destinations,
    traffic_of,
)

SIZES = st.sampled_from([(1, 8), (4, 8), (8, 8), (16, 8), (12, 4), (6, 1)])


def routed(ranks: int, domain: int, top_k: int, seed: int, tokens: int = 60) -> tuple[np.ndarray, np.ndarray, Traffic]:
    rng = np.random.default_rng(seed)
    destinations = rng.integers(-1, ranks + 1, (tokens, top_k))
    homes = rng.integers(0, ranks, tokens)
    return destinations, homes, traffic_of(destinations, homes, ranks=ranks, domain=domain)


@settings(max_examples=30)
@given(SIZES, st.integers(1, 6), st.integers(0, 99))
def test_every_count_equals_a_count_token_by_token(size: tuple[int, int], top_k: int, seed: int) -> None:
    ranks, domain = size
    destinations, homes, traffic = routed(ranks, domain, top_k, seed)
    experts, by_rank = np.zeros((ranks, ranks)), np.zeros((ranks, ranks))
    by_domain = np.zeros((ranks, domains_of(ranks, domain)))
    for home, row in zip(homes.tolist(), destinations.tolist(), strict=True):
        reached = [rank for rank in row if 0 <= rank < ranks]
        for rank in reached:
            experts[home, rank] += 1
        for rank in set(reached):
            by_rank[home, rank] += 1
        for node in {rank // domain for rank in reached}:
            by_domain[home, node] += 1
    np.testing.assert_array_equal(traffic.experts, experts)
    np.testing.assert_array_equal(traffic.ranks, by_rank)
    np.testing.assert_array_equal(traffic.domains, by_domain)
    assert traffic.tokens.sum() == len(homes)


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 6))
def test_deduplication_only_saves_copies(seed: int, top_k: int) -> None:
    _, _, traffic = routed(16, 8, top_k, seed)
    assert np.all(traffic.ranks <= traffic.experts)
    assert np.all(traffic.domains <= traffic.ranks.reshape(16, 2, 8).sum(axis=2))
    assert np.all(traffic.domains >= traffic.ranks.reshape(16, 2, 8).max(axis=2))


def test_an_even_router_sends_what_the_closed_form_expects() -> None:
    rng = np.random.default_rng(1)
    tokens, experts, ranks = 40_000, 64, 16
    ids = np.argsort(rng.random((tokens, experts)), axis=1)[:, :8]
    traffic = traffic_of(ids * ranks // experts, contiguous_homes(tokens, ranks), ranks=ranks, domain=8)
    assert traffic.experts.sum() / tokens == 8
    assert traffic.ranks.sum() / tokens == pytest.approx(float(distinct(8, ranks, experts)), rel=5e-3)
    assert traffic.domains.sum() / tokens == pytest.approx(float(distinct(8, 2, experts)), rel=5e-3)
    assert traffic.imbalance == pytest.approx(1.0, abs=0.02)


def test_even_traffic_keeps_its_copies_under_slices() -> None:
    plain = even_traffic(100, rank_copies=3, domain_copies=2, top_k=4, ranks=16, domain=8)
    sliced = even_traffic(100, rank_copies=3, domain_copies=2, top_k=4, ranks=16, domain=8, expert_shards=4)
    assert sliced.ranks.sum(axis=1) == pytest.approx(plain.ranks.sum(axis=1))
    assert np.count_nonzero(sliced.ranks) * 4 == np.count_nonzero(plain.ranks)


def test_a_coordinated_token_goes_to_its_own_place_and_a_plain_one_to_every_slice() -> None:
    groups, homes = np.array([[0, 3], [-1, 2]]), np.array([5, 2])
    coordinated = sharded_destinations(groups, homes, expert_shards=2, coordinated=True)
    assert coordinated.tolist() == [[1, 7], [-2, 4]]
    plain = sharded_destinations(groups, homes, expert_shards=2, coordinated=False)
    assert plain.tolist() == [[0, 1, 6, 7], [-2, -1, 4, 5]]


def test_homes_are_dealt_evenly_and_in_order() -> None:
    assert contiguous_homes(8, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert contiguous_homes(0, 4).tolist() == []


def test_ids_far_outside_the_ranks_send_nothing() -> None:
    traffic = traffic_of(np.array([[1, 65536, -65536, 2**40]]), np.array([0]), ranks=4, domain=4)
    assert traffic.experts.tolist() == [[0.0, 1.0, 0.0, 0.0], *[[0.0] * 4] * 3]


def test_nothing_sent_is_balanced() -> None:
    empty = traffic_of(np.full((3, 2), -1), np.zeros(3, dtype=int), ranks=4, domain=4)
    assert empty.imbalance == 1.0
    assert not empty.experts.any()


def test_ranks_that_do_not_tile_the_nodes_are_refused_with_two_numbers_that_do() -> None:
    with pytest.raises(ScenarioError, match=r"12 ranks do not tile nodes of 8 devices; 8 or 16 ranks would"):
        domains_of(12, 8)
    with pytest.raises(ScenarioError, match="at least 1"):
        domains_of(0, 8)


@pytest.mark.parametrize(
    ("destinations", "homes", "message"),
    [
        (np.zeros((3, 2), dtype=int), np.zeros(4, dtype=int), "one entry per token"),
        (np.zeros((3, 2), dtype=int), np.array([0, 1, 9]), "outside the 8 ranks"),
    ],
)
def test_wrong_shapes_and_homes_are_refused(destinations: np.ndarray, homes: np.ndarray, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        traffic_of(destinations, homes, ranks=8, domain=8)
