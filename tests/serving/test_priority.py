"""Urgent requests go first, and give way last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, simulate
from simulator.deployment.inputs import scenario_requests
from simulator.serving.recorder import column

Play = Callable[..., Any]


def test_the_most_urgent_of_those_that_wait_is_next(
    play: Play, limits: Callable[..., Any], requests_of: Callable[..., Any], constant_timer: Any
) -> None:
    trace = replace(requests_of([4] * 4, [1] * 4, arrival=[0, 0.1, 0.2, 0.3]), priority=np.array([1, 1, 0, 1]))
    played = play(trace, limits(token_budget=4), [constant_timer()])
    assert column(played.run.requests.finish).tolist() == [1.0, 3.0, 2.0, 4.0]


def test_the_least_urgent_gives_way_when_memory_runs_out(
    play: Play, limits: Callable[..., Any], requests_of: Callable[..., Any], constant_timer: Any
) -> None:
    trace = requests_of([4, 4], [9, 9])
    for urgent in (0, 1):
        classes = np.array([urgent, 1 - urgent])
        played = play(replace(trace, priority=classes), limits(pool=18.0), [constant_timer()])
        assert (column(played.run.requests.preemptions) > 0).tolist() == (classes == 1).tolist()


def test_classes_are_drawn_by_their_shares_and_leave_the_requests_as_they_are() -> None:
    base = Scenario.from_mapping(
        {
            "model": {"name": "qwen3-30b-a3b"},
            "hardware": {"device": "h100-sxm"},
            "requests": {"kind": "poisson", "rate": 60.0, "count": 400, "lengths": {"input": 2000, "output": 16}},
            "routing": {"tokens": 512},
        }
    )
    split = base.override("requests.priorities=[1, 3]")
    plain, drawn = (scenario_requests(each.requests, each.seed) for each in (base, split))
    assert plain.priority is None
    assert drawn.priority is not None
    np.testing.assert_array_equal(plain.arrival, drawn.arrival)
    assert np.bincount(drawn.priority)[0] / 400 == pytest.approx(0.25, abs=0.06)
    result = simulate(split)
    waits = (result.requests["first_token_s"] - result.requests["arrival_s"]).to_numpy()
    urgent = drawn.priority == 0
    assert waits[urgent].mean() < 0.7 * waits[~urgent].mean()
