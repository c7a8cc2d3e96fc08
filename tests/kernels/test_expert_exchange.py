"""Dispatch and combine: how many copies travel, which links they take, and published times."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.loader import load_device
from simulator.errors import ScenarioError
from simulator.kernels.expert_exchange import ExchangeKernel, dispatch_time, distinct
from simulator.kernels.kernel import Fabric, coefficients
from validation.papers.published_exchange import Published, kernel_of, predict, published_rows

FABRIC = Fabric(
    domain=8, scale_up_bandwidth=450e9, scale_up_latency=0.0, scale_out_bandwidth=50e9, scale_out_latency=0.0
)
IDEAL = ExchangeKernel(
    launch=0.0, units=1.0, efficiency=1.0, scale_out_efficiency=1.0, sharpness=50.0, merged=True, forwarded=True
)
LAYER = {"hidden": 7168, "top_k": 8, "num_experts": 256, "element_bytes": 1.0, "fabric": FABRIC}
PROFILE = load_device("h100-sxm").main.kernels


def kernel(name: str) -> ExchangeKernel:
    return coefficients(ExchangeKernel, PROFILE[name], name)


@settings(max_examples=25)
@given(st.sampled_from([(1, 2, 4), (2, 2, 4), (3, 2, 8), (2, 4, 8), (4, 4, 8), (3, 3, 9)]))
def test_distinct_buckets_equal_a_direct_count(case: tuple[int, int, int]) -> None:
    k, buckets, items = case
    chosen = list(itertools.combinations(range(items), k))
    mean = np.mean([len({i * buckets // items for i in c}) for c in chosen])
    assert float(distinct(k, buckets, items)) == pytest.approx(mean)


@settings(max_examples=25)
@given(st.integers(1, 16), st.integers(1, 256))
def test_distinct_buckets_exceed_neither_draws_nor_buckets(k: int, buckets: int) -> None:
    assert 0.999999 <= float(distinct(k, buckets)) <= min(k, buckets) + 1e-6


def test_many_items_tend_to_independent_draws() -> None:
    assert float(distinct(8, 16, 16 * 10**6)) == pytest.approx(float(distinct(8, 16)), rel=1e-5)


def test_one_rank_exchanges_nothing() -> None:
    assert float(dispatch_time(128, ranks=1, kernel=kernel("dispatch.deepep_normal"), **LAYER).seconds) == 0.0


@settings(max_examples=25)
@given(st.sampled_from([8, 16, 64, 256]), st.integers(1, 4096), st.floats(1.0, 3.0))
def test_an_uneven_router_never_speeds_an_exchange(ranks: int, tokens: int, share: float) -> None:
    even, uneven = (
        float(
            dispatch_time(
                tokens, ranks=ranks, max_rank_share=s, kernel=kernel("dispatch.deepep_low_latency"), **LAYER
            ).seconds
        )
        for s in (1.0, share)
    )
    assert uneven >= even


def test_forwarding_sends_one_copy_per_remote_node() -> None:
    forwarded = dispatch_time(4096, ranks=16, kernel=IDEAL, **LAYER).terms["scale_out"]
    straight = dispatch_time(4096, ranks=16, kernel=dataclasses.replace(IDEAL, forwarded=False), **LAYER)
    nodes = float(distinct(8, 2, 256))
    assert float(forwarded) == pytest.approx(4096 * nodes / 2 * 7168 / 50e9)
    assert float(straight.terms["scale_out"]) > 3 * float(forwarded)


def test_node_limited_routing_saves_scale_out_bytes() -> None:
    free, limited = (
        float(dispatch_time(4096, ranks=64, kernel=IDEAL, max_nodes=m, **LAYER).terms["scale_out"]) for m in (None, 4)
    )
    assert limited < 0.8 * free


def test_counted_copies_replace_the_even_expectation() -> None:
    even = dispatch_time(4096, ranks=8, kernel=IDEAL, **LAYER)
    counted = dispatch_time(4096, ranks=8, kernel=IDEAL, rank_copies=2 * distinct(8, 8, 256), **LAYER)
    assert float(counted.seconds) == pytest.approx(2 * float(even.seconds))


def test_scalars_and_arrays_agree() -> None:
    tokens, ranks = np.array([1, 128, 4096])[:, None], np.array([8, 64])
    together = dispatch_time(tokens, ranks=ranks, kernel=kernel("dispatch.deepep_normal"), **LAYER)
    alone = dispatch_time(128, ranks=64, kernel=kernel("dispatch.deepep_normal"), **LAYER)
    assert together.seconds.shape == (3, 2)
    assert float(together.seconds[1, 1]) == pytest.approx(float(alone.seconds))


def test_no_ranks_are_refused() -> None:
    with pytest.raises(ScenarioError, match="ranks must be at least 1"):
        dispatch_time(8, ranks=0, kernel=IDEAL, **LAYER)


def _errors(mode: str) -> np.ndarray:
    rows = [r for r in published_rows() if r.mode == mode]
    return np.array([predict(r, kernel_of(r, _kernels(r))) / r.seconds - 1 for r in rows])


def _kernels(row: Published) -> dict[str, object]:
    return dict(load_device("a100-sxm" if row.mode == "fused" else "h100-sxm").main.kernels)


@pytest.mark.parametrize(
    ("mode", "median", "worst"),
    [
        ("deepep_low_latency", 0.12, 0.30),
        ("deepep_low_latency_rdma", 0.12, 0.25),
        ("deepep_normal", 0.12, 0.25),
        ("one_sided", 0.15, 0.25),
        ("fused", 0.15, 0.15),
    ],
)
def test_published_exchanges_are_met(mode: str, median: float, worst: float) -> None:
    errors = np.abs(_errors(mode))
    assert np.median(errors) < median
    assert errors.max() < worst
