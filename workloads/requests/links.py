"""Which line of a trace follows the answer to which: by session and turn, or by the ids that a line names.

docs/formats/request-traces.md says whose keys these are, and what each tool does with them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hardware_profiles.edge import shown
from workloads.requests.rows import fail, fail_row
from workloads.requests.units import UNITS

#: Keys of a conversation, of a place in it, and of times between an answer and the next turn with their units; the
#: unit of ``delay`` is that of the times of the file.
_SESSION = ("session_id", "conversation_id")
_TURN = ("turn_id", "turn_index", "turn")
_DELAYS = {"delay": None, "delay_ms": "ms", "delay_s": "s"}
#: Keys that say what a line follows; most traces have none.
KEYS = frozenset((*_SESSION, *_DELAYS, "tool_wait_ms", "request_id", "wait_for", "chat_id", "parent_chat_id"))
#: Longest delay, whatever its unit.
_LONGEST = 1e18
#: Share of later turns no longer than the turn before them up to which prompts are whole, and from which they are not.
_FEW_SHORT, _MANY_SHORT = 0.1, 0.25


@dataclass(slots=True, kw_only=True)
class Request:
    """One request as it stands in a file.

    ``session`` and ``turn`` say where in a conversation it is; ``name`` and ``waits`` what it is called, and what that
    is called which it follows ("" for nothing), with ``others`` where it waits for several. ``after`` is the index of
    the request that it follows, -1 for none, ``also`` those of the others, and ``depth`` how many stand before it;
    ``delay`` is in ``unit``, or in that of the file.
    """

    row: int
    time: float | None
    tokens: tuple[float, float]
    blocks: tuple[int, ...]
    session: Hashable | None = None
    turn: float | None = None
    name: Hashable | None = None
    waits: Hashable | None = None
    others: tuple[Hashable, ...] = ()
    after: int = -1
    also: tuple[int, ...] = ()
    depth: int = 0
    delay: float = 0.0
    unit: str | None = None

    def delay_in(self, unit: str) -> float:
        """Return the delay [s], where times of the file are in a unit."""
        return self.delay * UNITS[self.unit or unit]


def place(file: Path, row: int, record: Mapping[str, Any], *, chats: bool) -> dict[str, Any]:
    """Read where in a conversation a line stands: fields of :class:`Request`.

    Parameters
    ----------
    file : Path
        Where it stands.
    row : int
        Its row, from 1.
    record : Mapping
        The line.
    chats : bool
        Whether it says ``chat_id`` and ``parent_chat_id``.
    """
    if chats:
        parent = _key(file, row, record, "parent_chat_id")
        return {"name": _key(file, row, record, "chat_id"), "waits": "" if parent == -1 else parent}
    found: dict[str, Any] = {"name": _key(file, row, record, "request_id")}
    found["session"] = next((key for each in _SESSION if (key := _key(file, row, record, each)) is not None), None)
    named = next((each for each in _TURN if record.get(each) is not None), None)
    if named is not None and found["session"] is not None:
        found["turn"] = _number(file, row, named, record)
    if record.get("wait_for") is not None:
        names = record["wait_for"]
        if not isinstance(names, list):
            names = [names]
        keys = list(dict.fromkeys(_key(file, row, {"wait_for": name}, "wait_for") for name in names))
        found["waits"], found["others"] = (keys[0], tuple(keys[1:])) if keys else ("", ())
    return found


def delay(file: Path, row: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """Read the time between an answer and the turn after it: fields of :class:`Request`.

    Parameters
    ----------
    file : Path
        Where it stands.
    row : int
        Its row, from 1.
    record : Mapping
        The line.
    """
    given = {key: _time(file, row, key, record) for key in _DELAYS if record.get(key) is not None}
    if len(given) > 1:
        fail_row(file, row, f"says {' and '.join(given)}; one of them is enough")
    key, value = next(iter(given.items()), ("delay_ms", 0.0))
    if record.get("tool_wait_ms") is None:
        return {"delay": value, "unit": _DELAYS[key]}
    waits = _time(file, row, "tool_wait_ms", record)
    if _DELAYS[key] is None:
        # Who writes tool_wait_ms (Dynamo) has delays in milliseconds, too.
        key = "delay_ms"
    return {"delay": value * UNITS[_DELAYS[key] or "ms"] + waits * UNITS["ms"], "unit": "s"}


def agent_turns(file: Path, row: int, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the turns of an agent that one line of Applied Compute's form holds, in Mooncake's keys.

    Parameters
    ----------
    file : Path
        Where it stands.
    row : int
        Its row, from 1.
    record : Mapping
        The line: a prompt; for each of ``num_turns`` an answer that calls a tool, how much text that brings, and how
        long it takes [s]; and a last answer.
    """
    listed = ("assistant_response_length", "tool_call_output_length", "tool_call_latency")
    columns = []
    for key in listed:
        values = record.get(key)
        if not isinstance(values, list) or len(values) != record.get("num_turns", len(values)):
            fail_row(file, row, f"{key}: got {shown(values)}, expected a list with a number for each of num_turns")
        columns.append([_time(file, row, key, {key: value}) for value in values])
    if len({len(values) for values in columns}) > 1:
        fail_row(file, row, f"{', '.join(listed)} have different lengths {[len(values) for values in columns]}")
    for key in ("input_prompt_length", "final_assistant_response_length"):
        if key not in record:
            fail_row(file, row, f"{key} is missing")
    prompt, waits, turns = _time(file, row, "input_prompt_length", record), 0.0, []
    for answer, text, latency in zip(*columns, strict=True):
        turns.append({"input_length": prompt, "output_length": answer, "delay_s": waits})
        prompt, waits = prompt + answer + text, latency
    last = _time(file, row, "final_assistant_response_length", record)
    return [*turns, {"input_length": prompt, "output_length": last, "delay_s": waits}]


def link(file: Path, requests: Sequence[Request], *, part: bool) -> list[str]:
    """Find which request follows which, and return what had to be left out.

    Parameters
    ----------
    file : Path
        Where they stand.
    requests : sequence of Request
        In the order of the file; turns inside one line are linked already.
    part : bool
        Whether the file is part of a longer recording, so that what a request follows may lie before it.

    Raises
    ------
    TraceFormatError
        A turn is there twice, follows itself or something unknown, or has a delay and nothing to follow.
    """
    notes = _by_name(file, requests, part=part)
    _by_session(file, requests)
    _count_depth(file, requests)
    _require_one_conversation(file, requests)
    delayed = [request for request in requests if request.after < 0 and request.delay > 0]
    for request in delayed:
        if request.session is None and request.waits is None:
            fail_row(file, request.row, "has a delay, but names no session (session_id) whose answer it could follow")
    if delayed:
        rows = f"{len(delayed)} first turns have a delay" if len(delayed) > 1 else "a first turn has a delay"
        notes.append(f"{rows} (row {delayed[0].row}), which is not played: there is no answer before it")
    for request in delayed:
        request.delay = 0.0
    return notes


def _by_name(file: Path, requests: Sequence[Request], *, part: bool) -> list[str]:
    """Link the requests that say what they wait for by its name; what lies outside of a part is left out."""
    if all(request.waits is None for request in requests):
        return []
    if part:
        return _by_earlier_name(requests)
    known: dict[Hashable, int] = {}
    for index, request in enumerate(requests):
        if request.name in known:
            before = requests[known[request.name]].row
            fail_row(file, request.row, f"{shown(request.name)} names a request of row {before}")
        if request.name is not None:
            known[request.name] = index
    for request in requests:
        if request.waits is None or request.waits == "":
            continue
        for name in (request.waits, *request.others):
            if name not in known:
                fail_row(file, request.row, f"waits for {shown(name)}, which no row is called")
        found = [known[name] for name in (request.waits, *request.others)]
        # It goes on with what its own session has said, where it waits for others, too.
        own = [at for at in found if request.session is not None and requests[at].session == request.session]
        request.after = (own or found)[-1]
        request.also = tuple(at for at in found if at != request.after)
    return []


def _by_earlier_name(requests: Sequence[Request]) -> list[str]:
    """Link requests to those before them in part of a recording; whose is not there, or came later, begins anew."""
    known: dict[Hashable, int] = {}
    lost = []
    for index, request in enumerate(requests):
        if request.waits is not None and request.waits != "":
            request.after = known.get(request.waits, -1)
            before = requests[request.after].time if request.after >= 0 else None
            if before is None or request.time is None or request.time < before:
                request.after, request.waits = -1, ""
                lost.append(request.row)
        if request.name is not None:
            known[request.name] = index
    if not lost:
        return []
    return [f"{len(lost)} requests follow one that does not come before them in the file (first: row {lost[0]})"]


def _by_session(file: Path, requests: Sequence[Request]) -> None:
    """Link the requests of each session in the order of their turns, or of the file."""
    sessions: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        if request.session is not None and request.waits is None:
            sessions.setdefault(request.session, []).append(index)
    for turns in sessions.values():
        numbered = [index for index in turns if requests[index].turn is not None]
        if numbered:
            if len(numbered) < len(turns):
                bare = next(index for index in turns if requests[index].turn is None)
                fail_row(file, requests[bare].row, "has no number of its turn, as others of its session do")
            turns.sort(key=lambda index: requests[index].turn or 0.0)
            for index, following in pairwise(turns):
                if requests[index].turn == requests[following].turn:
                    what = f"turn {requests[index].turn:g} of its session stands in row {requests[index].row}, too"
                    fail_row(file, requests[following].row, what)
        for index, following in pairwise(turns):
            requests[following].after = index


def _count_depth(file: Path, requests: Sequence[Request]) -> None:
    """Count how many requests stand before each; a request that follows itself is an error."""
    if all(request.after < 0 for request in requests):
        return
    waiting = [(request.after >= 0) + len(request.also) for request in requests]
    followers: dict[int, list[int]] = {}
    for at, request in enumerate(requests):
        for before in (request.after, *request.also) if request.after >= 0 else ():
            followers.setdefault(before, []).append(at)
    ready = [at for at, left in enumerate(waiting) if not left]
    for before in ready:
        for at in followers.get(before, ()):
            requests[at].depth = max(requests[at].depth, requests[before].depth + 1)
            waiting[at] -= 1
            if not waiting[at]:
                ready.append(at)
    if len(ready) < len(requests):
        at = next(at for at, left in enumerate(waiting) if left)
        fail_row(file, requests[at].row, "waits for itself, by way of what it waits for")


def _require_one_conversation(file: Path, requests: Sequence[Request]) -> None:
    """Refuse requests that wait for answers of conversations which began apart from each other."""
    if not any(request.also for request in requests):
        return
    first = list(range(len(requests)))
    for at in sorted(range(len(requests)), key=lambda each: requests[each].depth):
        request = requests[at]
        if request.after >= 0:
            first[at] = first[request.after]
        if any(first[other] != first[at] for other in request.also):
            fail_row(file, request.row, "waits for answers of conversations that began apart from each other")


def whole_prompts(file: Path, requests: Sequence[Request], stated: str | None) -> tuple[bool, str]:
    """Tell whether a later turn's prompt counts all that was said before, or what is new; and what that rests on.

    Parameters
    ----------
    file : Path
        Where they stand.
    requests : sequence of Request
        Linked.
    stated : {"whole", "new"}, optional
        What the user says; it stands.

    Notes
    -----
    Where prompts have hash blocks, those of a whole prompt begin like those before it. Otherwise a prompt that is no
    longer than the one that it would have to contain is not whole.
    """
    turns = [(request, requests[request.after]) for request in requests if request.after >= 0]
    if stated is not None or not turns:
        return stated != "new", ""
    hashed = [(own.blocks, before.blocks) for own, before in turns if own.blocks and before.blocks]
    if hashed:
        alike = sum(own[0] == before[0] for own, before in hashed)
        whole, reason = 2 * alike >= len(hashed), f"{alike} of {len(hashed)} begin with the blocks of the turn before"
    else:
        short = sum(own.tokens[0] <= before.tokens[0] for own, before in turns)
        reason = f"{len(turns) - short} of {len(turns)} are longer than the turn before"
        if _FEW_SHORT < short / len(turns) < _MANY_SHORT:
            fail(file, f"prompts of later turns may be whole or only what is new: {reason}; say requests.turn_prompts")
        whole = short / len(turns) <= _FEW_SHORT
    words = "whole, with all that was said before" if whole else "what is new; all that was said before is added"
    return whole, f"prompts of later turns read as {words} ({reason})"


def add_history(requests: Sequence[Request], block_tokens: int | None) -> None:
    """Add to every later turn what was said before it: tokens, and blocks where there are any.

    Parameters
    ----------
    requests : sequence of Request
        Linked, each with what is new in it.
    block_tokens : int or None
        Tokens of a hash block; ``None`` without blocks [tokens].
    """
    fresh = 1 + max((block for request in requests for block in request.blocks), default=-1)
    for request in sorted(requests, key=lambda each: each.depth):
        if request.after < 0:
            continue
        before = requests[request.after]
        request.tokens = (sum(before.tokens) + request.tokens[0], request.tokens[1])
        if block_tokens is None:
            continue
        # The blocks of what is new lie elsewhere in the whole prompt, so that they get names of their own.
        known = before.blocks[: int(before.tokens[0] // block_tokens)]
        count = max(-int(-request.tokens[0] // block_tokens) - len(known), 0)
        request.blocks = (*known, *range(fresh, fresh + count))
        fresh += count


def _key(file: Path, row: int, record: Mapping[str, Any], key: str) -> Hashable | None:
    value = record.get(key)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict | list | float) or value is True or value is False:
        fail_row(file, row, f"{key}: got {shown(value)}, expected text or a whole number")
    return value


def _number(file: Path, row: int, key: str, record: Mapping[str, Any]) -> float:
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        fail_row(file, row, f"{key}: got {shown(value)}, expected a number")
    return float(value)


def _time(file: Path, row: int, key: str, record: Mapping[str, Any]) -> float:
    value = _number(file, row, key, record)
    if not 0 <= value < _LONGEST:
        fail_row(file, row, f"{key}: got {shown(record[key])}, expected a number of at least 0")
    return value
