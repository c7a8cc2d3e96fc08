"""Spread of experts by batch, tabulated: what counting every batch by itself would tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.placement import place
from simulator.placement.replay import RoutingReplay, expert_spread, replay
from simulator.placement.spread import SpreadTable
from workloads.routing.generators import generate_routing


@pytest.fixture(scope="module")
def routing() -> RoutingReplay:
    trace = generate_routing("zipf", tokens=4096, layers=6, num_experts=64, top_k=4, seed=3, exponent=0.6)
    return replay(trace, place("linear", np.ones((6, 64)), ranks=8), 64)


@pytest.mark.parametrize("tokens", [1, 3, 17, 63, 64, 128, 4096])
def test_points_of_the_table_are_counted_exactly(routing: RoutingReplay, tokens: int) -> None:
    assert SpreadTable(routing, 4).at(tokens) == expert_spread(routing, tokens, 4)


@pytest.mark.parametrize("tokens", [70, 97, 333, 1000, 2777])
def test_batches_between_points_are_within_half_a_percent(routing: RoutingReplay, tokens: int) -> None:
    assert SpreadTable(routing, 4).at(tokens) == pytest.approx(expert_spread(routing, tokens, 4), rel=5e-3)


def test_what_was_asked_before_changes_nothing(routing: RoutingReplay) -> None:
    asked = SpreadTable(routing, 4)
    for tokens in (900, 5, 300):
        asked.at(tokens)
    assert asked.at(310) == SpreadTable(routing, 4).at(310)


def test_no_batch_has_no_spread_and_a_dense_model_an_even_one(routing: RoutingReplay) -> None:
    assert all(math.isnan(each) for each in SpreadTable(routing, 4).at(0))
    assert SpreadTable(None, 4).at(12) == (1.0, 1.0)
