"""What moves between placements, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.placement import Placement, imbalance, place
from simulator.placement.migration import aligned, migration, moves


def held(placement: Placement, rank: int, layer: int = 0) -> set[int]:
    return set(placement.slot_expert[layer].reshape(placement.ranks, -1)[rank].tolist())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Placement, Placement, int]:
    """An old and a new placement of the same shape, and nodes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nodes = draw(st.sampled_from([1, 2]))
    old, new = (place("refined", rng.pareto(1.0, (2, 12)), 4, 4, nodes=nodes) for _ in range(2))
    return old, new, nodes


@settings(max_examples=20)
@given(pair=pairs())
def test_after_all_moves_every_rank_holds_what_the_new_placement_says(pair: tuple[Placement, Placement, int]) -> None:
    old, new, nodes = pair
    moved = moves(new, old, nodes)
    for layer in range(2):
        for rank in range(4):
            arrived = set(moved.expert[(moved.layer == layer) & (moved.target == rank)].tolist())
            assert held(old, rank, layer) | arrived >= held(new, rank, layer)
            assert not arrived & held(old, rank, layer)
    for layer, expert, source in zip(moved.layer, moved.expert, moved.source, strict=True):
        assert expert in held(old, int(source), int(layer))


@settings(max_examples=20)
@given(pair=pairs())
def test_aligning_changes_no_load_and_moves_no_more(pair: tuple[Placement, Placement, int]) -> None:
    old, new, nodes = pair
    load = np.random.default_rng(0).random((2, 12))
    near = aligned(new, old, nodes)
    np.testing.assert_allclose(imbalance(near.rank_load(load)), imbalance(new.rank_load(load)))
    assert sorted(near.slot_expert[0].tolist()) == sorted(new.slot_expert[0].tolist())
    assert len(moves(near, old, nodes)) <= len(moves(new, old, nodes)) + 2


def test_ranks_that_only_swapped_names_move_nothing() -> None:
    old = place("linear", np.ones((1, 8)), 4)
    swapped = Placement(slot_expert=old.slot_expert[:, [6, 7, 4, 5, 0, 1, 3, 2]], ranks=4, num_experts=8)
    assert len(moves(swapped, old)) > 0
    assert len(moves(aligned(swapped, old, nodes=2), old)) == 0


def test_an_expert_comes_from_its_own_node_where_that_holds_it() -> None:
    old = Placement(slot_expert=np.array([[0, 1, 2, 3, 0, 1, 2, 3]]), ranks=4, num_experts=4)
    new = Placement(slot_expert=np.array([[2, 3, 0, 1, 2, 3, 0, 1]]), ranks=4, num_experts=4)
    moved = moves(new, old, nodes=2)
    assert len(moved) == 8
    assert (moved.source // 2 == moved.target // 2).all()
    taken = migration(moved, 1e6, ranks=4, nodes=2, near_bandwidth=1e9, far_bandwidth=1e8)
    assert (taken.near_bytes, taken.far_bytes) == (8e6, 0.0)
    assert taken.seconds == pytest.approx(2e6 / 1e9)
    assert taken.staging_bytes == 2e6


def test_the_fullest_link_sets_the_time() -> None:
    old = place("linear", np.ones((1, 8)), 4)
    new = Placement(slot_expert=np.array([[4, 5, 2, 3, 0, 1, 6, 7]]), ranks=4, num_experts=8)
    taken = migration(moves(new, old, nodes=2), 3e6, ranks=4, nodes=2, near_bandwidth=1e9, far_bandwidth=1e8)
    assert taken.far_bytes == 4 * 3e6
    assert taken.seconds == pytest.approx(2 * 3e6 / 1e8)


def test_the_same_placement_moves_nothing() -> None:
    old = place("linear", np.ones((2, 8)), 4, 4)
    taken = migration(moves(old, old), 1e6, ranks=4, nodes=1, near_bandwidth=1e9, far_bandwidth=1e8)
    assert (taken.experts, taken.seconds, taken.staging_bytes) == (0, 0.0, 0.0)
