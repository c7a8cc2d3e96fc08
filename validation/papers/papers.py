"""Check published figures of papers: what a paper states goes in, what it prints must come out.

A case is a folder of ``validation/cases``: ``case.toml`` states the source, the inputs (model shapes, constants)
and its printed figures. Where the sizes of the models are not all that is asked for, ``compute.py`` derives figures
from those inputs with the functions of this project, or ``compute`` names a function of this package that several
cases use. Figures are in SI; a check's unit says how the paper prints them.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from hardware_profiles.errors import MoesimError, nearest
from workloads.models.file import spec_from_table
from workloads.models.library import load_model
from workloads.models.sizes import active_parameters, parameters
from workloads.models.spec import ModelSpec

CASES = Path(__file__).parents[1] / "cases"
Kind = Literal["equal", "at_least", "at_most"]
#: Size of each unit in which papers print figures, in SI.
UNITS: Mapping[str, float] = {
    "1": 1.0,
    "x": 1.0,
    "%": 0.01,
    "M": 1e6,
    "B": 1e9,
    "T": 1e12,
    "FLOP": 1.0,
    "TFLOP": 1e12,
    "TFLOPS": 1e12,
    "GB": 1e9,
    "GiB": 2.0**30,
    "bit": 1.0,
    "Op/B": 1.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "ms/B": 1e-3,
    "GB/s": 1e9,
    "req/s": 1.0,
    "tok/s": 1.0,
    "M RMB": 1e6,
    "mm2": 1e-6,
    "GPUs": 1.0,
    "experts": 1.0,
}
#: What rounding in floating point may add to a tolerance [1].
_ROUNDING = 1e-9


class CaseError(MoesimError):
    """A case is missing or malformed."""


Outcome = Literal["within", "explained", "missed", "outside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One printed figure.

    ``figure`` names what is computed for it; ``kind`` says whether the paper prints a value or a bound; ``off`` says
    why the paper's own figure is wrong or cannot be derived from what it states, where that is so; ``missed`` says
    what of the model is known to be missing, where the prediction is the one that is off; ``fitted`` marks figures that
    the compared model was fitted on, which validate nothing.
    """

    check_id: str
    quantity: str
    figure: str
    published: float
    unit: str
    tolerance: float = 0.01
    kind: Kind = "equal"
    note: str = ""
    off: str = ""
    missed: str = ""
    fitted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A paper's inputs and printed figures; ``compute`` names what derives figures from the inputs, or is empty."""

    name: str
    paper: str
    source: str
    models: Mapping[str, ModelSpec]
    inputs: Mapping[str, Any]
    checks: tuple[Check, ...]
    compute: str = ""


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
        """Whether the figure is met; else ``explained`` where the paper's is off, ``missed`` where the model's is."""
        if self.within:
            return "within"
        return "explained" if self.check.off else "missed" if self.check.missed else "outside"

    def document(self) -> dict[str, Any]:
        """The verdict as JSON."""
        check = self.check
        return {
            "paper": self.paper,
            "check_id": check.check_id,
            "quantity": check.quantity,
            "published": check.published,
            "predicted": self.predicted,
            "unit": check.unit,
            "kind": check.kind,
            "tolerance": check.tolerance,
            "within": self.within,
            "fitted": check.fitted,
            "note": "; ".join(text for text in (check.off, check.missed, check.note) if text),
        }


def case_names() -> tuple[str, ...]:
    """Names of all cases, sorted."""
    return tuple(sorted(path.parent.name for path in CASES.glob("*/case.toml")))


def load_case(name: str) -> Case:
    """Read a case.

    Raises
    ------
    CaseError
        No such case, or its file is malformed.
    """
    path = CASES / name / "case.toml"
    if not path.is_file():
        raise CaseError(f"unknown case {name!r}; {nearest(name, case_names())}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        models = {key: load_model(model) for key, model in table.get("library", {}).items()}
        for key, model in table.get("models", {}).items():
            models[key] = spec_from_table({"name": key, "vocab": 1, **model}, f"{name}/case.toml: models.{key}")
        checks = tuple(_check(entry, name) for entry in table["checks"])
        return Case(
            name=name,
            paper=table["paper"],
            source=table["source"],
            models=models,
            inputs=table.get("inputs", {}),
            checks=checks,
            compute=f"validation.papers.{table['compute']}" if "compute" in table else _own_compute(name),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise CaseError(f"{name}/case.toml: {error}") from error


def _check(entry: Mapping[str, Any], name: str) -> Check:
    check = Check(**entry)
    where = f"{name}/case.toml: {check.check_id}"
    if check.unit not in UNITS:
        raise CaseError(f"{where}: unknown unit {check.unit!r}; {nearest(check.unit, UNITS)}")
    if check.kind not in get_args(Kind):
        raise CaseError(f"{where}: unknown kind {check.kind!r}; {nearest(check.kind, get_args(Kind))}")
    return check


def model_figures(models: Mapping[str, ModelSpec]) -> dict[str, float]:
    """Sizes of the models of a case [1]: ``<model>.total``, ``.active``, and both without embedding and LM head."""
    found: dict[str, float] = {}
    for name, spec in models.items():
        for kind, counts in (("total", parameters(spec)), ("active", active_parameters(spec))):
            every = sum(counts.values())
            found[f"{name}.{kind}"] = every
            found[f"{name}.{kind}_inside"] = every - counts["embedding"] - counts["lm_head"]
    return found


def _own_compute(name: str) -> str:
    return f"validation.cases.{name}.compute.figures" if (CASES / name / "compute.py").is_file() else ""


def _function(case: Case) -> Callable[[Case], Mapping[str, float]]:
    module, _, name = case.compute.rpartition(".")
    try:
        found: Callable[[Case], Mapping[str, float]] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CaseError(f"{case.name}/case.toml: compute: {error}") from error
    return found


def run_case(name: str) -> list[Verdict]:
    """Compute the figures of a case and compare each with what the paper prints."""
    case = load_case(name)
    figures = model_figures(case.models)
    if case.compute:
        figures |= _function(case)(case)
    verdicts = []
    for check in case.checks:
        if check.figure not in figures:
            raise CaseError(
                f"{name}/case.toml: {check.check_id}: unknown figure {check.figure!r}; {nearest(check.figure, figures)}"
            )
        predicted = float(figures[check.figure]) / UNITS[check.unit]
        verdicts.append(Verdict(case=name, paper=case.paper, check=check, predicted=predicted))
    return verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperReport:
    """All verdicts of some cases."""

    verdicts: tuple[Verdict, ...] = field(default_factory=tuple)

    def count(self, outcome: str) -> int:
        """Number of checks with this outcome."""
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    @property
    def passed(self) -> bool:
        """Whether every figure is met, or the case says why it is not."""
        return self.count("outside") == 0

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "checks": [verdict.document() for verdict in self.verdicts],
            "summary": {
                "papers": len({verdict.paper for verdict in self.verdicts}),
                "checks": len(self.verdicts),
                "within": self.count("within"),
                "explained": self.count("explained"),
                "missed": self.count("missed"),
                "outside": self.count("outside"),
            },
        }


def validate_papers(names: Sequence[str] = ()) -> PaperReport:
    """Run the named cases, or all of them.

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
    return PaperReport(verdicts=tuple(v for name in names or found for v in run_case(name)))
