"""Training cost and ratios of printed throughputs."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Cost [RMB] of the cheaper system and speedups [1]."""
    given = case.inputs
    found = {"low_spec": given["high_spec_rmb"] * (1.0 - given["saving"])}
    return found | {name: new / old for name, (new, old) in given["tok_s"].items()}
