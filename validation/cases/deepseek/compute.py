"""Steps and loads that the publication states, from the simulator."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case
from validation.papers.systems import system_figures


def figures(case: Case) -> Mapping[str, float]:
    """Times [s], rates [tokens/s] and ratios [1] of all points."""
    return system_figures(case)
