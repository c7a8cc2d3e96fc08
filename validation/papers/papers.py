"""Cases of papers: what a paper states goes in, what it prints must come out.

A case is a folder of ``validation/cases``: ``case.toml`` states the source, the inputs (model shapes, constants)
and its printed figures. Where the sizes of the models are not all that is asked for, ``compute.py`` derives figures
from those inputs with the functions of this project, or ``compute`` names a function of this package that several
cases use. Figures are in SI; a check's unit says how the paper prints them.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hardware_profiles.errors import MoesimError, nearest
from workloads.models.file import spec_from_table
from workloads.models.library import load_model
from workloads.models.sizes import active_parameters, parameters
from workloads.models.spec import ModelSpec

CASES = Path(__file__).parents[1] / "cases"
Kind = Literal["equal", "at_least", "at_most"]
Evidence = Literal["engine", "cost", "identity", "quoted"]
#: Evidence that says something of the product.
COUNTED: tuple[Evidence, ...] = ("engine", "cost", "identity")
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


class CaseError(MoesimError):
    """A case is missing or malformed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One printed figure.

    Attributes
    ----------
    check_id : str
        Row of the paper's table that it belongs to, or a name of its own.
    quantity, figure : str
        What it is, and the name under which it is computed.
    published, unit, tolerance, kind
        What the paper prints [unit], whether as a value or a bound, and the relative deviation that is allowed [1].
    evidence : str
        ``engine``: a scenario was played or solved; ``cost``: the cost model priced ops, or a generator, placement or
        cache policy was run by itself; ``identity``: sizes or FLOPs by the calculators of :mod:`workloads.models`;
        ``quoted``: arithmetic on what the paper prints.
    fitted : bool
        The number, or one that it divides, entered a coefficient of a profile, stack or start-up file, a choice of
        routing, or an input of the case; or an input that it rests on was set to a figure of the same table.
    note, missed : str
        What else to know, and what is known of a miss of ours. Both are printed and move nothing.
    off : str
        The arithmetic that shows the paper to contradict itself here, from its own numbers alone.
    """

    check_id: str
    quantity: str
    figure: str
    published: float
    unit: str
    evidence: Evidence
    tolerance: float = 0.01
    kind: Kind = "equal"
    note: str = ""
    off: str = ""
    missed: str = ""
    fitted: bool = False

    @property
    def counted(self) -> bool:
        """Whether it says something of the product: it is neither quoted nor fitted."""
        return self.evidence in COUNTED and not self.fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class NotExpressible:
    """Rows of a paper, or parts of them, without a check: why, and what the product would need for one."""

    rows: tuple[str, ...]
    reason: str
    needs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A paper's inputs and printed figures; ``compute`` names what derives figures from the inputs, or is empty.

    ``rows`` are the ids of all rows of the paper's table of figures; each has a check or stands in ``not_expressible``.
    """

    name: str
    paper: str
    source: str
    models: Mapping[str, ModelSpec]
    inputs: Mapping[str, Any]
    checks: tuple[Check, ...]
    compute: str = ""
    rows: tuple[str, ...] = ()
    not_expressible: tuple[NotExpressible, ...] = ()


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
        # A model of the library, or a file beside the case.
        named = {key: path.parent / model for key, model in table.get("library", {}).items()}
        models = {key: load_model(str(file) if file.is_file() else file.name) for key, file in named.items()}
        for key, model in table.get("models", {}).items():
            models[key] = spec_from_table({"name": key, "vocab": 1, **model}, f"{name}/case.toml: models.{key}")
        checks = tuple(_check(entry, name) for entry in table.get("checks", ()))
        without = tuple(NotExpressible(**{**e, "rows": tuple(e["rows"])}) for e in table.get("not_expressible", ()))
        case = Case(
            name=name,
            paper=table["paper"],
            source=table["source"],
            models=models,
            inputs=table.get("inputs", {}),
            checks=checks,
            compute=f"validation.papers.{table['compute']}" if "compute" in table else _own_compute(name),
            rows=tuple(table["rows"]),
            not_expressible=without,
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise CaseError(f"{name}/case.toml: {error}") from error
    _check_rows(case)
    return case


def _check_rows(case: Case) -> None:
    """Refuse a row that has neither a check nor a reason, or a reason for a row that the case does not have."""
    without = [row for entry in case.not_expressible for row in entry.rows]
    known = {*without, *(check.check_id for check in case.checks)}
    for row in case.rows:
        if row not in known:
            raise CaseError(f"{case.name}/case.toml: row {row} has neither a check nor a reason in not_expressible")
    for row in without:
        if row not in case.rows:
            raise CaseError(f"{case.name}/case.toml: not_expressible: unknown row {row!r}; {nearest(row, case.rows)}")


def _check(entry: Mapping[str, Any], name: str) -> Check:
    check = Check(**entry)
    where = f"{name}/case.toml: {check.check_id}"
    if check.unit not in UNITS:
        raise CaseError(f"{where}: unknown unit {check.unit!r}; {nearest(check.unit, UNITS)}")
    for key, value, known in (("kind", check.kind, get_args(Kind)), ("evidence", check.evidence, get_args(Evidence))):
        if value not in known:
            raise CaseError(f"{where}: unknown {key} {value!r}; {nearest(value, known)}")
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


def all_figures(case: Case) -> dict[str, float]:
    """Compute every figure of a case, in SI."""
    figures = model_figures(case.models)
    return figures | dict(_function(case)(case)) if case.compute else figures
