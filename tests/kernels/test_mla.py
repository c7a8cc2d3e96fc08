"""Latent attention: the absorbed scan reads the latent once per head tile, prefill scales with the form it takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.hardware import load_hardware
from simulator.kernels.kernel import coefficients
from simulator.kernels.mla import MlaDecodeKernel, MlaPrefillKernel, mla_decode_time, mla_prefill_time
from validation.fit.dense import judge, tables_of
from validation.kernels.dense_rows import FAMILIES

KERNELS = Path(__file__).parents[1] / "data" / "kernels"
HARDWARE = load_hardware("h100-sxm")
H100 = HARDWARE.silicon
DECODE = coefficients(MlaDecodeKernel, HARDWARE.kernels["mla_decode.flash.bfloat16"], "decode")
PREFILL = coefficients(MlaPrefillKernel, HARDWARE.kernels["mla_prefill.flash.bfloat16"], "prefill")


def decode(batch: Any, kv_length: Any, num_heads: Any, **changed: Any) -> np.ndarray:
    options = {"kv_dtype": "bfloat16", "silicon": H100, "kernel": DECODE, **changed}
    return mla_decode_time(batch, kv_length, num_heads, **options).seconds


def prefill(batch: Any, context: Any, num_heads: Any, **changed: Any) -> np.ndarray:
    options = {"dtype": "bfloat16", "kv_dtype": "bfloat16", "silicon": H100, "kernel": PREFILL, **changed}
    return mla_prefill_time(batch, context, 0, num_heads, **options).seconds


def test_a_large_decode_streams_the_latent_at_most_of_the_bandwidth() -> None:
    rate = 128 * 16384 * 576 * 2 / decode(128, 16384, 16)
    assert 0.75 * H100.memory_bandwidth < rate < H100.memory_bandwidth


def test_heads_within_a_tile_share_one_scan() -> None:
    assert decode(64, 8192, 16) == pytest.approx(decode(64, 8192, 1), rel=0.05)


def test_casting_the_cache_first_costs_its_traffic() -> None:
    casting = dataclasses.replace(DECODE, convert=8.0)
    extra = decode(64, 16384, 16, kernel=casting) - decode(64, 16384, 16)
    assert extra == pytest.approx(64 * 16384 * 576 * 8 / (H100.memory_bandwidth * DECODE.memory), rel=0.05)


def test_the_expanded_form_does_less_work_per_pair_than_the_absorbed_one() -> None:
    expanded = dataclasses.replace(PREFILL, absorbed=False)
    ratio = prefill(1, 16384, 128, kernel=expanded) / prefill(1, 16384, 128)
    assert ratio == pytest.approx((192 + 128) / (576 + 512), rel=0.35)


def test_prefill_stays_below_the_peak() -> None:
    rate = 16384.0**2 * 128 * (576 + 512) / prefill(1, 16384, 128)
    assert 0.4 * H100.peak["bfloat16"] < rate < H100.peak["bfloat16"]


def test_arrays_give_what_their_numbers_give_one_by_one() -> None:
    np.testing.assert_allclose(decode([1, 64], [900, 70], [128, 1]), [decode(1, 900, 128), decode(64, 70, 1)])
    np.testing.assert_allclose(prefill([1, 8], [900, 70], [128, 1]), [prefill(1, 900, 128), prefill(8, 70, 1)])


@pytest.mark.parametrize(
    ("device", "op", "name", "median", "p90"),
    [
        ("h100-sxm", "mla_decode", "mla_decode.flash.bfloat16", 0.05, 0.16),
        ("h100-sxm", "mla_decode", "mla_decode.flash.fp8", 0.04, 0.10),
        ("h100-sxm", "mla_prefill", "mla_prefill.flash.bfloat16", 0.075, 0.28),
        ("h100-sxm", "mla_prefill", "mla_prefill.flash.fp8", 0.08, 0.30),
        ("a100-sxm", "mla_decode", "mla_decode.triton.bfloat16", 0.11, 0.60),
        ("a100-sxm", "mla_prefill", "mla_prefill.triton.bfloat16", 0.08, 0.37),
    ],
)
def test_predictions_meet_the_measured_calls(device: str, op: str, name: str, median: float, p90: float) -> None:
    hardware = load_hardware(device)
    kind: type[Any] = MlaPrefillKernel if op == "mla_prefill" else MlaDecodeKernel
    rows = dict(tables_of(op, KERNELS / device.replace("-", "_")))[name]
    overall, _ = judge(FAMILIES[op], rows, hardware.silicon, coefficients(kind, hardware.kernels[name], name))
    assert overall.median_ape < median
    assert overall.p90_ape < p90
