"""Validation lists no kernel families: it reads the records that stand beside their functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike

from simulator.hardware import load_hardware
from simulator.kernels import families
from simulator.kernels.family import Family
from simulator.kernels.gemm import GEMM, GemmKernel
from simulator.kernels.kernel import KernelTime, Machine, coefficients
from validation.fit.calibrate import _ARITHMETIC
from validation.fit.tables import FITTERS
from validation.kernels import dense_rows, formats, rows
from validation.kernels.compare import axes_of
from validation.kernels.formats import DENSE, FORMATS, TableFormat, filled
from validation.kernels.grids import grid_frames
from validation.regression.page import AIM, AIMS, _aims, rows_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyShape:
    batch: ArrayLike
    kv_length: ArrayLike
    dtype: str
    kv_dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyKernel:
    launch: float


def _time(shape: ToyShape, machine: Machine, kernel: ToyKernel) -> KernelTime:
    moved = np.asarray(shape.batch) * np.asarray(shape.kv_length)
    return KernelTime(seconds=kernel.launch + moved / machine.silicon.memory_bandwidth, terms={})


TOY: Family[Any, Any] = Family(
    kinds=("toy_attention",),
    shape=ToyShape,
    coefficients=ToyKernel,
    time=_time,
    axes=("batch", "kv_length"),
    equation="launch + bytes / bandwidth",
    validity="nowhere",
    references=("none",),
    theory="attention.md",
    table_dtype="kv_dtype",
)


def test_every_family_of_dense_kernels_is_read_fitted_and_frozen() -> None:
    assert set(DENSE) == {k for k, f in families.FAMILIES.items() if f.table_dtype != "none"} - {"moe"}
    for known in (FORMATS, dense_rows.FAMILIES, FITTERS, grid_frames(), _ARITHMETIC):
        assert set(DENSE) <= set(known)


def test_a_new_family_is_read_and_predicted_from_its_record_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.FAMILIES, "toy_attention", TOY)
    monkeypatch.setitem(FORMATS, "toy_attention", formats.dense_format("toy_attention"))
    assert FORMATS["toy_attention"].sizes == ("batch",)
    assert FORMATS["toy_attention"].counts == ("prefix",)
    assert "kv_dtype" in FORMATS["toy_attention"].optional
    family = dense_rows.family_of_record("toy_attention")
    frame = pd.DataFrame(
        {"kernel": ["mine"], "dtype": ["bfloat16"], "batch": [4], "prefix": [999], "latency_us": [1.0]}
    )
    frame = filled("toy_attention", frame)
    assert family.table(frame).tolist() == ["toy_attention.mine.bfloat16"]
    silicon = load_hardware("h100-sxm").silicon
    predicted = family.predict(frame, silicon, ToyKernel(launch=1e-6))
    assert predicted == pytest.approx(1e-6 + 4000 / silicon.memory_bandwidth)
    assert axes_of("toy_attention", frame)["kv_length"].tolist() == [1000.0]


def test_a_record_predicts_what_the_function_of_its_family_does() -> None:
    hardware = load_hardware("h100-sxm")
    kernel = coefficients(GemmKernel, hardware.kernels["gemm.cublas.bfloat16"], "gemm")
    frame = filled("gemm", pd.DataFrame({"dtype": "bfloat16", "m": [64, 4096], "n": [512, 2048], "k": [4096, 512]}))
    machine = Machine(silicon=hardware.silicon, fabric=hardware.fabric)
    shape = GEMM.shape(m=frame["m"].to_numpy(), n=frame["n"].to_numpy(), k=frame["k"].to_numpy(), dtype="bfloat16")
    own = dense_rows.family_of_record("gemm").predict(frame, hardware.silicon, kernel)
    np.testing.assert_allclose(own, GEMM.time(shape, machine, kernel).seconds)


def test_formats_of_dense_kernels_are_what_the_published_tables_hold() -> None:
    plain = {"kernel": "", "framework": "", "version": ""}
    heads = ("num_heads", "num_kv_heads", "head_dim")
    wanted = {"names": ("dtype",), "figures": {"": "latency_us"}}
    stored = {**wanted, "counts": ("prefix",), "optional": {**plain, "kv_dtype": None}}
    assert FORMATS["gemm"] == TableFormat(sizes=("m", "n", "k"), optional=plain, **wanted)
    assert FORMATS["attention_prefill"] == TableFormat(sizes=("batch", "context", *heads), **stored)
    assert FORMATS["attention_decode"] == TableFormat(sizes=("batch", *heads), **stored)
    assert FORMATS["mla_prefill"] == TableFormat(sizes=("batch", "context", "num_heads"), **stored)
    assert FORMATS["mla_decode"] == TableFormat(sizes=("batch", "num_heads"), **stored)


def test_an_op_without_an_aim_of_its_own_is_on_the_page_with_the_common_one() -> None:
    recorded = {"a/toy/median_ape": 0.1, "a/moe/median_ape": 0.1, "a/moe/balanced/median_ape": 0.1}
    assert rows_of(recorded, "a") == ["moe/balanced", "toy"]
    assert _aims("toy", "a") == AIM[:2]
    assert _aims("toy", "a<-b") == AIM[2:]
    assert "toy" not in AIMS


@pytest.mark.parametrize("kind", DENSE)
def test_what_predicts_rows_knows_the_coefficients_of_each_family(kind: str) -> None:
    name, kernel = rows._resolved(load_hardware("h100-sxm"), kind, (), "bfloat16")
    assert name.startswith(f"{kind}.")
    assert type(kernel) is families.FAMILIES[kind].coefficients
