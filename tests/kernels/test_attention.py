"""Flash attention: decode streams the cache, prefill fills the tensor cores, windows and caches bound the work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.hardware import load_hardware
from simulator.kernels.attention import (
    AttentionDecodeKernel,
    AttentionPrefillKernel,
    attention_decode_time,
    attention_prefill_time,
)
from simulator.kernels.kernel import coefficients, found_in_cache
from validation.fit.dense import judge, tables_of
from validation.kernels.dense_rows import FAMILIES

KERNELS = Path(__file__).parents[1] / "data" / "kernels"
HARDWARE = load_hardware("h100-sxm")
H100 = HARDWARE.silicon
DECODE = coefficients(AttentionDecodeKernel, HARDWARE.kernels["attention_decode.flash.bfloat16"], "decode")
PREFILL = coefficients(AttentionPrefillKernel, HARDWARE.kernels["attention_prefill.flash.bfloat16"], "prefill")
DTYPES = {"dtype": "bfloat16", "kv_dtype": "bfloat16"}


def decode(batch: Any, kv_length: Any, **changed: Any) -> np.ndarray:
    options = {"silicon": H100, "kernel": DECODE, **DTYPES, **changed}
    return attention_decode_time(batch, kv_length, 32, 8, 128, **options).seconds


def prefill(batch: Any, context: Any, prefix: Any = 0, **changed: Any) -> np.ndarray:
    options = {"silicon": H100, "kernel": PREFILL, **DTYPES, **changed}
    return attention_prefill_time(batch, context, prefix, 32, 8, 128, **options).seconds


def test_a_large_decode_streams_the_cache_at_most_of_the_bandwidth() -> None:
    rate = 64 * 8192 * 8 * 128 * 4 / decode(64, 8192)
    assert 0.8 * H100.memory_bandwidth < rate < H100.memory_bandwidth


def test_a_large_prefill_reaches_most_of_the_peak_and_never_more() -> None:
    rate = 2.0 * 4 * 16384**2 * 32 * 128 / prefill(4, 16384)
    assert 0.6 * H100.peak["bfloat16"] < rate < H100.peak["bfloat16"]


def test_keys_shorter_than_a_block_cost_what_a_block_costs() -> None:
    # The cache still has to deliver the bytes: a few percent.
    assert decode(8, 2, cached=True) == pytest.approx(decode(8, 100, cached=True), rel=0.06)


def test_a_faster_memory_speeds_up_a_large_decode_call_of_any_storage() -> None:
    faster = dataclasses.replace(H100, memory_bandwidth=1.43 * H100.memory_bandwidth)
    for dtype in ("bfloat16", "fp8"):
        kernel = coefficients(AttentionDecodeKernel, HARDWARE.kernels[f"attention_decode.flash.{dtype}"], dtype)
        times = [decode(256, 8192, kv_dtype=dtype, silicon=silicon, kernel=kernel) for silicon in (H100, faster)]
        assert times[1] < 0.85 * times[0]


def test_the_host_hides_behind_the_device_and_not_the_other_way_round() -> None:
    hosted = dataclasses.replace(DECODE, host=1e-3)
    assert decode(1, 128, kernel=hosted) == 1e-3
    assert decode(512, 32768, kernel=hosted) == decode(512, 32768)


def test_splitting_the_keys_helps_a_lone_sequence() -> None:
    assert decode(1, 32768) < 0.5 * decode(1, 32768, kernel=dataclasses.replace(DECODE, max_splits=1.0))


def test_a_window_bounds_decode_and_prefill() -> None:
    assert decode(16, 65536, window=1024) == pytest.approx(decode(16, 1024))
    assert prefill(1, 32768, window=1024) < 0.2 * prefill(1, 32768)


def test_a_window_longer_than_the_context_changes_nothing() -> None:
    assert prefill(2, 2048, window=10**6) == prefill(2, 2048)


def test_a_cache_just_read_is_faster_only_while_it_fits() -> None:
    assert decode(16, 512, cached=True) < decode(16, 512)
    assert decode(64, 16384, cached=True) == decode(64, 16384)


def test_half_the_cached_bytes_take_about_half_the_time() -> None:
    fp8 = decode(64, 16384, kv_dtype="fp8", kernel=dataclasses.replace(DECODE, stream=1e3))
    assert fp8 == pytest.approx(0.5 * decode(64, 16384, kernel=dataclasses.replace(DECODE, stream=1e3)), rel=0.05)


def test_a_cached_prefix_costs_less_than_computing_it_and_more_than_nothing() -> None:
    assert prefill(1, 4096) < prefill(1, 4096, 4096) < prefill(1, 8192)


def test_a_prefill_in_two_chunks_costs_about_one_of_the_whole() -> None:
    whole = prefill(8, 8192)
    assert prefill(8, 4096) + prefill(8, 4096, 4096) == pytest.approx(whole, rel=0.1)


@given(batch=st.integers(1, 256), length=st.integers(1, 65536), more=st.integers(1, 65536), scale=st.floats(1.0, 4.0))
def test_longer_caches_and_slower_memory_never_help(batch: int, length: int, more: int, scale: float) -> None:
    slower = dataclasses.replace(H100, memory_bandwidth=H100.memory_bandwidth / scale)
    single = dataclasses.replace(DECODE, max_splits=1.0)
    assert decode(batch, length + more, kernel=single) >= decode(batch, length, kernel=single) * (1 - 1e-9)
    assert decode(batch, length, silicon=slower) >= decode(batch, length) * (1 - 1e-9)


def test_arrays_give_what_their_numbers_give_one_by_one() -> None:
    np.testing.assert_allclose(decode([1, 300], [5000, 70]), [decode(1, 5000), decode(300, 70)])
    np.testing.assert_allclose(prefill([1, 30], [5000, 70], [0, 900]), [prefill(1, 5000), prefill(30, 70, 900)])


def test_the_cache_holds_what_is_small_and_nothing_of_what_is_large() -> None:
    kept = found_in_cache(np.array([0.0, 0.5, 2.0]) * H100.cache, H100)
    np.testing.assert_allclose(kept, [1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("device", "op", "name", "median", "p90"),
    [
        ("h100-sxm", "attention_prefill", "attention_prefill.flash.bfloat16", 0.065, 0.18),
        ("h100-sxm", "attention_prefill", "attention_prefill.flash.fp8", 0.065, 0.19),
        ("h100-sxm", "attention_decode", "attention_decode.flash.bfloat16", 0.05, 0.15),
        ("h100-sxm", "attention_decode", "attention_decode.flash.fp8", 0.06, 0.18),
        ("a100-sxm", "attention_prefill", "attention_prefill.flash.bfloat16", 0.07, 0.25),
        ("a100-sxm", "attention_decode", "attention_decode.flash.bfloat16", 0.07, 0.22),
    ],
)
def test_predictions_meet_the_measured_calls(device: str, op: str, name: str, median: float, p90: float) -> None:
    hardware = load_hardware(device)
    kind: type[Any] = AttentionPrefillKernel if op == "attention_prefill" else AttentionDecodeKernel
    rows = dict(tables_of(op, KERNELS / device.replace("-", "_")))[name]
    overall, _ = judge(FAMILIES[op], rows, hardware.silicon, coefficients(kind, hardware.kernels[name], name))
    assert overall.median_ape < median
    assert overall.p90_ape < p90
