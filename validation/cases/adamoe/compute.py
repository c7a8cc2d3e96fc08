"""FLOPs that null experts save: the experts' share of the model, times the share of experts that is not used."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case
from workloads.models.work import flops_per_token


def figures(case: Case) -> Mapping[str, float]:
    """Share of FLOPs that is saved and left [1], by data set."""
    # Short prompts: scores are left out but for the token itself.
    parts = flops_per_token(case.models["mixtral"], phase="decode", context=1.0)
    share = parts["routed_experts"] / sum(parts.values())
    found: dict[str, float] = {}
    for data, load in case.inputs["load"].items():
        saved = (1.0 - load / case.inputs["baseline_load"]) * share
        found |= {f"{data}.reduction": saved, f"{data}.left": 1.0 - saved}
    return found
