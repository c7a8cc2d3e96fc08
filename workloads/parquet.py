"""Parquet files, their footer looked at before anything is allocated."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hardware_profiles.edge import nearest_found, parse_json, reason, shown, shown_path
from workloads.errors import TraceFormatError

#: Most rows, and most single values of a column, that are read [1].
MOST_ROWS, MOST_VALUES = 2**25, 2**28


def read_parquet(file: Path, needed: Collection[str], optional: Collection[str] = ()) -> tuple[Any, Mapping[str, Any]]:
    """Read columns of a Parquet file.

    Parameters
    ----------
    file : Path
        The file.
    needed, optional : collection of str
        Columns that it must and may have; others are not read.

    Returns
    -------
    (pyarrow.Table, Mapping)
        The columns, and what stands under ``moesim`` in the file's metadata.

    Raises
    ------
    TraceFormatError
        It is no Parquet file, a column is missing or there twice, it has no rows or too many.
    """
    import pyarrow as pa
    import pyarrow.parquet

    faults = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError, LookupError, TypeError)
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            require_columns(file, needed, names)
            chosen = [name for name in names if name in {*needed, *optional}]
            rows, values = opened.metadata.num_rows, _most_values(opened.metadata, chosen)
            if not rows:
                _fail(file, "the file has no rows")
            if rows > MOST_ROWS or values > MOST_VALUES:
                _fail(file, f"has {rows:,} rows, {values:,} values in a column; expected {MOST_ROWS:,} at most")
            table = opened.read(columns=chosen, use_threads=False)
            return table, _facts(file, opened.schema_arrow.metadata or {})
    except faults as error:
        _fail(file, f"not a Parquet file that can be read, or a truncated one ({reason(error)})")


def require_columns(file: Path, needed: Collection[str], found: Collection[str], what: str = "column") -> None:
    """Refuse a table that lacks a column, or has one twice.

    Parameters
    ----------
    file : Path
        The table.
    needed, found : collection of str
        Names of columns that it must have, and that it has.
    what : str
        What the file calls a column.
    """
    for name in needed:
        times = list(found).count(name)
        if times > 1:
            _fail(file, f"{what} {name!r} is there {times} times")
        if not times:
            _fail(file, f"{what} {name!r} is missing; {nearest_found(name, found)}")


def _most_values(metadata: Any, chosen: Collection[str]) -> int:
    """Count the values of the longest column, lists counted by their elements."""
    totals: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        part = metadata.row_group(group)
        for index in range(part.num_columns):
            column = part.column(index)
            if column.path_in_schema.partition(".")[0] in chosen:
                totals[column.path_in_schema] = totals.get(column.path_in_schema, 0) + column.num_values
    return max(totals.values(), default=0)


def _facts(file: Path, metadata: Mapping[bytes, bytes]) -> Mapping[str, Any]:
    where = f"{shown_path(file)}: metadata 'moesim'"
    try:
        text = metadata.get(b"moesim", b"{}").decode()
    except UnicodeDecodeError:
        raise TraceFormatError(f"{where}: is no text in UTF-8") from None
    found = parse_json(text, where, TraceFormatError)
    if not isinstance(found, dict):
        raise TraceFormatError(f"{where}: got {shown(found)}, expected a JSON object such as {json.dumps({'key': 1})}")
    return found


def _fail(file: Path, what: str) -> NoReturn:
    raise TraceFormatError(f"{shown_path(file)}: {what}")
