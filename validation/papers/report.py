"""What became of the checks of papers, and of the rows of their tables that checks stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from validation.papers.papers import COUNTED, Case, Check, Evidence

#: ``off``: missed, and the case shows by arithmetic that the paper contradicts itself there.
Outcome = Literal["within", "missed", "off"]
#: A row is ``within`` only if a counted check stands for it, every counted one is met, and no part of it is left out.
RowOutcome = Literal["within", "missed", "off", "fitted", "quoted", "not_expressible"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
ROW_OUTCOMES: tuple[RowOutcome, ...] = get_args(RowOutcome)
#: What rounding in floating point may add to a tolerance [1].
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A check with the predicted figure, in the unit of the paper."""

    case: str
    paper: str
    check: Check
    predicted: float

    @property
    def error(self) -> float:
        """Relative deviation from the printed figure [1]."""
        return self.predicted / self.check.published - 1.0

    @property
    def within(self) -> bool:
        """Whether the prediction meets the printed value, or keeps the printed bound."""
        allowed = self.check.tolerance + _ROUNDING
        if self.check.kind == "at_least":
            return self.error >= -allowed
        if self.check.kind == "at_most":
            return self.error <= allowed
        return abs(self.error) <= allowed

    @property
    def outcome(self) -> Outcome:
        """Whether the figure is met; what is said of a miss moves nothing, unless the paper contradicts itself."""
        return "within" if self.within else "off" if self.check.off else "missed"

    def document(self) -> dict[str, Any]:
        """The verdict as JSON."""
        check = self.check
        return {
            "paper": self.paper,
            "check_id": check.check_id,
            "quantity": check.quantity,
            "evidence": check.evidence,
            "fitted": check.fitted,
            "counted": check.counted,
            "published": check.published,
            "predicted": self.predicted,
            "unit": check.unit,
            "kind": check.kind,
            "tolerance": check.tolerance,
            "within": self.within,
            "outcome": self.outcome,
            "note": "; ".join(text for text in (check.off, check.missed, check.note) if text),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a paper's table of figures, with what became of it; ``reason`` and ``needs`` where it has no check."""

    row: str
    paper: str
    outcome: RowOutcome
    reason: str = ""
    needs: str = ""

    def document(self) -> dict[str, str]:
        """The row as JSON."""
        told = {"row": self.row, "paper": self.paper, "outcome": self.outcome}
        return told | {key: text for key, text in (("reason", self.reason), ("needs", self.needs)) if text}


def case_rows(case: Case, verdicts: Iterable[Verdict]) -> list[Row]:
    """Say of each row of a case what became of it."""
    checked: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        checked.setdefault(verdict.check.check_id, []).append(verdict)
    without = {row: entry for entry in case.not_expressible for row in entry.rows}
    found = []
    for row in case.rows:
        entry = without.get(row)
        told = {} if entry is None else {"reason": entry.reason, "needs": entry.needs}
        outcome = _row_outcome(checked.get(row, ()), complete=entry is None)
        found.append(Row(row=row, paper=case.paper, outcome=outcome, **told))
    return found


def _row_outcome(verdicts: Sequence[Verdict], *, complete: bool) -> RowOutcome:
    counted = {verdict.outcome for verdict in verdicts if verdict.check.counted}
    if "missed" in counted:
        return "missed"
    if "off" in counted:
        return "off"
    if not complete:
        return "not_expressible"
    if counted:
        return "within"
    return "fitted" if any(verdict.check.evidence != "quoted" for verdict in verdicts) else "quoted"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperReport:
    """All verdicts of some cases, and all rows of their papers."""

    verdicts: tuple[Verdict, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def counted(self) -> tuple[Verdict, ...]:
        """Verdicts that count: of the product's own evidence, and not fitted."""
        return tuple(verdict for verdict in self.verdicts if verdict.check.counted)

    def count(self, evidence: Evidence, outcome: Outcome, *, fitted: bool = False) -> int:
        """Number of checks of one evidence with one outcome, fitted or not."""
        return sum(
            v.check.evidence == evidence and v.outcome == outcome and v.check.fitted is fitted for v in self.verdicts
        )

    def by_evidence(self) -> dict[Evidence, tuple[int, int, int, int]]:
        """Numbers of checks that are within, missed and off, and of fitted ones, by evidence; quoted ones come last."""
        found: dict[Evidence, tuple[int, int, int, int]] = {}
        for evidence in get_args(Evidence):
            within, missed, off = (self.count(evidence, outcome) for outcome in OUTCOMES)
            found[evidence] = (within, missed, off, sum(self.count(evidence, o, fitted=True) for o in OUTCOMES))
        return found

    def without_check(self) -> dict[tuple[str, str, str], list[str]]:
        """Rows, or parts of them, without a check, by paper, reason and what the product would need."""
        found: dict[tuple[str, str, str], list[str]] = {}
        for row in self.rows:
            if row.reason:
                found.setdefault((row.paper, row.reason, row.needs), []).append(row.row)
        return found

    def rows_with(self, outcome: RowOutcome) -> int:
        """Number of rows with one outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    @property
    def passed(self) -> bool:
        """Whether no counted check is missed; rows without a check are a gap and fail nothing."""
        return all(verdict.outcome != "missed" for verdict in self.counted)

    def summary(self) -> dict[str, int]:
        """Numbers of checks by evidence, and of rows by outcome, one level deep [1]."""
        found = {"papers": len({verdict.paper for verdict in self.verdicts} | {row.paper for row in self.rows})}
        found["counted"] = len(self.counted)
        found |= {f"counted_{o}": sum(v.outcome == o for v in self.counted) for o in OUTCOMES}
        for evidence in COUNTED:
            found |= {f"{evidence}_{outcome}": self.count(evidence, outcome) for outcome in OUTCOMES}
        found["fitted"] = sum(v.check.fitted and v.check.evidence != "quoted" for v in self.verdicts)
        found["quoted"] = sum(v.check.evidence == "quoted" for v in self.verdicts)
        found["rows"] = len(self.rows)
        return found | {f"rows_{outcome}": self.rows_with(outcome) for outcome in ROW_OUTCOMES}

    def headline(self) -> str:
        """What counts, in one sentence."""
        own = self.counted
        met = sum(verdict.outcome == "within" for verdict in own)
        return (
            f"{self.rows_with('within')} of {len(self.rows)} rows are met; "
            f"{met} of {len(own)} checks that count are within tolerance"
        )

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "checks": [verdict.document() for verdict in self.verdicts],
            "rows": [row.document() for row in self.rows],
            "summary": self.summary(),
        }
