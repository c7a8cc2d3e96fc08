"""Transforming a request trace keeps what it should keep."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.errors import WorkloadError
from workloads.requests.trace import RequestTrace, check_requests, head, repeat, scale_rate, slice_time


def make(arrival, concurrency=None, hashes=None):
    count = len(arrival)
    return RequestTrace(
        arrival=np.asarray(arrival, float),
        input_tokens=np.arange(1, count + 1),
        output_tokens=np.arange(count, 0, -1),
        concurrency=concurrency,
        block_hashes=hashes,
    )


traces = st.lists(st.floats(0, 1e4), min_size=2, max_size=20).map(lambda times: make(sorted(times)))


@given(trace=traces, factor=st.floats(0.01, 100))
def test_scaling_the_rate_scales_the_span_and_nothing_else(trace, factor):
    scaled = scale_rate(trace, factor)
    np.testing.assert_allclose(scaled.arrival * factor, trace.arrival, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(scaled.input_tokens, trace.input_tokens)
    check_requests(scaled)


@given(trace=traces, times=st.integers(1, 5))
def test_repeating_keeps_tokens_and_mean_gap(trace, times):
    longer = repeat(trace, times)
    check_requests(longer)
    assert longer.input_tokens.sum() == times * trace.input_tokens.sum()
    assert longer.output_tokens.sum() == times * trace.output_tokens.sum()
    gap = np.ptp(trace.arrival) / (len(trace) - 1)
    assert np.ptp(longer.arrival) == pytest.approx(gap * (len(longer) - 1), abs=1e-9)


@given(trace=traces, cut=st.floats(0, 1e4))
def test_two_slices_hold_every_request_once(trace, cut):
    pieces = []
    for start, stop in ((0.0, cut), (cut, 1e5)):
        if ((trace.arrival >= start) & (trace.arrival < stop)).any():
            pieces.append(slice_time(trace, start, stop))
    assert sum(len(piece) for piece in pieces) == len(trace)
    assert np.concatenate([piece.input_tokens for piece in pieces]).tolist() == trace.input_tokens.tolist()


def test_a_slice_counts_from_its_start():
    assert slice_time(make([1.0, 5.0, 9.0]), 4.0, 9.0).arrival.tolist() == [1.0]


def test_a_slice_without_requests_says_how_long_the_trace_is():
    with pytest.raises(WorkloadError, match="spans 0 to 9 s"):
        slice_time(make([1.0, 9.0]), 20.0, 30.0)


def test_a_closed_loop_has_no_times_to_slice():
    with pytest.raises(WorkloadError, match="closed-loop"):
        slice_time(make([0.0, 0.0], concurrency=1), 0.0, 1.0)


def test_head_keeps_the_first_requests_and_their_blocks():
    trace = head(make([0.0, 1.0, 2.0], hashes=((1,), (2,), (3,))), 2)
    assert (trace.arrival.tolist(), trace.block_hashes) == ([0.0, 1.0], ((1,), (2,)))


def test_copies_do_not_share_blocks_but_requests_within_a_copy_do():
    trace = repeat(make([0.0, 1.0], hashes=((0, 4), (0, 5))), 2)
    assert trace.block_hashes == ((0, 4), (0, 5), (6, 10), (6, 11))


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_a_rate_factor_must_be_positive_and_finite(factor):
    with pytest.raises(WorkloadError, match="scale_rate: factor"):
        scale_rate(make([0.0, 1.0]), factor)


@pytest.mark.parametrize("times", [0, -1, 1.5, True])
def test_repeat_takes_whole_numbers_only(times):
    with pytest.raises(WorkloadError, match="repeat: times"):
        repeat(make([0.0, 1.0]), times)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arrival": np.array([1.0, 0.0])}, "request 1: arrival: 1 s earlier"),
        ({"arrival": np.array([-1.0, 0.0])}, "request 0: arrival: got -1.0 s"),
        ({"arrival": np.array([0.0, np.nan])}, "request 1: arrival: got nan s"),
        ({"arrival": np.zeros(3)}, "different lengths"),
        ({"input_tokens": np.array([1, 0])}, "request 1: input_tokens: got 0"),
        ({"concurrency": 0}, "concurrency: got 0"),
    ],
)
def test_a_trace_made_by_hand_is_checked(changes, expected):
    with pytest.raises(WorkloadError) as error:
        check_requests(replace(make([0.0, 1.0]), **changes))
    assert expected in str(error.value)


def test_a_trace_without_requests_is_refused():
    with pytest.raises(WorkloadError, match="no requests"):
        check_requests(make([]))
