"""Latencies over that of greedy decoding."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Ratio to greedy decoding [1], by method."""
    return {name: seconds / case.inputs["greedy_s"] for name, seconds in case.inputs["seconds"].items()}
