"""Arrival processes have the rate and the variability that they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.errors import WorkloadError
from workloads.requests.arrivals import ARRIVALS, diurnal, gamma, poisson
from workloads.requests.generators import generate_requests
from workloads.requests.trace import check_requests
from workloads.streams import stream

MANY = 200_000


def gaps(arrival):
    return np.diff(arrival)


def test_poisson_gaps_have_the_mean_and_the_variability_of_an_exponential():
    drawn = gaps(poisson(stream(1, "arrivals"), MANY, rate=4.0))
    assert drawn.mean() == pytest.approx(0.25, rel=0.02)
    assert drawn.std() / drawn.mean() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.5])
def test_gamma_gaps_have_the_mean_and_the_variability_asked_for(cv):
    drawn = gaps(gamma(stream(1, "arrivals"), MANY, rate=4.0, cv=cv))
    assert drawn.mean() == pytest.approx(0.25, rel=0.03)
    assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.03)


def test_diurnal_arrivals_follow_the_profile_from_the_start_asked_for():
    arrival = diurnal(stream(1, "arrivals"), MANY, rate=10.0, profile=(1.0, 3.0), period=100.0, start=50.0)
    quiet = np.mean((arrival + 50.0) % 100.0 < 50.0)
    assert quiet == pytest.approx(0.25, abs=0.01)
    assert MANY / arrival[-1] == pytest.approx(10.0, rel=0.02)
    assert np.sum(arrival < 50.0) == pytest.approx(750, rel=0.1)


def test_a_profile_may_be_silent_for_a_while():
    arrival = diurnal(stream(1, "arrivals"), 5000, rate=1.0, profile=(0, 1, 0), period=30.0)
    assert np.all((arrival % 30.0 >= 10.0) & (arrival % 30.0 <= 20.0))


@given(
    kind=st.sampled_from(["poisson", "gamma", "constant", "diurnal"]),
    requests=st.integers(1, 50),
    rate=st.floats(1e-3, 1e4),
    seed=st.integers(0, 2**32),
)
def test_arrivals_are_ordered_and_start_at_zero_or_later(kind, requests, rate, seed):
    arrivals = {"kind": kind, "rate": rate} | ({"cv": 2.0} if kind == "gamma" else {})
    trace = generate_requests(requests=requests, seed=seed, arrivals=arrivals, input_tokens=1, output_tokens=1)
    assert len(trace) == requests
    check_requests(trace)


def test_doubling_the_rate_halves_every_time():
    slow, fast = (poisson(stream(3, "arrivals"), 100, rate=rate) for rate in (1.0, 2.0))
    np.testing.assert_allclose(slow, 2 * fast)


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ({"kind": "poison", "rate": 1}, "did you mean 'poisson'"),
        ({"kind": "poisson", "rat": 1}, "arrivals.rat: poisson has no such parameter; did you mean 'rate'"),
        ({"kind": "poisson"}, "arrivals.rate: missing"),
        ({"kind": "poisson", "rate": 0}, "arrivals.rate: got 0"),
        ({"kind": "poisson", "rate": float("nan")}, "arrivals.rate: got nan"),
        ({"kind": "poisson", "rate": "5"}, "arrivals.rate: got '5'"),
        ({"kind": "gamma", "rate": 1, "cv": -1}, "arrivals.cv: got -1"),
        ({"kind": "diurnal", "rate": 1, "profile": []}, "arrivals.profile: got []"),
        ({"kind": "diurnal", "rate": 1, "profile": [0, 0]}, "arrivals.profile: all rates are 0"),
        ({"kind": "diurnal", "rate": 1, "profile": [1, -1]}, "arrivals.profile[1]: got -1"),
        ({"kind": "diurnal", "rate": 1, "period": 0}, "arrivals.period: got 0"),
        ({"kind": "closed_loop", "concurrency": 0}, "arrivals.concurrency: got 0"),
        ({"kind": "at_once", "rate": 1}, "it takes none"),
        ({"rate": 1}, "expected a table with a kind"),
    ],
)
def test_bad_arrivals_name_their_key(arrivals, expected):
    with pytest.raises(WorkloadError) as error:
        generate_requests(requests=5, seed=0, arrivals=arrivals, input_tokens=1, output_tokens=1)
    assert expected in str(error.value)


def test_every_kind_is_documented():
    assert all(function.__doc__ for function in ARRIVALS.values())
