"""TTFT of quadratic over linear attention where GPUs grow with the length of the prompt."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Ratio of times to the first token [1]."""
    quadratic, linear = case.inputs["quadratic_ms"], case.inputs["linear_ms"]
    return {"m1": quadratic["1"] / linear["1"], "m4": quadratic["1"] * 4.0 / linear["4"]}
