"""Rows of a request trace, checked one by one and made a trace: what readers of all formats end with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.edge import shown, shown_path
from workloads.errors import TraceFormatError
from workloads.requests.trace import LATEST, MOST_REQUESTS, RequestTrace, first_fault
from workloads.requests.units import UNITS, Decided, UnitError, block_size


def fail(file: Path, what: str) -> NoReturn:
    """Raise an error of a trace file."""
    raise TraceFormatError(f"{shown_path(file)}: {what}")


def fail_row(file: Path, row: int, what: str) -> NoReturn:
    """Raise an error of a row, counted from 1."""
    fail(file, f"row {row}: {what}")


def require_few(file: Path, requests: int) -> None:
    """Refuse more requests than anybody plays."""
    if requests > MOST_REQUESTS:
        fail(file, f"has {requests:,} requests, expected at most {MOST_REQUESTS:,}")


def whole_number(file: Path, key: str, value: object, most: int) -> int:
    """Read a whole number that a file states about itself.

    Parameters
    ----------
    file : Path
        The file.
    key : str
        Where it stands there.
    value : object
        What stands there.
    most : int
        Largest that it may be; the smallest is 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        fail(file, f"{key}: got {shown(value)}, expected a whole number from 1 to {most:,}")
    return value


def seconds_since_first(
    file: Path, name: str, times: Sequence[float], unit: str, rows: Sequence[int]
) -> NDArray[np.float64]:
    """Turn times of a file into seconds since the first of them.

    Parameters
    ----------
    file : Path
        Where they stand, for messages.
    name : str
        Their column.
    times : sequence of number
        Times in ``unit``; whole numbers are taken apart exactly, however long ago their zero is.
    unit : {"s", "ms", "us", "ns"}
        Their unit.
    rows : sequence of int
        The row of each, from 1.
    """
    for at, time in enumerate(times):
        if not math.isfinite(time) or not 0 <= time * UNITS[unit] <= LATEST:
            fail_row(file, rows[at], f"{name}: got {shown(time)} {unit}, expected a time from 0 to {LATEST:g} s")
    first = times[0]
    return np.array([time - first for time in times], np.float64) * UNITS[unit]


def decided_blocks(
    file: Path,
    lengths: NDArray[np.float64],
    hashes: Sequence[Sequence[int]],
    documented: int | None,
    stated: int | None,
    rows: Sequence[int],
) -> Decided | None:
    """Decide the tokens of a hash block; what contradicts names its row.

    Parameters
    ----------
    file : Path
        Where the prompts stand.
    lengths : float64 array, shape (requests,)
        Prompt lengths [tokens].
    hashes : sequence of sequence of int
        Hash blocks of each.
    documented, stated : int or None
        Tokens of a block by the format's document, and by the user [tokens].
    rows : sequence of int
        The row of each prompt, from 1.
    """
    try:
        return block_size(lengths.tolist(), [len(blocks) for blocks in hashes], documented, stated=stated)
    except UnitError as error:
        if error.row >= 0:
            fail_row(file, rows[error.row], f"hash blocks: {error}")
        fail(file, str(error))


def trace_of(
    file: Path,
    arrival: NDArray[np.float64],
    lengths: Mapping[str, NDArray[np.float64]],
    *,
    arrival_name: str,
    rows: Sequence[int] | None = None,
    block_hashes: tuple[tuple[int, ...], ...] | None = None,
    block_tokens: int = 512,
    notes: Sequence[str] = (),
) -> RequestTrace:
    """Check every row and make the trace.

    Parameters
    ----------
    file : Path
        Where the rows stand.
    arrival : float64 array, shape (requests,)
        Arrival times [s].
    lengths : Mapping of str to float64 array, shape (requests,)
        Prompt and answer lengths [tokens], in this order, by the name of their column.
    arrival_name : str
        Name of the arrival column, for messages.
    rows : sequence of int, optional
        The row of each request, from 1; one after the other where absent.
    block_hashes : tuple of tuple of int, optional
        Hash blocks of each prompt.
    block_tokens : int
        Tokens of one [tokens].
    notes : sequence of str
        What reading had to assume.
    """
    require_few(file, len(arrival))
    fault = first_fault(arrival, dict(lengths), arrival_name)
    if fault:
        fail_row(file, rows[fault[0]] if rows is not None else fault[0] + 1, fault[1])
    prompts, answers = lengths.values()
    return RequestTrace(
        arrival=arrival,
        input_tokens=prompts.astype(np.int64),
        output_tokens=answers.astype(np.int64),
        block_hashes=block_hashes,
        block_tokens=block_tokens,
        source=str(file),
        notes=tuple(f"{file.name}: {note}" for note in notes if note),
    )
