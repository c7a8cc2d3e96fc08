"""Reading and writing routing traces as npz and Parquet. docs/formats/routing-traces.md describes both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from hardware_profiles.edge import shown, shown_path
from hardware_profiles.outputs import replacing
from workloads.errors import TraceFormatError, WorkloadError
from workloads.npy import npz_names, read_npz
from workloads.parameters import count
from workloads.parquet import read_parquet, require_columns
from workloads.routing.trace import MOST_EXPERTS, RoutingTrace, routing_fault
from workloads.trace_paths import existing_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_PARQUET_COLUMNS = ("sequence", "token", "layer", "experts")


def read_routing_trace(path: str | Path, num_experts: int | None = None) -> RoutingTrace:
    """Read a routing trace from ``.npz`` or ``.parquet``.

    Parameters
    ----------
    path : str or Path
        The file.
    num_experts : int, optional
        Experts per layer. By default what the file states, else the largest id plus one.

    Returns
    -------
    RoutingTrace
        Checked: ids in range, no expert twice in one token's choice, sequences that tile the tokens.

    Raises
    ------
    TraceFormatError
        The file is empty, truncated or malformed; the message names the token and layer.
    """
    file = existing_file(path)
    if file.suffix not in _READERS:
        msg = f"{file}: a routing trace is .npz or .parquet, not {file.suffix or 'without an extension'}"
        raise WorkloadError(msg)
    expert_ids, sequence_start, stated, padded = _READERS[file.suffix](file)
    if num_experts is not None:
        stated = count("num_experts", num_experts, most=MOST_EXPERTS)
    elif stated is None:
        integers = np.issubdtype(expert_ids.dtype, np.integer) and expert_ids.size
        # The largest id of a padded trace marks empty slots.
        stated = int(expert_ids.max()) + (not padded) if integers else 1
    fault = routing_fault(expert_ids, sequence_start, stated, padded=padded)
    if fault:
        _fail(file, fault)
    return RoutingTrace(
        expert_ids=expert_ids,
        sequence_start=sequence_start.astype(np.int64),
        num_experts=stated,
        source=str(file),
        padded=padded,
    )


def save_routing_trace(trace: RoutingTrace, path: str | Path) -> None:
    """Write a routing trace as ``.npz`` (compact) or ``.parquet`` (one row per token and layer).

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    path : str or Path
        Where to; the extension chooses the format.
    """
    suffix = Path(path).suffix
    if suffix not in _READERS:
        msg = f"{path}: a routing trace is saved as .npz or .parquet, not {suffix or 'without an extension'}"
        raise WorkloadError(msg)
    fault = routing_fault(trace.expert_ids, trace.sequence_start, trace.num_experts, padded=trace.padded)
    if fault:
        msg = f"routing trace {trace.source}: {fault}"
        raise WorkloadError(msg)
    with replacing(path, WorkloadError, parents=False) as temporary:
        if suffix == ".npz":
            np.savez_compressed(
                temporary,
                expert_ids=trace.expert_ids,
                sequence_start=trace.sequence_start,
                sequence_length=np.diff(trace.sequence_start, append=trace.tokens),
                num_experts=np.int64(trace.num_experts),
                padded=np.bool_(trace.padded),
            )
        else:
            _write_parquet(trace, temporary)


def _read_npz(file: Path) -> tuple[NDArray[Any], NDArray[Any], int | None, bool]:
    """Read expert_ids, sequence_start, and the optional sequence_length, num_experts and padded."""
    require_columns(file, ("expert_ids", "sequence_start"), npz_names(file), what="array")
    arrays = read_npz(file, ("expert_ids", "sequence_start", "sequence_length", "num_experts", "padded"))
    start, ids = arrays["sequence_start"], arrays["expert_ids"]
    if "sequence_length" in arrays:
        _require_tiling(file, start, arrays["sequence_length"], len(ids) if ids.ndim else 0)
    flag = arrays.get("padded", np.asarray(False))
    if flag.ndim or flag.dtype != np.bool_:
        _fail(file, f"padded: got {shown(flag.tolist())}, expected one truth value")
    if "num_experts" not in arrays:
        return ids, start, None, bool(flag)
    stated = arrays["num_experts"]
    if stated.ndim or not np.issubdtype(stated.dtype, np.integer) or stated < 1:
        _fail(file, f"num_experts: got {shown(stated.tolist())}, expected one whole number of at least 1")
    return ids, start, count(f"{shown_path(file)}: num_experts", int(stated), most=MOST_EXPERTS), bool(flag)


def _require_tiling(file: Path, start: NDArray[Any], length: NDArray[Any], tokens: int) -> None:
    """Every sequence ends where the next one starts, the last at the last token."""
    if start.shape != length.shape or start.ndim != 1:
        _fail(
            file, f"sequence_start has shape {start.shape} and sequence_length {length.shape}, expected one axis each"
        )
    if not (np.issubdtype(start.dtype, np.integer) and np.issubdtype(length.dtype, np.integer)):
        _fail(file, f"sequence_start holds {start.dtype} and sequence_length {length.dtype}, expected integers")
    end = start.astype(np.int64) + length
    following = np.append(start[1:], tokens)
    wrong = end != following
    if wrong.any():
        row = int(wrong.argmax())
        what = f"sequence {row} covers tokens {start[row]} to {end[row] - 1}, but "
        ends = f"the trace has {tokens} tokens" if row == len(start) - 1 else f"the next starts at {following[row]}"
        _fail(file, what + ends)


def _read_parquet(file: Path) -> tuple[NDArray[Any], NDArray[Any], int | None, bool]:
    """Read rows (sequence, token, layer, experts), ordered by token, then layer."""
    import pyarrow as pa

    table, facts = read_parquet(file, _PARQUET_COLUMNS)
    for name in _PARQUET_COLUMNS:
        if table[name].null_count:
            _fail(file, f"row {_first(table[name].is_null()) + 1}: {name}: no value")
    columns = {}
    for name in ("sequence", "token", "layer"):
        if not pa.types.is_integer(table.schema.field(name).type):
            _fail(file, f"column {name} holds {table.schema.field(name).type}, expected whole numbers")
        columns[name] = table[name].to_numpy()
    layers = int(columns["layer"].max()) + 1
    if not 0 < layers <= table.num_rows:
        _fail(file, f"column layer holds {layers - 1}, expected layers from 0, each with a row for every token")
    rows = np.arange(table.num_rows)
    for name, expected in (("layer", rows % layers), ("token", rows // layers)):
        wrong = columns[name] != expected
        if wrong.any():
            row = int(wrong.argmax())
            order = "rows go token by token, and within a token layer by layer, both from 0"
            _fail(file, f"row {row + 1}: {name} is {columns[name][row]}, expected {expected[row]}; {order}")
    if table.num_rows % layers:
        _fail(file, f"the last token has {table.num_rows % layers} of {layers} layers; the file looks truncated")
    ids = _experts(file, table["experts"].combine_chunks()).reshape(-1, layers, len(table["experts"][0]))
    sequence = columns["sequence"].reshape(-1, layers)
    if (sequence != sequence[:, :1]).any():
        _fail(file, f"token {int((sequence != sequence[:, :1]).any(axis=1).argmax())}: its layers name two sequences")
    start = np.flatnonzero(np.diff(sequence[:, 0], prepend=sequence[0, 0] - 1))
    if len(np.unique(sequence[start, 0])) != len(start):
        _fail(file, "a sequence comes back after another one; the tokens of a sequence must be together")
    stated = facts.get("num_experts")
    if stated is not None:
        stated = count(f"{shown_path(file)}: metadata 'moesim': num_experts", stated, most=MOST_EXPERTS)
    return ids, start, stated, facts.get("padded") is True


def _experts(file: Path, lists: Any) -> NDArray[Any]:
    """Flatten a list column whose lists must all hold equally many integers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = lists.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        _fail(file, f"column experts holds {kind}, expected lists of whole numbers")
    if not pa.types.is_integer(kind.value_type):
        _fail(file, f"column experts holds lists of {kind.value_type}, expected whole numbers")
    sizes = np.asarray(pc.list_value_length(lists))
    wrong = sizes != sizes[0]
    if not sizes[0]:
        _fail(file, "row 1: experts is empty, expected the experts that the token chose")
    if wrong.any():
        row = int(wrong.argmax())
        _fail(file, f"row {row + 1}: experts has {sizes[row]} entries, the rows before {sizes[0]}")
    flat = lists.flatten()
    if flat.null_count:
        _fail(file, f"row {_first(flat.is_null()) // int(sizes[0]) + 1}: experts: no value")
    return flat.to_numpy()  # type: ignore[no-any-return]


def _write_parquet(trace: RoutingTrace, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    rows = np.arange(trace.tokens * trace.layers)
    token = rows // trace.layers
    sequence = np.searchsorted(trace.sequence_start, token, side="right") - 1
    table = pa.table(
        {
            "sequence": sequence.astype(np.int32),
            "token": token.astype(np.int32),
            "layer": (rows % trace.layers).astype(np.int16),
            "experts": pa.FixedSizeListArray.from_arrays(trace.expert_ids.ravel(), trace.top_k),
        }
    )
    table = table.replace_schema_metadata(
        {"moesim": json.dumps({"num_experts": trace.num_experts, "padded": trace.padded})}
    )
    pyarrow.parquet.write_table(table, path)


def _first(mask: Any) -> int:
    return int(np.argmax(np.asarray(mask)))


def _fail(file: Path, what: str) -> NoReturn:
    msg = f"{shown_path(file)}: {what}"
    raise TraceFormatError(msg)


_READERS: dict[str, Callable[[Path], tuple[NDArray[Any], NDArray[Any], int | None, bool]]] = {
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}
