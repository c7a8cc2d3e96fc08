"""Arithmetic of the Logic-PIM, from its parts and from the device profile."""

from __future__ import annotations

from collections.abc import Mapping

from hardware_profiles.loader import load_device
from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Peak, bandwidth and area of the PIM, in SI."""
    given = case.inputs
    device = load_device("duplex")
    pim = device.processors["pim"]
    area = sum(given["area_mm2"])
    return {
        "stack_peak": 2.0 * given["gemm_modules"] * given["macs_per_module"] * given["module_clock"],
        "profile_stack_peak": pim.peak["bfloat16"].value / given["stacks"],
        "bandwidth_ratio": pim.memory_bandwidth.value / device.main.memory_bandwidth.value,
        "balance": pim.peak["bfloat16"].value / pim.memory_bandwidth.value,
        "area": area * 1e-6,
        "area_share": area / given["logic_die_mm2"],
    }
