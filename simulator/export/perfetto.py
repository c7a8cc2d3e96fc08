"""Write a timeline in the Chrome trace format, which Perfetto and chrome://tracing open.

A track is a process (an instance or a node), a thread is a rank and its stream. Times are kept as whole
nanoseconds: rounding is monotone, so slices that nest in floating point nest in the file too.

References
----------
Trace Event Format, Google, 2016 (the ``X``, ``C``, ``s``, ``f`` and ``M`` events).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.errors import OutputError
from simulator.export.files import encode_json
from simulator.results.trace import Slice

#: A start plus a duration can miss the next start by a rounding error; that much overlap is closed, not refused [ns].
_SLACK_NS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A quantity of a track from ``time_s`` [s] on, until its next value."""

    track: str
    name: str
    time_s: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """An arrow from the slice that covers one moment to the slice that covers another, as from dispatch to combine."""

    name: str
    from_track: str
    from_thread: str
    from_s: float
    to_track: str
    to_thread: str
    to_s: float


def check_nesting(slices: Iterable[Slice]) -> None:
    """Refuse slices of one thread that overlap without one containing the other: no viewer can draw them.

    Parameters
    ----------
    slices : iterable of Slice
        In any order.

    Raises
    ------
    OutputError
        Names the thread and the first two slices that overlap by more than 1 ns.
    """
    _nested(slices)


def encode_trace(slices: Iterable[Slice], counters: Iterable[Counter] = (), flows: Sequence[Flow] = ()) -> bytes:
    """Encode a timeline as Chrome trace JSON.

    Parameters
    ----------
    slices : iterable of Slice
        In any order; those of one thread must nest.
    counters : iterable of Counter, optional
        Queue lengths, cache use and the like, one line per track and name.
    flows : sequence of Flow, optional
        Arrows between slices.

    Returns
    -------
    bytes
        One JSON document with ``traceEvents``; times in microseconds with three decimals.

    Raises
    ------
    OutputError
        If slices of one thread overlap without nesting.
    """
    ids = _Ids()
    events = [_slice_event(ids, item, start, end) for item, start, end in _nested(slices)]
    events += [_counter_event(ids, counter) for counter in counters]
    for number, flow in enumerate(flows):
        events += _flow_events(ids, number, flow)
    return _encode({"displayTimeUnit": "ms", "traceEvents": ids.metadata() + events})


class _Ids:
    """Numbers for processes and threads, in the order in which they are first named."""

    def __init__(self) -> None:
        self._processes: dict[str, int] = {}
        self._threads: dict[tuple[str, str], int] = {}

    def process(self, track: str) -> int:
        return self._processes.setdefault(track, len(self._processes) + 1)

    def thread(self, track: str, thread: str) -> int:
        self.process(track)
        return self._threads.setdefault((track, thread), len(self._threads) + 1)

    def metadata(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        for track, pid in self._processes.items():
            events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": track}})
            events.append({"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}})
        for (track, thread), tid in self._threads.items():
            place = {"pid": self._processes[track], "tid": tid}
            events.append({"ph": "M", "name": "thread_name", **place, "args": {"name": thread}})
            events.append({"ph": "M", "name": "thread_sort_index", **place, "args": {"sort_index": tid}})
        return events


def _nested(slices: Iterable[Slice]) -> list[tuple[Slice, int, int]]:
    """Sort slices by track, thread and start and return each with start and end [ns], with rounding overlaps closed."""
    threads: dict[tuple[str, str], list[tuple[Slice, int, int]]] = {}
    for item in slices:
        start = round(item.start_s * 1e9)
        end = round((item.start_s + item.duration_s) * 1e9)
        if end < start:
            msg = f"slice '{item.name}' on {item.track} / {item.thread} has a negative duration: {item.duration_s} s"
            raise OutputError(msg)
        threads.setdefault((item.track, item.thread), []).append((item, start, end))
    return [row for rows in threads.values() for row in _nested_thread(rows)]


def _nested_thread(rows: list[tuple[Slice, int, int]]) -> list[tuple[Slice, int, int]]:
    rows.sort(key=lambda row: (row[1], -row[2]))
    open_rows: list[int] = []
    for index, (item, start, end) in enumerate(rows):
        while open_rows:
            outer, outer_start, outer_end = rows[open_rows[-1]]
            if start >= outer_end:
                open_rows.pop()
            elif end <= outer_end:
                break
            elif outer_end - start <= _SLACK_NS:
                rows[open_rows.pop()] = (outer, outer_start, start)
            elif end - outer_end <= _SLACK_NS:
                end = outer_end
                rows[index] = (item, start, end)
            else:
                msg = (
                    f"slices on {item.track} / {item.thread} overlap and do not nest: '{outer.name}' ends at "
                    f"{outer_end / 1e9:.9f} s, '{item.name}' runs from {start / 1e9:.9f} to {end / 1e9:.9f} s"
                )
                raise OutputError(msg)
        open_rows.append(index)
    return rows


def _slice_event(ids: _Ids, item: Slice, start: int, end: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": item.name,
        "pid": ids.process(item.track),
        "tid": ids.thread(item.track, item.thread),
        "ts": start / 1000,
        "dur": (end - start) / 1000,
        "args": dict(item.arguments),
    }


def _counter_event(ids: _Ids, counter: Counter) -> dict[str, Any]:
    return {
        "ph": "C",
        "name": counter.name,
        "pid": ids.process(counter.track),
        "ts": round(counter.time_s * 1e9) / 1000,
        "args": {counter.name: counter.value},
    }


def _flow_events(ids: _Ids, number: int, flow: Flow) -> list[dict[str, Any]]:
    common = {"name": flow.name, "cat": "flow", "id": number}
    begin = {"pid": ids.process(flow.from_track), "tid": ids.thread(flow.from_track, flow.from_thread)}
    finish = {"pid": ids.process(flow.to_track), "tid": ids.thread(flow.to_track, flow.to_thread)}
    return [
        {"ph": "s", **common, **begin, "ts": round(flow.from_s * 1e9) / 1000},
        {"ph": "f", "bp": "e", **common, **finish, "ts": round(flow.to_s * 1e9) / 1000},
    ]


def _encode(document: Mapping[str, Any]) -> bytes:
    """Encode with orjson where it is installed: ten times faster on a long trace."""
    try:
        import orjson
    except ImportError:
        return encode_json(document, indent=None)
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
