"""Fits of collectives and expert exchanges to measured tables, each with a note of how well it predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.arrays import FloatArray
from simulator.kernels.collectives import AllReduceKernel, CollectiveKernel
from simulator.kernels.expert_exchange import ExchangeKernel
from simulator.kernels.kernel import Fabric
from validation.accuracy import Accuracy, accuracy
from validation.fit.fitting import Bounds, Fit, fit
from validation.kernels.collective_rows import RINGS, predict_all_reduce, predict_exchange, predict_ring
from validation.kernels.held_out import SEED, split

if TYPE_CHECKING:
    import pandas as pd

#: Largest message that the engines' own all-reduce takes [bytes]; larger ones go to NCCL.
DIRECT_BYTES = 8 * 2**20
#: Ranks times message below which one shot is taken [bytes].
ONE_SHOT_BYTES = 2 * 2**20
SOURCE = "aiconfigurator kernel tables (Apache-2.0), fitted by validation.fit.collectives"
Table = tuple[Any, dict[str, Any]]

RING_BOUNDS: Bounds = {
    "launch": (1e-6, 1e-4),
    "hop": (1e-8, 1e-5),
    "efficiency": (0.3, 1.0),
    "own_share": (0.0, 2.0),
    "ramp": (1e-7, 3e-4),
    "ramp_bytes": (1e3, 1e8),
}
DIRECT_BOUNDS: Bounds = {
    "direct_launch": (1e-6, 1e-4),
    "direct_hop": (1e-9, 1e-5),
    "two_shot_launch": (1e-6, 1e-4),
    "two_shot_hop": (1e-9, 1e-5),
    "direct_efficiency": (0.3, 1.0),
}
EXCHANGE_BOUNDS: Bounds = {
    "launch": (1e-6, 1e-4),
    "start_hidden": (1e-13, 1e-8),
    "unit_token": (1e-10, 1e-4),
    "efficiency": (0.3, 1.0),
    "sharpness": (1.0, 8.0),
    "link_sharpness": (1.0, 8.0),
}


def _seconds(frame: pd.DataFrame, column: str = "latency_us") -> FloatArray:
    return frame[column].to_numpy(dtype=np.float64) * 1e-6


def _held_out(
    frame: pd.DataFrame, measured: FloatArray, solve: Callable[[Any, FloatArray], Fit[Any]], predict: Any
) -> Table:
    """Fit on a training split, judge on the rest."""
    train, test = split(len(frame), SEED)
    found = solve(frame.iloc[train], measured[train])
    result = accuracy(predict(frame.iloc[test], found.coefficients), measured[test])
    described = provenance(len(train), result)
    if found.at_bound:
        described["note"] += f"; at a bound: {', '.join(found.at_bound)}"
    return found.coefficients, described


def provenance(rows: int, result: Accuracy) -> dict[str, Any]:
    """State where fitted coefficients come from and how well they do."""
    return {
        "source": SOURCE,
        "status": "fitted",
        "date": datetime.now(UTC).date().isoformat(),
        "note": f"{rows} rows; on held-out rows median {result.median_ape:.1%}, p90 {result.p90_ape:.1%}",
    }


def fit_collective(
    collective: str,
    frame: pd.DataFrame,
    fabric: Fabric,
    *,
    in_switch: bool = False,
    library: str = "nccl",
    bounds: Bounds = RING_BOUNDS,
) -> tuple[str, Table]:
    """Fit one collective of a library; return the kernel table's name and the table.

    Parameters
    ----------
    collective : str
        As the rows name it: ``all_reduce``, ``all_gather``, ``reduce_scatter`` or ``alltoall``.
    frame : DataFrame
        Rows of all collectives.
    fabric : Fabric
        The links between the ranks.
    in_switch : bool
        Whether this machine's switches reduce.
    library : str
        Backend of the kernel table.
    bounds : Bounds
        Of the free coefficients.
    """
    rows = frame[frame["collective"] == collective].reset_index(drop=True)
    if collective == "all_reduce":
        return f"all_reduce.{library}", _held_out(
            rows,
            _seconds(rows),
            lambda part, measured: solve_all_reduce(part, measured, fabric, in_switch=in_switch, ring=bounds),
            lambda part, kernel: predict_all_reduce(part, fabric=fabric, kernel=kernel),
        )
    start = CollectiveKernel(
        launch=5e-6, hop=1e-6, efficiency=0.75, own_share=0.3, ramp=3e-5, ramp_bytes=1e7, clock=fabric.clock
    )

    def predict(part: pd.DataFrame, kernel: CollectiveKernel) -> FloatArray:
        return predict_ring(collective, part, fabric=fabric, kernel=kernel)

    def solve(part: pd.DataFrame, measured: FloatArray) -> Fit[CollectiveKernel]:
        return fit(CollectiveKernel, lambda k: predict(part, k), measured, start=start, bounds=bounds)

    return f"{RINGS[collective][0]}.{library}", _held_out(rows, _seconds(rows), solve, predict)


def solve_all_reduce(
    frame: pd.DataFrame, measured: FloatArray, fabric: Fabric, *, in_switch: bool, ring: Bounds = RING_BOUNDS
) -> Fit[AllReduceKernel]:
    """Fit a library's all-reduce: a ring, and a reduction in the switch where there is one.

    Parameters
    ----------
    frame : DataFrame
        Rows of the library's table.
    measured : FloatArray, shape (rows,)
        Their times [s].
    fabric : Fabric
        The links that were measured.
    in_switch : bool
        Whether the switch reduces.
    ring : mapping of str to (float, float)
        Bounds of the ring's coefficients.
    """
    start = AllReduceKernel(
        launch=5e-6,
        hop=1e-6,
        efficiency=0.75,
        own_share=0.3,
        ramp=3e-5,
        ramp_bytes=1e7,
        clock=fabric.clock,
        switch_efficiency=0.6 if in_switch else 0.0,
    )
    bounds = {**ring, **({"switch_efficiency": (0.3, 1.0)} if in_switch else {})}
    return fit(
        AllReduceKernel,
        lambda k: predict_all_reduce(frame, fabric=fabric, kernel=k),
        measured,
        start=start,
        bounds=bounds,
    )


def fit_direct(frame: pd.DataFrame, fabric: Fabric, library: AllReduceKernel) -> dict[str, Table]:
    """Fit the engines' own all-reduce, inside a CUDA graph and outside, over the library's for large messages."""
    start = dataclasses.replace(
        library,
        direct_launch=4e-6,
        direct_hop=1e-7,
        two_shot_launch=6e-6,
        two_shot_hop=1e-6,
        direct_efficiency=0.6,
        direct_bytes=DIRECT_BYTES,
        one_shot_bytes=ONE_SHOT_BYTES,
    )

    def predict(part: pd.DataFrame, kernel: AllReduceKernel) -> FloatArray:
        return predict_all_reduce(part, fabric=fabric, kernel=kernel)

    def solve(part: pd.DataFrame, measured: FloatArray) -> Fit[AllReduceKernel]:
        return fit(AllReduceKernel, lambda k: predict(part, k), measured, start=start, bounds=DIRECT_BOUNDS)

    graph = frame[frame["kernel"].str.endswith("graph")].reset_index(drop=True)
    tables = {"all_reduce.one_shot": _held_out(graph, _seconds(graph), solve, predict)}
    inside: AllReduceKernel = tables["all_reduce.one_shot"][0]
    outside = dataclasses.replace(inside, host=2e-5, copy_efficiency=1.0)
    bounds = {"host": (5e-6, 2e-4), "copy_efficiency": (0.1, 10.0)}

    def solve_eager(part: pd.DataFrame, measured: FloatArray) -> Fit[AllReduceKernel]:
        return fit(AllReduceKernel, lambda k: predict(part, k), measured, start=outside, bounds=bounds)

    eager = frame[frame["kernel"].str.endswith("eager")].reset_index(drop=True)
    tables["all_reduce.one_shot_eager"] = _held_out(eager, _seconds(eager), solve_eager, predict)
    return tables


def fit_exchange(frame: pd.DataFrame, fabric: Fabric, *, mode: str, units: float) -> dict[str, Table]:
    """Fit DeepEP's dispatch and combine: ``low_latency`` sends a copy per expert, ``normal`` one per rank.

    Parameters
    ----------
    frame : DataFrame
        Rows of the table.
    fabric : Fabric
        The links that were measured.
    mode : {"low_latency", "normal"}
        Which kernels.
    units : float
        Compute units that they had, where a row does not say [1].
    """
    tables: dict[str, Table] = {}
    low_latency = mode == "low_latency"
    start = ExchangeKernel(
        launch=8e-6,
        start_hidden=1e-9,
        start_expert=1e-9 if low_latency else 0.0,
        unit_token=1e-6,
        unit_copy=0.0 if low_latency else 1e-7,
        unit_rate=1e15 if low_latency else 2e10,
        units=units,
        efficiency=0.6,
        scale_out_efficiency=0.87,
        sharpness=2.0,
        merged=not low_latency,
        forwarded=not low_latency,
    )
    more: Bounds = (
        {"start_expert": (1e-12, 1e-7)} if low_latency else {"unit_copy": (1e-10, 1e-5), "unit_rate": (1e9, 1e12)}
    )
    for phase in ("dispatch", "combine"):

        def predict(part: pd.DataFrame, kernel: ExchangeKernel, phase: str = phase) -> FloatArray:
            return predict_exchange(part, phase, fabric=fabric, kernel=kernel)

        def solve(part: pd.DataFrame, measured: FloatArray, predict: Any = predict) -> Fit[ExchangeKernel]:
            bounds = {**EXCHANGE_BOUNDS, **more}
            return fit(ExchangeKernel, lambda k: predict(part, k), measured, start=start, bounds=bounds)

        tables[f"{phase}.deepep_{mode}"] = _held_out(frame, _seconds(frame, f"{phase}_us"), solve, predict)
    return tables


def plain_all_to_all(table: Table) -> Table:
    """Exchange over the library's all-to-all, one copy per rank: its coefficients seen as an exchange."""
    ring, provenance = table
    kernel = ExchangeKernel(
        launch=ring.launch,
        start_doubling=3.0 * ring.hop,
        units=1.0,
        efficiency=ring.efficiency,
        scale_out_efficiency=ring.scale_out_efficiency,
        sharpness=1.0,
        merged=True,
        forwarded=False,
    )
    note = "the all-to-all's launch and bandwidth, one copy per rank"
    return kernel, {**provenance, "status": "assumption", "note": note}
