"""Times of CloudMatrix384's fused exchange, the rates that the paper derives from them, and its serving."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case
from validation.papers.published_exchange import case_figures
from validation.papers.systems import system_figures


def figures(case: Case) -> Mapping[str, float]:
    """Time [s] of every row of the exchange, its rate [bytes/s] by phase and ranks, and the serving points."""
    found = case_figures(case)
    for name, seconds in list(found.items()):
        if name.endswith(".time"):
            _, _, phase, ranks, _, _ = name.split(".")
            found[f"rate.{phase}.{ranks}"] = case.inputs["rate_bytes"][phase] / seconds
    return found | system_figures(case)
