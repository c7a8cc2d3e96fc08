"""Reading and writing request traces: Azure, BurstGPT and Mooncake traces, vLLM benchmark results, and our own.

Rows are counted from 1, after the header. docs/formats/request-traces.md describes each format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import numpy as np

from hardware_profiles.errors import nearest
from workloads.errors import TraceFormatError, WorkloadError
from workloads.requests.trace import RequestTrace, check_requests, first_fault
from workloads.requests.vllm_results import vllm_trace
from workloads.trace_paths import existing_file, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

MOONCAKE_BLOCK = 512  # tokens per hash block, Mooncake trace README


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Columns of a tabular format, and how its times are written."""

    arrival: str
    input: str
    output: str
    times: Literal["seconds", "dates"] = "seconds"
    zero_output_is_failure: bool = False

    @property
    def names(self) -> tuple[str, str, str]:
        return self.arrival, self.input, self.output


_TABLES = {
    "azure": _Columns(arrival="TIMESTAMP", input="ContextTokens", output="GeneratedTokens", times="dates"),
    # "some failure that Response tokens are 0s": BurstGPT README, github.com/HPMLL/BurstGPT.
    "burstgpt": _Columns(
        arrival="Timestamp", input="Request tokens", output="Response tokens", zero_output_is_failure=True
    ),
    "moesim": _Columns(arrival="arrival_s", input="input_tokens", output="output_tokens"),
}


def read_request_trace(path: str | Path, format: str | None = None) -> RequestTrace:  # noqa: A002
    """Read a request trace.

    Parameters
    ----------
    path : str or Path
        The file.
    format : {"azure", "burstgpt", "mooncake", "vllm", "moesim"}, optional
        The format. By default it follows from the extension (``.jsonl`` mooncake, ``.json`` vllm, ``.parquet``
        moesim) and, for ``.csv``, from the header.

    Returns
    -------
    RequestTrace
        Arrival times count from the first request, but are kept as they are in our own format, so that a saved trace
        comes back unchanged. ``notes`` says what had to be assumed or was left out.

    Raises
    ------
    TraceFormatError
        The file is empty, truncated, unsorted or malformed; the message names the row and the column.
    """
    if format is not None and format not in _READERS:
        msg = f"request trace: unknown format {format!r}; {nearest(format, _READERS)}"
        raise WorkloadError(msg)
    file = existing_file(path)
    return _READERS[format or _detect(file)](file)


def save_request_trace(trace: RequestTrace, path: str | Path) -> None:
    """Write a trace as ``.parquet`` (everything) or ``.csv`` (open loop without block hashes).

    Parameters
    ----------
    trace : RequestTrace
        The trace.
    path : str or Path
        Where to; the extension chooses the format.
    """
    check_requests(trace)
    suffix = Path(path).suffix
    if suffix not in {".csv", ".parquet"}:
        msg = f"{path}: a request trace is saved as .csv or .parquet, not {suffix or 'without an extension'}"
        raise WorkloadError(msg)
    if suffix == ".csv" and (trace.concurrency is not None or trace.block_hashes is not None):
        what = "block hashes" if trace.concurrency is None else "a closed loop's concurrency"
        msg = f"{path}: CSV cannot hold {what}; save as .parquet"
        raise WorkloadError(msg)
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    columns: dict[str, Any] = {
        "arrival_s": trace.arrival,
        "input_tokens": trace.input_tokens,
        "output_tokens": trace.output_tokens,
    }
    facts = {"block_tokens": trace.block_tokens}
    if trace.block_hashes is not None:
        columns["block_hashes"] = pa.array(trace.block_hashes, pa.list_(pa.int64()))
    if trace.concurrency is not None:
        facts["concurrency"] = trace.concurrency
    table = pa.table(columns).replace_schema_metadata({"moesim": json.dumps(facts)})
    with replacing(path) as temporary:
        if suffix == ".csv":
            pyarrow.csv.write_csv(table, temporary)
        else:
            pyarrow.parquet.write_table(table, temporary)


def _detect(file: Path) -> str:
    """Tell the format from the extension and, for CSV, the header."""
    by_suffix = {".jsonl": "mooncake", ".json": "vllm", ".parquet": "moesim"}
    if file.suffix in by_suffix:
        return by_suffix[file.suffix]
    if file.suffix != ".csv":
        msg = f"{file}: cannot tell the format from the extension {file.suffix!r}; expected .csv, .jsonl, .json or "
        raise WorkloadError(msg + ".parquet, or name the format: " + ", ".join(sorted(_READERS)))
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        header = [name.strip().strip('"') for name in opened.readline().split(",")]
    shared = {name: len(set(table.names) & set(header)) for name, table in _TABLES.items()}
    best = max(shared, key=lambda name: shared[name])
    if not shared[best]:
        known = "; ".join(f"{name}: {','.join(table.names)}" for name, table in _TABLES.items())
        msg = f"{file}: the header {','.join(header)!r} is of no known format ({known})"
        raise TraceFormatError(msg)
    return best


def _read_csv(file: Path, format_name: str) -> RequestTrace:
    """Read a CSV whose three columns are found by name."""
    import pyarrow as pa
    import pyarrow.csv as csv

    columns = _TABLES[format_name]
    broken: list[Any] = []

    def note_broken(row: Any) -> str:
        broken.append(row)
        return "skip"

    try:
        # One thread, or rows that do not parse would carry no number. The values stay text until they are checked.
        table = csv.read_csv(
            file,
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(invalid_row_handler=note_broken),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(columns.names, pa.string())),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        msg = f"{file}: not a CSV file ({error})"
        raise TraceFormatError(msg) from error
    _require_columns(file, columns, table.column_names)
    if broken:
        row = broken[0]
        _fail(file, row.number - 2, f"got {row.actual_columns} columns, expected {row.expected_columns} ({row.text!r})")
    if not table.num_rows:
        _no_rows(file)
    text = {name: table[name].combine_chunks() for name in columns.names}
    for name in columns.names:
        if text[name].null_count:
            _fail(file, int(np.argmax(text[name].is_null().to_numpy(zero_copy_only=False))), f"{name}: no value")
    arrival = _dates(file, columns.arrival, text) if columns.times == "dates" else _numbers(file, columns.arrival, text)
    lengths = {name: _numbers(file, name, text) for name in (columns.input, columns.output)}
    return _checked(file, columns, arrival, lengths)


def _numbers(file: Path, name: str, text: Mapping[str, Any]) -> NDArray[np.float64]:
    """Turn a text column into numbers; name the first row that is none."""
    import pyarrow as pa

    try:
        return _plain(text[name].cast(pa.float64()), np.float64)
    except pa.ArrowInvalid:
        for row, value in enumerate(text[name].to_pylist()):
            try:
                pa.scalar(value).cast(pa.float64())
            except pa.ArrowInvalid:
                _fail(file, row, f"{name}: got {value!r}, expected a number")
        raise


def _dates(file: Path, name: str, text: Mapping[str, Any]) -> NDArray[np.float64]:
    """Turn a text column of dates into seconds since the first, exact to the nanosecond."""
    import pyarrow as pa

    # Dates with a zone offset (Azure's 2024 traces) and without (2023) are different types to Arrow.
    kind = pa.timestamp("ns")
    try:
        # NOTE: a slice, as a scalar made of a Python value makes Arrow load pandas.
        text[name][:1].cast(kind)
    except pa.ArrowInvalid:
        kind = pa.timestamp("ns", tz="UTC")
    try:
        nanoseconds = _plain(text[name].cast(kind).cast(pa.int64()), np.int64)
    except pa.ArrowInvalid:
        for row, value in enumerate(text[name].to_pylist()):
            try:
                pa.scalar(value).cast(kind)
            except pa.ArrowInvalid:
                _fail(file, row, f"{name}: got {value!r}, expected a time such as '2023-11-16 18:15:46.6805900'")
        raise
    return np.asarray((nanoseconds - nanoseconds[0]) / 1e9)


_Number = TypeVar("_Number", np.float64, np.int64)


def _plain(numbers: Any, kind: type[_Number]) -> NDArray[_Number]:
    """Copy a column of 8-byte numbers, none of them missing, out of its buffer: Arrow's own way loads pandas."""
    held = np.frombuffer(numbers.buffers()[1], dtype=kind)
    return held[numbers.offset : numbers.offset + len(numbers)].copy()


def _read_parquet(file: Path) -> RequestTrace:
    """Read our own Parquet, or any Parquet with its three columns."""
    import pyarrow as pa
    import pyarrow.parquet

    columns = _TABLES["moesim"]
    try:
        table = pyarrow.parquet.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        msg = f"{file}: not a Parquet file, or a truncated one ({error})"
        raise TraceFormatError(msg) from error
    _require_columns(file, columns, table.column_names)
    if not table.num_rows:
        _no_rows(file)
    numbers = {}
    for name in columns.names:
        if not (
            pa.types.is_integer(table.schema.field(name).type) or pa.types.is_floating(table.schema.field(name).type)
        ):
            msg = f"{file}: column {name} holds {table.schema.field(name).type}, expected numbers"
            raise TraceFormatError(msg)
        numbers[name] = table[name].to_numpy().astype(np.float64)
    facts = json.loads((table.schema.metadata or {}).get(b"moesim", b"{}"))
    hashes = None
    if "block_hashes" in table.column_names:
        hashes = tuple(tuple(blocks) for blocks in table["block_hashes"].to_pylist())
    arrival = numbers.pop(columns.arrival)
    trace = _checked(file, columns, arrival, numbers, hashes, facts.get("block_tokens", MOONCAKE_BLOCK))
    return replace(trace, concurrency=facts.get("concurrency"))


def _read_mooncake(file: Path) -> RequestTrace:
    """Read Mooncake's JSON lines: timestamp [ms], input_length, output_length and, optionally, hash_ids."""
    keys = _Columns(arrival="timestamp", input="input_length", output="output_length")
    values: dict[str, list[float]] = {name: [] for name in keys.names}
    hashes: list[tuple[int, ...]] = []
    with file.open(encoding="utf-8", errors="replace") as opened:
        for index, line in enumerate(opened):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                _fail(file, index, f"not JSON ({error.msg} at column {error.colno}): {line[:60]!r}")
            if not isinstance(record, dict):
                _fail(file, index, f"got {line[:60]!r}, expected an object with {', '.join(keys.names)}")
            for name in keys.names:
                value = record.get(name)
                if name not in record:
                    _fail(file, index, f"{name} is missing; {nearest(name, record)}")
                if isinstance(value, bool) or not isinstance(value, int | float):
                    _fail(file, index, f"{name}: got {value!r}, expected a number")
                values[name].append(value)
            blocks = record.get("hash_ids", ())
            if not isinstance(blocks, list | tuple) or not all(type(block) is int for block in blocks):
                _fail(file, index, f"hash_ids: got {str(blocks)[:60]}, expected a list of whole numbers")
            hashes.append(tuple(blocks))
    arrival = np.asarray(values[keys.arrival], np.float64) * 1e-3
    lengths = {name: np.asarray(values[name], np.float64) for name in (keys.input, keys.output)}
    return _checked(file, keys, arrival, lengths, tuple(hashes) if any(hashes) else None, MOONCAKE_BLOCK)


def _read_vllm(file: Path) -> RequestTrace:
    """Read the result file of ``vllm bench serve``."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{file}: not a JSON document, or a truncated one ({error})"
        raise TraceFormatError(msg) from error
    return vllm_trace(document, file)


def _checked(
    file: Path,
    columns: _Columns,
    arrival: NDArray[np.float64],
    lengths: dict[str, NDArray[np.float64]],
    hashes: tuple[tuple[int, ...], ...] | None = None,
    block_tokens: int = MOONCAKE_BLOCK,
) -> RequestTrace:
    """Check every row and make the trace, its time counted from the first request."""
    notes: tuple[str, ...] = ()
    rows = np.arange(len(arrival))
    if columns.zero_output_is_failure:
        failed = lengths[columns.output] == 0
        if failed.any():
            if failed.all():
                msg = f"{file}: every request failed ({columns.output} is 0 in all {len(failed)} rows)"
                raise TraceFormatError(msg)
            rows = rows[~failed]
            arrival = arrival[rows]
            lengths = {name: column[rows] for name, column in lengths.items()}
            notes = (f"{file.name}: left out {int(failed.sum())} failed requests ({columns.output} is 0)",)
    fault = first_fault(arrival, lengths, columns.arrival)
    if fault:
        _fail(file, int(rows[fault[0]]), fault[1])
    return RequestTrace(
        arrival=arrival - (0.0 if columns is _TABLES["moesim"] else arrival[0]),
        input_tokens=lengths[columns.input].astype(np.int64),
        output_tokens=lengths[columns.output].astype(np.int64),
        block_hashes=hashes,
        block_tokens=block_tokens,
        source=str(file),
        notes=notes,
    )


def _require_columns(file: Path, columns: _Columns, found: list[str]) -> None:
    for name in columns.names:
        if name not in found:
            msg = f"{file}: column {name!r} is missing; {nearest(name, found).replace('allowed', 'found')}"
            raise TraceFormatError(msg)


def _fail(file: Path, index: int, what: str) -> NoReturn:
    msg = f"{file}: row {index + 1}: {what}"
    raise TraceFormatError(msg)


def _no_rows(file: Path) -> NoReturn:
    msg = f"{file}: the file has a header and no rows"
    raise TraceFormatError(msg)


def _read_moesim(file: Path) -> RequestTrace:
    return _read_parquet(file) if file.suffix == ".parquet" else _read_csv(file, "moesim")


_READERS: dict[str, Callable[[Path], RequestTrace]] = {
    "azure": partial(_read_csv, format_name="azure"),
    "burstgpt": partial(_read_csv, format_name="burstgpt"),
    "mooncake": _read_mooncake,
    "moesim": _read_moesim,
    "vllm": _read_vllm,
}
