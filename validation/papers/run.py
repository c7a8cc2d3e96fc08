"""Compute what papers print, and say what became of every check and every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hardware_profiles.errors import nearest
from validation.papers.papers import CASES, UNITS, CaseError, all_figures, case_names, load_case
from validation.papers.report import PaperReport, Verdict, case_rows


def run_case(name: str) -> list[Verdict]:
    """Compute the figures of a case and compare each with what the paper prints."""
    case = load_case(name)
    if not case.checks:
        return []
    figures = all_figures(case)
    verdicts = []
    for check in case.checks:
        if check.figure not in figures:
            raise CaseError(
                f"{name}/case.toml: {check.check_id}: unknown figure {check.figure!r}; {nearest(check.figure, figures)}"
            )
        predicted = float(figures[check.figure]) / UNITS[check.unit]
        verdicts.append(Verdict(case=name, paper=case.paper, check=check, predicted=predicted))
    return verdicts


def validate_papers(names: Sequence[str] = (), *, run: Callable[[str], list[Verdict]] = run_case) -> PaperReport:
    """Run the named cases, or all of them.

    Parameters
    ----------
    names : sequence of str
        Cases; all where empty.
    run : callable
        Gives the verdicts of a case; kept ones where they are at hand.

    Raises
    ------
    CaseError
        A name is unknown, or a case is malformed.
    """
    found = case_names()
    if not found:
        raise CaseError(f"{CASES}: no cases; they are part of a checkout")
    for name in names:
        if name not in found:
            raise CaseError(f"unknown case {name!r}; {nearest(name, found)}")
    verdicts = {name: run(name) for name in names or found}
    return PaperReport(
        verdicts=tuple(verdict for own in verdicts.values() for verdict in own),
        rows=tuple(row for name, own in verdicts.items() for row in case_rows(load_case(name), own)),
    )
