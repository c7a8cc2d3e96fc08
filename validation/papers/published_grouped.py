"""Fit the grouped matrix product of Ascend NPUs to the few published times of it.

Run as ``python -m validation.papers.published_grouped [--write]``. Twenty rows bear six coefficients, which both dtypes
share; what they cannot tell keeps the value at which it has no effect, or that of a kernel that computes tiles of 128
rows. Which experts a row's tokens hit is not published: the local ones are taken to be hit as an even router would.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from simulator.arrays import FloatArray
from simulator.hardware import load_hardware
from simulator.kernels.moe import MoeKernel, moe_time
from validation.accuracy import accuracy
from validation.fit.collectives import provenance
from validation.fit.fitting import fit, write_kernels

DEVICE = "ascend-910b"
_ROWS = Path(__file__).parent / "published" / "grouped_matmul.csv"
_START = MoeKernel(
    launch=4e-5,
    expert_launch=1e-7,
    memory_efficiency=0.9,
    unit_bandwidth=20.0,
    compute_efficiency=0.6,
    fill_depth=0.0,
    minimum_rows=16.0,
    tail=0.0,
    sharpness=3.0,
    reread=0.0,
    hidden_traffic=4.0,
    intermediate_traffic=6.0,
    token_traffic=0.0,
    foreign_share=0.0,
)
_BOUNDS = {
    "launch": (1e-6, 2e-4),
    "memory_efficiency": (0.4, 1.0),
    "compute_efficiency": (0.2, 0.95),
    "minimum_rows": (1.0, 128.0),
    "hidden_traffic": (1.0, 50.0),
    "sharpness": (1.0, 8.0),
}


def published() -> list[dict[str, str]]:
    """All rows; ``time_us`` is the time of one MoE layer on one rank [us]."""
    with _ROWS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def predict(rows: Sequence[Mapping[str, str]], kernel: MoeKernel) -> FloatArray:
    """Time of every row [s]."""
    silicon = load_hardware(DEVICE).silicon
    found = []
    for row in rows:
        experts, top_k, ep, tokens = (int(row[key]) for key in ("experts", "top_k", "ep", "tokens"))
        counts = np.full(experts // ep, tokens * top_k / experts)
        time = moe_time(
            counts,
            num_tokens=tokens,
            top_k=top_k,
            num_experts=experts,
            hidden=int(row["hidden"]),
            intermediate=int(row["intermediate"]),
            dtype=row["dtype"],
            silicon=silicon,
            kernel=kernel,
        )
        found.append(float(time.seconds))
    return np.asarray(found)


def main() -> None:
    """Fit, tell the accuracy and, if asked, write the table of int8, which no other device has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = published()
    measured = np.array([float(row["time_us"]) * 1e-6 for row in rows])
    kernel = fit(MoeKernel, lambda k: predict(rows, k), measured, start=_START, bounds=_BOUNDS).coefficients
    predicted = predict(rows, kernel)
    result = accuracy(predicted, measured)
    print(kernel, result)
    for row, value in zip(rows, predicted, strict=True):
        print(f"  {row['id']} {row['dtype']:9s} {row['tokens']:>5s} {row['time_us']:>8s} us  {value * 1e6:8.1f}")
    if options.write:
        note = f"{len(rows)} published rows of both dtypes: median {result.median_ape:.1%}, p90 {result.p90_ape:.1%}"
        described = {**provenance(len(rows), result), "source": rows[0]["source"], "note": note}
        tables = {"moe.grouped_matmul.int8": (kernel, described)}
        path = Path(__file__).parents[2] / "hardware_profiles" / "kernels" / f"{DEVICE}.toml"
        write_kernels(path, tables)


if __name__ == "__main__":
    main()
