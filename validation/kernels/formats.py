"""Read tables of measured latencies: one Parquet or CSV file per op, checked at the door.

The columns are those of the tables that ``moesim calibrate run`` writes; further columns are kept and ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.edge import is_folder, reason, regular_file, shown_path, understanding
from hardware_profiles.errors import MoesimError, nearest
from simulator.kernels.families import FAMILIES

if TYPE_CHECKING:
    import pandas as pd

#: Shortest plausible median latency [us]; below it the column holds another unit.
SHORTEST = 0.1
_SUFFIXES = (".parquet", ".csv")


class MeasurementError(MoesimError):
    """A table of measurements is missing, malformed or implausible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFormat:
    """What a table of one op must hold.

    ``names`` are columns of text, ``sizes`` columns of positive numbers, ``counts`` columns of numbers from zero on;
    ``optional`` columns are filled with a default. ``figures`` are the latency columns [us] by the part that they
    time (``""`` for the whole call).
    """

    names: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    optional: Mapping[str, Any]
    figures: Mapping[str, str]


_WHOLE = {"": "latency_us"}
_BOTH_WAYS = {"dispatch": "dispatch_us", "combine": "combine_us"}
_KERNEL = {"kernel": "", "framework": "", "version": ""}
_MOE = TableFormat(
    names=("dtype", "distribution"),
    sizes=("num_tokens", "hidden", "intermediate", "top_k", "num_experts", "tp", "ep"),
    optional=_KERNEL,
    figures=_WHOLE,
)
_EXCHANGE_SIZES = ("num_tokens", "hidden", "top_k", "num_experts")


def dense_format(kind: str) -> TableFormat:
    """Format of a family whose rows are its shapes: a column for each axis, the KV length as the tokens before."""
    family = FAMILIES[kind]
    stored = {"kv_dtype": None} if "kv_dtype" in {f.name for f in dataclasses.fields(family.shape)} else {}
    return TableFormat(
        names=("dtype",),
        sizes=tuple(axis for axis in family.axes if axis != "kv_length"),
        counts=("prefix",) if "kv_length" in family.axes else (),
        optional=_KERNEL | stored,
        figures=_WHOLE,
    )


#: Kinds of op whose measured rows are shapes of their family: all with a table for each dtype but routed experts, whose
#: rows stand for loads.
DENSE = tuple(kind for kind, family in FAMILIES.items() if family.table_dtype != "none" and kind != "moe")
#: Formats by op, which is the file's name.
FORMATS: Mapping[str, TableFormat] = {
    **{kind: dense_format(kind) for kind in DENSE},
    "moe": _MOE,
    "moe_wide_ep_prefill": _MOE,
    "moe_wide_ep_decode": _MOE,
    **dict.fromkeys(
        ("nccl", "gloo"),
        TableFormat(
            names=("dtype", "collective"),
            sizes=("num_gpus", "message_elems"),
            optional={"kernel": ""},
            figures=_WHOLE,
        ),
    ),
    "elementwise": TableFormat(names=("kernel", "dtype"), sizes=("bytes_moved",), optional=_KERNEL, figures=_WHOLE),
    "custom_allreduce": TableFormat(
        names=("dtype",), sizes=("num_gpus", "message_elems"), optional={"kernel": "graph"}, figures=_WHOLE
    ),
    "deepep_low_latency": TableFormat(sizes=_EXCHANGE_SIZES, optional={"num_nodes": 1}, figures=_BOTH_WAYS),
    "deepep_normal": TableFormat(
        sizes=(*_EXCHANGE_SIZES, "dispatch_sms", "combine_sms"), optional={"num_nodes": 1}, figures=_BOTH_WAYS
    ),
    "gated_delta_net": TableFormat(
        names=("kernel", "phase"),
        sizes=("batch", "seq_len", "num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim", "d_conv"),
        optional={},
        figures=_WHOLE,
    ),
    "mamba2": TableFormat(
        names=("kernel", "phase"),
        sizes=("batch", "seq_len", "nheads", "head_dim", "n_groups", "d_state", "d_conv"),
        optional={},
        figures=_WHOLE,
    ),
}


def measured_files(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Find the tables of a folder: files by known op, and the names of ops that nobody knows how to predict.

    Raises
    ------
    MeasurementError
        The folder does not exist, holds no table, or holds two of one op.
    """
    if not is_folder(folder):
        raise MeasurementError(f"{shown_path(folder)}: no such folder; it holds one Parquet or CSV file per op")
    known: dict[str, Path] = {}
    unknown: list[str] = []
    for path in sorted(p for p in _entries(folder) if p.suffix in _SUFFIXES):
        if path.stem not in FORMATS:
            unknown.append(path.stem)
        elif path.stem in known:
            raise MeasurementError(f"{folder}: both {known[path.stem].name} and {path.name} measure one op; keep one")
        else:
            known[path.stem] = path
    if not known and not unknown:
        raise MeasurementError(f"{folder}: no table; expected one Parquet or CSV file per op, such as gemm.parquet")
    return known, tuple(unknown)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise MeasurementError(f"{shown_path(folder)}: cannot be read ({error.strerror})") from None


def read_measured(path: Path) -> pd.DataFrame:
    """Read and check the table of one op.

    Returns
    -------
    DataFrame
        Rows in the file's order, numbered from 0, with optional columns filled in.

    Raises
    ------
    MeasurementError
        The file cannot be read, is empty, lacks a column, or holds a value that no measurement can have.
    """
    with understanding(shown_path(path), MeasurementError):
        return _checked(path, path.stem, read_table(path))


def _checked(path: Path, op: str, frame: pd.DataFrame) -> pd.DataFrame:
    shape = FORMATS[op]
    required = (*shape.names, *shape.sizes, *shape.counts, *shape.figures.values())
    _check_columns(path, frame.columns, required)
    if frame.empty:
        raise MeasurementError(f"{path}: empty table; at least one row is needed")
    for column in shape.sizes:
        _check_numbers(path, frame, column, least=1)
    for column in shape.counts:
        _check_numbers(path, frame, column, least=0)
    for column in shape.figures.values():
        _check_latency(path, frame, column)
    for column in shape.names:
        if frame[column].isna().any():
            row = int(np.flatnonzero(frame[column].isna())[0])
            raise MeasurementError(f"{path}: row {row}: {column} is missing")
    return filled(op, frame)


def filled(op: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in the optional columns of an op's table: unnamed kernels, a cache stored as the activations are."""
    for column, default in FORMATS[op].optional.items():
        if column not in frame:
            frame[column] = frame["dtype"] if default is None else default
        elif isinstance(default, str):
            frame[column] = frame[column].astype(object).fillna(default).astype(str)
    return frame


def read_table(path: Path) -> pd.DataFrame:
    """Read a table, its rows numbered from 0, whatever is in it.

    Raises
    ------
    MeasurementError
        It is no CSV or Parquet file that can be read.
    """
    import pandas as pd
    import pyarrow as pa

    file = regular_file(path, MeasurementError)
    try:
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, low_memory=False)
    except pd.errors.EmptyDataError:
        raise MeasurementError(f"{path}: empty file; a header and at least one row are needed") from None
    except (OSError, ValueError, OverflowError, LookupError, TypeError, MemoryError, pa.ArrowException) as error:
        kind = "Parquet" if path.suffix == ".parquet" else "CSV"
        raise MeasurementError(f"{path}: not a readable {kind} file: {reason(error)}") from error
    return frame.reset_index(drop=True)


def _check_columns(path: Path, present: Iterable[str], required: tuple[str, ...]) -> None:
    has = list(present)
    for column in required:
        if column in has:
            continue
        stem = column.removesuffix("_us")
        other_unit = next((c for c in has if c != column and c.startswith(stem) and column.endswith("_us")), None)
        if other_unit is not None:
            raise MeasurementError(
                f"{path}: column {other_unit!r} instead of {column!r}; latencies are in microseconds"
            )
        hint = nearest(column, has).replace("allowed", "found") if has else "no columns"
        raise MeasurementError(f"{path}: missing column {column!r}; {hint}")


def _numbers(path: Path, frame: pd.DataFrame, column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        return frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise MeasurementError(f"{path}: column {column!r} holds text; numbers are expected") from None


def _check_numbers(path: Path, frame: pd.DataFrame, column: str, least: int) -> None:
    values = _numbers(path, frame, column)
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= least)))
    if bad.size:
        row = int(bad[0])
        raise MeasurementError(f"{path}: row {row}: {column} is {values[row]:g}; it must be at least {least}")


def _check_latency(path: Path, frame: pd.DataFrame, column: str) -> None:
    values = _numbers(path, frame, column)
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if bad.size:
        row = int(bad[0])
        raise MeasurementError(f"{path}: row {row}: {column} is {values[row]:g}; a latency is a positive number of us")
    middle = float(np.median(values))
    if middle < SHORTEST:
        raise MeasurementError(
            f"{path}: {column} has a median of {middle:.3g}; no kernel takes less than {SHORTEST:g} us, "
            "so that the column is in another unit than microseconds"
        )
