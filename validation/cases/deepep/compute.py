"""Dispatch and combine times of DeepEP, from the exchange model and the kernels that each device has."""

from __future__ import annotations

from collections.abc import Mapping

from hardware_profiles.loader import load_device, resolve_kernels
from validation.papers import Case
from validation.published_exchange import kernel_of, predict, published_rows, seconds_of_bandwidth


def figures(case: Case) -> Mapping[str, float]:
    """Time [s], and the rate that DeepEP derives from it [bytes/s], by device, kernel, phase and ranks."""
    found: dict[str, float] = {}
    for row in published_rows():
        if row.source in case.inputs["sources"]:
            kernels, _ = resolve_kernels(load_device(row.device).main)
            key = f"{row.device}.{row.mode}.{row.phase}.{row.ranks}"
            seconds = predict(row, kernel_of(row, kernels))
            found[f"{key}.time"] = seconds
            found[f"{key}.rate"] = seconds_of_bandwidth(row.phase, row.ranks, row.tokens, 1.0) / seconds
    return found
