"""What overlap does to the time of a step, and that every way of telling it agrees."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import Scenario, estimate, simulate
from simulator.deployment.deployment import Deployment, deploy
from simulator.errors import MoesimError
from simulator.schedule.mechanisms import layer_tasks
from simulator.schedule.streams import list_schedule
from simulator.stack import load_stack
from simulator.step.timer import TableTimer
from simulator.step.work import StepTime, StepWork

EP32: dict[str, Any] = {
    "model": {"name": "deepseek-v3"},
    "hardware": {"device": "h100-sxm", "node": "hgx-h100", "cluster": "hgx-h100-ib"},
    "parallelism": {"dp": 32, "ep": 32},
    "placement": {"policy": "balanced", "redundant_slots": 32},
    "requests": {"kind": "closed_loop", "concurrency": 8192, "lengths": {"input": 1536, "output": 256}},
    "routing": {"kind": "zipf", "tokens": 512},
}


@cache
def deployment(overlap: str) -> Deployment:
    return deploy(Scenario.from_mapping({**EP32, "stack": {"name": "sglang", "overlap": overlap}}))


def decoding(rows: int, context: float = 2048.0) -> StepWork:
    return StepWork(
        rows=rows, decode_rows=rows, decode_context=context, decode_total=rows * 32, logits=rows, running=rows * 32
    )


def prompting(rows: int, sequences: int, decoded: int = 0) -> StepWork:
    return StepWork(
        rows=rows + decoded,
        decode_rows=decoded,
        decode_context=1000.0,
        prompt_rows=rows,
        prompt_sequences=sequences,
        prompt_total=rows * 32,
        decode_total=decoded * 32,
        logits=sequences + decoded,
        running=decoded * 32,
    )


def timed(overlap: str, work: StepWork) -> tuple[TableTimer, StepTime]:
    timer = deployment(overlap).timer()
    return timer, timer.time(work)


WORKS = st.one_of(
    st.builds(decoding, st.integers(2, 256), st.floats(100, 2000)),
    st.builds(prompting, st.integers(64, 8000), st.integers(1, 8)),
    st.builds(prompting, st.integers(64, 4000), st.integers(1, 4), st.integers(1, 64)),
)


@given(WORKS, st.sampled_from(["none", "shared_expert", "two_batch", "auto"]))
@settings(max_examples=40)
def test_the_schedule_of_a_step_ends_when_the_engine_says(work: StepWork, overlap: str) -> None:
    timer, step = timed(overlap, work)
    split = step.overlap == "two_batch"
    layers = timer.overlapper.halves(work, step) if split else timer.overlapper.whole(work, step)
    makespan = list_schedule(layer_tasks(layers.times, step.overlap)).makespan
    assert layers.outside + makespan + step.gap == pytest.approx(step.duration, rel=1e-9)


@given(WORKS)
@settings(max_examples=30)
def test_auto_ends_no_later_than_any_other_choice(work: StepWork) -> None:
    best = timed("auto", work)[1].duration
    for overlap in ("none", "shared_expert", "two_batch"):
        assert best <= timed(overlap, work)[1].duration * (1 + 1e-12)


def test_two_batches_pay_for_large_batches_and_cost_for_small_ones() -> None:
    gains = [timed("none", decoding(n))[1].duration / timed("two_batch", decoding(n))[1].duration for n in (16, 256)]
    assert gains[0] < 1.0 < gains[1]


def test_two_batches_hide_prompt_exchanges() -> None:
    work = prompting(8192, 4)
    assert timed("two_batch", work)[1].duration < 0.9 * timed("none", work)[1].duration


def test_a_step_of_one_row_is_never_split() -> None:
    step = timed("two_batch", decoding(1))[1]
    assert step.overlap == "none"
    assert step.saved == 0.0


def test_a_stack_threshold_keeps_small_batches_whole() -> None:
    d = deployment("two_batch")
    stack = replace(d.stack, numbers=load_stack("vllm").numbers)
    least = stack.two_batch_tokens("decode")
    timer = TableTimer(d.tables, d.totals, d.routing, stack)
    assert timer.time(decoding(least - 1)).overlap == "none"
    assert timer.time(decoding(least)).overlap == "two_batch"
    assert least > d.stack.two_batch_tokens("decode")


def test_the_halves_replay_the_tokens_of_the_whole() -> None:
    timer, step = timed("two_batch", decoding(100))
    overlapper, work = timer.overlapper, decoding(100)
    whole, halves = overlapper.whole(work, step), overlapper.halves(work, step)
    np.testing.assert_array_equal(halves.loads.sum(axis=0), whole.loads[0])
    assert sum(halves.tokens) == whole.tokens[0]


@pytest.mark.parametrize("overlap", ["two_batch", "auto"])
def test_the_breakdown_adds_up_to_the_run(overlap: str) -> None:
    scenario = Scenario.from_mapping({**EP32, "stack": {"name": "sglang", "overlap": overlap}}).override(
        "requests.count=4096", "requests.concurrency=4096", "requests.lengths.output=16"
    )
    result = simulate(scenario)
    busy = sum(seconds for part, seconds in result.breakdown.items() if part != "idle")
    assert busy == pytest.approx(float(result.steps["duration_s"].sum()), rel=1e-9)
    assert min(result.breakdown.values()) >= 0.0


def test_estimate_and_engine_agree_with_overlap_as_without() -> None:
    errors = []
    for overlap in ("none", "two_batch"):
        scenario = Scenario.from_mapping({**EP32, "stack": {"name": "sglang", "overlap": overlap}}).override(
            "requests.count=4096", "requests.concurrency=2048", "requests.lengths.output=256", "run.drain=false"
        )
        told, played = estimate(scenario).summary, simulate(scenario).summary
        errors.append(abs(told.tpot_s.mean / played.tpot_s.mean - 1.0))
    assert errors[1] < errors[0] + 0.02


def test_two_batches_without_an_exchange_are_refused() -> None:
    scenario = Scenario.from_mapping(
        {"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "h100-sxm"}, "parallelism": {"tp": 2}}
    ).override("stack.overlap=two_batch", "requests.concurrency=8")
    with pytest.raises(MoesimError, match=r"stack\.overlap"):
        deploy(scenario)
