"""Fits that never saw a model family, a device or a number of GPUs, and what they predict of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simulator.arrays import FloatArray
from simulator.hardware import load_hardware
from simulator.kernels.kernel import Silicon
from validation.accuracy import Accuracy, accuracy
from validation.fit import moe as fit_moe
from validation.fit.collectives import fit_direct, solve_all_reduce
from validation.fit.dense import judge
from validation.fit.dense_starts import starts_of
from validation.fit.fitting import fit
from validation.kernels.collective_rows import predict_all_reduce
from validation.kernels.dense_rows import FAMILIES
from validation.kernels.moe_rows import moe_rows, predict_moe_rows, tables_of

MEASURED = Path(__file__).parents[2] / "data" / "kernels"
H100, A100 = (load_hardware(device).silicon for device in ("h100-sxm", "a100-sxm"))


def measured(device: str, op: str, dtype: str = "bfloat16", at_most: int | None = None) -> pd.DataFrame:
    rows = pd.read_parquet(MEASURED / device / f"{op}.parquet")
    rows = rows[rows["kv_dtype" if "kv_dtype" in rows else "dtype"] == dtype]
    return rows if at_most is None or len(rows) <= at_most else rows.sample(at_most, random_state=0)


def seconds_of(rows: pd.DataFrame) -> FloatArray:
    return np.asarray(rows["latency_us"], dtype=np.float64) * 1e-6


def predicted_from(
    op: str, table: str, train: pd.DataFrame, test: pd.DataFrame, *, fitted_on: Silicon, used_on: Silicon
) -> Accuracy:
    family, start = FAMILIES[op], starts_of(table)[0]
    found = fit(
        type(start.kernel),
        lambda kernel: family.predict(train, fitted_on, kernel),
        seconds_of(train),
        start=start.kernel,
        bounds=start.bounds,
    )
    return judge(family, test, used_on, found.coefficients)[0]


@pytest.mark.parametrize("hidden", [7168, 4096])
def test_products_of_a_model_family_that_no_fit_saw(hidden: int) -> None:
    rows = measured("h100_sxm", "gemm")
    family = (rows["n"] == hidden) | (rows["k"] == hidden)
    train, test = rows[~family], rows[family]
    found = predicted_from("gemm", "gemm.cublas.bfloat16", train, test, fitted_on=H100, used_on=H100)
    assert found.median_ape < 0.065
    assert found.p90_ape < 0.18


# The libraries of the two generations run different programs, so that these bands are wide.
@pytest.mark.parametrize(
    ("op", "table", "median", "p90"),
    [
        ("gemm", "gemm.cublas.bfloat16", 0.16, 0.36),
        ("attention_prefill", "attention_prefill.flash.bfloat16", 0.36, 0.52),
        ("attention_decode", "attention_decode.flash.bfloat16", 0.27, 0.50),
    ],
)
def test_an_a100_from_kernels_that_were_fitted_on_an_h100(op: str, table: str, median: float, p90: float) -> None:
    train, test = measured("h100_sxm", op, at_most=1500), measured("a100_sxm", op)
    found = predicted_from(op, table, train, test, fitted_on=H100, used_on=A100)
    assert found.median_ape < median
    assert found.p90_ape < p90


@pytest.mark.parametrize(("device", "median", "p90"), [("h100-sxm", 0.05, 0.15), ("a100-sxm", 0.10, 0.20)])
def test_an_all_reduce_of_4_gpus_from_2_and_8(device: str, median: float, p90: float) -> None:
    folder, fabric = MEASURED / device.replace("-", "_"), load_hardware(device).fabric
    rows, library = pd.read_parquet(folder / "custom_allreduce.parquet"), pd.read_parquet(folder / "nccl.parquet")
    assert set(rows["num_gpus"]) == {2, 4, 8}
    library = library[(library["collective"] == "all_reduce") & (library["num_gpus"] != 4)]
    ring = solve_all_reduce(library, seconds_of(library), fabric, in_switch=device == "h100-sxm").coefficients
    direct, _ = fit_direct(rows[rows["num_gpus"] != 4], fabric, ring)["all_reduce.one_shot"]
    test = rows[(rows["num_gpus"] == 4) & rows["kernel"].str.endswith("graph")]
    found = accuracy(predict_all_reduce(test, fabric=fabric, kernel=direct), seconds_of(test))
    assert found.median_ape < median
    assert found.p90_ape < p90


def test_experts_on_an_a100_from_kernels_that_were_fitted_on_an_h100() -> None:
    frames = [measured(device, "moe") for device in ("h100_sxm", "a100_sxm")]
    frames = [rows[rows["kernel"].str.startswith("moe_torch_flow")] for rows in frames]
    ((name, train),), ((_, test),) = (tables_of("moe", rows).items() for rows in frames)
    kernel, _, _ = fit_moe.fit_table(name, train, moe_rows(train, layout="fused"), np.arange(len(train)), H100)
    predicted = predict_moe_rows(moe_rows(test, layout="fused"), silicon=A100, kernel=kernel)
    found = accuracy(predicted, seconds_of(test))
    assert found.median_ape < 0.17
    assert found.p90_ape < 0.42


@pytest.mark.parametrize(
    ("family", "kernel", "dtype"),
    [("7168/2048/256/8", "moe_torch_flow_cutlass", "fp8_block"), ("4096/14336/8/2", "vllm_fused_moe", "bfloat16")],
)
def test_experts_of_a_model_family_that_no_fit_saw(family: str, kernel: str, dtype: str) -> None:
    rows = measured("h100_sxm", "moe", dtype)
    rows = rows[rows["kernel"] == kernel]
    ((name, frame),) = tables_of("moe", rows).items()
    loads, seen = moe_rows(frame, layout="fused"), (fit_moe.family(frame) != family).to_numpy()
    fitted, _, _ = fit_moe.fit_table(name, frame, loads, np.flatnonzero(seen), H100)
    unseen = np.flatnonzero(~seen)
    predicted = predict_moe_rows(loads[unseen], silicon=H100, kernel=fitted)
    found = accuracy(predicted, seconds_of(frame)[unseen])
    assert found.median_ape < 0.12
    assert found.p90_ape < 0.40
