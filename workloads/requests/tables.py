"""Request traces as tables, CSV or Parquet: Azure's, BurstGPT's, Vidur's and ours."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.edge import reason, shown
from workloads.parquet import read_parquet, require_columns
from workloads.requests.rows import (
    decided_blocks,
    fail,
    fail_row,
    require_few,
    seconds_since_first,
    trace_of,
    whole_number,
)
from workloads.requests.trace import LONGEST, MOST_REQUESTS, RequestTrace, fault_of_joins, fault_of_turns
from workloads.requests.units import UnitError, time_unit

#: Largest CSV file that is read [bytes], and longest line that names columns.
_MOST_CSV, _MOST_HEADER = 2**29, 2**16
#: Columns of ours that say which request each follows, counted from 0, and how long after its answer it comes.
_TURNS = ("after", "delay_s")
#: Columns of ours that hold lists: hash blocks, and further rows whose answers a request waits for.
_LISTS = ("block_hashes", "also")
#: Columns by which tables of others tell conversations, in small letters.
_SESSIONS = ("session_id", "conversation_id", "delay", "turn_id")
#: A trace of ours that begins later than it lasts, and than this, counts from its first request [s].
_LATE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Columns of a tabular format, and how its times are written.

    ``sure`` says that the name of the column says the unit; ``whose`` whose traces they are.
    """

    arrival: str
    input: str
    output: str
    times: Literal["seconds", "dates"] = "seconds"
    sure: bool = False
    zero_output_is_failure: bool = False
    whose: str

    @property
    def names(self) -> tuple[str, str, str]:
        """The three of them."""
        return self.arrival, self.input, self.output


TABLES: Mapping[str, Columns] = {
    "azure": Columns(
        arrival="TIMESTAMP", input="ContextTokens", output="GeneratedTokens", times="dates", whose="Azure's traces"
    ),
    # "some failure that Response tokens are 0s": BurstGPT README, github.com/HPMLL/BurstGPT.
    "burstgpt": Columns(
        arrival="Timestamp",
        input="Request tokens",
        output="Response tokens",
        zero_output_is_failure=True,
        whose="BurstGPT's traces",
    ),
    "vidur": Columns(
        arrival="arrived_at", input="num_prefill_tokens", output="num_decode_tokens", whose="Vidur's traces"
    ),
    "moesim": Columns(arrival="arrival_s", input="input_tokens", output="output_tokens", sure=True, whose="moesim"),
}


def table_format(file: Path) -> str:
    """Tell the format of a CSV from its header."""
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        line = opened.readline(_MOST_HEADER)
    if len(line) == _MOST_HEADER:
        fail(file, f"the first line is longer than {_MOST_HEADER:,} characters; expected names of columns")
    header = [name.strip().strip('"') for name in line.split(",")]
    shared = {name: len(set(table.names) & set(header)) for name, table in TABLES.items()}
    best = max(shared, key=lambda name: shared[name])
    if not shared[best]:
        known = "; ".join(f"{name}: {','.join(table.names)}" for name, table in TABLES.items())
        fail(file, f"the header {shown(','.join(header))} is of no known format ({known})")
    return best


def read_csv(file: Path, format_name: str, *, unit: str | None = None) -> RequestTrace:
    """Read a CSV whose three columns are found by name.

    Parameters
    ----------
    file : Path
        The file.
    format_name : str
        Key of :data:`TABLES`.
    unit : {"s", "ms", "us", "ns"}, optional
        Unit of its times, told by the file or its data where absent.
    """
    import pyarrow as pa
    import pyarrow.csv as csv

    columns = TABLES[format_name]
    if file.stat().st_size > _MOST_CSV:
        fail(file, f"has {file.stat().st_size / 2**20:,.0f} MiB, expected at most {_MOST_CSV / 2**20:,.0f} MiB")
    _require_text(file)
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
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys((*columns.names, *_TURNS), pa.string())),
        )
    except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
        fail(file, f"not a CSV file ({reason(error)})")
    require_columns(file, columns.names, table.column_names)
    if broken:
        row = broken[0]
        given = f"got {row.actual_columns} columns, expected {row.expected_columns} ({shown(row.text)})"
        fail_row(file, row.number - 1, given)
    if not table.num_rows:
        fail(file, "the file has a header and no rows")
    turns = [name for name in _TURNS if columns.sure and name in table.column_names]
    text = {name: table[name].combine_chunks() for name in (*columns.names, *turns)}
    for name in text:
        if text[name].null_count:
            fail_row(file, int(np.argmax(text[name].is_null().to_numpy(zero_copy_only=False))) + 1, f"{name}: no value")
    notes: list[str] = []
    if columns.times == "dates":
        if unit is not None:
            fail(file, f"{columns.arrival} holds dates; requests.time_unit has no use here")
        arrival = _dates(file, columns.arrival, text)
    else:
        arrival, notes = _seconds(file, columns, _numbers(file, columns.arrival, text), unit)
    unread = [name for name in table.column_names if name.strip().lower().replace(" ", "_") in _SESSIONS]
    if unread and not turns:
        notes = [*notes, f"column {unread[0]} is not read: requests come at their times, whatever they follow"]
    lengths = {name: _numbers(file, name, text) for name in (columns.input, columns.output)}
    trace = _checked(file, columns, arrival, lengths, notes)
    return _following(file, trace, {name: _numbers(file, name, text) for name in turns})


def _require_text(file: Path) -> None:
    """Refuse what is no UTF-8: Arrow reports it from where nobody can catch it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with file.open("rb") as opened:
        try:
            while chunk := opened.read(2**20):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            fail(file, f"not a CSV file in UTF-8 ({reason(error)})")


def read_parquet_trace(file: Path, *, unit: str | None = None, block_tokens: int | None = None) -> RequestTrace:
    """Read our own Parquet, or any Parquet with its three columns.

    Parameters
    ----------
    file : Path
        The file.
    unit : {"s", "ms", "us", "ns"}, optional
        Unit of its times, which its column says.
    block_tokens : int, optional
        Tokens of a hash block, told by the file or its data where absent [tokens].
    """
    import pyarrow as pa

    columns = TABLES["moesim"]
    table, facts = read_parquet(file, columns.names, (*_LISTS, *_TURNS))
    require_few(file, table.num_rows)
    numbers = {}
    for name in table.column_names:
        kind = table.schema.field(name).type
        if name not in _LISTS and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            fail(file, f"column {name} holds {kind}, expected numbers")
        if name not in _LISTS:
            numbers[name] = table[name].to_numpy().astype(np.float64)
    hashes, others = (_lists(file, table[name], name) if name in table.column_names else None for name in _LISTS)
    stated = facts.get("block_tokens")
    if stated is not None:
        stated = whole_number(file, "metadata 'moesim': block_tokens", stated, LONGEST)
    lengths = {name: numbers[name] for name in (columns.input, columns.output)}
    notes, size = [], stated or 512
    if hashes is not None:
        rows = range(1, table.num_rows + 1)
        block = decided_blocks(file, lengths[columns.input], hashes, stated, block_tokens, rows)
        if block is not None and block.value != stated:
            size, notes = int(block.value), [block.why]
    arrival, more = _seconds(file, columns, numbers[columns.arrival], unit)
    trace = _checked(file, columns, arrival, lengths, [*more, *notes])
    concurrency = facts.get("concurrency")
    if concurrency is not None:
        concurrency = whole_number(file, "metadata 'moesim': concurrency", concurrency, MOST_REQUESTS)
    trace = replace(trace, block_hashes=hashes, block_tokens=size, concurrency=concurrency)
    trace = _following(file, trace, numbers)
    also = {row: each for row, each in enumerate(others or ()) if each}
    fault = fault_of_joins(trace.after, also)
    if fault:
        fail_row(file, fault[0] + 1, fault[1])
    return replace(trace, also=also or None)


def _following(file: Path, trace: RequestTrace, numbers: Mapping[str, NDArray[np.float64]]) -> RequestTrace:
    """Add which answer each request follows, checked; as it was where no column says it."""
    after, delay = (numbers.get(name) for name in _TURNS)
    fault = fault_of_turns(after, delay)
    if fault:
        fail_row(file, fault[0] + 1, fault[1])
    if after is None:
        return trace
    return replace(trace, after=after.astype(np.int64), delay=np.zeros(len(trace)) if delay is None else delay)


def _lists(file: Path, column: Any, name: str) -> tuple[tuple[int, ...], ...]:
    import pyarrow as pa

    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not pa.types.is_integer(kind.value_type):
        fail(file, f"column {name} holds {kind}, expected lists of whole numbers")
    found = []
    for row, blocks in enumerate(column.to_pylist()):
        if blocks is not None and None in blocks:
            fail_row(file, row + 1, f"{name}: no value")
        found.append(tuple(blocks or ()))
    return tuple(found)


def _seconds(
    file: Path, columns: Columns, times: NDArray[np.float64], stated: str | None
) -> tuple[NDArray[np.float64], list[str]]:
    """Turn times into seconds, and say what that rests on.

    Those of ours stay as they are, so that a saved trace comes back unchanged, unless they begin so late that the
    wait for the first request would be most of a run.
    """
    bad = ~np.isfinite(times)
    if bad.any():
        fail_row(file, int(bad.argmax()) + 1, f"{columns.arrival}: got {times[bad][0]:g}, expected a time")
    rows = range(1, len(times) + 1)
    if not columns.sure:
        try:
            unit = time_unit(times.tolist(), "s", columns.whose, stated=stated)
        except UnitError as error:
            fail(file, str(error))
        return seconds_since_first(file, columns.arrival, times.tolist(), unit.value, rows), [unit.why]
    if stated is not None and stated != "s":
        fail(file, f"{columns.arrival} is in s by its name, but requests.time_unit is {stated!r}")
    first, span = float(times[0]), float(times[-1]) - float(times[0])
    if not first > max(span, _LATE):
        return times, []
    note = f"the first request arrives at {first:g} s, later than the trace lasts; time counts from it"
    return seconds_since_first(file, columns.arrival, times.tolist(), "s", rows), [note]


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
                fail_row(file, row + 1, f"{name}: got {shown(value)}, expected a number")
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
                expected = "expected a time such as '2023-11-16 18:15:46.6805900'"
                fail_row(file, row + 1, f"{name}: got {shown(value)}, {expected}")
        raise
    return np.asarray((nanoseconds - nanoseconds[0]) / 1e9)


_Number = TypeVar("_Number", np.float64, np.int64)


def _plain(numbers: Any, kind: type[_Number]) -> NDArray[_Number]:
    """Copy a column of 8-byte numbers, none of them missing, out of its buffer: Arrow's own way loads pandas."""
    held = np.frombuffer(numbers.buffers()[1], dtype=kind)
    return held[numbers.offset : numbers.offset + len(numbers)].copy()


def _checked(
    file: Path,
    columns: Columns,
    arrival: NDArray[np.float64],
    lengths: dict[str, NDArray[np.float64]],
    notes: list[str],
) -> RequestTrace:
    """Check every row and make the trace, requests that failed left out."""
    rows = np.arange(1, len(arrival) + 1)
    if columns.zero_output_is_failure:
        failed = lengths[columns.output] == 0
        if failed.all():
            fail(file, f"every request failed ({columns.output} is 0 in all {len(failed)} rows)")
        if failed.any():
            rows, arrival = rows[~failed], arrival[~failed] - arrival[~failed][0]
            lengths = {name: column[~failed] for name, column in lengths.items()}
            notes = [*notes, f"left out {int(failed.sum())} failed requests ({columns.output} is 0)"]
    return trace_of(file, arrival, lengths, arrival_name=columns.arrival, rows=rows.tolist(), notes=notes)
