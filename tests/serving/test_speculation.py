"""Drafts: how many are accepted, how many steps that saves, and what a step that verifies them costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import Scenario, estimate, simulate
from simulator.errors import InfeasibleScenario, ScenarioError
from simulator.scenario.sections import Speculation
from simulator.serving.engine import Pool, run_engine
from simulator.serving.recorder import column
from simulator.step.speculation import answer_steps, tokens_per_step
from workloads.requests.trace import RequestTrace


def test_a_step_yields_one_token_and_the_drafts_before_the_first_refusal() -> None:
    assert tokens_per_step(Speculation()) == 1.0
    assert tokens_per_step(Speculation(draft_tokens=3, acceptance=(0.9, 0.5))) == pytest.approx(1 + 0.9 + 0.45 + 0.225)
    assert tokens_per_step(Speculation(draft_tokens=4, acceptance=(1.0,))) == 5.0
    assert tokens_per_step(Speculation(draft_tokens=4, acceptance=(0.0,))) == 1.0


@settings(max_examples=50)
@given(
    drafts=st.integers(1, 5),
    acceptance=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30),
)
def test_no_answer_takes_more_steps_than_tokens_or_fewer_than_full_acceptance(
    drafts: int, acceptance: list[float], lengths: list[int]
) -> None:
    choice = Speculation(draft_tokens=drafts, acceptance=tuple(acceptance))
    wanted = np.asarray(lengths) - 1
    steps = answer_steps(choice, np.asarray(lengths), 3)
    assert steps is not None
    assert (steps <= wanted).all()
    assert (steps >= -(-wanted // (1 + drafts))).all()
    np.testing.assert_array_equal(steps, answer_steps(choice, np.asarray(lengths), 3))


def test_long_answers_take_their_tokens_over_the_mean_yield() -> None:
    choice = Speculation(draft_tokens=3, acceptance=(0.8, 0.6, 0.5))
    steps = answer_steps(choice, np.full(400, 2001), 0)
    assert steps is not None
    assert 2000 / steps.mean() == pytest.approx(tokens_per_step(choice), rel=0.01)


def test_certain_acceptance_and_certain_refusal_are_exact() -> None:
    lengths = np.array([1, 2, 5, 8])
    assert answer_steps(Speculation(draft_tokens=2, acceptance=(1.0,)), lengths, 0).tolist() == [0, 1, 2, 3]  # type: ignore[union-attr]
    assert answer_steps(Speculation(draft_tokens=2, acceptance=(0.0,)), lengths, 0).tolist() == [0, 1, 4, 7]  # type: ignore[union-attr]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_memory_is_all_free_at_the_end_and_everybody_is_answered(
    data: st.DataObject, limits: Callable[..., Any], constant_timer: Any
) -> None:
    size = data.draw(st.integers(1, 16))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    inputs, outputs = rng.integers(1, 30, size), rng.integers(1, 20, size)
    choice = Speculation(draft_tokens=data.draw(st.integers(1, 4)), acceptance=(data.draw(st.floats(0, 1)),))
    trace = RequestTrace(
        arrival=np.zeros(size), input_tokens=inputs, output_tokens=outputs, concurrency=data.draw(st.integers(1, 9))
    )
    gain = tokens_per_step(choice)
    bounds = limits(
        dp=data.draw(st.integers(1, 3)),
        pool=float((inputs + 4 * outputs).max() + 8 + data.draw(st.integers(0, 30))),
        query_tokens=1 + choice.draft_tokens,
        accepted_per_step=gain,
    )
    steps = answer_steps(choice, outputs, 1)
    run = run_engine(trace, [Pool(timers=[constant_timer()], limits=bounds)], answer_steps=steps)
    finish, first = column(run.requests.finish), column(run.requests.first_token)
    assert (finish >= first).all()
    if not column(run.requests.preemptions).sum():
        # Every step counts all the tokens that it verifies.
        assert run.steps["decode_total"].sum() == (1 + choice.draft_tokens) * steps.sum()  # type: ignore[union-attr]


def scenario(**changes: Any) -> Scenario:
    return Scenario.from_mapping(
        {
            "model": {"name": "qwen3-30b-a3b"},
            "hardware": {"device": "h200-sxm"},
            "stack": {"name": "vllm"},
            "requests": {"concurrency": 4, "count": 24, "lengths": {"input": 128, "output": 128}},
            "routing": {"tokens": 512},
            **changes,
        }
    )


def test_accepted_drafts_shorten_answers_and_refused_ones_lengthen_them() -> None:
    plain = simulate(scenario()).summary.tpot_s.mean
    accepted, refused = (
        simulate(scenario(speculation={"draft_tokens": 2, "acceptance": [chance]})).summary.tpot_s.mean
        for chance in (0.9, 0.0)
    )
    assert plain / 2.71 < accepted < 0.75 * plain
    assert refused > plain


def test_drafts_by_a_layer_cost_more_than_free_ones() -> None:
    layer, free = (
        simulate(scenario(speculation={"draft_tokens": 2, "acceptance": [0.8], "draft": draft})).summary.tpot_s.mean
        for draft in ("mtp", "none")
    )
    assert free < layer < 1.5 * free


def test_drafts_need_an_acceptance_between_0_and_1_and_the_engine() -> None:
    with pytest.raises(ScenarioError, match=r"speculation\.acceptance: is required"):
        simulate(scenario(speculation={"draft_tokens": 2}))
    with pytest.raises(ScenarioError, match=r"speculation\.acceptance\.0: got 1\.5; .* less than or equal to 1"):
        scenario(speculation={"draft_tokens": 2, "acceptance": [1.5]})
    with pytest.raises(InfeasibleScenario, match=r"estimate.*speculation\.draft_tokens; use simulate"):
        estimate(scenario(speculation={"draft_tokens": 2, "acceptance": [0.5]}))
