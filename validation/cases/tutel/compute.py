"""Sums, ratios and products of printed times and gains."""

from __future__ import annotations

import math
from collections.abc import Mapping

from validation.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Total overhead [s] and the gain of perfect overlap, by number of GPUs."""
    found = {"gain_2048": math.prod(case.inputs["gains_2048"])}
    for gpus, parts in case.inputs["overhead_ms"].items():
        found[f"{gpus}.total"] = 1e-3 * sum(parts)
        found[f"{gpus}.overlap"] = sum(parts) / max(parts)
    return found
