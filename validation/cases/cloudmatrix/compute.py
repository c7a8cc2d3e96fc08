"""Times of CloudMatrix384's fused exchange, and the rates that the paper derives from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from validation.papers import Case
from validation.published_exchange import case_figures


def figures(case: Case) -> Mapping[str, float]:
    """Time [s] of every row, and rate [bytes/s] by phase and ranks."""
    found = case_figures(Path(__file__).parent, case.inputs["sources"])
    for name, seconds in list(found.items()):
        if name.endswith(".time"):
            _, _, phase, ranks, _, _ = name.split(".")
            found[f"rate.{phase}.{ranks}"] = case.inputs["rate_bytes"][phase] / seconds
    return found
