"""Timelines open in Perfetto: slices of one thread nest, tracks and threads have names."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import OutputError
from simulator.export.perfetto import Counter, Flow, check_nesting, encode_trace
from simulator.results.trace import Slice


def span(name: str, start: float, duration: float, thread: str = "rank 0 / compute") -> Slice:
    return Slice(track="instance 0", thread=thread, name=name, start_s=start, duration_s=duration)


def events(data: bytes, phase: str) -> list[dict[str, Any]]:
    return [event for event in json.loads(data)["traceEvents"] if event["ph"] == phase]


def test_a_slice_is_written_in_microseconds_under_the_names_of_its_track_and_thread() -> None:
    data = encode_trace([span("step", 1.5, 0.25)])
    (event,) = events(data, "X")
    assert (event["name"], event["ts"], event["dur"]) == ("step", 1_500_000.0, 250_000.0)
    names = {(e["name"], e["pid"], e.get("tid")): e["args"] for e in events(data, "M")}
    assert names["process_name", event["pid"], None] == {"name": "instance 0"}
    assert names["thread_name", event["pid"], event["tid"]] == {"name": "rank 0 / compute"}


def test_threads_of_one_track_share_its_process() -> None:
    data = encode_trace([span("a", 0, 1), span("b", 0, 1, "rank 1 / compute")])
    first, second = events(data, "X")
    assert first["pid"] == second["pid"]
    assert first["tid"] != second["tid"]


def test_slices_that_overlap_are_refused_by_name() -> None:
    with pytest.raises(OutputError, match=r"rank 0 / compute .* 'attention' ends at 2\.0+ s, 'experts' runs from 1\.0"):
        check_nesting([span("experts", 1, 2), span("attention", 0, 2)])


def test_the_same_slices_on_two_threads_are_fine() -> None:
    overlapping = [span("attention", 0, 2), span("experts", 1, 2)]
    with pytest.raises(OutputError):
        check_nesting(overlapping)
    check_nesting([overlapping[0], span("experts", 1, 2, "rank 0 / network")])


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(OutputError, match="negative duration: -1 s"):
        check_nesting([span("attention", 0, -1)])


def test_an_overlap_of_one_nanosecond_is_closed() -> None:
    data = encode_trace([span("attention", 0, 1e-6), span("experts", 0.999e-6, 1e-6)])
    first, second = events(data, "X")
    assert first["ts"] + first["dur"] == second["ts"]
    with pytest.raises(OutputError, match="overlap"):
        check_nesting([span("attention", 0, 1e-6), span("experts", 0.998e-6, 1e-6)])


@st.composite
def timelines(draw: st.DrawFn) -> list[Slice]:
    """Steps in a row, each cut into ops in a row, with times that are sums of awkward floats."""
    clock = draw(st.floats(0, 1e5))
    slices = []
    for step in range(draw(st.integers(1, 5))):
        shares = draw(st.lists(st.floats(0, 1e-2), min_size=1, max_size=6))
        inner = clock
        for index, share in enumerate(shares):
            slices.append(span(f"op {index}", inner, share))
            inner += share
        slices.append(span(f"step {step}", clock, inner - clock))
        clock = inner
    return draw(st.permutations(slices))


def assert_nested(rows: list[tuple[int, int]]) -> None:
    open_ends: list[int] = []
    for start, end in rows:
        while open_ends and start >= open_ends[-1]:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1]
        open_ends.append(end)


@given(timelines())
def test_steps_of_ops_nest_in_the_file_however_their_times_round(slices: list[Slice]) -> None:
    written = events(encode_trace(slices), "X")
    assert len(written) == len(slices)
    rows = [(round(e["ts"] * 1000), round(e["ts"] * 1000) + round(e["dur"] * 1000)) for e in written]
    assert_nested(sorted(rows, key=lambda row: (row[0], -row[1])))


@given(timelines())
def test_closing_rounding_errors_moves_no_slice_by_more_than_two_nanoseconds(slices: list[Slice]) -> None:
    written = sorted((e["name"], e["ts"], e["dur"]) for e in events(encode_trace(slices), "X"))
    given_times = sorted((s.name, s.start_s * 1e6, s.duration_s * 1e6) for s in slices)
    for (_, ts, dur), (_, start, duration) in zip(written, given_times, strict=True):
        assert ts == pytest.approx(start, abs=2e-3)
        assert dur == pytest.approx(duration, abs=2e-3)


def test_counters_and_flows_point_at_their_tracks() -> None:
    data = encode_trace(
        [span("dispatch", 0, 1), span("combine", 2, 1, "rank 1 / network")],
        [Counter(track="instance 0", name="queue", time_s=0.5, value=7)],
        [
            Flow(
                name="tokens",
                from_track="instance 0",
                from_thread="rank 0 / compute",
                from_s=0.5,
                to_track="instance 0",
                to_thread="rank 1 / network",
                to_s=2.5,
            )
        ],
    )
    (counter,) = events(data, "C")
    assert (counter["ts"], counter["args"]) == (500_000.0, {"queue": 7})
    (begin,), (finish,) = events(data, "s"), events(data, "f")
    tids = {event["name"]: event["tid"] for event in events(data, "X")}
    assert (begin["tid"], finish["tid"]) == (tids["dispatch"], tids["combine"])
    assert begin["id"] == finish["id"]


def test_numbers_of_numpy_and_not_a_number_are_written_alike_with_and_without_orjson(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = {"tokens": np.int64(8), "time": float("nan"), "loads": np.array([1, 2]), "name": "µ"}
    slices = [Slice(track="a", thread="b", name="c", start_s=0, duration_s=1e-7, arguments=arguments)]
    pytest.importorskip("orjson")
    fast = json.loads(encode_trace(slices))
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert json.loads(encode_trace(slices)) == fast
    (event,) = [e for e in fast["traceEvents"] if e["ph"] == "X"]
    assert event["args"] == {"tokens": 8, "time": None, "loads": [1, 2], "name": "µ"}
