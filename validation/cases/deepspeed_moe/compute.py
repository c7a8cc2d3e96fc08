"""The reduction of size that the paper prints, and the time of a token of the model of 1 T parameters."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case
from validation.papers.systems import system_figures


def figures(case: Case) -> Mapping[str, float]:
    """Ratio of printed sizes [1], and steps [s]."""
    standard, student = case.inputs["reduced_billion"]
    return system_figures(case) | {"reduction": standard / student}
