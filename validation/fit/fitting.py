"""Fit the coefficients of a kernel model to measured latencies, and write them into a hardware profile.

A fit minimises the soft-L1 loss of the log ratio between predicted and measured time, so that a kernel of 3 us and
one of 300 ms weigh the same and a stray row weighs little. Coefficients that are positive by their bounds move on a
logarithmic scale, the others on a linear one.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from hardware_profiles.edge import is_file, read_toml
from hardware_profiles.errors import MoesimError, nearest
from hardware_profiles.outputs import write_file
from simulator.arrays import FloatArray
from validation.accuracy import Accuracy, accuracy

T = TypeVar("T")
#: Lower and upper bound by coefficient.
Bounds = Mapping[str, tuple[float, float]]

#: Log ratio above which a row counts as an outlier and its pull grows only linearly [1].
OUTLIER = 0.1
#: Fewest measured rows per free coefficient for a fit to mean anything.
ROWS_PER_COEFFICIENT = 3
#: Relative step of the numerical derivative: models with waves and tile choices have small jumps.
DERIVATIVE_STEP = 1e-2


class FitError(MoesimError):
    """A fit cannot be made or did not converge; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(Generic[T]):
    """Fitted coefficients, the loss and accuracy on the rows that they were fitted to, and those stopped at a bound."""

    coefficients: T
    cost: float
    accuracy: Accuracy
    at_bound: tuple[str, ...]


def _check(kind: type[Any], measured: FloatArray, bounds: Bounds, free: list[str]) -> None:
    names = [f.name for f in dataclasses.fields(kind)]
    for name in bounds:
        if name not in names:
            raise FitError(f"fit of {kind.__name__}: unknown coefficient {name!r} in bounds; {nearest(name, names)}")
    if not free:
        raise FitError(f"fit of {kind.__name__}: no free coefficient; give bounds for at least one of {names}")
    if measured.size < ROWS_PER_COEFFICIENT * len(free):
        raise FitError(
            f"fit of {kind.__name__}: {measured.size} rows are too few for {len(free)} coefficients; "
            f"at least {ROWS_PER_COEFFICIENT * len(free)} are needed"
        )
    if bad := np.flatnonzero(~(np.isfinite(measured) & (measured > 0))).tolist():
        raise FitError(f"fit of {kind.__name__}: row {bad[0]} has latency {measured[bad[0]]}; it must be positive")


def fit(
    kind: type[T],
    predict: Callable[[T], FloatArray],
    measured: FloatArray,
    *,
    start: T,
    bounds: Bounds,
    fixed: Collection[str] = (),
    outlier: float = OUTLIER,
) -> Fit[T]:
    """Fit the coefficients named in ``bounds`` so that ``predict`` meets ``measured``.

    Parameters
    ----------
    kind : type
        The coefficient dataclass; only floats are fitted, flags and choices are held fixed.
    predict : callable
        Predicted times [s] of all rows for given coefficients, shape ``(rows,)``.
    measured : ndarray
        Measured times [s], shape ``(rows,)``.
    start : T
        Where to start; coefficients without bounds keep these values.
    bounds : Mapping of str to (float, float)
        Lower and upper bound of each free coefficient; a positive lower bound makes its scale logarithmic.
    fixed : collection of str
        Coefficients to leave at ``start`` although they have bounds.
    outlier : float
        Log ratio above which a row's pull grows only linearly [1].

    Raises
    ------
    FitError
        Too few or invalid rows, unknown names, or no convergence.

    Notes
    -----
    Minimises ``sum_i 2 d^2 (sqrt(1 + (r_i/d)^2) - 1)``, r the log ratio and d ``outlier`` (soft-L1).
    """
    from scipy.optimize import least_squares

    measured = np.asarray(measured, dtype=np.float64)
    free = [name for name in bounds if name not in fixed]
    _check(kind, measured, bounds, free)
    logarithmic = np.array([bounds[name][0] > 0 for name in free])
    lower, upper = (np.array([bounds[name][side] for name in free], dtype=np.float64) for side in (0, 1))

    def scaled(values: FloatArray) -> FloatArray:
        return np.where(logarithmic, np.log(np.where(logarithmic, values, 1.0)), values)

    def unscaled(x: FloatArray) -> FloatArray:
        return np.where(logarithmic, np.exp(np.where(logarithmic, x, 0.0)), x)

    def coefficients(x: FloatArray) -> T:
        values = dict(zip(free, unscaled(x).tolist(), strict=True))
        return dataclasses.replace(start, **values)  # type: ignore[type-var]

    def residuals(x: FloatArray) -> FloatArray:
        ratio = np.asarray(predict(coefficients(x)), dtype=np.float64) / measured
        if not np.all(np.isfinite(ratio) & (ratio > 0)):
            raise FitError(f"fit of {kind.__name__}: the model gives no positive time at {coefficients(x)}")
        return np.asarray(np.log(ratio), dtype=np.float64)

    low, high = scaled(lower), scaled(upper)
    margin = 1e-6 * (high - low)
    first = np.clip(scaled(np.array([getattr(start, name) for name in free])), low + margin, high - margin)
    solution = least_squares(
        residuals,
        first,
        bounds=(low, high),
        loss="soft_l1",
        f_scale=outlier,
        diff_step=np.full(len(free), DERIVATIVE_STEP),
        x_scale=np.maximum(0.1 * (high - low), 1e-12),
        max_nfev=60 * len(free),
        xtol=1e-6,
        ftol=1e-6,
    )
    # Status 0: the evaluations ran out before the loss stood still.
    if solution.status <= 0 or not np.all(np.isfinite(solution.x)):
        raise FitError(f"fit of {kind.__name__}: did not converge ({solution.message})")
    stuck = np.minimum(solution.x - low, high - solution.x) < 1e-3 * (high - low)
    best = coefficients(solution.x)
    return Fit(
        coefficients=best,
        cost=float(solution.cost),
        accuracy=accuracy(predict(best), measured),
        at_bound=tuple(name for name, at in zip(free, stuck.tolist(), strict=True) if at),
    )


def write_kernels(path: Path, tables: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> None:
    """Write coefficient tables into a profile file, keeping its other tables; all or nothing.

    Parameters
    ----------
    path : Path
        TOML file to create or update.
    tables : Mapping of str to (dataclass instance, provenance)
        Coefficients by table name (``gemm.cublas.bfloat16``); a field's unit is its metadata ``unit``, 1 if absent.
        The provenance holds ``source``, ``status``, ``date`` and what else is known (``rows``, ``median_ape``, ...).
    """
    content: dict[str, Any] = read_toml(path, FitError) if is_file(path) else {}
    for name, (values, provenance) in tables.items():
        content[name] = {"_provenance": dict(provenance)} | {
            f.name: {"value": _rounded(getattr(values, f.name)), "unit": f.metadata.get("unit", "1")}
            for f in dataclasses.fields(values)
        }
    lines: list[str] = []
    for name in sorted(content):
        lines.append(f"[{json.dumps(name)}]")
        lines += [f"{key} = {_toml(value)}" for key, value in content[name].items()]
        lines.append("")
    text = "\n".join(lines)
    tomllib.loads(text)
    write_file(path, text, MoesimError)


def _rounded(value: float | bool | str) -> float | bool | str:
    """Round a number to what a fit determines; flags and choices are as they are."""
    return value if isinstance(value, bool | str) else float(f"{value:.4g}")


def _toml(value: Any) -> str:
    """Write a value as one line of TOML: mappings become inline tables."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float | np.floating):
        return repr(float(f"{value:.4g}"))
    return json.dumps(value, ensure_ascii=False)
