"""Accuracy on the measured rows that come with the tests, none of which a fit has seen."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from validation.kernels.validate import KernelReport, validate_kernels
from validation.regression.regress import BUILT_IN, load_baseline

SAMPLES = Path(__file__).parents[2] / "data" / "kernels"
#: Tables that the samples hold whole, rows that were fitted included.
WHOLE = {"custom_allreduce", "deepep_low_latency", "mamba2", "moe_wide_ep_decode", "moe_wide_ep_prefill", "nccl"}


def compared(device: str) -> KernelReport:
    return validate_kernels(device, SAMPLES / device.replace("-", "_"))


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm"])
def test_a_fitted_device_is_as_accurate_on_the_samples_as_the_baseline_records(device: str) -> None:
    recorded = load_baseline(BUILT_IN).accuracy
    report = compared(device)
    assert report.skipped_rows == 0
    for op, found in report.ops.items():
        key = f"{device}/{op}"
        median_ape, p90_ape = recorded[f"{key}/median_ape"], recorded[f"{key}/p90_ape"]
        if op in WHOLE:
            assert found.overall.median_ape < 1.15 * median_ape + 0.01, op
            assert found.overall.p90_ape < 1.25 * p90_ape + 0.01, op
        else:
            assert found.overall.median_ape == pytest.approx(median_ape, rel=0.15), op
            assert found.overall.p90_ape == pytest.approx(p90_ape, rel=0.25), op
            assert found.coverage_80 == pytest.approx(0.8, abs=0.05), op


@pytest.mark.parametrize(("device", "bound"), [("h200-sxm", 0.075), ("b200-sxm", 0.27)])
def test_a_device_that_no_kernel_was_fitted_on_is_predicted_from_its_datasheet(device: str, bound: float) -> None:
    report = compared(device)
    assert report.skipped_rows == 0
    assert median(op.overall.median_ape for op in report.ops.values()) < bound
