"""Exchanges of uneven traffic: stages conserve copies, even traffic gives the closed form, hot ranks cost time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ScenarioError
from simulator.kernels.all_to_all import (
    exchange_stages,
    exchange_time,
    gather_exchange_time,
    gather_stages,
    reversed_stages,
    slowest,
)
from simulator.kernels.collectives import CollectiveKernel, all_gather_time
from simulator.kernels.expert_exchange import ExchangeKernel, dispatch_time, distinct
from simulator.kernels.kernel import Fabric
from simulator.kernels.traffic import Traffic, contiguous_homes, even_traffic, sharded_destinations, traffic_of

FABRIC = Fabric(
    domain=8, scale_up_bandwidth=450e9, scale_up_latency=2e-6, scale_out_bandwidth=50e9, scale_out_latency=3e-6
)
PLAIN = ExchangeKernel(
    launch=5e-6,
    start_expert=1e-9,
    unit_token=1e-7,
    unit_copy=1e-8,
    unit_rate=1e11,
    units=20.0,
    efficiency=0.8,
    scale_out_efficiency=0.9,
    sharpness=2.0,
    merged=True,
    forwarded=False,
    peer=1e-7,
    peers_half=500.0,
    connection_rate=2e10,
)
KERNELS = {
    "straight": PLAIN,
    "per expert": dataclasses.replace(PLAIN, merged=False),
    "forwarded": dataclasses.replace(PLAIN, forwarded=True),
    "staged": dataclasses.replace(PLAIN, staged=True, link_sharpness=1.0),
    "scale-out only": dataclasses.replace(PLAIN, merged=False, scale_out_only=True),
}
LAYER = {"hidden": 7168.0, "element_bytes": 2.0, "num_experts": 256.0, "fabric": FABRIC}


def even(ranks: int, top_k: int = 8, tokens: float = 128.0) -> Traffic:
    return even_traffic(
        tokens,
        rank_copies=float(distinct(top_k, ranks, 256)),
        domain_copies=float(distinct(top_k, max(1, ranks // 8), 256)),
        top_k=top_k,
        ranks=ranks,
        domain=8,
    )


def skewed(ranks: int, seed: int) -> Traffic:
    rng = np.random.default_rng(seed)
    weight = np.arange(1, ranks + 1) ** -0.7
    destinations = rng.choice(ranks, size=(64 * ranks, 4), p=weight / weight.sum())
    return traffic_of(destinations, contiguous_homes(64 * ranks, ranks), ranks=ranks, domain=8)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("ranks", [4, 8, 16, 64])
def test_even_traffic_costs_what_the_even_form_says(name: str, ranks: int) -> None:
    uneven = exchange_time(even(ranks), kernel=KERNELS[name], **LAYER)
    expected = dispatch_time(128.0, top_k=8, ranks=ranks, kernel=KERNELS[name], **LAYER)
    assert uneven.seconds == pytest.approx(np.full(ranks, float(expected.seconds)), rel=1e-9)
    for term, seconds in expected.terms.items():
        assert float(slowest(uneven).terms[term]) == pytest.approx(float(seconds), rel=1e-9, abs=1e-15), term


@pytest.mark.parametrize("expert_shards", [2, 4])
def test_an_even_coordinated_exchange_costs_what_the_even_form_says(expert_shards: int) -> None:
    kernel = dataclasses.replace(PLAIN, coordinated=True, link_sharpness=1.0)
    copies = float(distinct(8, 16 / expert_shards, 256))
    traffic = even_traffic(
        128, rank_copies=copies, domain_copies=2, top_k=8, ranks=16, domain=8, expert_shards=expert_shards
    )
    uneven = exchange_time(traffic, kernel=kernel, expert_shards=expert_shards, **LAYER)
    expected = dispatch_time(128.0, top_k=8, ranks=16, kernel=kernel, expert_shards=expert_shards, **LAYER)
    assert uneven.seconds == pytest.approx(np.full(16, float(expected.seconds)), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from(sorted(KERNELS)))
def test_every_copy_arrives_whatever_way_it_takes(seed: int, name: str) -> None:
    traffic, kernel = skewed(16, seed), KERNELS[name]
    copies = traffic.ranks if kernel.merged else traffic.experts
    last = exchange_stages(traffic, kernel)[-1]
    if name == "forwarded":
        # What a rank gets from within its domain are the copies meant for it; the rest it passes on.
        within = last * np.kron(np.eye(2), np.ones((8, 8)))
        assert within.sum(axis=0) == pytest.approx(copies.sum(axis=0))
        assert (last - within).sum() == traffic.domains[:8, 1].sum() + traffic.domains[8:, 0].sum()
    elif name == "staged":
        inside, across = exchange_stages(traffic, kernel)
        kept = inside.sum(axis=0) - across.sum(axis=1)
        assert kept + across.sum(axis=0) == pytest.approx(copies.sum(axis=0))
    else:
        assert last.sum(axis=0) == pytest.approx(copies.sum(axis=0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from(sorted(KERNELS)))
def test_renumbering_nodes_changes_nothing(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    destinations, homes = rng.integers(0, 24, (400, 4)), rng.integers(0, 24, 400)
    order = np.array([2, 0, 1])
    moved = lambda rank: order[rank // 8] * 8 + rank % 8  # noqa: E731
    one, other = (
        slowest(exchange_time(traffic_of(to, home, ranks=24, domain=8), kernel=KERNELS[name], **LAYER))
        for to, home in ((destinations, homes), (moved(destinations), moved(homes)))
    )
    assert float(one.seconds) == pytest.approx(float(other.seconds), rel=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_a_hot_rank_costs_more_than_even_traffic_of_as_many_copies(name: str) -> None:
    hot = skewed(16, 3)
    flat = even_traffic(
        64,
        rank_copies=hot.ranks.sum() / 1024,
        domain_copies=hot.domains.sum() / 1024,
        top_k=4,
        ranks=16,
        domain=8,
    )
    times = [float(slowest(exchange_time(t, kernel=KERNELS[name], **LAYER)).seconds) for t in (flat, hot)]
    assert times[1] > times[0]
    assert hot.imbalance > 1.5


def test_two_levels_pay_off_only_where_the_peers_are_many() -> None:
    staged = KERNELS["staged"]
    few, many = (
        [float(dispatch_time(64.0, top_k=8, ranks=n, kernel=k, **LAYER).seconds) for k in (PLAIN, staged)]
        for n in (16, 2048)
    )
    assert few[0] < few[1]
    assert many[1] < many[0]


def test_coordination_keeps_slices_from_sending_the_same_tokens_between_nodes() -> None:
    rng = np.random.default_rng(0)
    groups, homes = rng.integers(0, 8, (512, 2)), rng.integers(0, 16, 512)
    kernel = dataclasses.replace(PLAIN, coordinated=True, link_sharpness=1.0)
    plain, coordinated = (
        traffic_of(sharded_destinations(groups, homes, expert_shards=2, coordinated=c), homes, ranks=16, domain=8)
        for c in (False, True)
    )
    every = exchange_time(plain, kernel=PLAIN, **LAYER)
    own = exchange_time(coordinated, kernel=kernel, expert_shards=2, **LAYER)
    assert float(own.terms["scale_out"].max()) < 0.7 * float(every.terms["scale_out"].max())
    # Both bring every token to both shards of each of its experts.
    received = exchange_stages(coordinated, kernel, expert_shards=2)[-1].sum(axis=0)
    np.testing.assert_array_equal(received, plain.ranks.sum(axis=0))


def test_a_gather_pads_to_the_fullest_rank_and_ignores_the_routing() -> None:
    ring = CollectiveKernel(launch=1e-5, hop=1e-6, efficiency=0.8, own_share=0.2, ramp=1e-5, ramp_bytes=1e6)
    traffic = dataclasses.replace(even(16), tokens=np.array([10.0] * 15 + [40.0]))
    time = gather_exchange_time(traffic, hidden=7168, element_bytes=2, fabric=FABRIC, kernel=ring)
    expected = all_gather_time(40 * 16 * 7168 * 2, 16, fabric=FABRIC, kernel=ring)
    assert float(time.seconds) == float(expected.seconds)
    counterparts, within = gather_stages(traffic)
    assert counterparts.sum(axis=0) == pytest.approx(np.full(16, 40.0))
    assert within.sum(axis=0) == pytest.approx(np.full(16, 8 * 80.0))


def test_a_combine_runs_the_stages_back() -> None:
    stages = exchange_stages(skewed(16, 1), KERNELS["staged"])
    back = reversed_stages(stages)
    np.testing.assert_array_equal(back[0], stages[1].T)
    np.testing.assert_array_equal(back[1], stages[0].T)


def test_traffic_of_another_domain_size_is_refused() -> None:
    with pytest.raises(ScenarioError, match="domains of 8 ranks on a fabric of 4"):
        exchange_time(even(16), kernel=PLAIN, **{**LAYER, "fabric": dataclasses.replace(FABRIC, domain=4)})
