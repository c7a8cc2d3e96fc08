"""Collectives: analytic limits, invariances, and measured tables of ranks that the fit never saw."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.loader import load_device
from simulator.errors import ScenarioError
from simulator.hardware import load_hardware
from simulator.kernels.collectives import (
    AllReduceKernel,
    CollectiveKernel,
    all_gather_time,
    all_reduce_time,
    all_to_all_time,
    reduce_scatter_time,
)
from simulator.kernels.kernel import Fabric, coefficients
from validation.accuracy import accuracy
from validation.fit.collectives import fit_direct, solve_all_reduce
from validation.kernels.collective_rows import predict_all_reduce

KERNELS = Path(__file__).parents[1] / "data" / "kernels"
FABRIC = Fabric(
    domain=8, scale_up_bandwidth=450e9, scale_up_latency=1e-6, scale_out_bandwidth=50e9, scale_out_latency=5e-6
)
IDEAL = CollectiveKernel(
    launch=0.0, hop=0.0, efficiency=1.0, own_share=0.0, ramp=0.0, ramp_bytes=1.0, scale_out_efficiency=1.0
)
IDEAL_REDUCE = AllReduceKernel(**dataclasses.asdict(IDEAL))
PROFILE = load_device("h100-sxm").main.kernels
sizes = st.floats(1.0, 1e9)
groups = st.sampled_from([2, 4, 8, 16, 64])


def library(name: str) -> CollectiveKernel:
    return coefficients(CollectiveKernel, PROFILE[name], name)


def all_reduce(name: str = "all_reduce.nccl") -> AllReduceKernel:
    return coefficients(AllReduceKernel, PROFILE[name], name)


@settings(max_examples=25)
@given(sizes, st.sampled_from([2, 4, 8]))
def test_without_overheads_a_ring_moves_its_volume_at_link_speed(size: float, ranks: int) -> None:
    share = size * (ranks - 1) / ranks / FABRIC.scale_up_bandwidth
    for time in (all_gather_time, reduce_scatter_time, all_to_all_time):
        assert float(time(size, ranks, fabric=FABRIC, kernel=IDEAL).seconds) == pytest.approx(share)
    reduced = all_reduce_time(size, ranks, fabric=FABRIC, kernel=IDEAL_REDUCE)
    assert float(reduced.seconds) == pytest.approx(2 * share)


@settings(max_examples=25)
@given(sizes, groups, st.floats(1.0, 10.0))
def test_a_larger_message_never_takes_less(size: float, ranks: int, factor: float) -> None:
    for name in ("all_gather.nccl", "reduce_scatter.nccl"):
        small, large = (all_gather_time(s, ranks, fabric=FABRIC, kernel=library(name)) for s in (size, size * factor))
        assert float(large.seconds) >= float(small.seconds)
    small, large = (all_reduce_time(s, ranks, fabric=FABRIC, kernel=all_reduce()) for s in (size, size * factor))
    assert float(large.seconds) >= float(small.seconds)


@settings(max_examples=25)
@given(sizes, groups, st.floats(1.0, 10.0))
def test_faster_links_never_slow(size: float, ranks: int, factor: float) -> None:
    for link in ("scale_up_bandwidth", "scale_out_bandwidth"):
        faster = dataclasses.replace(FABRIC, **{link: getattr(FABRIC, link) * factor})
        before = all_to_all_time(size, ranks, fabric=FABRIC, kernel=library("all_to_all.nccl"))
        after = all_to_all_time(size, ranks, fabric=faster, kernel=library("all_to_all.nccl"))
        assert float(after.seconds) <= float(before.seconds) * (1 + 1e-12)


def test_a_single_rank_has_nothing_to_exchange() -> None:
    assert float(all_reduce_time(1e6, 1, fabric=FABRIC, kernel=all_reduce()).seconds) == 0.0
    assert float(all_gather_time(1e6, 1, fabric=FABRIC, kernel=IDEAL).seconds) == 0.0


def test_leaving_the_domain_costs_the_slower_link() -> None:
    inside = all_reduce_time(64e6, 8, fabric=FABRIC, kernel=IDEAL_REDUCE)
    across = all_reduce_time(64e6, 16, fabric=FABRIC, kernel=IDEAL_REDUCE)
    shared = 2 * 64e6 / 8 * (1 / 2) / 50e9 + 2 * 5e-6
    assert float(across.seconds - inside.seconds) == pytest.approx(shared)


def test_a_pair_in_a_full_mesh_has_one_link_only() -> None:
    mesh = dataclasses.replace(FABRIC, switched=False)
    switched = all_gather_time(1e8, [2, 8], fabric=FABRIC, kernel=IDEAL).seconds
    meshed = all_gather_time(1e8, [2, 8], fabric=mesh, kernel=IDEAL).seconds
    assert meshed == pytest.approx(switched * [7, 1])


def test_reducing_in_the_switch_helps_large_groups_only_where_the_dtype_allows() -> None:
    kernel = all_reduce()
    ring = all_reduce_time(256e6, [2, 8], fabric=FABRIC, kernel=kernel, in_switch=False).seconds
    switch = all_reduce_time(256e6, [2, 8], fabric=FABRIC, kernel=kernel).seconds
    assert switch[0] == ring[0]
    assert switch[1] < 0.9 * ring[1]


def test_a_switch_that_cannot_add_leaves_the_ring_and_a_weaker_one_is_slower() -> None:
    ring = all_reduce_time(256e6, 8, fabric=FABRIC, kernel=all_reduce(), in_switch=False).seconds
    times = [
        all_reduce_time(256e6, 8, fabric=dataclasses.replace(FABRIC, switch_reduction=r), kernel=all_reduce()).seconds
        for r in (0.0, 0.9, 1.0)
    ]
    assert times[0] == ring
    assert times[0] > times[1] > times[2]


@pytest.mark.parametrize("name", ["all_reduce.nccl", "all_reduce.one_shot"])
def test_latencies_stretch_on_a_slower_clock_and_do_not_shrink_on_a_faster_one(name: str) -> None:
    kernel = all_reduce(name)
    slow, same, fast = (
        all_reduce_time(16.0, [2, 8], fabric=dataclasses.replace(FABRIC, clock=c * kernel.clock), kernel=kernel).seconds
        for c in (0.5, 1.0, 2.0)
    )
    assert slow == pytest.approx(2.0 * same, rel=1e-3)
    assert list(fast) == list(same) == list(all_reduce_time(16.0, [2, 8], fabric=FABRIC, kernel=kernel).seconds)


def test_the_copy_outside_a_graph_runs_at_the_speed_of_the_memory() -> None:
    eager, graph = all_reduce("all_reduce.one_shot_eager"), all_reduce("all_reduce.one_shot")
    added = []
    for bandwidth in (2e12, 4e12):
        fabric = dataclasses.replace(FABRIC, memory_bandwidth=bandwidth)
        outside, inside = (all_reduce_time(1e9, 8, fabric=fabric, kernel=k).seconds for k in (eager, graph))
        added.append(float(outside - inside))
    assert added[0] == pytest.approx(2.0 * added[1], rel=1e-3)


def test_the_engines_own_all_reduce_wins_for_small_messages_and_yields_for_large_ones() -> None:
    small, large = 16e3, 512e6
    own, nccl = all_reduce("all_reduce.one_shot"), all_reduce()
    mine = all_reduce_time([small, large], 8, fabric=FABRIC, kernel=own).seconds
    theirs = all_reduce_time([small, large], 8, fabric=FABRIC, kernel=nccl).seconds
    assert mine[0] < 0.6 * theirs[0]
    assert mine[1] == pytest.approx(theirs[1])


def test_no_ranks_are_refused() -> None:
    with pytest.raises(ScenarioError, match="ranks must be at least 1"):
        all_gather_time(1e6, 0, fabric=FABRIC, kernel=IDEAL)


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm"])
def test_four_ranks_are_predicted_from_two_and_eight(device: str) -> None:
    import pandas as pd

    folder, fabric = KERNELS / device.replace("-", "_"), load_hardware(device).fabric
    nccl = pd.read_parquet(folder / "nccl.parquet").query("collective == 'all_reduce'")
    ring = solve_all_reduce(nccl, nccl["latency_us"].to_numpy() * 1e-6, fabric, in_switch=device == "h100-sxm")
    frame = pd.read_parquet(folder / "custom_allreduce.parquet")
    fitted = fit_direct(frame[frame["num_gpus"] != 4], fabric, ring.coefficients)
    unseen = frame[(frame["num_gpus"] == 4) & frame["kernel"].str.endswith("graph")]
    predicted = predict_all_reduce(unseen, fabric=fabric, kernel=fitted["all_reduce.one_shot"][0])
    result = accuracy(predicted, unseen["latency_us"].to_numpy() * 1e-6)
    assert result.rows == 23
    assert result.median_ape < 0.08
    assert result.p90_ape < 0.20


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm"])
def test_measured_collectives_are_met(device: str) -> None:
    import pandas as pd

    profile, fabric = load_device(device), load_hardware(device).fabric
    frame = pd.read_parquet(KERNELS / device.replace("-", "_") / "nccl.parquet")
    size = frame["message_elems"].to_numpy() * np.where(frame["dtype"] == "half", 2.0, 1.0)
    times = {"all_gather": all_gather_time, "reduce_scatter": reduce_scatter_time, "alltoall": all_to_all_time}
    for collective, time in times.items():
        part = (frame["collective"] == collective).to_numpy()
        name = "all_to_all.nccl" if collective == "alltoall" else f"{collective}.nccl"
        kernel = coefficients(CollectiveKernel, profile.main.kernels[name], name)
        found = time(size[part], frame["num_gpus"].to_numpy()[part], fabric=fabric, kernel=kernel).seconds
        result = accuracy(found, frame["latency_us"].to_numpy()[part] * 1e-6)
        assert result.median_ape < 0.08
        assert result.p90_ape < 0.20
