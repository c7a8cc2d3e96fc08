"""Dispatch and combine times of DeepEP, from the exchange model and the kernels that each device has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from validation.papers.papers import Case
from validation.papers.published_exchange import case_figures


def figures(case: Case) -> Mapping[str, float]:
    """Time [s] and rate [bytes/s] of every row."""
    return case_figures(Path(__file__).parent, case.inputs["sources"])
