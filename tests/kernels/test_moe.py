"""The fused MoE model: limits, invariances, errors, and accuracy on unseen families and devices."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import load_device
from simulator.errors import ScenarioError
from simulator.hardware import load_hardware
from simulator.kernels.expert_counts import balanced_counts, power_law_counts
from simulator.kernels.kernel import DTYPE_BYTES, Silicon, coefficients
from simulator.kernels.moe import MoeKernel, moe_time
from validation.accuracy import accuracy
from validation.fit.moe import family, fit_table, tables
from validation.kernels.moe_rows import moe_rows, predict_moe_rows

if TYPE_CHECKING:
    import pandas as pd

KERNELS = Path(__file__).parents[1] / "data" / "kernels"
H100 = load_hardware("h100-sxm").silicon
DEEPSEEK = {"top_k": 8, "num_experts": 256, "hidden": 7168, "intermediate": 2048, "dtype": "bfloat16"}


@cache
def kernel(name: str, device: str = "h100-sxm") -> MoeKernel:
    return coefficients(MoeKernel, load_device(device).main.kernels[name], name)


@cache
def measurements(device: str) -> dict[str, tuple[pd.DataFrame, str]]:
    return tables(KERNELS / device)


def seconds(
    counts: object, num_tokens: object, *, silicon: Silicon = H100, name: str = "moe.triton.bfloat16", **shape: object
) -> np.ndarray:
    time = moe_time(counts, num_tokens=num_tokens, silicon=silicon, kernel=kernel(name), **{**DEEPSEEK, **shape})
    return time.seconds


counts_of_a_rank = st.lists(st.integers(0, 500), min_size=8, max_size=8)


@settings(max_examples=25)
@given(counts_of_a_rank, st.integers(0, 7), st.integers(1, 300))
def test_more_rows_on_an_expert_never_cost_less(counts: list[int], expert: int, more: int) -> None:
    busier = list(counts)
    busier[expert] += more
    assert seconds(busier, 1024) >= seconds(counts, 1024)


@settings(max_examples=25)
@given(counts_of_a_rank, st.permutations(range(8)))
def test_relabelling_experts_changes_nothing(counts: list[int], order: list[int]) -> None:
    assert seconds([counts[i] for i in order], 512) == pytest.approx(seconds(counts, 512))


@settings(max_examples=25)
@given(counts_of_a_rank, st.sampled_from(["memory_bandwidth", "cache"]), st.floats(1.0, 4.0))
def test_more_bandwidth_or_cache_never_slows(counts: list[int], name: str, factor: float) -> None:
    better = dataclasses.replace(H100, **{name: getattr(H100, name) * factor})
    assert seconds(counts, 1024, silicon=better) <= seconds(counts, 1024) * (1 + 1e-12)


def test_a_chip_that_loses_clock_is_slower_in_long_layers_only() -> None:
    hot = dataclasses.replace(H100, sustained=0.8)
    short, long = ([rows] * 32 for rows in (1, 4000))
    assert seconds(short, 32, silicon=hot) == pytest.approx(seconds(short, 32), rel=0.02)
    assert 1.1 < seconds(long, 16000, silicon=hot) / seconds(long, 16000) < 1.25


def test_weights_of_the_experts_hit_bound_the_time_from_below() -> None:
    counts = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    weights = 3 * 3 * 7168 * 2048 * DTYPE_BYTES["bfloat16"]
    assert seconds(counts, 3) > weights / H100.memory_bandwidth


def test_a_small_skewed_batch_is_faster_than_an_even_one() -> None:
    even, skewed = np.ones(64, dtype=int), np.repeat([4, 0], [16, 48])
    assert seconds(skewed, 8) < 0.6 * seconds(even, 8)


def test_a_large_skewed_batch_is_slower_on_the_hottest_rank() -> None:
    even = balanced_counts(8192, 8, 256, ep=32)
    hottest = power_law_counts(8192, 8, 256, ep=32, exponent=1.2, draws=4)
    assert np.all(seconds(hottest, 8192) > seconds(even, 8192))


def test_scalars_and_arrays_agree() -> None:
    counts = np.random.default_rng(0).poisson(5, (3, 4, 8))
    tokens = np.array([16, 256, 4096])[:, None]
    together = seconds(counts, tokens)
    assert together.shape == (3, 4)
    assert together[1, 2] == pytest.approx(float(seconds(counts[1, 2], 256)))


def test_a_fractional_count_is_the_chance_of_a_hit() -> None:
    none, maybe, surely = (float(seconds(np.full(8, c), 64)) for c in (0.0, 0.5, 1.0))
    assert none < maybe < surely
    assert maybe == pytest.approx((none + surely) / 2, rel=0.05)


def test_integer_and_float_counts_agree() -> None:
    counts = np.array([0, 3, 17, 64, 1, 0, 200, 128])
    assert seconds(counts, 512) == pytest.approx(float(seconds(counts.astype(float), 512)))


def test_a_kernel_that_walks_all_tokens_pays_for_foreign_ones() -> None:
    counts = np.full(8, 16)
    walks, local = "moe.triton.fp8_block", "moe.cutlass.fp8_block"
    shape = {"dtype": "fp8_block"}
    grown = [seconds(counts, n, name=walks, **shape) for n in (2048, 16384)]
    kept = [seconds(counts, n, name=local, **shape) for n in (2048, 16384)]
    assert grown[1] > 3 * grown[0]
    assert kept[1] < 3 * kept[0]


def test_dropping_the_gate_matrix_saves_a_third_of_the_weights() -> None:
    counts = np.ones(64, dtype=int)
    ratio = float(seconds(counts, 8, matrices=2) / seconds(counts, 8))
    assert 0.63 < ratio < 0.72


def test_unknown_dtype_names_the_nearest_one() -> None:
    with pytest.raises(ProfileError, match=r"fp8_blok.*did you mean 'fp8_block'"):
        seconds([1], 1, dtype="fp8_blok")


def test_missing_arithmetic_is_named() -> None:
    a100 = load_hardware("a100-sxm").silicon
    with pytest.raises(ProfileError, match="'fp8_block' needs fp8 arithmetic"):
        seconds([1], 1, silicon=a100, dtype="fp8_block")


def test_counts_without_experts_are_refused() -> None:
    with pytest.raises(ScenarioError, match="at least one local expert"):
        seconds(np.zeros((3, 0)), 1)


@settings(max_examples=25)
@given(st.integers(1, 3000), st.sampled_from([(8, 256), (2, 8), (6, 160), (22, 512)]))
def test_balanced_counts_place_every_assignment(tokens: int, layer: tuple[int, int]) -> None:
    counts = balanced_counts(tokens, *layer)
    assert counts.sum() == tokens * layer[0]
    assert counts.max() - counts.min() <= max(1, -(-tokens // layer[1]) * layer[0])


@settings(max_examples=25)
@given(st.integers(1, 4000), st.sampled_from([0.6, 1.0, 1.2]), st.sampled_from(["least", "most"]))
def test_power_law_counts_keep_assignments_and_cap(tokens: int, exponent: float, leftover: str) -> None:
    counts = power_law_counts(tokens, 8, 256, exponent=exponent, draws=3, leftover=leftover)  # type: ignore[arg-type]
    assert counts.max() <= tokens
    assert counts.sum(-1) == pytest.approx(tokens * 8, rel=0.011)


def test_the_measured_power_law_rank_is_the_most_loaded() -> None:
    for tokens in (4, 64, 2048):
        hottest = power_law_counts(tokens, 8, 256, ep=16, exponent=1.2).sum(-1)
        assert np.all(hottest >= tokens * 8 / 16)


def test_experts_that_ranks_cannot_share_are_refused() -> None:
    with pytest.raises(ScenarioError, match="10 experts cannot be shared evenly by ep = 4"):
        balanced_counts(8, 2, 10, ep=4)


@pytest.mark.parametrize(
    ("name", "median", "p90"),
    [
        ("moe.cutlass.bfloat16", 0.08, 0.80),
        ("moe.cutlass.fp8_block", 0.07, 0.20),
        ("moe.triton.bfloat16", 0.08, 0.30),
        ("moe.triton.fp8_block", 0.06, 0.20),
        ("moe.deepgemm_contiguous.fp8_block", 0.08, 0.20),
        ("moe.deepgemm_masked.fp8_block", 0.08, 0.20),
    ],
)
def test_measured_rows_of_the_fitted_device_are_met(name: str, median: float, p90: float) -> None:
    frame, layout = measurements("h100_sxm")[name]
    found = predict_moe_rows(moe_rows(frame, layout=layout), silicon=H100, kernel=kernel(name))
    result = accuracy(found, frame["latency_us"].to_numpy() * 1e-6)
    assert result.median_ape < median
    assert result.p90_ape < p90


def test_a_model_family_left_out_of_the_fit_is_met() -> None:
    name = "moe.triton.fp8_block"
    frame, layout = measurements("h100_sxm")[name]
    rows, left_out = moe_rows(frame, layout=layout), family(frame).to_numpy() == "7168/2048/256/8"
    fitted, _, _ = fit_table(name, frame, rows, np.flatnonzero(~left_out), H100)
    unseen = np.flatnonzero(left_out)
    found = predict_moe_rows(rows[unseen], silicon=H100, kernel=fitted)
    result = accuracy(found, frame["latency_us"].to_numpy()[unseen] * 1e-6)
    assert result.rows > 50
    assert result.median_ape < 0.08
    assert result.p90_ape < 0.30


def test_the_kernel_fitted_on_one_device_predicts_another() -> None:
    name = "moe.cutlass.bfloat16"
    frame, layout = measurements("a100_sxm")[name]
    a100 = load_hardware("a100-sxm").silicon
    found = predict_moe_rows(moe_rows(frame, layout=layout), silicon=a100, kernel=kernel(name))
    result = accuracy(found, frame["latency_us"].to_numpy() * 1e-6)
    assert result.median_ape < 0.165
    assert result.p90_ape < 0.50
