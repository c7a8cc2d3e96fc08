"""Figures that only divide what a paper prints: they check its arithmetic, not the models of this project."""

from __future__ import annotations

from validation.papers.papers import Case


def printed_figures(case: Case) -> dict[str, float]:
    """Divide the first by the second of each pair: ``ratios`` as they are, ``changes`` less one [1]."""
    found = {name: first / second for name, (first, second) in case.inputs.get("ratios", {}).items()}
    changes = {name: first / second - 1.0 for name, (first, second) in case.inputs.get("changes", {}).items()}
    return found | changes
