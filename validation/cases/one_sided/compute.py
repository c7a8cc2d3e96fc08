"""Dispatch and combine times of TensorRT-LLM's one-sided exchange on NVLink."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from validation.papers.papers import Case
from validation.papers.published_exchange import case_figures


def figures(case: Case) -> Mapping[str, float]:
    """Time [s] and rate [bytes/s] of every row."""
    return case_figures(Path(__file__).parent, case.inputs["sources"])
