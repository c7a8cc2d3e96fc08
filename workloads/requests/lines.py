"""Request traces in JSON lines: Mooncake's, Qwen-Bailian's, LLMServingSim's and ours; turns may follow answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.edge import json_lines, nearest_found, shown
from workloads.errors import TraceFormatError
from workloads.requests.rows import decided_blocks, fail, fail_row, require_few, seconds_since_first, trace_of
from workloads.requests.trace import RequestTrace
from workloads.requests.units import UNITS, UnitError, time_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a format writes a request in a line.

    Attributes
    ----------
    arrival, input, output : str
        Keys of the arrival time and of prompt and answer length.
    unit : {"s", "ms", "us", "ns"}
        Unit of times by the format's own document.
    sure : bool
        Whether the key itself says the unit.
    block : int or None
        Tokens of a hash block by the format's own document [tokens].
    whose : str
        Whose traces they are.
    """

    arrival: str
    input: str
    output: str
    unit: str
    sure: bool = False
    block: int | None = None
    whose: str


#: By name. Mooncake: README of kvcache-ai/Mooncake. Bailian: README of alibaba-edu/qwen-bailian-usagetraces-anon.
DIALECTS: Mapping[str, Dialect] = {
    "mooncake": Dialect(
        arrival="timestamp",
        input="input_length",
        output="output_length",
        unit="ms",
        block=512,
        whose="Mooncake's traces",
    ),
    "bailian": Dialect(
        arrival="timestamp",
        input="input_length",
        output="output_length",
        unit="s",
        block=16,
        whose="Qwen-Bailian's traces",
    ),
    "llmservingsim": Dialect(
        arrival="arrival_time_ns", input="input_toks", output="output_toks", unit="ns", sure=True, whose="LLMServingSim"
    ),
    "moesim": Dialect(
        arrival="arrival_s", input="input_tokens", output="output_tokens", unit="s", sure=True, whose="moesim"
    ),
}


def dialect_of(record: Mapping[str, Any]) -> str | None:
    """Tell the dialect of a trace from one of its lines; ``None`` if it is none."""
    keys = record.keys()
    if {"chat_id", "parent_chat_id"} <= keys:
        return "bailian"
    if keys & {"input_toks", "arrival_time_ns", "sub_requests"}:
        return "llmservingsim"
    if keys & {"input_length", "output_length", "hash_ids"}:
        return "mooncake"
    return "moesim" if keys & {"arrival_s", "input_tokens"} else None


@dataclass(slots=True, kw_only=True)
class _Request:
    """One request as it stands in the file; ``after`` is the index of the one that it follows, -1 for none."""

    row: int
    time: float | None
    tokens: tuple[float, float]
    blocks: tuple[int, ...]
    after: int = -1
    delay: float = 0.0


def read_lines(file: Path, dialect: str, *, unit: str | None = None, block_tokens: int | None = None) -> RequestTrace:
    """Read a trace in JSON lines.

    Parameters
    ----------
    file : Path
        The file.
    dialect : str
        Key of :data:`DIALECTS`.
    unit : {"s", "ms", "us", "ns"}, optional
        Unit of its times, told by the file or its data where absent.
    block_tokens : int, optional
        Tokens of a hash block, told by the data where absent [tokens].

    Raises
    ------
    TraceFormatError
        A line is malformed or contradicts others, or the data do not tell a unit; the message names the row.
    """
    own = DIALECTS[dialect]
    requests = list(_requests(file, own))
    if not requests:
        fail(file, "the file has no rows")
    require_few(file, len(requests))
    rows = [request.row for request in requests]
    lengths = {
        own.input: np.array([request.tokens[0] for request in requests], np.float64),
        own.output: np.array([request.tokens[1] for request in requests], np.float64),
    }
    hashes = tuple(request.blocks for request in requests)
    block = decided_blocks(file, lengths[own.input], hashes, own.block, block_tokens, rows)
    notes = [] if block is None else [block.why]
    chosen, why = _unit(file, own, requests, unit, doubtful=block is not None and block.value != own.block)
    arrival, order = _arrivals(file, own, requests, chosen)
    chained = any(request.after >= 0 for request in requests)
    trace = trace_of(
        file,
        arrival,
        {name: column[order] for name, column in lengths.items()},
        arrival_name=own.arrival,
        rows=[rows[at] for at in order],
        block_hashes=None if block is None else tuple(hashes[at] for at in order),
        block_tokens=512 if block is None else int(block.value),
        notes=[why, *notes],
    )
    if not chained:
        return trace
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    after = np.array([requests[at].after for at in order], np.int64)
    return replace(
        trace,
        after=np.where(after < 0, -1, place[after]),
        delay=np.array([requests[at].delay * UNITS[chosen] for at in order], np.float64),
    )


def _requests(file: Path, own: Dialect) -> Iterator[_Request]:
    """Read the lines; a turn without a time of its own follows the last one of its session."""
    last: dict[Any, int] = {}
    index = 0
    for row, record in json_lines(file, TraceFormatError):
        if not isinstance(record, dict):
            fail_row(
                file, row, f"got {shown(record)}, expected an object with {own.arrival}, {own.input}, {own.output}"
            )
        session = record.get("session_id")
        if isinstance(session, dict | list):
            fail_row(file, row, f"session_id: got {shown(session)}, expected text or a number")
        turns = record.get("sub_requests")
        if turns is not None and (not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns)):
            fail_row(file, row, f"sub_requests: got {shown(turns)}, expected a list of objects")
        for turn, part in enumerate([record] if turns is None else turns):
            follows = last.get(session, -1) if session is not None else -1
            if turns is not None:
                # LLMServingSim: one line is a whole conversation, whose turns wait for a tool between them.
                follows = index - 1 if turn else -1
            timed = own.arrival in record and (turns is None or turn == 0)
            if not timed and follows < 0:
                _missing(file, row, own.arrival, record)
            yield _Request(
                row=row,
                time=_number(file, row, own.arrival, record) if timed else None,
                tokens=(_number(file, row, own.input, part), _number(file, row, own.output, part)),
                blocks=_blocks(file, row, part),
                after=-1 if timed else follows,
                delay=0.0 if timed else _delay(file, row, part),
            )
            last[session] = index
            index += 1


def _number(file: Path, row: int, key: str, record: Mapping[str, Any]) -> float:
    if key not in record:
        _missing(file, row, key, record)
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        fail_row(file, row, f"{key}: got {shown(value)}, expected a number")
    return value


def _missing(file: Path, row: int, key: str, record: Mapping[str, Any]) -> None:
    texts = [name for name in ("text_input", "messages", "payload", "input_tok_ids") if name in record]
    if texts and key.startswith("input"):
        fail_row(file, row, f"{key} is missing; the row holds {texts[0]}, but its number of tokens is needed")
    fail_row(file, row, f"{key} is missing; {nearest_found(key, record)}")


def _blocks(file: Path, row: int, record: Mapping[str, Any]) -> tuple[int, ...]:
    blocks = record.get("hash_ids") or ()
    if not isinstance(blocks, list | tuple) or not all(type(block) is int for block in blocks):
        fail_row(file, row, f"hash_ids: got {shown(blocks)}, expected a list of whole numbers")
    return tuple(blocks)


def _delay(file: Path, row: int, record: Mapping[str, Any]) -> float:
    key = "tool_duration_ns" if "tool_duration_ns" in record else "delay"
    if record.get(key) is None:
        return 0.0
    value = _number(file, row, key, record)
    if not 0 <= value < 1e18:
        fail_row(file, row, f"{key}: got {shown(value)}, expected a time of at least 0")
    return value


def _unit(file: Path, own: Dialect, requests: list[_Request], stated: str | None, *, doubtful: bool) -> tuple[str, str]:
    """Decide the unit of times, and say why; the sentence is empty where the key or the user says it."""
    if own.sure:
        if stated is not None and stated != own.unit:
            fail(file, f"{own.arrival} is in {own.unit} by its name, but requests.time_unit is {stated!r}")
        return own.unit, ""
    times = [request.time for request in requests if request.time is not None]
    for request in requests:
        if request.time is not None and not abs(request.time) < 1e300:
            fail_row(file, request.row, f"{own.arrival}: got {shown(request.time)}, expected a time")
    try:
        found = time_unit(times, own.unit, own.whose, stated=stated, doubtful=doubtful)
    except UnitError as error:
        fail(file, str(error))
    return found.value, found.why


def _arrivals(
    file: Path, own: Dialect, requests: list[_Request], unit: str
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[int]]:
    """Return arrival times [s] in order and the order; a turn comes its delay after the arrival that it follows."""
    timed = [request for request in requests if request.time is not None]
    seconds = seconds_since_first(
        file,
        own.arrival,
        [request.time for request in timed if request.time is not None],
        unit,
        [request.row for request in timed],
    )
    known = iter(seconds.tolist())
    arrival: list[float] = []
    for request in requests:
        after = request.after
        arrival.append(next(known) if after < 0 else arrival[after] + request.delay * UNITS[unit])
    if all(request.after < 0 for request in requests):
        return np.array(arrival, np.float64), list(range(len(requests)))
    order = sorted(range(len(requests)), key=arrival.__getitem__)
    found = np.array([arrival[at] for at in order], np.float64)
    return found - found[0], order
