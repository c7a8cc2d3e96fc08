"""Ratios of printed throughputs."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Throughput of the system over that of the one it is compared with."""
    new, old = case.inputs["balanced"]
    fast, slow = case.inputs["training_104b"]
    return {"balancing_gain": new / old - 1.0, "training_104b": fast / slow}
