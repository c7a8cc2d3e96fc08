"""The GEMM model: limits, monotonicity, dtypes, errors, and accuracy on measured shapes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_profiles.errors import ProfileError
from simulator.hardware import load_hardware
from simulator.kernels.gemm import GemmKernel, gemm_time
from simulator.kernels.kernel import Silicon, coefficients
from validation.fit.dense import judge, tables_of
from validation.kernels.dense_rows import FAMILIES

KERNELS = Path(__file__).parents[1] / "data" / "kernels"
HARDWARE = load_hardware("h100-sxm")
H100 = HARDWARE.silicon


def kernel(name: str) -> GemmKernel:
    return coefficients(GemmKernel, HARDWARE.kernels[name], name)


CUBLAS, CUTLASS = kernel("gemm.cublas.bfloat16"), kernel("gemm.cutlass.fp8")
sizes = st.integers(min_value=1, max_value=16384)


def seconds(m: object, n: object, k: object, *, dtype: str = "bfloat16", silicon: Silicon = H100) -> np.ndarray:
    kernel = CUBLAS if dtype == "bfloat16" else CUTLASS
    return gemm_time(m, n, k, dtype=dtype, silicon=silicon, kernel=kernel).seconds


def test_a_large_product_reaches_most_of_the_peak_and_never_more() -> None:
    rate = 2.0 * 8192**3 / seconds(8192, 8192, 8192)
    assert 0.6 * H100.peak["bfloat16"] < rate < H100.peak["bfloat16"]


def test_one_row_streams_the_weights_from_memory() -> None:
    rate = 2.0 * 65536 * 8192 / seconds(1, 65536, 8192)
    assert 0.75 * H100.memory_bandwidth < rate < H100.memory_bandwidth


def test_the_smallest_product_costs_a_launch() -> None:
    assert CUBLAS.launch < seconds(1, 32, 32) < CUBLAS.launch + 2e-6


def test_weights_that_fit_in_the_cache_come_faster_only_where_a_benchmark_reuses_them() -> None:
    shape = {"dtype": "bfloat16", "silicon": H100, "kernel": CUBLAS}
    for n, fits in ((2048, True), (16384, False)):
        cold, warm = (gemm_time(1, n, 1024, **shape, in_turn=sets).seconds for sets in (None, 6.0))
        assert (warm < 0.98 * cold) == fits
        assert warm <= cold


def test_a_short_depth_never_goes_below_the_epilogue_of_each_wave() -> None:
    shape = {"dtype": "fp8", "silicon": H100}
    waves = 65536 / 64 / H100.units
    without = dataclasses.replace(CUTLASS, epilogue=0.0)
    times = [gemm_time(16, 65536, 32, kernel=k, **shape).seconds for k in (CUTLASS, without)]
    assert times[0] - CUTLASS.launch > waves * CUTLASS.epilogue / H100.clock
    assert times[1] < times[0]


@given(m=sizes, n=sizes, k=sizes)
def test_a_better_chip_never_slows(m: int, n: int, k: int) -> None:
    base = seconds(m, n, k)
    faster = dataclasses.replace(H100, memory_bandwidth=2 * H100.memory_bandwidth)
    stronger = dataclasses.replace(H100, peak={**H100.peak, "bfloat16": 2 * H100.peak["bfloat16"]})
    assert seconds(m, n, k, silicon=faster) <= base * (1 + 1e-9)
    assert seconds(m, n, k, silicon=stronger) <= base * (1 + 1e-9)


@given(m=sizes, n=sizes, k=sizes, dtype=st.sampled_from(["bfloat16", "fp8"]))
def test_time_is_at_least_launch_and_each_bound_at_full_rate(m: int, n: int, k: int, dtype: str) -> None:
    time = seconds(m, n, k, dtype=dtype)
    element = 2.0 if dtype == "bfloat16" else 1.0
    assert time >= 2.0 * m * n * k / H100.peak[dtype]
    assert time >= (n * k * element + m * k * element) / H100.memory_bandwidth


def test_arrays_broadcast_and_give_what_their_numbers_give_one_by_one() -> None:
    grid = seconds([[1], [200], [4097]], [64, 4096], 1024, dtype="fp8")
    assert grid.shape == (3, 2)
    alone = [[float(seconds(m, n, 1024, dtype="fp8")) for n in (64, 4096)] for m in (1, 200, 4097)]
    np.testing.assert_allclose(grid, alone)


def test_weight_only_formats_read_fewer_bytes_and_compute_at_the_16_bit_rate() -> None:
    packed = gemm_time(1, 65536, 8192, dtype="mxfp4", silicon=H100, kernel=CUBLAS)
    full = gemm_time(1, 65536, 8192, dtype="bfloat16", silicon=H100, kernel=CUBLAS)
    assert packed.terms["memory"] == pytest.approx(full.terms["memory"] * (0.5 + 1 / 32) / 2, rel=0.01)
    large = {
        dtype: gemm_time(8192, 8192, 8192, dtype=dtype, silicon=H100, kernel=CUBLAS) for dtype in ("mxfp4", "bfloat16")
    }
    assert large["mxfp4"].terms["compute"] == pytest.approx(large["bfloat16"].terms["compute"], rel=0.05)


def test_quantising_the_activations_costs_traffic_of_its_own() -> None:
    time = gemm_time(16384, 128, 16384, dtype="fp8", silicon=H100, kernel=CUTLASS)
    assert time.terms["quantise"] > 16384 * 16384 * 3 / H100.memory_bandwidth


def test_an_unknown_dtype_names_the_nearest_one() -> None:
    with pytest.raises(ProfileError, match="unknown dtype 'bfloat61'; did you mean 'bfloat16'"):
        seconds(1, 1, 1, dtype="bfloat61")


def test_a_dtype_that_the_device_lacks_is_refused_with_what_it_has() -> None:
    a100 = load_hardware("a100-sxm").silicon
    with pytest.raises(ProfileError, match=r"'fp8' needs fp8 arithmetic, which a100-sxm lacks; it has bfloat16"):
        seconds(1, 64, 64, dtype="fp8", silicon=a100)


@pytest.mark.parametrize(
    ("device", "name", "median", "p90"),
    [
        ("h100-sxm", "gemm.cublas.bfloat16", 0.06, 0.18),
        ("h100-sxm", "gemm.cutlass.fp8", 0.075, 0.19),
        ("h100-sxm", "gemm.deepgemm.fp8_block", 0.065, 0.18),
        ("a100-sxm", "gemm.cublas.bfloat16", 0.075, 0.22),
    ],
)
def test_predictions_meet_the_measured_products(device: str, name: str, median: float, p90: float) -> None:
    hardware = load_hardware(device)
    rows = dict(tables_of("gemm", KERNELS / device.replace("-", "_")))[name]
    overall, _ = judge(FAMILIES["gemm"], rows, hardware.silicon, coefficients(GemmKernel, hardware.kernels[name], name))
    assert overall.median_ape < median
    assert overall.p90_ape < p90
    assert abs(overall.bias) < 0.03
