"""Predict the rows of measured tables for any device: which kernel table a row belongs to, and what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.errors import ProfileError
from simulator.arrays import FloatArray
from simulator.hardware import Hardware
from simulator.kernels.elementwise import elementwise_time
from simulator.kernels.families import table_family
from simulator.kernels.kernel import DTYPE_BYTES, Fabric, coefficients
from simulator.stack import kernel_table
from validation.kernels.collective_rows import (
    ELEMENT,
    RINGS,
    joined,
    predict_all_reduce,
    predict_exchange,
    predict_ring,
)
from validation.kernels.dense_rows import FAMILIES, UNNAMED
from validation.kernels.formats import DENSE, FORMATS
from validation.kernels.moe_rows import (
    LAYOUTS,
    NEWER_DRAWS,
    MoeRows,
    backend_of,
    moe_rows,
    predict_moe_rows,
    version_of,
)

if TYPE_CHECKING:
    import pandas as pd

RowNumbers = NDArray[np.int64]
#: A kernel table's name and what predicts rows with its coefficients [s].
Found = tuple[str, Callable[["pd.DataFrame"], FloatArray]]

#: Ops whose rows name the one kernel that was measured, for which no other can stand.
_LINEAR = ("gated_delta_net", "mamba2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Predictions of some rows that share a kernel table.

    Attributes
    ----------
    rows : array of int
        Row numbers in the op's table.
    part : str
        Which of the row's figures is timed: ``""``, ``dispatch`` or ``combine``.
    table : str
        Kernel table that the coefficients come from; ``""`` where nothing can predict the rows.
    seconds : array
        Predicted times [s]; nan where ``reason`` says why there are none.
    reason : str
        Why the rows cannot be predicted, else ``""``.
    substituted : bool
        Whether the device has no kernel of the library that was measured, so that another library's is used.
    """

    rows: RowNumbers
    part: str
    table: str
    seconds: FloatArray
    reason: str = ""
    substituted: bool = False


def predict_op(op: str, frame: pd.DataFrame, hardware: Hardware) -> list[Block]:
    """Predict every figure of every row of one op's table.

    Parameters
    ----------
    op : str
        One of :data:`validation.kernels.formats.FORMATS`.
    frame : DataFrame
        Checked rows, numbered from 0.
    hardware : Hardware
        The device, with its own kernels and those that it borrows.
    """
    if op in DENSE:
        return list(_dense(op, frame, hardware))
    if op in _LINEAR:
        return list(_linear(op, frame, hardware))
    if op in LAYOUTS:
        return list(_moe(op, frame, hardware))
    if op in {"nccl", "gloo"}:
        return list(_library(op, frame, hardware))
    if op == "elementwise":
        return list(_elementwise(frame, hardware))
    if op == "custom_allreduce":
        return list(_custom_all_reduce(frame, hardware))
    return list(_exchange(op, frame, hardware))


def _attempt(
    frame: pd.DataFrame, rows: RowNumbers, find: Callable[[], Found], part: str = "", library: str = ""
) -> Block:
    """Predict rows that ``library`` ran, or keep the reason why the device cannot."""
    table = ""
    try:
        table, predict = find()
        seconds = np.asarray(predict(frame.iloc[rows]), dtype=np.float64)
    except ProfileError as error:
        return _unpredicted(rows, str(error), part)
    substituted = library not in {"", table.split(".")[1]}
    return Block(rows=rows, part=part, table=table, seconds=seconds, substituted=substituted)


def _unpredicted(rows: RowNumbers, reason: str, part: str = "") -> Block:
    return Block(rows=rows, part=part, table="", seconds=np.full(len(rows), np.nan), reason=reason)


def _groups(frame: pd.DataFrame, by: list[Any]) -> Iterator[tuple[tuple[str, ...], RowNumbers]]:
    """Split rows by columns (or series of the same length), in sorted order."""
    grouped: Mapping[Any, Any] = frame.groupby(by).indices
    for key, index in grouped.items():
        names = key if isinstance(key, tuple) else (key,)
        yield tuple(str(name) for name in names), np.asarray(index, dtype=np.int64)


def _resolved(
    hardware: Hardware, family: str, backends: tuple[str, ...], dtype: str | None = None, *, substitutes: bool = True
) -> tuple[str, Any]:
    """Coefficients of a kernel family as a stack would choose them: this backend and dtype first, then relatives."""
    if dtype is not None and dtype not in DTYPE_BYTES:
        raise ProfileError(f"unknown dtype {dtype!r}")
    device = hardware.device.id
    name, table = kernel_table(hardware.kernels, family, backends, dtype, device, substitutes=substitutes)
    return name, coefficients(table_family(name).coefficients, table, f"{device}: {name}")


def _dense(op: str, frame: pd.DataFrame, hardware: Hardware) -> Iterator[Block]:
    stated = FAMILIES[op].table(frame).fillna("").rename("table")
    storage = "kv_dtype" if "kv_dtype" in frame else "dtype"
    by = [stated, "dtype", storage, *(["cached"] if "cached" in frame else [])]
    for (table, _, stored, *_), rows in _groups(frame, by):
        backends = tuple(table.split(".")[1:2])
        find = partial(_find_dense, op, hardware, backends, stored)
        yield _attempt(frame, rows, find, library="".join(backends))


def _find_dense(
    op: str, hardware: Hardware, backends: tuple[str, ...], dtype: str | None, *, substitutes: bool = True
) -> Found:
    name, kernel = _resolved(hardware, op, backends, dtype, substitutes=substitutes)
    return name, lambda rows: FAMILIES[op].predict(rows, hardware.silicon, kernel)


def _linear(op: str, frame: pd.DataFrame, hardware: Hardware) -> Iterator[Block]:
    for (operation,), rows in _groups(frame, ["kernel"]):
        yield _attempt(frame, rows, partial(_find_dense, op, hardware, (operation,), None, substitutes=False))


def _moe(op: str, frame: pd.DataFrame, hardware: Hardware) -> Iterator[Block]:
    layout = LAYOUTS[op]
    # Which experts are hit depends neither on the kernel nor on the dtype, so that each router is drawn once.
    for drawn in _draw_groups(frame):
        part = frame.iloc[drawn]
        loads = moe_rows(part, layout=layout)
        for (kernel, dtype), index in _groups(part, ["kernel", "dtype"]):
            backend = backend_of(kernel, layout)
            rows = dataclasses.replace(loads[index], dtype=dtype)
            yield _attempt(frame, drawn[index], partial(_find_moe, hardware, backend, rows), library=backend)


def _find_moe(hardware: Hardware, backend: str, rows: MoeRows) -> Found:
    name, kernel = _resolved(hardware, "moe", (backend,), rows.dtype)
    return name, lambda _: predict_moe_rows(rows, silicon=hardware.silicon, kernel=kernel)


def _draw_groups(frame: pd.DataFrame) -> list[RowNumbers]:
    """Rows by the way in which their routers were drawn, which differs between versions of the collectors."""
    older = np.zeros(len(frame), dtype=bool)
    for (framework, version), rows in _groups(frame, ["framework", "version"]):
        since = NEWER_DRAWS.get(framework)
        older[rows] = since is not None and version_of(version) < since
    return [np.flatnonzero(older == age) for age in (False, True) if (older == age).any()]


def _elementwise(frame: pd.DataFrame, hardware: Hardware) -> Iterator[Block]:
    for (framework,), rows in _groups(frame, ["framework"]):
        yield _attempt(frame, rows, partial(_find_elementwise, hardware, framework or UNNAMED))


def _find_elementwise(hardware: Hardware, backend: str) -> Found:
    name, kernel = _resolved(hardware, "elementwise", (backend,))
    return name, lambda rows: elementwise_time(rows["bytes_moved"], silicon=hardware.silicon, kernel=kernel).seconds


def _library(op: str, frame: pd.DataFrame, hardware: Hardware) -> Iterator[Block]:
    fabric = joined(hardware, int(frame["num_gpus"].max()))
    for (collective, dtype), rows in _groups(frame, ["collective", "dtype"]):
        if dtype not in ELEMENT:
            yield _unpredicted(rows, f"{op}: unknown dtype {dtype!r}")
        elif collective == "all_reduce":
            yield _attempt(frame, rows, partial(_find_all_reduce, hardware, fabric, op))
        elif collective in RINGS:
            yield _attempt(frame, rows, partial(_find_ring, hardware, fabric, collective, op))
        else:
            yield _unpredicted(rows, f"{op}: unknown collective {collective!r}")


def _find_ring(hardware: Hardware, fabric: Fabric, collective: str, library: str) -> Found:
    name, kernel = _resolved(hardware, RINGS[collective][0], (library,))
    return name, lambda rows: predict_ring(collective, rows, fabric=fabric, kernel=kernel)


def _find_all_reduce(hardware: Hardware, fabric: Fabric, backend: str) -> Found:
    name, kernel = _resolved(hardware, "all_reduce", (backend,))
    return name, lambda rows: predict_all_reduce(rows, fabric=fabric, kernel=kernel)


def _custom_all_reduce(frame: pd.DataFrame, hardware: Hardware) -> Iterator[Block]:
    fabric = joined(hardware, int(frame["num_gpus"].max()))
    backends = frame["kernel"].str.endswith("eager").map({True: "one_shot_eager", False: "one_shot"}).rename("backend")
    for (backend, dtype), rows in _groups(frame, [backends, "dtype"]):
        if dtype in ELEMENT:
            yield _attempt(frame, rows, partial(_find_all_reduce, hardware, fabric, backend))
        else:
            yield _unpredicted(rows, f"custom_allreduce: unknown dtype {dtype!r}")


def _exchange(op: str, frame: pd.DataFrame, hardware: Hardware) -> Iterator[Block]:
    rows = np.arange(len(frame), dtype=np.int64)
    for part in FORMATS[op].figures:
        yield _attempt(frame, rows, partial(_find_exchange, op, part, hardware), part)


def _find_exchange(op: str, part: str, hardware: Hardware) -> Found:
    name, kernel = _resolved(hardware, part, (op,))
    return name, lambda rows: predict_exchange(rows, part, fabric=hardware.fabric, kernel=kernel)
