"""Rows of the measured tables of dense kernels (GEMM, attention, linear attention) and the models that predict them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.kernels.attention import attention_decode_time
from simulator.kernels.families import FAMILIES as RECORDS
from simulator.kernels.gemm import GemmKernel, gemm_time
from simulator.kernels.kernel import Fabric, KernelTime, Machine, Silicon
from simulator.kernels.linear_attention import ConvolutionKernel, ScanKernel, causal_convolution_time, scan_time
from simulator.kernels.mla import MlaPrefillKernel, mla_decode_time, mla_prefill_time
from validation.kernels.formats import DENSE

#: Backend of kernels whose rows name none.
UNNAMED = "fused"
#: Sets of operands that the collector of the published GEMM tables multiplies in turn (aiconfigurator,
#: ``collector/sglang/collect_gemm.py``).
OPERAND_SETS = 6.0
Predict = Callable[[pd.DataFrame, Silicon, Any], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kernel family: the kernel table that each measured row belongs to, and the model of a table's rows.

    ``table`` maps rows to table names; ``predict`` gives the time [s] of rows of one table; ``regime`` names the
    part of the shape space that each row is in.
    """

    table: Callable[[pd.DataFrame], pd.Series]
    predict: Predict
    regime: Callable[[pd.DataFrame], NDArray[Any]]


def _gemm(rows: pd.DataFrame, silicon: Silicon, kernel: GemmKernel) -> FloatArray:
    dtype = str(rows["dtype"].iloc[0])
    sets = OPERAND_SETS if _cached(rows) else None
    shape: dict[str, Any] = {axis: rows[axis] for axis in ("m", "n", "k")}
    return gemm_time(**shape, dtype=dtype, silicon=silicon, kernel=kernel, in_turn=sets).seconds


def _mla_prefill(rows: pd.DataFrame, silicon: Silicon, kernel: MlaPrefillKernel) -> FloatArray:
    shape: dict[str, Any] = {name: rows[name] for name in ("batch", "context", "prefix", "num_heads")}
    return mla_prefill_time(**shape, **_storage(rows), silicon=silicon, kernel=kernel).seconds


def _decode(time: Callable[..., KernelTime], *heads: str) -> Predict:
    """Predict rows of decode attention, whose columns ``heads`` the function takes beside the batch."""

    def predict(rows: pd.DataFrame, silicon: Silicon, kernel: Any) -> FloatArray:
        shape = {name: rows[name] for name in ("batch", *heads)} | {"kv_length": rows["prefix"] + 1}
        return time(**shape, **_storage(rows), silicon=silicon, kernel=kernel, cached=_cached(rows)).seconds

    return predict


#: Kernels of one decoded token, whose state a repeated call finds in the cache.
_STATE_STEPS = frozenset({"causal_conv1d_update", "fused_recurrent_gated_delta_rule"})


def _gated_delta_net(rows: pd.DataFrame, silicon: Silicon, kernel: ConvolutionKernel | ScanKernel) -> FloatArray:
    # The collector convolves one projection; a layer convolves queries, keys and values.
    heads = ("num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim")
    return _linear(rows, rows["num_k_heads"] * rows["head_k_dim"], heads, silicon, kernel)


def _mamba2(rows: pd.DataFrame, silicon: Silicon, kernel: ConvolutionKernel | ScanKernel) -> FloatArray:
    channels = rows["nheads"] * rows["head_dim"] + 2 * rows["n_groups"] * rows["d_state"]
    return _linear(rows, channels, ("n_groups", "nheads", "d_state", "head_dim"), silicon, kernel)


def _linear(
    rows: pd.DataFrame,
    channels: pd.Series,
    heads: tuple[str, str, str, str],
    silicon: Silicon,
    kernel: ConvolutionKernel | ScanKernel,
) -> FloatArray:
    """Time rows of one kernel; ``heads`` name the columns of key and value heads and of their sizes."""
    cached = str(rows["kernel"].iloc[0]) in _STATE_STEPS
    shape: dict[str, Any] = {"batch": rows["batch"], "seq_len": rows["seq_len"], "silicon": silicon, "cached": cached}
    if isinstance(kernel, ConvolutionKernel):
        width: Any = rows["d_conv"]
        return causal_convolution_time(channels=channels, width=width, kernel=kernel, **shape).seconds
    names = ("key_heads", "value_heads", "key_dim", "value_dim")
    shape |= {name: rows[column] for name, column in zip(names, heads, strict=True)}
    return scan_time(kernel=kernel, **shape).seconds


def _storage(rows: pd.DataFrame) -> dict[str, Any]:
    return {"dtype": str(rows["dtype"].iloc[0]), "kv_dtype": str(rows["kv_dtype"].iloc[0])}


def _cached(rows: pd.DataFrame) -> bool:
    """Tell whether a benchmark repeated one call on one set of operands, as most do, and not on many in turn."""
    return bool(rows["cached"].iloc[0]) if "cached" in rows else True


def _gemm_regime(rows: pd.DataFrame) -> NDArray[Any]:
    m = rows["m"].to_numpy()
    return np.select([m <= 64, m <= 512, m <= 4400], ["m <= 64", "m 65-512", "m 513-4353"], "m > 4400")


def _time_regime(rows: pd.DataFrame) -> NDArray[Any]:
    latency = rows["latency_us"].to_numpy()
    return np.select([latency <= 30, latency <= 300], ["<= 30 us", "30-300 us"], "> 300 us")


_GEMM_LIBRARIES = {
    "bfloat16": "cublas",
    "int8": "cublas",
    "fp8": "cutlass",
    "fp8_block": "deepgemm",
    "nvfp4": "cutlass",
}


def _gemm_table(rows: pd.DataFrame) -> pd.Series:
    names = "gemm." + rows["dtype"].map(_GEMM_LIBRARIES) + "." + rows["dtype"]
    return names.mask(_own(rows), "gemm." + rows["kernel"] + "." + rows["dtype"])


def _flash_table(op: str) -> Callable[[pd.DataFrame], pd.Series]:
    def name(rows: pd.DataFrame) -> pd.Series:
        backend = np.where(rows["kernel"].str.contains("triton"), "triton", "flash")
        backend = np.where(_own(rows), rows["kernel"], backend)
        return pd.Series([f"{op}.{b}.{d}" for b, d in zip(backend, rows["kv_dtype"], strict=True)], index=rows.index)

    return name


def _own(rows: pd.DataFrame) -> pd.Series:
    """Rows of the microbenchmarks, whose column ``kernel`` is the backend."""
    framework = rows["framework"] if "framework" in rows else pd.Series("", index=rows.index)
    return framework == "torch"


def _of_record(kind: str) -> Predict:
    """Predict rows whose columns are the fields of the family's shape, a KV length being the tokens before and one."""
    family = RECORDS[kind]

    def predict(rows: pd.DataFrame, silicon: Silicon, kernel: Any) -> FloatArray:
        columns = {"kv_length": rows["prefix"] + 1} if "prefix" in rows else {}
        shape = {
            field.name: str(rows[field.name].iloc[0])
            if field.name in {"dtype", "kv_dtype"}
            else np.asarray(columns.get(field.name, rows.get(field.name)), dtype=np.float64)
            for field in dataclasses.fields(family.shape)
            if field.name in columns or field.name in rows
        }
        # One device alone: such a kernel sends nothing.
        machine = Machine(silicon=silicon, fabric=cast("Fabric", None))
        return family.time(family.shape(**shape), machine, kernel).seconds

    return predict


def _table_of_record(kind: str) -> Callable[[pd.DataFrame], pd.Series]:
    dtype = RECORDS[kind].table_dtype
    return lambda rows: f"{kind}." + rows["kernel"].where(rows["kernel"] != "", UNNAMED) + "." + rows[dtype]


def family_of_record(kind: str) -> Family:
    """Rows of a family that says nothing here: each kernel that was measured is a backend."""
    return Family(table=_table_of_record(kind), predict=_of_record(kind), regime=_time_regime)


#: Families by the op that the measurement tables name.
FAMILIES: Mapping[str, Family] = {
    **{kind: family_of_record(kind) for kind in DENSE},
    "gemm": Family(table=_gemm_table, predict=_gemm, regime=_gemm_regime),
    "attention_prefill": Family(
        table=_flash_table("attention_prefill"), predict=_of_record("attention_prefill"), regime=_time_regime
    ),
    "attention_decode": Family(
        table=_flash_table("attention_decode"),
        predict=_decode(attention_decode_time, "num_heads", "num_kv_heads", "head_dim"),
        regime=_time_regime,
    ),
    "mla_prefill": Family(table=_flash_table("mla_prefill"), predict=_mla_prefill, regime=_time_regime),
    "mla_decode": Family(
        table=_flash_table("mla_decode"), predict=_decode(mla_decode_time, "num_heads"), regime=_time_regime
    ),
    "gated_delta_net": Family(
        table=lambda rows: "gated_delta_net." + rows["kernel"], predict=_gated_delta_net, regime=_time_regime
    ),
    "mamba2": Family(table=lambda rows: "mamba2." + rows["kernel"], predict=_mamba2, regime=_time_regime),
}
