"""How much smaller the student is, from the printed sizes."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Size of the standard model over that of the student."""
    return {"reduction": case.inputs["standard_350m_billion"] / case.inputs["student_350m_billion"]}
