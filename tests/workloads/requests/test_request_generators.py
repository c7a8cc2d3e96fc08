"""Generated requests are reproducible, and each part of them has its own randomness."""

import numpy as np
import pytest

from workloads.errors import WorkloadError
from workloads.requests.generators import generate_requests
from workloads.requests.trace import RequestTrace
from workloads.streams import PURPOSES, stream

LENGTHS = {"kind": "lognormal", "mean": 500, "cv": 1}


def make(**changes):
    given = {
        "requests": 100,
        "seed": 3,
        "arrivals": {"kind": "poisson", "rate": 2},
        "input_tokens": LENGTHS,
        "output_tokens": LENGTHS,
    }
    return generate_requests(**(given | changes))


def test_the_same_seed_gives_the_same_requests():
    first, second = make(), make()
    for column in ("arrival", "input_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))


def test_another_seed_gives_other_requests():
    assert not np.array_equal(make().arrival, make(seed=4).arrival)
    assert not np.array_equal(make().input_tokens, make(seed=4).input_tokens)


def test_changing_one_part_leaves_the_others_alone():
    other_arrivals = make(arrivals={"kind": "gamma", "rate": 2, "cv": 3})
    np.testing.assert_array_equal(other_arrivals.input_tokens, make().input_tokens)
    other_inputs = make(input_tokens=64)
    np.testing.assert_array_equal(other_inputs.arrival, make().arrival)
    np.testing.assert_array_equal(other_inputs.output_tokens, make().output_tokens)


def test_prompt_and_answer_lengths_are_independent():
    trace = make(requests=20_000)
    assert abs(np.corrcoef(trace.input_tokens, trace.output_tokens)[0, 1]) < 0.03


def test_a_closed_loop_carries_its_concurrency():
    trace = make(arrivals={"kind": "closed_loop", "concurrency": 16})
    assert trace.concurrency == 16
    assert not trace.arrival.any()


def test_lengths_of_a_trace_are_drawn_in_pairs():
    recorded = RequestTrace(arrival=np.zeros(3), input_tokens=np.array([1, 2, 3]), output_tokens=np.array([10, 20, 30]))
    trace = make(input_tokens=None, output_tokens=None, lengths_of=recorded)
    np.testing.assert_array_equal(trace.output_tokens, 10 * trace.input_tokens)
    assert set(trace.input_tokens) == {1, 2, 3}


def test_lengths_are_given_once():
    recorded = RequestTrace(arrival=np.zeros(1), input_tokens=np.array([1]), output_tokens=np.array([1]))
    with pytest.raises(WorkloadError, match="not together with lengths_of"):
        make(lengths_of=recorded)


@pytest.mark.parametrize("requests", [0, -1, 2.5, "3"])
def test_the_number_of_requests_is_a_whole_number(requests):
    with pytest.raises(WorkloadError, match="requests: got"):
        make(requests=requests)


@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(WorkloadError, match="seed: got"):
        make(seed=seed)


def test_streams_of_different_purposes_differ():
    draws = {purpose: stream(0, purpose).integers(2**62) for purpose in PURPOSES}
    assert len(set(draws.values())) == len(PURPOSES)


def test_an_unknown_purpose_names_the_nearest_one():
    with pytest.raises(WorkloadError, match="did you mean 'arrivals'"):
        stream(0, "arrival")
