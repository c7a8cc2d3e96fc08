"""What each policy asks for, and what holds it back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.elastic.policies import Governor, Observation, forecast_rate, wanted_size
from simulator.elastic.report import step_means
from simulator.scenario.sections import ElasticChoice

CALM = Observation(
    now=100.0,
    size=4,
    waiting=0,
    running=20,
    slots=10,
    attainment=1.0,
    rate=2.0,
    forecast=2.0,
    capacity=1.0,
)


def choice(policy: str, **keys: Any) -> ElasticChoice:
    return ElasticChoice.model_validate({"mechanism": "elastic", "policy": policy, **keys})


def test_a_schedule_follows_its_latest_event() -> None:
    planned = choice(
        "schedule", events=[{"at": "50 s", "size": 6}, {"at": "90 s", "size": 2}, {"at": "150 s", "size": 8}]
    )
    assert wanted_size(planned, replace(CALM, now=10.0)) == 4
    assert wanted_size(planned, replace(CALM, now=60.0)) == 6
    assert wanted_size(planned, CALM) == 2


def test_a_queue_beyond_the_threshold_makes_it_grow_and_an_empty_one_shrink() -> None:
    queue = choice("queue", up=3)
    assert wanted_size(queue, replace(CALM, waiting=13)) == 5
    assert wanted_size(queue, replace(CALM, waiting=12)) == 4
    assert wanted_size(queue, CALM) == 3
    assert wanted_size(queue, replace(CALM, running=25)) == 4


def test_attainment_below_the_threshold_makes_it_grow() -> None:
    slo = choice("slo")
    assert wanted_size(slo, replace(CALM, attainment=0.89)) == 5
    assert wanted_size(slo, replace(CALM, attainment=0.91, running=30)) == 4
    assert wanted_size(slo, replace(CALM, attainment=math.nan)) == 3


def test_utilisation_aims_at_its_target_within_the_band() -> None:
    aim = choice("utilisation", target=0.5, band=0.1)
    assert wanted_size(aim, CALM) == 4
    assert wanted_size(aim, replace(CALM, running=30)) == 6
    assert wanted_size(aim, replace(CALM, running=5)) == 1


def test_a_forecast_is_met_before_it_comes() -> None:
    ahead = choice("predictive", target=0.5)
    assert wanted_size(ahead, replace(CALM, forecast=5.0)) == 10
    assert wanted_size(ahead, replace(CALM, forecast=0.5, rate=2.0)) == 4


@given(
    st.sampled_from(["queue", "slo", "utilisation", "predictive"]),
    st.integers(0, 1000),
    st.floats(0, 1),
    st.floats(0, 50),
    st.integers(1, 3),
)
def test_bounds_and_steps_always_hold(policy: str, load: int, attained: float, rate: float, step: int) -> None:
    governor = Governor(choice=choice(policy, step=step), base=4, smallest=2, largest=9)
    seen = replace(CALM, waiting=load, running=load, attainment=attained, rate=rate, forecast=rate)
    size = governor.settle(seen)
    assert 2 <= size <= 9
    assert (size - 4) % step == 0


def test_a_change_waits_for_its_patience_and_for_its_rest() -> None:
    governor = Governor(
        choice=choice("queue", patience=2, cooldown_up="10 s", cooldown_down="60 s"), base=4, smallest=1, largest=9
    )
    busy = replace(CALM, waiting=100)
    assert governor.settle(busy) == 4
    assert governor.settle(busy) == 5
    governor.changed(100.0)
    assert [governor.settle(replace(busy, now=at)) for at in (105.0, 109.0, 111.0)] == [4, 4, 5]
    governor.changed(111.0)
    assert [governor.settle(replace(CALM, now=at)) for at in (140.0, 160.0, 172.0)] == [4, 4, 3]


def test_looks_that_disagree_start_over() -> None:
    governor = Governor(choice=choice("queue", patience=2), base=4, smallest=1, largest=9)
    busy = replace(CALM, waiting=100)
    assert [governor.settle(seen) for seen in (busy, CALM, busy, busy)] == [4, 4, 4, 5]


def test_the_forecast_counts_arrivals_ahead() -> None:
    arrival = np.arange(100, dtype=np.float64)
    assert forecast_rate(arrival, 10.0, 20.0) == pytest.approx(1.0)
    assert forecast_rate(arrival, 200.0, 20.0) == 0.0


@given(st.lists(st.tuples(st.floats(0.01, 5.0), st.floats(0, 9)), min_size=1, max_size=12), st.integers(1, 9))
def test_means_over_bins_keep_the_area_under_a_step_function(steps: list[tuple[float, float]], bins: int) -> None:
    gaps, values = (np.array(each) for each in zip(*steps, strict=True))
    times = np.concatenate([[0.0], np.cumsum(gaps)[:-1]])
    end = float(gaps.sum())
    edges = np.linspace(0.0, end, bins + 1)
    means = step_means(times, values, edges)
    assert float((means * np.diff(edges)).sum()) == pytest.approx(float((gaps * values).sum()), abs=1e-9)
