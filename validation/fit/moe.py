"""Fit the fused MoE kernels to measured tables and report how well they predict unseen shapes.

Run as ``python -m validation.fit.moe MEASUREMENTS DEVICE``, where MEASUREMENTS holds one folder per device.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.hardware import load_hardware
from simulator.kernels.kernel import Silicon, matrix_peak
from simulator.kernels.moe import MoeKernel
from validation.accuracy import accuracy
from validation.fit.fitting import fit
from validation.kernels.held_out import SEED, split
from validation.kernels.moe_rows import LAYOUTS, MoeRows, moe_rows, predict_moe_rows, tables_of, version_of

if TYPE_CHECKING:
    import pandas as pd

#: Log ratio beyond which a row is an anomaly of its series (a bad autotuner choice) and leaves the second fit [1].
ANOMALY = 0.6
#: Rows that a fit draws from a table [1].
SAMPLE = 2500

BOUNDS: Mapping[str, tuple[float, float]] = {
    "launch": (2e-6, 2e-4),
    "expert_launch": (1e-10, 1e-6),
    # The best that was measured on the H100: weights stream at up to 95 % of the datasheet in these tables, plain
    # products reach 865 of 989 TFLOP/s. Beyond these two, the soft maximum trades them for overlap, which the chip of
    # the fit cannot tell apart and the next one can.
    "memory_efficiency": (0.5, 0.95),
    "unit_bandwidth": (1.0, 20.0),
    "compute_efficiency": (0.1, 0.875),
    "fill_depth": (1.0, 2000.0),
    "minimum_rows": (4.0, 128.0),
    "tail": (0.0, 1.0),
    "sharpness": (1.0, 8.0),
    "reread": (0.0, 1.0),
    "hidden_traffic": (0.01, 60.0),
    "intermediate_traffic": (0.01, 60.0),
    "token_traffic": (0.01, 20.0),
}

START = MoeKernel(
    launch=25e-6,
    expert_launch=1e-8,
    memory_efficiency=0.85,
    unit_bandwidth=4.0,
    compute_efficiency=0.6,
    fill_depth=256.0,
    minimum_rows=32.0,
    tail=0.5,
    sharpness=3.0,
    reread=0.5,
    hidden_traffic=6.0,
    intermediate_traffic=6.0,
    token_traffic=4.0,
    foreign_share=0.0,
)


def plan(backend: str, dtype: str, version: str) -> tuple[MoeKernel, dict[str, tuple[float, float]]]:
    """Return what is known of a backend before any fit, and the bounds of what is not.

    The Triton kernel walks all tokens and sorts foreign ones out; its row tiles follow the defaults of its version
    (0.17 and later: by tokens; before: 16 rows up to one token per local expert, then 64). The others see local rows
    only and tune their tiles to the load. DeepGEMM's contiguous layout has tiles of 128 rows, its masked layout of 64.
    """
    bounds = dict(BOUNDS)
    if backend == "triton":
        start = dataclasses.replace(START, foreign_share=1.0, unaligned=3.0)
        bounds["unaligned"] = (1.0, 10.0)
        if dtype == "fp8_block":
            return dataclasses.replace(start, tile_density="tokens", tile_16=64, tile_32=64, tile_64=1e9), bounds
        if version_of(version) >= (0, 17):
            return dataclasses.replace(start, tile_density="tokens", tile_16=32, tile_32=96, tile_64=512), bounds
        return dataclasses.replace(
            start, tile_density="tokens_per_expert", tile_16=1, tile_32=1, tile_64=1e9, tile_columns=64
        ), bounds
    if backend == "cutlass":
        bounds["foreign_share"] = (0.0, 0.3)
        return dataclasses.replace(START, foreign_share=0.05), bounds
    contiguous = backend == "deepgemm_contiguous"
    for name in ("expert_launch", "tail") if contiguous else ("expert_launch", "token_traffic", "tail"):
        del bounds[name]
    start = dataclasses.replace(START, expert_launch=0.0, token_traffic=0.0, tile_16=0, tile_32=0)
    if contiguous:
        # Every row is at least scattered in fp8 and gathered in bfloat16.
        bounds["hidden_traffic"] = (4.0, 60.0)
        bounds["host"] = (1e-5, 1e-3)
        return dataclasses.replace(start, tile_64=0, token_traffic=2.0, padding=128.0, host=3e-4), bounds
    return dataclasses.replace(start, tile_64=1e9), bounds


def tables(folder: Path) -> dict[str, tuple[pd.DataFrame, str]]:
    """Read the MoE tables of a device: rows and layout by kernel table name (``moe.triton.bfloat16``)."""
    import pandas as pd

    found: dict[str, tuple[pd.DataFrame, str]] = {}
    for op, layout in LAYOUTS.items():
        path = folder / f"{op}.parquet"
        if path.exists():
            found |= {name: (rows, layout) for name, rows in tables_of(op, pd.read_parquet(path)).items()}
    return found


def fit_table(
    name: str, frame: pd.DataFrame, rows: MoeRows, chosen: IntArray, silicon: Silicon
) -> tuple[MoeKernel, tuple[str, ...], float]:
    """Fit one kernel to the chosen rows; return it, the coefficients at a bound and the share of anomalous rows.

    Parameters
    ----------
    name : str
        Kernel table: ``moe.backend.dtype``.
    frame : DataFrame
        Its measured rows.
    rows : MoeRows
        The same rows as the kernel takes them.
    chosen : int array
        Numbers of the rows to be fitted.
    silicon : Silicon
        The processor that was measured.
    """
    _, backend, dtype = name.split(".")
    start, bounds = plan(backend, dtype, str(frame["version"].iloc[0]))
    unit_rate = matrix_peak(dtype, silicon) / (silicon.units * silicon.clock)
    start = dataclasses.replace(start, clock=silicon.clock, unit_rate=unit_rate)
    measured = frame["latency_us"].to_numpy(dtype=np.float64) * 1e-6
    anomalous = 0.0
    first: Any = None
    for keep_all in (True, False):
        used = chosen
        if not keep_all:
            residual = np.log(predict_moe_rows(rows[chosen], silicon=silicon, kernel=start) / measured[chosen])
            used = chosen[np.abs(residual) < ANOMALY]
            anomalous = 1.0 - len(used) / len(chosen)
        used = _sample(used)
        part = rows[used]

        def predicted(kernel: MoeKernel, part: MoeRows = part) -> FloatArray:
            return predict_moe_rows(part, silicon=silicon, kernel=kernel)

        first = fit(MoeKernel, predicted, measured[used], start=start, bounds=bounds)
        start = first.coefficients
    return first.coefficients, first.at_bound, anomalous


def _sample(rows: IntArray) -> IntArray:
    if len(rows) <= SAMPLE:
        return rows
    picked: IntArray = np.sort(np.random.default_rng(np.random.SeedSequence(1)).choice(rows, SAMPLE, replace=False))
    return picked


def family(frame: pd.DataFrame) -> pd.Series[str]:
    """Name the model family of each row by its shape: hidden, intermediate, experts and top-k."""
    named: pd.Series[str] = frame["hidden"].astype(str)
    for column in ("intermediate", "num_experts", "top_k"):
        named = named + "/" + frame[column].astype(str)
    return named


def report(name: str, frame: pd.DataFrame, predicted: FloatArray, rows: IntArray) -> None:
    """Print the accuracy over some rows, by distribution and by load.

    Parameters
    ----------
    name : str
        Kernel table.
    frame : DataFrame
        Its measured rows.
    predicted : FloatArray, shape (rows,)
        Predicted times [s].
    rows : int array
        Numbers of the rows that count.
    """
    measured = frame["latency_us"].to_numpy(dtype=np.float64) * 1e-6
    even = frame["distribution"].isin(["balanced", "uniform"]).to_numpy()
    chosen = np.zeros(len(frame), dtype=bool)
    chosen[rows] = True
    for label, part in (("even", even), ("power-law", ~even)):
        which = chosen & part
        if which.any():
            print(f"  {name:36s} {label:10s} {accuracy(predicted[which], measured[which])}")


def main() -> None:
    """Fit the kernels of a device and report; ``moesim calibrate fit`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurements", type=Path)
    parser.add_argument("device")
    parser.add_argument("--only", default="", help="fit only tables whose name contains this")
    parser.add_argument("--leave-out", action="store_true", help="also fit without each model family in turn")
    options = parser.parse_args()
    silicon = load_hardware(options.device).silicon
    for name, (frame, layout) in tables(options.measurements / options.device.replace("-", "_")).items():
        if options.only not in name:
            continue
        rows = moe_rows(frame, layout=layout)
        train, test = split(len(frame), SEED)
        kernel, stuck, anomalous = fit_table(name, frame, rows, train, silicon)
        predicted = predict_moe_rows(rows, silicon=silicon, kernel=kernel)
        report(name, frame, predicted, test)
        print(f"  {'':36s} anomalous {anomalous:.1%}, at bound: {', '.join(stuck) or '-'}")
        if options.leave_out:
            _leave_out(name, frame, rows, silicon)


def _leave_out(name: str, frame: pd.DataFrame, rows: MoeRows, silicon: Silicon) -> None:
    families = family(frame).to_numpy()
    predicted = np.zeros(len(frame))
    for left_out in np.unique(families):
        inside = np.flatnonzero(families != left_out)
        if len(inside) == 0:
            return
        outside = np.flatnonzero(families == left_out)
        kernel, _, _ = fit_table(name, frame, rows, inside, silicon)
        predicted[outside] = predict_moe_rows(rows[outside], silicon=silicon, kernel=kernel)
    report(f"{name} unseen family", frame, predicted, np.arange(len(frame)))


if __name__ == "__main__":
    main()
