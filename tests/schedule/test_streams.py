"""The list scheduler by hand-made cases and by properties."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.schedule.streams import Task, exposure, list_schedule


def task(name: str, stream: str, seconds: float, *after: int, uses: float = 0.0, firm: bool = False) -> Task:
    return Task(name=name, stream=stream, seconds=seconds, after=after, uses={"units": uses}, firm=firm)


@st.composite
def graphs(draw: st.DrawFn) -> list[Task]:
    tasks: list[Task] = []
    for index in range(draw(st.integers(1, 12))):
        after = draw(st.lists(st.integers(0, index - 1), max_size=2, unique=True)) if index else []
        stream = draw(st.sampled_from(["a", "b", "c"]))
        tasks.append(task(str(index), stream, draw(st.floats(0.0, 5.0)), *after, uses=draw(st.floats(0.0, 1.0))))
    return tasks


def test_two_kernels_that_need_everything_take_as_long_as_in_turn() -> None:
    schedule = list_schedule([task("x", "a", 2.0, uses=1.0), task("y", "b", 3.0, uses=1.0)])
    np.testing.assert_allclose(schedule.end, [4.0, 5.0])


def test_a_firm_kernel_slows_its_neighbour_and_not_itself() -> None:
    schedule = list_schedule([task("send", "b", 4.0, uses=0.25, firm=True), task("work", "a", 6.0, uses=1.0)])
    np.testing.assert_allclose(schedule.end, [4.0, 7.0])


def test_small_kernels_share_a_device_at_full_speed() -> None:
    schedule = list_schedule([task("x", "a", 2.0, uses=0.5), task("y", "b", 2.0, uses=0.5)])
    assert schedule.makespan == pytest.approx(2.0)


def test_a_stream_keeps_its_order_even_where_a_later_task_could_run() -> None:
    schedule = list_schedule([task("long", "b", 5.0), task("waits", "a", 1.0, 0), task("ready", "a", 1.0)])
    np.testing.assert_allclose(schedule.start, [0.0, 5.0, 6.0])


def test_exposure_splits_an_exchange_by_what_runs_beside_it() -> None:
    schedule = list_schedule([task("work", "a", 2.0), task("send", "b", 3.0), task("late", "a", 0.5, 1)])
    assert exposure(schedule, "b", "a") == pytest.approx({("send", "work"): 2.0, ("send", "nothing"): 1.0})


@given(graphs())
def test_a_schedule_is_no_shorter_than_any_stream_and_no_longer_than_all_in_turn(tasks: list[Task]) -> None:
    makespan = list_schedule(tasks).makespan
    streams = [sum(t.seconds for t in tasks if t.stream == stream) for stream in "abc"]
    assert max(streams) - 1e-9 <= makespan <= sum(t.seconds for t in tasks) + 1e-9


@given(graphs())
def test_tasks_wait_for_what_they_need_and_streams_run_one_at_a_time(tasks: list[Task]) -> None:
    schedule = list_schedule(tasks)
    for index, item in enumerate(tasks):
        assert all(schedule.end[other] <= schedule.start[index] + 1e-9 for other in item.after)
    for stream in "abc":
        own = [i for i, t in enumerate(tasks) if t.stream == stream]
        assert all(schedule.end[a] <= schedule.start[b] + 1e-9 for a, b in pairwise(own))


@given(graphs())
def test_the_same_list_gives_the_same_schedule(tasks: list[Task]) -> None:
    first, second = list_schedule(tasks), list_schedule(tasks)
    np.testing.assert_array_equal(first.end, second.end)


@pytest.mark.parametrize("wrong", [task("x", "a", -1.0), task("x", "a", float("nan")), task("x", "a", 1.0, 0)])
def test_impossible_tasks_are_refused(wrong: Task) -> None:
    with pytest.raises(ValueError, match="task 0 'x'"):
        list_schedule([wrong])
