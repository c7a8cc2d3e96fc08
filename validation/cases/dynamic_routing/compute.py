"""Share of experts that a router with a threshold activates."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Mean number of experts over top-k [1]."""
    return {"share": case.inputs["mean_experts"] / case.inputs["top_k"]}
