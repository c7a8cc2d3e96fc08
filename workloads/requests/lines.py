"""Request traces in JSON lines: Mooncake's, Qwen-Bailian's, LLMServingSim's and ours; turns may follow answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.edge import json_lines, nearest_found, shown
from workloads.errors import TraceFormatError
from workloads.requests.links import KEYS, Request, add_history, agent_turns, delay, link, place, whole_prompts
from workloads.requests.rows import decided_blocks, fail, fail_row, require_few, seconds_since_first, trace_of
from workloads.requests.trace import LATEST, RequestTrace, in_closed_loop
from workloads.requests.units import UnitError, time_unit

#: Rounding of times that were written down [1].
_ROUNDING = 1e-6


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
    turn_prompts : {"whole", "new"} or None
        What the prompt length of a later turn counts, where the format's own document says it.
    whose : str
        Whose traces they are.
    """

    arrival: str
    input: str
    output: str
    unit: str
    sure: bool = False
    block: int | None = None
    turn_prompts: str | None = None
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
        turn_prompts="whole",
        whose="Qwen-Bailian's traces",
    ),
    "llmservingsim": Dialect(
        arrival="arrival_time_ns", input="input_toks", output="output_toks", unit="ns", sure=True, whose="LLMServingSim"
    ),
    "agentic": Dialect(
        arrival="timestamp",
        input="input_length",
        output="output_length",
        unit="ms",
        turn_prompts="whole",
        whose="Applied Compute's agents",
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
    if {"input_prompt_length", "assistant_response_length"} <= keys:
        return "agentic"
    if keys & {"input_toks", "arrival_time_ns", "sub_requests"}:
        return "llmservingsim"
    if keys & {"input_length", "output_length", "hash_ids"}:
        return "mooncake"
    if keys & {"arrival_s", "input_tokens"}:
        return "moesim"
    # Of aiperf, with texts in place of their lengths or beside them.
    return "mooncake" if {"session_id", "turns"} <= keys else None


def read_lines(
    file: Path,
    dialect: str,
    *,
    unit: str | None = None,
    block_tokens: int | None = None,
    turn_prompts: str | None = None,
    concurrency: int | None = None,
) -> RequestTrace:
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
    turn_prompts : {"whole", "new"}, optional
        What the prompt length of a later turn counts, told by the data where absent.
    concurrency : int, optional
        Sessions in flight at once, where no line has a time; it is needed there.

    Raises
    ------
    TraceFormatError
        A line is malformed or contradicts others, or the data do not tell a unit; the message names the row.
    """
    own = DIALECTS[dialect]
    requests = list(_requests(file, dialect))
    if not requests:
        fail(file, "the file has no rows")
    require_few(file, len(requests))
    rows = [request.row for request in requests]
    notes = link(file, requests, part=dialect == "bailian")
    timed = _with_times(file, own, requests, needed=concurrency is None)
    prompts = np.array([request.tokens[0] for request in requests], np.float64)
    hashes = [request.blocks for request in requests]
    block = decided_blocks(file, prompts, hashes, own.block, block_tokens, rows)
    chosen, why = _unit(file, own, requests, unit, doubtful=block is not None and block.value != own.block)
    if not timed:
        # There are no times, and delays may say their unit themselves.
        bare = any(request.delay > 0 and request.unit is None for request in requests)
        why = f"delays read as {chosen}, as in {own.whose}" if bare and unit is None else ""
    notes = [why, *([] if block is None else [block.why]), *notes]
    if any(request.depth for request in requests):
        whole, reason = whole_prompts(file, requests, turn_prompts or own.turn_prompts)
        notes.append(reason)
        if not whole:
            add_history(requests, None if block is None else int(block.value))
    arrival, order = _arrivals(file, own, requests, chosen)
    trace = trace_of(
        file,
        arrival,
        {
            own.input: np.array([requests[at].tokens[0] for at in order], np.float64),
            own.output: np.array([requests[at].tokens[1] for at in order], np.float64),
        },
        arrival_name=own.arrival,
        rows=[rows[at] for at in order],
        block_hashes=None if block is None else tuple(requests[at].blocks for at in order),
        block_tokens=512 if block is None else int(block.value),
        notes=notes,
    )
    if not timed and concurrency is not None:
        trace = in_closed_loop(trace, concurrency)
    if not any(request.depth for request in requests):
        return trace
    place_of = np.empty(len(order), np.int64)
    place_of[order] = np.arange(len(order))
    after = np.array([requests[at].after for at in order], np.int64)
    also = {
        int(place_of[at]): tuple(place_of[list(each.also)].tolist()) for at, each in enumerate(requests) if each.also
    }
    return replace(
        trace,
        also=also or None,
        after=np.where(after < 0, -1, place_of[after]),
        delay=np.array([requests[at].delay_in(chosen) for at in order], np.float64),
    )


def _requests(file: Path, dialect: str) -> Iterator[Request]:
    """Read the lines; one that holds several turns gives a request for each."""
    count, own, chats = 0, DIALECTS[dialect], dialect == "bailian"
    for row, record in json_lines(file, TraceFormatError):
        if not isinstance(record, dict):
            fail_row(
                file, row, f"got {shown(record)}, expected an object with {own.arrival}, {own.input}, {own.output}"
            )
        key = next((each for each in ("sub_requests", "turns") if isinstance(record.get(each), list)), "sub_requests")
        turns = agent_turns(file, row, record) if dialect == "agentic" else record.get(key)
        if turns is not None and (not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns)):
            fail_row(file, row, f"{key}: got {shown(turns)}, expected a list of objects")
        time = _number(file, row, own.arrival, record) if record.get(own.arrival) is not None else None
        if turns is None:
            links = {}
            if not KEYS.isdisjoint(record):
                links = {**place(file, row, record, chats=chats), **delay(file, row, record)}
            yield _request(file, row, own, record, time=time, **links)
            count += 1
            continue
        tool = 0.0
        for turn, part in enumerate(turns):
            waits = delay(file, row, part)
            if tool and waits["delay"]:
                fail_row(file, row, f"turn {turn + 1} has a delay, and the one before it a tool_duration_ns")
            if tool:
                waits = {"delay": tool, "unit": "ns"}
            # A conversation in one line is a session of its own, whatever it is called.
            yield _request(
                file,
                row,
                own,
                part,
                time=None if turn else time,
                session=(row,),
                waits="",
                after=count - 1 if turn else -1,
                **waits,
            )
            # LLMServingSim: how long the tool takes that an answer calls.
            tool = _tool(file, row, part)
            count += 1


def _request(file: Path, row: int, own: Dialect, part: Mapping[str, Any], **more: Any) -> Request:
    return Request(
        row=row,
        tokens=(_number(file, row, own.input, part), _number(file, row, own.output, part)),
        blocks=_blocks(file, row, part),
        **more,
    )


def _tool(file: Path, row: int, part: Mapping[str, Any]) -> float:
    if part.get("tool_duration_ns") is None:
        return 0.0
    value = _number(file, row, "tool_duration_ns", part)
    if not 0 <= value < 1e18:
        fail_row(file, row, f"tool_duration_ns: got {shown(value)}, expected a time of at least 0")
    return value


def _with_times(file: Path, own: Dialect, requests: Sequence[Request], *, needed: bool) -> bool:
    """Tell whether requests that follow none have times; all or none of them, and none only where none is needed."""
    bare = next((request for request in requests if request.after < 0 and request.time is None), None)
    if bare is None:
        return True
    if any(request.time is not None for request in requests):
        fail_row(file, bare.row, f"{own.arrival} is missing; the row follows no other")
    if needed:
        every = f"{own.arrival} is missing, as in every row; without times, requests.concurrency has to say how many "
        fail_row(file, bare.row, f"{every}sessions are in flight at once")
    for request in requests:
        if request.after < 0:
            request.time = 0
    return False


def _number(file: Path, row: int, key: str, record: Mapping[str, Any]) -> float:
    if key not in record:
        _missing(file, row, key, record)
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        fail_row(file, row, f"{key}: got {shown(value)}, expected a number")
    return value


def _missing(file: Path, row: int, key: str, record: Mapping[str, Any]) -> None:
    texts = [name for name in ("text_input", "text", "texts", "messages", "payload", "input_tok_ids") if name in record]
    if texts and key.startswith("input"):
        fail_row(file, row, f"{key} is missing; the row holds {texts[0]}, but its number of tokens is needed")
    fail_row(file, row, f"{key} is missing; {nearest_found(key, record)}")


def _blocks(file: Path, row: int, record: Mapping[str, Any]) -> tuple[int, ...]:
    blocks = record.get("hash_ids") or ()
    if not isinstance(blocks, list | tuple) or not all(type(block) is int for block in blocks):
        fail_row(file, row, f"hash_ids: got {shown(blocks)}, expected a list of whole numbers")
    return tuple(blocks)


def _unit(
    file: Path, own: Dialect, requests: Sequence[Request], stated: str | None, *, doubtful: bool
) -> tuple[str, str]:
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
    file: Path, own: Dialect, requests: Sequence[Request], unit: str
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[int]]:
    """Return the earliest that each request can come [s], in order, and the order.

    A turn without a time of its own counts as early as the request that it follows.
    """
    timed = [at for at, request in enumerate(requests) if request.time is not None]
    seconds = seconds_since_first(
        file,
        own.arrival,
        [time for at in timed if (time := requests[at].time) is not None],
        unit,
        [requests[at].row for at in timed],
    )
    arrival = np.zeros(len(requests))
    arrival[timed] = seconds
    if not any(request.depth for request in requests):
        return arrival, list(range(len(requests)))
    # When each can come if answers take no time.
    bound, first = arrival.copy(), list(range(len(requests)))
    for at in sorted(range(len(requests)), key=lambda each: requests[each].depth):
        request = requests[at]
        if request.after < 0:
            continue
        if request.delay_in(unit) > LATEST:
            fail_row(file, request.row, f"delay: got {request.delay_in(unit):g} s, expected at most {LATEST:g} s")
        first[at] = first[request.after]
        waits = [request.after, *request.also]
        possible = bound[waits].max() + request.delay_in(unit)
        if request.time is None:
            arrival[at], bound[at] = arrival[waits].max(), possible
        elif arrival[at] < possible - _ROUNDING * (1.0 + abs(possible)):
            row = requests[request.after].row
            late = f"{own.arrival}: {possible - arrival[at]:g} s earlier than it can be after"
            fail_row(file, request.row, f"{late} the request of row {row}{' and its delay' * (request.delay > 0)}")
        arrival[at] = max(arrival[at], arrival[waits].max())
        bound[at] = max(arrival[at], bound[at])
    order = sorted(range(len(requests)), key=lambda at: (arrival[at], first[at], requests[at].depth, at))
    return arrival[order] - arrival[order[0]], order
