"""MFU from a printed rate and the device's peak."""

from __future__ import annotations

from collections.abc import Mapping

from hardware_profiles.loader import load_device
from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Peak [FLOP/s] and the share of it that is reached."""
    peak = load_device(case.inputs["device"]).main.peak["bfloat16"].value
    return {"peak": peak, "mfu": case.inputs["tflops_per_gpu"] * 1e12 / peak}
