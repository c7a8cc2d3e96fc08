"""Chunked pipelines, co-scheduled links and DualPipe's pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.schedule.mechanisms import (
    ChunkTimes,
    HybridTimes,
    PassTimes,
    best_degree,
    chunked_seconds,
    co_scheduled_tasks,
    dual_pipe_tasks,
)
from simulator.schedule.streams import list_schedule

SECONDS = st.floats(0.001, 5.0)


def cut(dispatch: float, work: float, combine: float, degree: int, start: float = 0.0) -> ChunkTimes:
    """Cut a layer into chunks, each of which costs ``start`` more per kernel."""
    parts = {"dispatch": dispatch, "work": work, "combine": combine}
    return ChunkTimes(degree=degree, **{name: whole / degree + start for name, whole in parts.items()})


@given(SECONDS, SECONDS, SECONDS)
def test_one_chunk_takes_the_sum(dispatch: float, work: float, combine: float) -> None:
    assert chunked_seconds(cut(dispatch, work, combine, 1)) == pytest.approx(dispatch + work + combine)


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 8))
def test_chunks_hide_no_more_than_the_shorter_of_computing_and_messages(
    dispatch: float, work: float, combine: float, degree: int
) -> None:
    found = chunked_seconds(cut(dispatch, work, combine, degree))
    assert max(work, dispatch + combine) - 1e-9 <= found <= dispatch + work + combine + 1e-9


def test_many_chunks_come_close_to_full_overlap_where_they_cost_nothing() -> None:
    assert chunked_seconds(cut(1.0, 4.0, 1.0, 64)) == pytest.approx(4.0 + 2.0 / 64, rel=1e-9)


def test_the_search_finds_a_degree_between_one_and_many_where_chunks_cost_something() -> None:
    best, seconds = best_degree(cut(1.0, 2.0, 1.0, degree, start=0.02) for degree in (1, 2, 4, 8, 16, 32, 64))
    assert 1 < best.degree < 64
    assert seconds == min(chunked_seconds(cut(1.0, 2.0, 1.0, d, start=0.02)) for d in (1, 2, 4, 8, 16, 32, 64))


def test_the_search_stays_whole_where_chunks_cost_more_than_they_hide() -> None:
    assert best_degree(cut(0.1, 0.1, 0.1, degree, start=1.0) for degree in (1, 2, 4))[0].degree == 1
    with pytest.raises(ValueError, match="candidate"):
        best_degree([])


@given(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS, st.integers(1, 6))
def test_separate_links_are_never_slower_than_one(
    dispatch: float, gather: float, work: float, scatter: float, combine: float, degree: int
) -> None:
    t = HybridTimes(dispatch=dispatch, gather=gather, work=work, scatter=scatter, combine=combine)
    apart, together = (
        list_schedule(co_scheduled_tasks(t, degree, separate_links=separate)).makespan for separate in (True, False)
    )
    assert apart <= together + 1e-9


@given(SECONDS, SECONDS, SECONDS, st.floats(0.0, 20.0), st.integers(1, 5))
def test_a_gradient_fills_the_gaps_of_the_link_between_nodes(
    dispatch: float, work: float, combine: float, gradient: float, degree: int
) -> None:
    t = HybridTimes(dispatch=dispatch, gather=0.5, work=work, scatter=0.5, combine=combine)
    without = list_schedule(co_scheduled_tasks(t, degree)).makespan
    tasks = co_scheduled_tasks(replace(t, gradient=gradient), degree)
    found = list_schedule(tasks).makespan
    assert sum(task.seconds for task in tasks if task.name == "gradient") == pytest.approx(gradient)
    assert without - 1e-9 <= found <= without + gradient + 1e-9
    busy = degree * (dispatch + combine) + gradient
    assert found == pytest.approx(max(without, busy), rel=1e-9) or found < without + gradient


@given(st.integers(1, 6), st.floats(0.0, 0.5))
def test_a_pair_of_passes_is_shorter_than_the_passes_in_turn(layers: int, units: float) -> None:
    forward = PassTimes(attention=1.2, dispatch=0.8, experts=1.0, combine=1.0)
    backward = PassTimes(attention=2.4, dispatch=0.8, experts=2.0, combine=1.0)
    tasks = dual_pipe_tasks(forward, backward, layers, units)
    found = list_schedule(tasks).makespan
    computing = sum(task.seconds for task in tasks if task.stream == "compute")
    assert computing - 1e-9 <= found < sum(task.seconds for task in tasks)


def test_messages_of_a_pair_hide_entirely_where_computing_is_longer() -> None:
    forward = PassTimes(attention=2.0, dispatch=0.5, experts=2.0, combine=0.5)
    backward = PassTimes(attention=4.0, dispatch=0.5, experts=4.0, combine=0.5)
    layers = 20
    found = list_schedule(dual_pipe_tasks(forward, backward, layers)).makespan
    assert found == pytest.approx(12.0 * layers, rel=0.02)
