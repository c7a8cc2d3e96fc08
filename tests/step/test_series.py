"""Steps that are timed at once take as long as each of them alone, and leave the trace where they would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator import Scenario
from simulator.deployment.deployment import Deployment, deploy
from simulator.step.timer import TableTimer
from simulator.step.work import StepSeries, StepWork

ONE_RANK: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "requests": {"kind": "closed_loop", "concurrency": 512, "count": 8, "lengths": {"input": 300, "output": 40}},
    "routing": {"tokens": 256},
}
WIDE: dict[str, Any] = {
    **ONE_RANK,
    "model": {"name": "qwen3-30b-a3b"},
    "hardware": {"device": "h200-sxm", "node": "hgx-h200"},
    "parallelism": {"dp": 8, "ep": 8},
}
CASES = {
    "one rank": ONE_RANK,
    "wide": WIDE,
    "stages": {**WIDE, "parallelism": {"tp": 2, "ep": 2, "pp": 2}},
    "dense": {**ONE_RANK, "model": {"name": "llama-3.1-8b"}},
}


def works(deployment: Deployment, count: int) -> list[StepWork]:
    """Steps of all kinds: some decode, some compute prompts, some do both."""
    rng, dp = np.random.default_rng(0), deployment.split.dp
    found = []
    for _ in range(count):
        work, running = StepWork(), int(rng.integers(1, 60)) * dp
        decodes, prompts = rng.random() < 0.8, rng.random() < 0.4
        if decodes or not prompts:
            most = -(-running // dp) + int(rng.integers(0, 3))
            work.set_decode(running, most, most - 1 or 1, float(rng.uniform(10, 300)))
        if prompts:
            tokens = int(rng.integers(2, 200))
            work.add_prompts(
                rows=work.rows + tokens,
                prompt_rows=tokens,
                sequences=int(rng.integers(1, 3)),
                prefix=float(rng.integers(0, 100)),
                total=tokens * int(rng.integers(1, dp + 1)),
            )
        found.append(work)
    return found


@pytest.mark.parametrize("name", CASES)
def test_steps_timed_at_once_are_those_timed_one_by_one(name: str) -> None:
    scenario = Scenario.from_mapping(CASES[name])
    deployment = deploy(scenario)
    steps = works(deployment, 150)
    one_by_one, at_once = deployment.timer(), deployment.timer()
    fields = ("duration", "attention", "prompt_projections", "experts", "imbalance_wait", "gap", "imbalance")
    expected = []
    for work in steps:
        step = one_by_one.time(work)
        expected.append([getattr(step, field) for field in fields])
    names = StepSeries.__dataclass_fields__
    series = StepSeries(**{field: np.array([getattr(work, field) for work in steps]) for field in names})
    times = at_once.series(series)
    for field, values in zip(fields, np.array(expected).T, strict=True):
        np.testing.assert_allclose(getattr(times, field), values, rtol=1e-12, atol=1e-18, err_msg=field)
    assert at_once.places == one_by_one.places


def test_windows_taken_at_once_hold_what_each_of_them_holds() -> None:
    routing = deploy(Scenario.from_mapping(WIDE)).routing
    assert routing is not None
    rng = np.random.default_rng(1)
    starts, counts = rng.integers(0, routing.tokens, 50), rng.integers(0, 3 * routing.tokens, 50)
    for order in (routing.prefill, routing.decode):
        each = [order.load(start, count) for start, count in zip(starts.tolist(), counts.tolist(), strict=True)]
        assert np.array_equal(order.loads(starts, counts), np.stack(each))


def test_what_overlaps_is_not_timed_at_once() -> None:
    deployment = deploy(Scenario.from_mapping(WIDE).override("stack.name=sglang", "stack.overlap=auto"))
    timer = deployment.timer()
    assert isinstance(timer, TableTimer)
    assert not timer.takes_series
    with pytest.raises(ValueError, match="step by step"):
        timer.series(StepSeries(**dict.fromkeys(StepSeries.__dataclass_fields__, np.ones(1, dtype=np.int64))))
