"""Times of all-to-alls on A100s from the exchange model, and sums, ratios and products of printed figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from simulator.hardware import load_hardware
from simulator.kernels.collectives import CollectiveKernel, all_to_all_time
from simulator.kernels.kernel import coefficients
from validation.papers import published_all_to_all as published
from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Total overhead [s] and the gain of perfect overlap, by number of GPUs; all-to-alls [s], their ratios and gain."""
    found = {"gain_2048": math.prod(case.inputs["gains_2048"])}
    for gpus, parts in case.inputs["overhead_ms"].items():
        found[f"{gpus}.total"] = 1e-3 * sum(parts)
        found[f"{gpus}.overlap"] = sum(parts) / max(parts)
    found |= published.figures(published.of_profile())
    for gpus in (8, 2048):
        found[f"aggregated.{gpus}"] = aggregated_seconds(case, gpus)
    return found


def aggregated_seconds(case: Case, gpus: int) -> float:
    """Exchange inside a node of what goes to ``gpus`` ranks; chunks that lie apart are copied one by one [s]."""
    hardware = load_hardware(published.DEVICE)
    kernel = coefficients(CollectiveKernel, hardware.kernels["all_to_all.nccl"], hardware.device.id)
    domain = hardware.fabric.domain
    time = all_to_all_time(case.inputs["aggregated_bytes"], domain, fabric=hardware.fabric, kernel=kernel)
    scattered = gpus if gpus > domain else 0
    return float(time.seconds) + scattered * float(case.inputs["chunk_start"])
