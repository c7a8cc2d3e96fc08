"""Fitting: it recovers known coefficients, shrugs off strays, refuses what it cannot fit, and writes whole files."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from validation.accuracy import accuracy
from validation.fit.fitting import FitError, fit, write_kernels
from validation.kernels.held_out import split


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    launch: float = field(metadata={"unit": "s"})
    slope: float


X = np.geomspace(1.0, 1e4, 200)
BOUNDS = {"launch": (1e-7, 1e-3), "slope": (1e-10, 1e-5)}
START = Line(launch=1e-6, slope=1e-7)
TRUTH = 3e-6 + 2e-9 * X


def line(kernel: Line) -> np.ndarray:
    return kernel.launch + kernel.slope * X


def test_a_fit_recovers_the_coefficients_that_made_the_data() -> None:
    found = fit(Line, line, TRUTH, start=START, bounds=BOUNDS)
    assert found.coefficients.launch == pytest.approx(3e-6, rel=1e-3)
    assert found.coefficients.slope == pytest.approx(2e-9, rel=1e-3)
    assert found.at_bound == ()


def test_a_few_wild_rows_hardly_move_a_fit() -> None:
    measured = TRUTH.copy()
    measured[::20] *= 10.0
    found = fit(Line, line, measured, start=START, bounds=BOUNDS)
    assert found.coefficients.slope == pytest.approx(2e-9, rel=0.05)


def test_a_fixed_coefficient_stays_and_one_that_wants_out_is_named() -> None:
    found = fit(Line, line, TRUTH, start=START, bounds={**BOUNDS, "slope": (1e-10, 1e-9)}, fixed={"launch"})
    assert found.coefficients.launch == START.launch
    assert found.at_bound == ("slope",)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(FitError, match="5 rows are too few for 2 coefficients; at least 6"):
        fit(Line, lambda k: line(k)[:5], TRUTH[:5], start=START, bounds=BOUNDS)


def test_a_latency_that_is_not_positive_is_refused_with_its_row() -> None:
    measured = TRUTH.copy()
    measured[7] = -1.0
    with pytest.raises(FitError, match=r"row 7 has latency -1\.0"):
        fit(Line, line, measured, start=START, bounds=BOUNDS)


def test_bounds_of_an_unknown_coefficient_name_the_nearest_one() -> None:
    with pytest.raises(FitError, match="unknown coefficient 'slop' in bounds; did you mean 'slope'"):
        fit(Line, line, TRUTH, start=START, bounds={"slop": (0.0, 1.0)})


def test_splits_are_disjoint_complete_and_the_same_for_the_same_seed() -> None:
    train, test = split(101, seed=4)
    assert sorted([*train, *test]) == list(range(101))
    assert len(test) == 20
    np.testing.assert_array_equal(test, split(101, seed=4)[1])


def test_accuracy_of_nothing_is_no_number() -> None:
    assert np.isnan(accuracy([], []).median_ape)


def test_writing_keeps_the_other_tables_and_states_units(tmp_path: Path) -> None:
    path = tmp_path / "kernels" / "x.toml"
    write_kernels(path, {"a.b": (Line(launch=1.23456e-6, slope=2.0), {"source": 'a "quoted" one', "status": "fitted"})})
    write_kernels(path, {"c": (START, {"source": "s", "status": "fitted"})})
    content = tomllib.loads(path.read_text())
    assert set(content) == {"a.b", "c"}
    assert content["a.b"]["launch"] == {"value": 1.235e-6, "unit": "s"}
    assert content["a.b"]["_provenance"]["source"] == 'a "quoted" one'
    assert [p.name for p in path.parent.iterdir()] == ["x.toml"]
