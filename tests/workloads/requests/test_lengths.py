"""Length distributions have the moments and bounds that they promise."""

import numpy as np
import pytest

from workloads.errors import WorkloadError
from workloads.requests.generators import generate_requests
from workloads.requests.lengths import empirical, fixed, lognormal, uniform
from workloads.streams import stream

MANY = 200_000


def rng():
    return stream(5, "lengths")


def test_fixed_lengths_are_fixed():
    assert fixed(rng(), 3, "input_tokens", length=7).tolist() == [7, 7, 7]


def test_uniform_lengths_span_the_ratio_and_include_both_ends():
    drawn = uniform(rng(), MANY, "input_tokens", length=1024, ratio=0.8)
    assert (drawn.min(), drawn.max()) == (819, 1024)
    assert drawn.mean() == pytest.approx(0.9 * 1024, rel=0.002)


def test_a_ratio_of_one_is_fixed():
    assert set(uniform(rng(), 100, "input_tokens", length=64, ratio=1)) == {64}


@pytest.mark.parametrize("cv", [0.2, 1.0])
def test_lognormal_lengths_have_the_mean_and_variability_asked_for(cv):
    drawn = lognormal(rng(), MANY, "input_tokens", mean=1000, cv=cv)
    assert drawn.mean() == pytest.approx(1000, rel=0.01)
    assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.03)


def test_lognormal_lengths_stay_within_bounds():
    drawn = lognormal(rng(), 10_000, "input_tokens", mean=100, cv=3, minimum=10, maximum=500)
    assert (drawn.min(), drawn.max()) == (10, 500)


def test_empirical_lengths_come_from_the_list():
    drawn = empirical(rng(), 10_000, "input_tokens", values=[3, 3, 9])
    assert set(drawn) == {3, 9}
    assert np.mean(drawn == 3) == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, "input_tokens.length: got 0"),
        (-5, "input_tokens.length: got -5"),
        (1.5, "input_tokens.length: got 1.5"),
        (None, "input_tokens: missing"),
        ({"kind": "uniform", "length": 10}, "input_tokens.ratio: missing"),
        ({"kind": "uniform", "length": 10, "ratio": 1.2}, "input_tokens.ratio: got 1.2"),
        ({"kind": "lognormal", "mean": float("nan"), "cv": 1}, "input_tokens.mean: got nan"),
        ({"kind": "lognormal", "mean": 5, "cv": 1, "minimum": 9, "maximum": 3}, "input_tokens.maximum: got 3"),
        ({"kind": "empirical", "values": []}, "input_tokens.values: got []"),
        ({"kind": "empirical", "values": [3, 0]}, "input_tokens.values[1]: got 0"),
        ({"kind": "normal"}, "did you mean 'lognormal'"),
    ],
)
def test_bad_lengths_name_their_key(given, expected):
    with pytest.raises(WorkloadError) as error:
        generate_requests(requests=5, seed=0, arrivals={"kind": "at_once"}, input_tokens=given, output_tokens=1)
    assert expected in str(error.value)
