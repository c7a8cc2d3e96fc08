"""Iteration times over that with balancing in each micro-batch."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Added time [1]."""
    base = case.inputs["micro_s"]
    return {"global": case.inputs["global_s"] / base - 1.0, "mixed": case.inputs["mixed_s"] / base - 1.0}
