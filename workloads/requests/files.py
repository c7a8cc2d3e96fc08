"""Reading and writing request traces: which format a file has, and where its reader is.

Rows are counted from 1, after the header. docs/formats/request-traces.md describes each format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from hardware_profiles.edge import parse_json, shown, shown_path, understanding
from hardware_profiles.errors import nearest
from hardware_profiles.outputs import replacing
from workloads.errors import TraceFormatError, WorkloadError
from workloads.requests.lines import DIALECTS, dialect_of, read_lines
from workloads.requests.results import TOOLS, documents, result_trace, tool_of
from workloads.requests.rows import fail
from workloads.requests.tables import TABLES, read_csv, read_parquet_trace, table_format
from workloads.requests.trace import LONGEST, RequestTrace, check_requests
from workloads.requests.units import UNITS
from workloads.trace_paths import existing_file

#: Longest first line that is looked at to tell a format [characters].
_MOST_FIRST = 2**22


def read_request_trace(
    path: str | Path,
    format: str | None = None,  # noqa: A002
    *,
    time_unit: str | None = None,
    block_tokens: int | None = None,
    turn_prompts: str | None = None,
    concurrency: int | None = None,
) -> RequestTrace:
    """Read a request trace, or the requests behind the result of a benchmark.

    Parameters
    ----------
    path : str or Path
        The file.
    format : str, optional
        The format, one of :data:`FORMATS`. By default it follows from the keys of the first line or of the header.
    time_unit : {"s", "ms", "us", "ns"}, optional
        Unit of its times; told by the file and its data where absent.
    block_tokens : int, optional
        Tokens of its hash blocks; told by the file and its data where absent [tokens].
    turn_prompts : {"whole", "new"}, optional
        Whether the prompt length of a later turn counts all that was said before, or what is new; told by the data
        where absent.
    concurrency : int, optional
        Sessions in flight at once, each of one request or more, where a trace has no times.

    Returns
    -------
    RequestTrace
        Arrival times count from the first request, but are kept as they are in our own format, so that a saved trace
        comes back unchanged. ``notes`` says what had to be decided or was left out.

    Raises
    ------
    TraceFormatError
        The file is empty, truncated, unsorted, malformed or contradicts itself; the message names the row and the
        column.
    """
    if format is not None and format not in FORMATS:
        msg = f"request trace: unknown format {shown(format)}; {nearest(format[:60], FORMATS)}"
        raise WorkloadError(msg)
    if time_unit is not None and time_unit not in UNITS:
        raise WorkloadError(f"requests.time_unit: got {shown(time_unit)}, expected one of {', '.join(UNITS)}")
    if turn_prompts not in (None, "whole", "new"):
        raise WorkloadError(f"requests.turn_prompts: got {shown(turn_prompts)}, expected whole or new")
    if block_tokens is not None and not 1 <= block_tokens <= LONGEST:
        raise WorkloadError(f"requests.block_tokens: got {shown(block_tokens)}, expected a whole number of at least 1")
    trace = _read(existing_file(path), format, time_unit, block_tokens, turn_prompts, concurrency)
    if concurrency is None or trace.concurrency == concurrency:
        return trace
    own = "its requests are sent one as another ends" if trace.concurrency else "the trace says when requests come"
    return replace(trace, notes=(*trace.notes, f"requests.concurrency = {concurrency} has no effect: {own}"))


def _read(
    file: Path,
    format_name: str | None,
    time_unit: str | None,
    block_tokens: int | None,
    turn_prompts: str | None,
    concurrency: int | None,
) -> RequestTrace:
    with understanding(shown_path(file), TraceFormatError):
        chosen = format_name or _detect(file)
        if file.suffix == ".parquet" and chosen == "moesim":
            return read_parquet_trace(file, unit=time_unit, block_tokens=block_tokens)
        if chosen in TABLES and not _is_json(file):
            return read_csv(file, chosen, unit=time_unit)
        if chosen in DIALECTS:
            return read_lines(
                file,
                chosen,
                unit=time_unit,
                block_tokens=block_tokens,
                turn_prompts=turn_prompts,
                concurrency=concurrency,
            )
        if time_unit is not None:
            fail(file, f"is a result of {TOOLS[chosen]}, which says its units; requests.time_unit has no use here")
        return result_trace(file, chosen)


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
    if suffix == ".csv" and (lost := _lost_in_csv(trace)):
        msg = f"{path}: CSV cannot hold {lost}; save as .parquet"
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
    if trace.after is not None:
        columns |= {"after": trace.after, "delay_s": np.zeros(len(trace)) if trace.delay is None else trace.delay}
    if trace.also is not None:
        columns["also"] = pa.array([trace.also.get(row, ()) for row in range(len(trace))], pa.list_(pa.int64()))
    if trace.block_hashes is not None:
        columns["block_hashes"] = pa.array(trace.block_hashes, pa.list_(pa.int64()))
    if trace.concurrency is not None:
        facts["concurrency"] = trace.concurrency
    table = pa.table(columns).replace_schema_metadata({"moesim": json.dumps(facts)})
    with replacing(path, WorkloadError, parents=False) as temporary:
        if suffix == ".csv":
            pyarrow.csv.write_csv(table, temporary)
        else:
            pyarrow.parquet.write_table(table, temporary)


def _lost_in_csv(trace: RequestTrace) -> str:
    if trace.concurrency is not None:
        return "a closed loop's concurrency"
    if trace.also is not None:
        return "which further answers a request waits for"
    return "block hashes" if trace.block_hashes is not None else ""


#: Formats by name: traces as tables, traces in JSON lines, and results of benchmarks.
FORMATS = tuple(sorted({*TABLES, *DIALECTS, *TOOLS}))


def _is_json(file: Path) -> bool:
    return file.suffix in (".json", ".jsonl", ".ndjson")


def _detect(file: Path) -> str:
    """Tell the format from the first line: of a CSV by its header, of JSON by the keys of the first object."""
    if file.suffix == ".parquet":
        return "moesim"
    if file.suffix == ".csv":
        return table_format(file)
    if not _is_json(file):
        known = "expected .csv, .jsonl, .json or .parquet, or name the format"
        msg = f"{shown_path(file)}: cannot tell the format from the extension {shown(file.suffix)}; {known}: "
        raise WorkloadError(msg + ", ".join(FORMATS))
    first = _first_object(file)
    if not isinstance(first, dict):
        kind = type(first).__name__
        fail(file, f"got a JSON {kind}, expected objects of a trace, or the result of a benchmark")
    trace = dialect_of(first)
    if trace is not None and not _first_line(file).lstrip().startswith("{"):
        fail(file, f"is a JSON list; a trace ({trace}) is JSON lines, an object a line, as 'jq -c .[]' writes them")
    return trace or tool_of(first) or _fail_unknown(file, first)


def _fail_unknown(file: Path, first: Mapping[str, Any]) -> NoReturn:
    keys = shown(", ".join(map(str, list(first)[:8])))
    traces = "; ".join(f"{name}: {each.arrival}, {each.input}, {each.output}" for name, each in DIALECTS.items())
    if "experiments" in first:
        fail(file, "is the raw export of genai-perf, without counts of tokens; use profile_export_genai_perf.json")
    fail(file, f"its keys {keys} are of no known format ({traces}; or a result of {', '.join(TOOLS.values())})")


def _first_line(file: Path) -> str:
    """Read the first line that is not blank, or its beginning."""
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        while (line := opened.readline(_MOST_FIRST)) and line.isspace():
            pass
    return line


def _first_object(file: Path) -> Any:
    """Read the first line of JSON lines, else the whole document."""
    line = _first_line(file)
    if line.endswith(("}", "}\n")) and len(line) < _MOST_FIRST:
        return parse_json(line, f"{shown_path(file)}: row 1", TraceFormatError)
    found = documents(file)
    return found[0] if len(found) == 1 or (found and isinstance(found[0], dict)) else found
