"""Training FLOPs of a sequence: six per active parameter and token, and all pairs of the score matrix."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case
from workloads.models.spec import ModelSpec
from workloads.models.work import flops_per_token


def figures(case: Case) -> Mapping[str, float]:
    """FLOPs of one sequence, forward and backward, by model [FLOP]."""
    found: dict[str, float] = {}
    for name, spec in case.models.items():
        found[f"{name}.flops"] = _flops(case, spec, case.inputs["sequence"])
        found[f"{name}.flops_2k"] = _flops(case, spec, case.inputs["short_sequence"])
    return found


def _flops(case: Case, spec: ModelSpec, sequence: int) -> float:
    # The paper counts the whole score matrix: every token sees the full context, as in a decoding step.
    return (
        float(case.inputs["passes"]) * sequence * sum(flops_per_token(spec, phase="decode", context=sequence).values())
    )
