"""Which fit each measured op gets, for tables of serving engines and of the microbenchmarks alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.hardware import Hardware
from simulator.kernels.elementwise import ElementwiseKernel, elementwise_time
from simulator.kernels.kernel import Fabric
from simulator.kernels.moe import MoeKernel
from validation.fit import collectives as fit_collectives
from validation.fit import dense as fit_dense
from validation.fit import moe as fit_moe
from validation.fit.collectives import RING_BOUNDS, fit_collective, fit_direct, fit_exchange, plain_all_to_all
from validation.fit.fitting import Bounds, FitError, fit
from validation.fit.torch_starts import ELEMENTWISE, GLOO, MOE, torch_starts
from validation.kernels.collective_rows import RINGS, joined
from validation.kernels.dense_rows import FAMILIES, UNNAMED
from validation.kernels.held_out import SEED, split
from validation.kernels.moe_rows import LAYOUTS, moe_rows, predict_moe_rows, tables_of

if TYPE_CHECKING:
    import pandas as pd

#: Communication SMs that DeepEP's normal kernels are given where a row does not say [1].
EXCHANGE_UNITS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Coefficients of a kernel table, those at a bound, and kernels that follow from them with a note each."""

    table: str
    kernel: Any
    at_bound: tuple[str, ...] = ()
    derived: Mapping[str, tuple[Any, str]] = field(default_factory=dict)


#: A table's name, its rows [1] and what fits it.
Job = tuple[str, int, Callable[[], Fitted]]


def dense_jobs(op: str, frame: pd.DataFrame, hardware: Hardware, done: Mapping[str, Fitted]) -> Iterator[Job]:
    """Products, attention and linear attention: one fit per kernel table.

    Parameters
    ----------
    op : str
        The measured op, a key of :data:`FITTERS`.
    frame : DataFrame
        Its rows.
    hardware : Hardware
        What was measured.
    done : mapping of str to Fitted
        What was fitted before, by table.

    Yields
    ------
    Job
    """
    del done
    for name, rows in frame.groupby(FAMILIES[op].table(frame)):
        yield str(name), len(rows), partial(_dense, op, str(name), rows, hardware)


def _dense(op: str, name: str, rows: pd.DataFrame, hardware: Hardware) -> Fitted:
    own = "framework" in rows and bool((rows["framework"] == "torch").all())
    starts = torch_starts(name) if own else None
    found = fit_dense.fit_table(op, name, rows, hardware.silicon, starts=starts)
    derived = {} if own else fit_dense.borrowed([found])
    return Fitted(
        table=name,
        kernel=found.kernel,
        at_bound=found.at_bound,
        derived={table: (kernel, f"not measured: {note}") for table, (kernel, note) in derived.items()},
    )


def moe_jobs(op: str, frame: pd.DataFrame, hardware: Hardware, done: Mapping[str, Fitted]) -> Iterator[Job]:
    """Fused layers: one fit per kernel and dtype.

    Arguments as for :func:`dense_jobs`.
    """
    del done
    for name, rows in tables_of(op, frame).items():
        yield name, len(rows), partial(_moe, op, name, rows, hardware)


def _moe(op: str, name: str, frame: pd.DataFrame, hardware: Hardware) -> Fitted:
    rows, silicon = moe_rows(frame, layout=LAYOUTS[op]), hardware.silicon
    train, _ = split(len(frame), SEED)
    if (frame["framework"] != "torch").any():
        if ".triton." in name and not frame["version"].iloc[0]:
            raise FitError(f"fit of {name}: its tiles depend on the version, and column 'version' does not name it")
        kernel, stuck, _ = fit_moe.fit_table(name, frame, rows, train, silicon)
        return Fitted(table=name, kernel=kernel, at_bound=stuck)
    part = rows[train]
    found = fit(
        MoeKernel,
        lambda kernel: predict_moe_rows(part, silicon=silicon, kernel=kernel),
        frame["latency_us"].to_numpy(dtype=np.float64)[train] * 1e-6,
        start=MOE.kernel,
        bounds=MOE.bounds,
    )
    return Fitted(table=name, kernel=found.coefficients, at_bound=found.at_bound)


def elementwise_jobs(op: str, frame: pd.DataFrame, hardware: Hardware, done: Mapping[str, Fitted]) -> Iterator[Job]:
    """All small kernels together: what they share is the launch and the share of the bandwidth.

    Arguments as for :func:`dense_jobs`.
    """
    del op, done
    for framework in dict.fromkeys(frame["framework"]):
        name, rows = f"elementwise.{framework or UNNAMED}", frame[frame["framework"] == framework]
        yield name, len(rows), partial(_elementwise, name, rows, hardware)


def _elementwise(name: str, frame: pd.DataFrame, hardware: Hardware) -> Fitted:
    train = frame.iloc[split(len(frame), SEED)[0]]
    moved = train["bytes_moved"].to_numpy(dtype=np.float64)
    found = fit(
        ElementwiseKernel,
        lambda kernel: elementwise_time(moved, silicon=hardware.silicon, kernel=kernel).seconds,
        train["latency_us"].to_numpy(dtype=np.float64) * 1e-6,
        start=ELEMENTWISE.kernel,
        bounds=ELEMENTWISE.bounds,
    )
    return Fitted(table=name, kernel=found.coefficients, at_bound=found.at_bound)


def library_jobs(op: str, frame: pd.DataFrame, hardware: Hardware, done: Mapping[str, Fitted]) -> Iterator[Job]:
    """Collectives of a library (NCCL, gloo): one fit per collective that was measured.

    Arguments as for :func:`dense_jobs`.
    """
    del done
    fabric = joined(hardware, int(frame["num_gpus"].max()))
    for collective in (*RINGS, "all_reduce"):
        rows = frame[frame["collective"] == collective]
        if len(rows):
            family = RINGS[collective][0] if collective in RINGS else collective
            name = f"{family}.{op}"
            yield name, len(rows), partial(_collective, op, collective, rows, fabric)


def _collective(op: str, collective: str, rows: pd.DataFrame, fabric: Fabric) -> Fitted:
    bounds = GLOO if op == "gloo" else _ring_bounds(rows)
    in_switch = op != "gloo" and collective == "all_reduce" and _reduces_in_switch(rows, fabric, bounds)
    name, table = fit_collective(collective, rows, fabric, in_switch=in_switch, library=op, bounds=bounds)
    derived = {}
    if collective == "alltoall":
        kernel, provenance = plain_all_to_all(table)
        derived = {f"{phase}.all_to_all": (kernel, str(provenance["note"])) for phase in ("dispatch", "combine")}
    return Fitted(table=name, kernel=table[0], derived=derived)


def _ring_bounds(rows: pd.DataFrame) -> Bounds:
    """Leave out what one number of ranks cannot tell: how times grow with the ranks."""
    untold = ("hop", "own_share") if len(set(rows["num_gpus"])) == 1 else ()
    return {name: limits for name, limits in RING_BOUNDS.items() if name not in untold}


def _reduces_in_switch(rows: pd.DataFrame, fabric: Fabric, bounds: Bounds) -> bool:
    """Tell from the measurements whether the switches reduce: which of the two models fits better."""
    train = rows.iloc[split(len(rows), SEED)[0]].reset_index(drop=True)
    measured = train["latency_us"].to_numpy(dtype=np.float64) * 1e-6
    costs = [
        fit_collectives.solve_all_reduce(train, measured, fabric, in_switch=guess, ring=bounds).cost
        for guess in (False, True)
    ]
    return costs[1] < costs[0]


def direct_jobs(op: str, frame: pd.DataFrame, hardware: Hardware, done: Mapping[str, Fitted]) -> Iterator[Job]:
    """Fit the engines' own all-reduce, inside a graph and outside, over the library's for large messages.

    Arguments as for :func:`dense_jobs`.
    """
    del op
    results: dict[str, Fitted] = {}

    def solve(name: str) -> Fitted:
        if not results:
            library = done.get("all_reduce.nccl")
            if library is None:
                raise FitError(f"fit of {name}: needs nccl's all-reduce, which was not fitted")
            tables = fit_direct(frame, joined(hardware, int(frame["num_gpus"].max())), library.kernel)
            results.update({table: Fitted(table=table, kernel=kernel) for table, (kernel, _) in tables.items()})
        return results[name]

    for name in ("all_reduce.one_shot", "all_reduce.one_shot_eager"):
        yield name, len(frame) // 2, partial(solve, name)


def exchange_jobs(op: str, frame: pd.DataFrame, hardware: Hardware, done: Mapping[str, Fitted]) -> Iterator[Job]:
    """Fit DeepEP's dispatch and combine.

    Arguments as for :func:`dense_jobs`.
    """
    del done
    mode = op.removeprefix("deepep_")
    units = hardware.silicon.units if mode == "low_latency" else EXCHANGE_UNITS
    results: dict[str, Fitted] = {}

    def solve(name: str) -> Fitted:
        if not results:
            tables = fit_exchange(frame, hardware.fabric, mode=mode, units=units)
            results.update({table: Fitted(table=table, kernel=kernel) for table, (kernel, _) in tables.items()})
        return results[name]

    for phase in ("dispatch", "combine"):
        yield f"{phase}.{op}", len(frame) // 2, partial(solve, f"{phase}.{op}")


#: Fits by op; what comes later may build on what was fitted before.
FITTERS: Mapping[str, Callable[[str, Any, Hardware, Mapping[str, Fitted]], Iterator[Job]]] = {
    **dict.fromkeys(FAMILIES, dense_jobs),
    **dict.fromkeys(LAYOUTS, moe_jobs),
    "elementwise": elementwise_jobs,
    "nccl": library_jobs,
    "gloo": library_jobs,
    "custom_allreduce": direct_jobs,
    "deepep_low_latency": exchange_jobs,
    "deepep_normal": exchange_jobs,
}
