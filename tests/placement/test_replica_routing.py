"""Which replica serves which token: conservation, locality, and balance within steps."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ScenarioError
from simulator.placement import imbalance, place
from simulator.placement.replay import ServedTokens, replay, serve_tokens
from simulator.placement.replica_routing import BLOCK, REPLICA_ROUTINGS, home_ranks
from workloads.routing.generators import generate_routing
from workloads.routing.stats import expert_load
from workloads.routing.trace import RoutingTrace

TOKENS, RANKS, NODES = 1024, 8, 2


@cache
def routing(seed: int = 0) -> RoutingTrace:
    return generate_routing(
        "zipf", tokens=TOKENS, layers=2, num_experts=16, top_k=4, seed=seed, sequence_tokens=16, exponent=1.0
    )


@cache
def served(how: str, redundant: int = 16, seed: int = 0) -> ServedTokens:
    trace = routing(seed)
    placement = place("refined", expert_load(trace).astype(float), RANKS, redundant, nodes=NODES)
    return serve_tokens(trace, placement, 64, replica_routing=how, nodes=NODES)


@settings(max_examples=20)
@given(how=st.sampled_from(sorted(REPLICA_ROUTINGS)), redundant=st.sampled_from([0, 8, 16]), seed=st.integers(0, 3))
def test_every_assignment_is_served_by_a_slot_of_its_expert(how: str, redundant: int, seed: int) -> None:
    found = served(how, redundant, seed)
    for layer in range(found.layers):
        expert = found.placement.slot_expert[layer][found.slot_ids[:, layer]]
        assert (expert == routing(seed).expert_ids[:, layer]).all()


def test_local_replicas_are_taken_where_a_token_has_one() -> None:
    found = served("local")
    home = home_ranks(found.decode_order, RANKS)
    slots, count = found.placement.replicas()
    rank = found.slot_ids // found.placement.slots_per_rank
    for token in range(0, TOKENS, 37):
        for expert, taken in zip(routing().expert_ids[token, 0], rank[token, 0], strict=True):
            holders = set((slots[0, expert, : count[0, expert]] // found.placement.slots_per_rank).tolist())
            near = {each for each in holders if each // 4 == home[token] // 4}
            assert taken in ({int(home[token])} & holders or near or holders)


def test_local_replicas_keep_more_traffic_at_home_than_turns_do() -> None:
    def kept(how: str) -> float:
        found = served(how)
        home = home_ranks(found.decode_order, RANKS)[:, None, None]
        return float((found.slot_ids // found.placement.slots_per_rank == home).mean())

    assert kept("local") > 1.2 * kept("round_robin")


def test_least_loaded_replicas_balance_a_block_better_than_turns_do() -> None:
    def uneven(how: str) -> float:
        counts = served(how).counts("decode", BLOCK, TOKENS // BLOCK).sum(axis=-1)
        return float(imbalance(counts).mean()) - 1

    assert uneven("least_loaded") < 0.8 * uneven("round_robin")


def test_water_fills_whole_tokens_to_one_level() -> None:
    trace = RoutingTrace(
        expert_ids=np.array([[[0, 1]]] * 100 + [[[0, 2]]] * 28, dtype=np.uint8),
        sequence_start=np.zeros(1, dtype=np.int64),
        num_experts=4,
        source="made",
    )
    placement = place("linear", np.ones((1, 4)), 3, 2)
    # Slots 0 1 | 2 3 | 0 1: experts 0 and 1 are on the first and the last rank.
    found = serve_tokens(trace, placement, 1, replica_routing="least_loaded")
    load = np.bincount(found.slot_ids.ravel() // 2, minlength=3)
    assert load.tolist() == [114, 28, 114]


@pytest.mark.parametrize("how", sorted(REPLICA_ROUTINGS))
def test_null_experts_are_on_no_rank_whoever_serves(how: str) -> None:
    trace = generate_routing("zipf", tokens=300, layers=2, num_experts=10, top_k=3, seed=2, exponent=0.5)
    placement = place("balanced", np.ones((2, 8)), 4, 4)
    found = replay(trace, placement, 8, replica_routing=how)
    null = trace.expert_ids >= 8
    assert (found.slot_ids[null] == placement.slots).all()
    assert found.prefill.load(0, found.tokens).sum() == (~null).sum()


def test_homes_are_even_in_every_step() -> None:
    found = served("local")
    home = home_ranks(found.decode_order, RANKS)
    for tokens in found.window_tokens("decode", 64, 5):
        assert (np.bincount(home[tokens], minlength=RANKS) == 8).all()


def test_an_unknown_replica_routing_names_the_nearest() -> None:
    with pytest.raises(ScenarioError, match="unknown routing 'least_load'; did you mean 'least_loaded'"):
        serve_tokens(routing(), served("local").placement, 8, replica_routing="least_load")
