"""Fit collectives and expert exchanges to measured tables and report how well they predict.

Run as ``python -m validation.fit.collectives MEASUREMENTS DEVICE [--in-switch] [--write]``, where MEASUREMENTS
holds one folder per device.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.loader import load_device
from hardware_profiles.schema import Device
from simulator.arrays import FloatArray
from simulator.kernels.collectives import (
    AllReduceKernel,
    CollectiveKernel,
    all_gather_time,
    all_reduce_time,
    all_to_all_time,
    reduce_scatter_time,
)
from simulator.kernels.expert_exchange import ExchangeKernel, dispatch_time
from simulator.kernels.kernel import Fabric, KernelTime
from validation.fit.fitting import Accuracy, Fit, accuracy, fit, split, write_kernels

if TYPE_CHECKING:
    import pandas as pd

#: Ranks of one node in the measured tables [1].
NODE = 8
#: Bytes per element of the NCCL tables' dtypes [bytes].
ELEMENT = {"half": 2.0, "int8": 1.0, "bfloat16": 2.0}
#: Bytes per element of a dispatched fp8 activation with one float32 scale per 128, and of a combined one [bytes].
PAYLOAD = {"dispatch": 1.0 + 4.0 / 128.0, "combine": 2.0}
#: Largest message that the engines' own all-reduce takes [bytes]; larger ones go to NCCL.
DIRECT_BYTES = 8 * 2**20
#: Ranks times message below which one shot is taken [bytes].
ONE_SHOT_BYTES = 2 * 2**20
SOURCE = "aiconfigurator kernel tables (Apache-2.0), fitted by validation.fit.collectives"
Bounds = Mapping[str, tuple[float, float]]
Table = tuple[Any, dict[str, Any]]

#: Collectives that go around a ring or in pairs, as the rows name them.
RINGS: Mapping[str, Callable[..., KernelTime]] = {
    "all_gather": all_gather_time,
    "reduce_scatter": reduce_scatter_time,
    "alltoall": all_to_all_time,
}

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


def fabric_of(device: Device, *, domain: int = NODE) -> Fabric:
    """Take a device's links as a switched fabric of ``domain`` ranks; absent scale-out links have no bandwidth."""
    up, out = device.links["scale_up"], device.links.get("scale_out")
    return Fabric(
        domain=domain,
        scale_up_bandwidth=up.bandwidth.value,
        scale_up_latency=up.latency.value,
        scale_out_bandwidth=out.bandwidth.value if out else 50e9,
        scale_out_latency=out.latency.value if out else 5e-6,
        clock=device.main.clock.value,
        memory_bandwidth=device.main.memory_bandwidth.value,
    )


def _seconds(frame: pd.DataFrame, column: str = "latency_us") -> FloatArray:
    return frame[column].to_numpy(dtype=np.float64) * 1e-6


def _bytes(frame: pd.DataFrame) -> FloatArray:
    return frame["message_elems"].to_numpy(dtype=np.float64) * frame["dtype"].map(ELEMENT).to_numpy(dtype=np.float64)


def _ranks(frame: pd.DataFrame) -> FloatArray:
    return frame["num_gpus"].to_numpy(dtype=np.float64)


def predict_all_reduce(frame: pd.DataFrame, *, fabric: Fabric, kernel: AllReduceKernel) -> FloatArray:
    """Predict all-reduce rows [s]; 8-bit integers cannot be reduced in the switch."""
    size, ranks = _bytes(frame), _ranks(frame)
    inside = all_reduce_time(size, ranks, fabric=fabric, kernel=kernel).seconds
    outside = all_reduce_time(size, ranks, fabric=fabric, kernel=kernel, in_switch=False).seconds
    return np.where(frame["dtype"].eq("int8").to_numpy(), outside, inside)


def predict_exchange(frame: pd.DataFrame, phase: str, *, fabric: Fabric, kernel: ExchangeKernel) -> FloatArray:
    """Predict dispatch or combine rows [s] of the DeepEP tables."""
    column: Callable[[str], FloatArray] = lambda name: frame[name].to_numpy(dtype=np.float64)  # noqa: E731
    return dispatch_time(
        column("num_tokens"),
        hidden=column("hidden"),
        top_k=column("top_k"),
        ranks=NODE * column("num_nodes"),
        element_bytes=PAYLOAD[phase],
        num_experts=column("num_experts"),
        units=column(f"{phase}_sms") if f"{phase}_sms" in frame else None,
        fabric=fabric,
        kernel=kernel,
    ).seconds


def _held_out(
    name: str, frame: pd.DataFrame, measured: FloatArray, solve: Callable[[Any, FloatArray], Fit[Any]], predict: Any
) -> Table:
    """Fit on a training split, report on the rest."""
    train, test = split(len(frame), seed=0)
    found = solve(frame.iloc[train], measured[train])
    result = accuracy(predict(frame.iloc[test], found.coefficients), measured[test])
    print(f"  {name:34s} {result}  at bound: {', '.join(found.at_bound) or '-'}")
    return found.coefficients, provenance(len(train), result)


def provenance(rows: int, result: Accuracy) -> dict[str, Any]:
    """State where fitted coefficients come from and how well they do."""
    return {
        "source": SOURCE,
        "status": "fitted",
        "date": datetime.now(UTC).date().isoformat(),
        "note": f"{rows} rows; on held-out rows median {result.median_ape:.1%}, p90 {result.p90_ape:.1%}",
    }


def fit_nccl(frame: pd.DataFrame, fabric: Fabric, *, in_switch: bool) -> dict[str, Table]:
    """Fit NCCL's collectives; ``in_switch`` says whether this machine's switches reduce."""
    return dict(fit_collective(name, frame, fabric, in_switch=in_switch) for name in (*RINGS, "all_reduce"))


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
        name = f"all_reduce.{library}"
        return name, _held_out(
            name,
            rows,
            _seconds(rows),
            lambda part, measured: solve_all_reduce(part, measured, fabric, in_switch=in_switch, ring=bounds),
            lambda part, kernel: predict_all_reduce(part, fabric=fabric, kernel=kernel),
        )
    time = RINGS[collective]
    start = CollectiveKernel(
        launch=5e-6, hop=1e-6, efficiency=0.75, own_share=0.3, ramp=3e-5, ramp_bytes=1e7, clock=fabric.clock
    )

    def predict(part: pd.DataFrame, kernel: CollectiveKernel) -> FloatArray:
        seconds: FloatArray = time(_bytes(part), _ranks(part), fabric=fabric, kernel=kernel).seconds
        return seconds

    def solve(part: pd.DataFrame, measured: FloatArray) -> Fit[CollectiveKernel]:
        return fit(CollectiveKernel, lambda k: predict(part, k), measured, start=start, bounds=bounds)

    name = f"all_to_all.{library}" if collective == "alltoall" else f"{collective}.{library}"
    return name, _held_out(name, rows, _seconds(rows), solve, predict)


def solve_all_reduce(
    frame: pd.DataFrame, measured: FloatArray, fabric: Fabric, *, in_switch: bool, ring: Bounds = RING_BOUNDS
) -> Fit[AllReduceKernel]:
    """Fit a library's all-reduce: a ring, and a reduction in the switch where there is one."""
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
    tables = {"all_reduce.one_shot": _held_out("all_reduce.one_shot", graph, _seconds(graph), solve, predict)}
    inside: AllReduceKernel = tables["all_reduce.one_shot"][0]
    outside = dataclasses.replace(inside, host=2e-5, copy_efficiency=1.0)
    bounds = {"host": (5e-6, 2e-4), "copy_efficiency": (0.1, 10.0)}

    def solve_eager(part: pd.DataFrame, measured: FloatArray) -> Fit[AllReduceKernel]:
        return fit(AllReduceKernel, lambda k: predict(part, k), measured, start=outside, bounds=bounds)

    eager = frame[frame["kernel"].str.endswith("eager")].reset_index(drop=True)
    name = "all_reduce.one_shot_eager"
    tables[name] = _held_out(name, eager, _seconds(eager), solve_eager, predict)
    return tables


def fit_exchange(frame: pd.DataFrame, fabric: Fabric, *, mode: str, units: float) -> dict[str, Table]:
    """Fit DeepEP's dispatch and combine: ``low_latency`` sends a copy per expert, ``normal`` one per rank."""
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
        merged=0.0 if low_latency else 1.0,
        forwarded=0.0 if low_latency else 1.0,
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

        name = f"{phase}.deepep_{mode}"
        tables[name] = _held_out(name, frame, _seconds(frame, f"{phase}_us"), solve, predict)
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
        merged=1.0,
        forwarded=0.0,
    )
    note = "the all-to-all's launch and bandwidth, one copy per rank"
    return kernel, {**provenance, "status": "assumption", "note": note}


def main() -> None:
    """Fit, report and, if asked, write the coefficients."""
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurements", type=Path)
    parser.add_argument("device")
    parser.add_argument("--in-switch", action="store_true", help="the machine's switches can reduce")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    device = load_device(options.device)
    fabric = fabric_of(device)
    folder = options.measurements / options.device.replace("-", "_")
    tables = fit_nccl(pd.read_parquet(folder / "nccl.parquet"), fabric, in_switch=options.in_switch)
    tables |= fit_direct(pd.read_parquet(folder / "custom_allreduce.parquet"), fabric, tables["all_reduce.nccl"][0])
    for mode, units in (("low_latency", device.main.units.value), ("normal", 20.0)):
        path = folder / f"deepep_{mode}.parquet"
        if path.exists():
            tables |= fit_exchange(pd.read_parquet(path), fabric, mode=mode, units=units)
    for phase in ("dispatch", "combine"):
        tables[f"{phase}.all_to_all"] = plain_all_to_all(tables["all_to_all.nccl"])
    if options.write:
        kernels = Path(__file__).parents[2] / "hardware_profiles" / "kernels"
        write_kernels(kernels / f"{options.device}.moe.toml", tables)


if __name__ == "__main__":
    main()
