"""Compare simulated serving with measured runs: latencies and throughput, errors, and whether points rank right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.errors import ScenarioError
from validation.accuracy import accuracy
from validation.serving.points import METRICS, Named, Point, read_points
from validation.serving.run import Played, play

#: Fewest runs whose order says something [1].
RANKED = 4
#: Worst rows that the text shows [1].
WORST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run with what was predicted for it."""

    point: Point
    played: Played


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricAccuracy:
    """How one metric compares over rows.

    ``median_ape`` and ``p90_ape`` are quantiles of |predicted / measured - 1|, ``bias`` the median of
    predicted / measured - 1; ``spearman`` is the rank correlation within each model and device, averaged over them by
    rows, and ``spearman_lowest`` the smallest; ``coverage_80`` the share inside the 80 % interval; all [1].
    """

    rows: int
    median_ape: float
    p90_ape: float
    bias: float
    spearman: float
    spearman_lowest: float
    coverage_80: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingReport:
    """Measured runs beside their predictions, and those that could not be played with the reason."""

    rows: tuple[Row, ...]
    skipped: tuple[tuple[Point, str], ...]

    def summary(self, rows: Sequence[Row] | None = None) -> dict[str, MetricAccuracy]:
        """Accuracy by metric, over all rows or some of them."""
        chosen = self.rows if rows is None else rows
        return {metric: judge(chosen, metric) for metric in METRICS}

    def groups(self) -> dict[str, list[Row]]:
        """Rows by stack, model and device."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(f"{row.point.model} {row.point.device} {Path(row.point.stack).stem}", []).append(row)
        return found

    def document(self) -> dict[str, Any]:
        """The report as JSON: latencies in seconds, throughput in tokens per second and device, errors as fractions."""
        return {
            "rows": [_row_document(row) for row in self.rows],
            "summary": {metric: _figures(result) for metric, result in self.summary().items()},
            "groups": {
                name: {metric: _figures(result) for metric, result in self.summary(rows).items()}
                for name, rows in self.groups().items()
            },
            "skipped": [{"id": point.id, "reason": reason} for point, reason in self.skipped],
        }


def validate_serving(
    path: Path,
    *,
    named: Named | None = None,
    every: int = 1,
    progress: Callable[[float], None] | None = None,
) -> ServingReport:
    """Play every measured run of a table or folder and compare.

    Parameters
    ----------
    path : Path
        A CSV table, a JSON result of ``vllm bench serve``, or a folder of them.
    named : Named, optional
        Device, stack and model, where the measurements do not say or say otherwise; the user's profiles.
    every : int
        Play each run whose number is a multiple of this [1].
    progress : callable, optional
        Told the share of runs that are done [1].

    Raises
    ------
    MoesimError
        The measurements cannot be read; a run that cannot be played is skipped with its reason instead.
    """
    if every < 1:
        raise ScenarioError(f"--every: got {every}, expected at least 1")
    named = named or Named()
    points = read_points(path, named)[::every]
    outcomes = play_all(points, partial(play, profiles=named.profiles), progress)
    rows = tuple(Row(point=p, played=o) for p, o in zip(points, outcomes, strict=True) if isinstance(o, Played))
    skipped = tuple((p, o) for p, o in zip(points, outcomes, strict=True) if isinstance(o, str))
    return ServingReport(rows=rows, skipped=skipped)


def play_all(
    points: Sequence[Point],
    play_one: Callable[[Point], Played | str] = play,
    progress: Callable[[float], None] | None = None,
) -> list[Played | str]:
    """Play runs, those of one deployment after each other so that they share its tables, equal runs once."""
    order = sorted(range(len(points)), key=lambda i: _deployment(points[i]))
    cost = np.array([points[i].requests * points[i].osl / points[i].concurrency + 2000.0 for i in order])
    outcomes: list[Played | str] = [""] * len(points)
    known: dict[tuple[Any, ...], Played | str] = {}
    for place, index in enumerate(order):
        point = points[index]
        key = _deployment(point)
        if key not in known:
            known[key] = play_one(point)
        outcomes[index] = known[key]
        if progress is not None:
            progress(float(cost[: place + 1].sum() / cost.sum()))
    return outcomes


def _deployment(point: Point) -> tuple[Any, ...]:
    """What is played, in an order in which neighbours share priced tables."""
    return (
        point.stack,
        point.model,
        point.device,
        tuple((pool.tp, pool.dp, pool.pp, pool.ep, pool.workers) for pool in point.pools),
        tuple(sorted(point.dtypes.items())),
        point.isl + point.osl,
        point.concurrency,
        point.isl,
        point.requests,
        point.range_ratio,
        point.statistic,
        str(point.trace or ""),
        point.reason,
    )


def judge(rows: Iterable[Row], metric: str) -> MetricAccuracy:
    """Compare one metric over the rows that measured it."""
    chosen = [row for row in rows if math.isfinite(row.point.measured.get(metric, math.nan))]
    predicted = np.array([row.played.predicted[metric] for row in chosen], dtype=np.float64)
    measured = np.array([row.point.measured[metric] for row in chosen], dtype=np.float64)
    low, high = np.array([row.played.interval_80 for row in chosen], dtype=np.float64).reshape(-1, 2).T
    if metric == "throughput":
        low, high = 1.0 / high, 1.0 / low
    inside = (predicted * low <= measured) & (measured <= predicted * high)
    overall = accuracy(predicted, measured)
    groups = np.array([f"{row.point.model} {row.point.device}" for row in chosen])
    ranks = [(rank, n) for rank, n in _rank_correlations(predicted, measured, groups) if math.isfinite(rank)]
    return MetricAccuracy(
        rows=overall.rows,
        median_ape=overall.median_ape,
        p90_ape=overall.p90_ape,
        bias=overall.bias,
        spearman=float(np.average([r for r, _ in ranks], weights=[n for _, n in ranks])) if ranks else math.nan,
        spearman_lowest=min((rank for rank, _ in ranks), default=math.nan),
        coverage_80=float(inside.mean()) if len(chosen) else math.nan,
    )


def _rank_correlations(predicted: FloatArray, measured: FloatArray, groups: NDArray[Any]) -> list[tuple[float, int]]:
    found = []
    for group in np.unique(groups):
        here = groups == group
        if here.sum() >= RANKED:
            found.append((spearman(predicted[here], measured[here]), int(here.sum())))
    return found


def spearman(first: FloatArray, second: FloatArray) -> float:
    """Rank correlation, ties sharing their mean rank; NaN where either is constant.

    Examples
    --------
    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])).__round__(3)
    0.5
    """
    ranks = np.array([_ranks(values) for values in (first, second)])
    if np.any(ranks.std(axis=1) == 0):
        return math.nan
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: FloatArray) -> FloatArray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray(last - (count - 1) / 2.0, dtype=np.float64)[place]


def _row_document(row: Row) -> dict[str, Any]:
    point, predicted = row.point, row.played.predicted
    measured = {metric: value for metric, value in point.measured.items() if math.isfinite(value)}
    return {
        "id": point.id,
        "stack": point.stack,
        "model": point.model,
        "device": point.device,
        "devices": point.devices,
        "isl": point.isl,
        "osl": point.osl,
        "concurrency": point.concurrency,
        "statistic": point.statistic,
        "measured": measured,
        "predicted": {metric: predicted[metric] for metric in METRICS},
        "error": {metric: predicted[metric] / value - 1.0 for metric, value in measured.items()},
        "interval_80": list(row.played.interval_80),
        "warnings": list(row.played.warnings),
    }


def _figures(result: MetricAccuracy) -> dict[str, float | int]:
    return {name: getattr(result, name) for name in result.__slots__}
