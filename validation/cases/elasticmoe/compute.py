"""Ratio of two printed throughputs."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Throughput while scaling, of one mechanism over the other."""
    return {"ratio": case.inputs["during_elastic"] / case.inputs["during_cold_restart"]}
