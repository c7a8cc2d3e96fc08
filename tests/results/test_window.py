"""Which part of a run is measured."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.results.window import Asked, Window, mean_number, measured_window, queue_grows, steady_part, whole_run
from tests.results.test_summary import array


def asked_window(
    arrival: np.ndarray, finish: np.ndarray, *, warmup: int | None, drain: bool | None, concurrency: int | None = None
) -> Window:
    return measured_window(arrival, (arrival + finish) / 2, finish, Asked(warmup=warmup, drain=drain), concurrency)


def test_everything_is_measured_where_that_is_asked() -> None:
    window = asked_window(array(0, 1, 2), array(5, 3, 9), warmup=0, drain=True)
    assert window.requests.tolist() == [True, True, True]
    assert (window.begin, window.end, window.duration) == (0.0, 9.0, 9.0)


def test_an_open_loop_begins_with_the_first_arrival_after_the_warm_up() -> None:
    window = asked_window(array(0, 1, 2, 3), array(9, 3, 4, 6), warmup=2, drain=True, concurrency=None)
    assert window.requests.tolist() == [False, False, True, True]
    assert (window.begin, window.end) == (2.0, 6.0)


def test_a_closed_loop_begins_when_its_warm_up_has_ended() -> None:
    arrival, finish = array(0, 0, 2, 3, 5, 6), array(2, 3, 5, 6, 8, 9)
    window = asked_window(arrival, finish, warmup=2, drain=True, concurrency=2)
    assert window.requests.tolist() == [False, False, False, True, True, True]
    assert (window.begin, window.end) == (3.0, 9.0)


def test_without_the_tail_the_window_ends_with_the_last_arrival() -> None:
    arrival, finish = array(0, 0, 2, 3, 5, 6), array(2, 3, 5, 6, 8, 9)
    window = asked_window(arrival, finish, warmup=0, drain=False, concurrency=2)
    assert window.requests.tolist() == [True, True, True, True, False, False]
    assert (window.begin, window.end) == (0.0, 6.0)


def test_a_run_with_nothing_inside_keeps_its_tail() -> None:
    window = asked_window(array(0, 1), array(7, 8), warmup=0, drain=False, concurrency=None)
    assert window.requests.tolist() == [True, True]
    assert window.end == 8.0


@pytest.mark.parametrize("warmup", [3, 4, 100])
def test_a_warm_up_of_all_requests_leaves_the_last(warmup: int) -> None:
    for closed in (False, True):
        window = asked_window(
            array(0, 1, 2, 3), array(4, 5, 6, 7), warmup=warmup, drain=True, concurrency=2 if closed else None
        )
        assert window.requests.tolist() == [False, False, False, True]
        assert window.duration == 4.0


@given(
    gaps=st.lists(st.floats(0, 10), min_size=1, max_size=30),
    stays=st.lists(st.floats(0.01, 10), min_size=30, max_size=30),
    warmup=st.integers(0, 40),
    drain=st.booleans(),
    closed=st.booleans(),
)
def test_what_is_measured_lies_in_the_window(
    gaps: list[float],
    stays: list[float],
    warmup: int,
    drain: bool,
    closed: bool,
) -> None:
    arrival = np.cumsum(gaps)
    finish = arrival + np.array(stays[: len(gaps)])
    window = asked_window(arrival, finish, warmup=warmup, drain=drain, concurrency=2 if closed else None)
    assert window.requests.any()
    assert (arrival[window.requests] >= window.begin).all()
    assert (finish[window.requests] <= window.end).all()
    assert window.duration > 0


def found_window(
    arrival: np.ndarray,
    finish: np.ndarray,
    first_token: np.ndarray | None = None,
    *,
    concurrency: int | None = None,
    transient: bool = False,
    until: float = 0.0,
) -> Window:
    first = (arrival + finish) / 2 if first_token is None else first_token
    return measured_window(arrival, first, finish, Asked(transient=transient, until=until), concurrency)


def served_one_by_one(arrival: np.ndarray, service: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When a single server begins and ends requests in their order (Lindley's recursion)."""
    begin, end, free = np.empty(len(arrival)), np.empty(len(arrival)), 0.0
    for index, (at, lasting) in enumerate(zip(arrival.tolist(), service.tolist(), strict=True)):
        begin[index] = max(at, free)
        end[index] = free = begin[index] + lasting
    return begin, end


def poisson(rate: float, count: int, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, count))


def test_the_ramp_of_an_open_loop_is_left_out_and_so_is_its_tail() -> None:
    """Infinitely many servers of 20 s each: full 20 s after the first arrival."""
    arrival = poisson(10.0, 3000)
    window = found_window(arrival, arrival + 20.0)
    assert window.kind == "steady"
    assert 15.0 < window.begin < 60.0
    assert window.end == arrival[-1]
    assert window.requests.tolist() == (arrival >= window.begin).tolist()


def test_a_closed_loop_is_steady_once_as_many_have_ended_as_are_in_flight() -> None:
    finish = np.concatenate([np.full(4, 8.0 * turn) for turn in range(1, 11)])
    arrival = finish - 8.0
    window = found_window(arrival, finish, concurrency=4)
    assert (window.kind, window.begin, window.end) == ("steady", 8.0, 72.0)
    assert not window.requests[:4].any()
    assert window.requests[4:].all()


@pytest.mark.parametrize("count", [1, 3, 4, 8])
def test_a_closed_loop_of_hardly_more_requests_than_places_is_measured_whole(count: int) -> None:
    turn = np.arange(count) // 4
    window = found_window(8.0 * turn, 8.0 * turn + 8.0, concurrency=4)
    assert window.kind == "whole"
    assert window.requests.all()
    assert window.begin == 0.0
    assert window.end == 8.0 * turn[-1] + 8.0


@pytest.mark.parametrize("count", [1, 2, 20])
def test_requests_that_all_come_at_once_are_measured_whole(count: int) -> None:
    window = found_window(np.full(count, 3.0), np.full(count, 9.0))
    assert (window.kind, window.begin, window.end) == ("whole", 3.0, 9.0)


def test_a_run_shorter_than_its_requests_is_measured_whole() -> None:
    arrival = poisson(10.0, 50)
    assert found_window(arrival, arrival + 20.0).kind == "whole"


def test_a_deterministic_queue_grows_exactly_where_requests_come_faster_than_they_go() -> None:
    arrival = np.arange(400.0)
    for service, grows in ((2.0, True), (1.1, True), (1.0, False), (0.5, False)):
        begin, end = served_one_by_one(arrival, np.full(400, service))
        window = found_window(arrival, end, begin)
        assert (window.kind == "overloaded") == grows, service
        if grows:
            assert window.end == begin[-1], "the server is busy until the last request begins"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("load", "grows"), [(0.5, False), (0.8, False), (1.25, True), (2.0, True)])
def test_an_mm1_queue_is_overloaded_above_a_load_of_one(load: float, seed: int, *, grows: bool) -> None:
    arrival = poisson(load, 4000, seed)
    begin, end = served_one_by_one(arrival, np.random.default_rng(seed + 99).exponential(1.0, 4000))
    assert (found_window(arrival, end, begin).kind == "overloaded") == grows


def test_a_filling_server_without_a_queue_is_not_overloaded() -> None:
    arrival = poisson(10.0, 300)
    assert not queue_grows(arrival, arrival + 0.1, arrival[0], arrival[-1])
    assert found_window(arrival, arrival + 25.0, arrival + 0.1).kind != "overloaded"


def test_nothing_is_left_out_of_a_run_that_changes() -> None:
    arrival = poisson(10.0, 2000)
    finish = arrival + 5.0
    window = found_window(arrival, finish, transient=True)
    assert (window.kind, window.begin, window.end) == ("transient", arrival[0], arrival[-1])
    assert window.requests.all()
    late = found_window(arrival, finish, transient=True, until=float(arrival[-1]) + 1.0)
    assert (late.begin, late.end) == (arrival[0], finish[-1]), "a change after the last arrival is not cut off"


def test_each_key_sets_its_own_end_of_the_window() -> None:
    arrival = poisson(10.0, 2000)
    finish = arrival + 5.0
    found = found_window(arrival, finish)
    only_warmup = asked_window(arrival, finish, warmup=50, drain=None)
    assert (only_warmup.begin, only_warmup.end) == (arrival[50], arrival[-1])
    assert only_warmup.requests[-1], "who comes in the window counts, also where he ends after it"
    only_drain = asked_window(arrival, finish, warmup=None, drain=True)
    assert (only_drain.begin, only_drain.end) == (pytest.approx(found.begin, abs=0.2), finish[-1])
    everything = asked_window(arrival, finish, warmup=0, drain=True)
    whole = whole_run(arrival, finish)
    assert (everything.begin, everything.end) == (whole.begin, whole.end)


def test_a_late_beginning_of_time_moves_the_window_and_nothing_else() -> None:
    arrival = poisson(10.0, 1000)
    soon, late = (found_window(arrival + first, arrival + first + 8.0) for first in (0.0, 1e6))
    assert late.begin - 1e6 == pytest.approx(soon.begin, abs=1e-6)
    assert late.duration == pytest.approx(soon.duration, abs=1e-6)


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.0, 30)), min_size=1, max_size=30),
    st.lists(st.floats(0, 90), min_size=2, max_size=8, unique=True),
)
def test_the_mean_number_is_the_time_inside_over_the_time(
    intervals: list[tuple[float, float]], times: list[float]
) -> None:
    edges = np.sort(times)
    if np.diff(edges).min() < 1e-3:
        return
    begin = np.array([at for at, _ in intervals])
    end = begin + np.array([lasting for _, lasting in intervals])
    wanted = [np.clip(np.minimum(end, b) - np.maximum(begin, a), 0, None).sum() / (b - a) for a, b in pairwise(edges)]
    assert mean_number(begin, end, edges) == pytest.approx(wanted, abs=1e-6)


def test_the_steady_part_of_what_never_changes_is_all_of_it() -> None:
    assert steady_part(np.full(200, 7.0)) == 0
    assert steady_part(np.zeros(1)) == 0


@given(st.integers(0, 90), st.integers(0, 1000))
def test_the_steady_part_begins_where_a_step_up_was(step: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(100.0, 1.0, 200)
    values[:step] -= 90.0
    assert step <= steady_part(values) <= 100


def test_after_a_warm_up_the_tail_counts_where_nothing_is_answered_before_it() -> None:
    arrival, finish = array(0.0, 0.01, 0.02, 0.03), array(0.1, 0.07, 0.07, 0.1)
    window = asked_window(arrival, finish, warmup=1, drain=None)
    assert (window.begin, window.end) == (0.01, 0.1)
    assert window.requests.tolist() == [False, True, True, True]
