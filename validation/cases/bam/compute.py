"""Sum of printed FLOPs."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """FLOPs of a layer and token [FLOP]."""
    return {"total": float(case.inputs["attention_flops"] + case.inputs["ffn_flops"])}
