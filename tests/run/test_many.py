"""Many scenarios at once: the same answers as one by one, in order, and an outcome for each."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from simulator import Estimate, InfeasibleScenario, MoesimError, Scenario, Sweep, estimate, estimate_many
from simulator.scenario.features import beyond_closed_form

MIXTRAL: dict[str, Any] = {
    "model": {"name": "mixtral-8x7b"},
    "hardware": {"device": "a100-sxm"},
    "parallelism": {"tp": 2},
    "stack": {"name": "vllm"},
    "routing": {"kind": "zipf", "tokens": 512},
}
DEEPSEEK: dict[str, Any] = {
    "model": {"name": "deepseek-v3"},
    "hardware": {"device": "h200-sxm"},
    "parallelism": {"dp": 8, "ep": 8},
    "routing": {"kind": "zipf", "tokens": 512},
}
DENSE: dict[str, Any] = {"model": {"name": "llama-3.1-8b"}, "hardware": {"device": "h100-sxm"}}
CLOSED: dict[str, Any] = {"kind": "closed_loop", "concurrency": 24, "count": 240}
OPEN: dict[str, Any] = {"kind": "poisson", "rate": 2.0, "count": 200}
UNEQUAL: dict[str, Any] = {"lengths": {"kind": "uniform", "input": 700, "output": 200, "range_ratio": 0.3}}
EQUAL: dict[str, Any] = {"lengths": {"kind": "fixed", "input": 700, "output": 50}}
SHORT: dict[str, Any] = {"lengths": {"kind": "fixed", "input": 700, "output": 1}}

CASES: dict[str, dict[str, Any]] = {
    "a closed loop": {**MIXTRAL, "requests": CLOSED | UNEQUAL},
    "a closed loop of one": {**MIXTRAL, "requests": CLOSED | UNEQUAL | {"concurrency": 1}},
    "an open loop": {**MIXTRAL, "requests": OPEN | UNEQUAL},
    "an open loop that is too much": {**MIXTRAL, "requests": OPEN | UNEQUAL | {"rate": 500.0}},
    "lock step": {**MIXTRAL, "requests": CLOSED | EQUAL},
    "lock step on two instances": {**MIXTRAL, "parallelism": {"tp": 2, "instances": 2}, "requests": CLOSED | EQUAL},
    "one token each, in rounds": {**MIXTRAL, "requests": CLOSED | SHORT},
    "one token each, as a queue": {**MIXTRAL, "requests": OPEN | SHORT},
    "one token each, too many": {**MIXTRAL, "requests": OPEN | SHORT | {"rate": 500.0}},
    "other routing": {**MIXTRAL, "requests": CLOSED | UNEQUAL, "routing": {"kind": "balanced"}},
    "prompts first": {**DEEPSEEK, "requests": CLOSED | UNEQUAL},
    "prompts first, open": {**DEEPSEEK, "requests": OPEN | UNEQUAL | {"rate": 0.5}},
    "prompts first, lock step": {**DEEPSEEK, "requests": CLOSED | EQUAL | {"concurrency": 96}},
    "more than fits": {**MIXTRAL, "requests": CLOSED | {"lengths": {"input": 20_000, "output": 2_000}}},
    "two batches": {**DEEPSEEK, "stack": {"overlap": "two_batch"}, "requests": CLOSED | UNEQUAL},
    "two batches, lock step": {**DEEPSEEK, "stack": {"overlap": "two_batch"}, "requests": CLOSED | EQUAL},
    "a pipeline": {**MIXTRAL, "parallelism": {"pp": 2}, "requests": CLOSED | UNEQUAL},
    "a pipeline in lock step": {**MIXTRAL, "parallelism": {"pp": 2}, "requests": CLOSED | EQUAL},
    "dense": {**DENSE, "requests": CLOSED | UNEQUAL},
    "dense, open, objectives": {**DENSE, "requests": OPEN | UNEQUAL, "slo": {"tpot": "1 ms", "ttft": "10 s"}},
    "dense lock step": {**DENSE, "requests": CLOSED | EQUAL},
    "priorities": {**DENSE, "requests": CLOSED | UNEQUAL | {"priorities": [0.5, 0.5]}},
    "does not fit": {**DEEPSEEK, "parallelism": {"tp": 1}, "requests": CLOSED},
    "drafts": {**DENSE, "requests": CLOSED, "speculation": {"draft_tokens": 2, "acceptance": [0.7]}},
    "no such device": {**DENSE, "hardware": {"device": "h1000"}, "requests": CLOSED},
    "no rate": {**DENSE, "requests": {"kind": "poisson"}},
}


def scenario(case: str) -> Scenario:
    return Scenario.from_mapping({"name": case, **CASES[case]})


def alone(asked: Scenario) -> Estimate | MoesimError:
    try:
        return estimate(asked)
    except MoesimError as error:
        return error


def assert_same(found: Any, expected: Any, where: str) -> None:
    """Compare nested values: numbers to rounding, and all else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-15, nan_ok=True), where
    elif isinstance(expected, tuple) and expected and isinstance(expected[0], float):
        assert found == pytest.approx(expected, rel=1e-9, nan_ok=True), where
    else:
        assert found == expected, where


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return estimate_many(scenario(case) for case in CASES)


@pytest.mark.parametrize("case", CASES)
def test_many_together_get_the_answers_that_each_gets_alone(case: str, sweep: Sweep) -> None:
    outcome, expected = sweep[list(CASES).index(case)], alone(scenario(case))
    assert outcome.scenario.name == case
    if isinstance(expected, MoesimError):
        assert outcome.how == "refused"
        assert outcome.estimate is None
        assert type(outcome.error) is type(expected)
        assert str(outcome.error) == str(expected)
        return
    assert outcome.how == "solved"
    assert outcome.error is None
    assert outcome.estimate is not None
    assert outcome.estimate.scenario == expected.scenario
    assert outcome.estimate.warnings == expected.warnings
    assert outcome.estimate.provenance == expected.provenance
    assert_same(asdict(outcome.estimate.summary), asdict(expected.summary), "summary")
    assert_same(dict(outcome.estimate.breakdown), dict(expected.breakdown), "breakdown")


def test_the_order_of_the_scenarios_changes_nothing(sweep: Sweep) -> None:
    order = sorted(range(len(CASES)), key=lambda index: (index * 7) % 11)
    shuffled = estimate_many([scenario(list(CASES)[index]) for index in order])
    for index, outcome in zip(order, shuffled, strict=True):
        assert outcome.scenario == sweep[index].scenario
        if outcome.estimate is None:
            assert str(outcome.error) == str(sweep[index].error)
        else:
            before = sweep[index].estimate
            assert before is not None
            assert_same(asdict(outcome.estimate.summary), asdict(before.summary), "summary")


def test_nothing_asked_is_nothing_answered() -> None:
    sweep = estimate_many([])
    assert len(sweep) == 0
    assert len(sweep.frame()) == 0
    assert repr(sweep) == "<Sweep of 0 scenarios: none>"


def test_the_table_has_the_keys_that_differ_and_the_numbers() -> None:
    base = scenario("a closed loop")
    asked = [
        base.override(f"requests.concurrency={count}", f"requests.lengths.input={900 - count}") for count in (4, 8)
    ]
    frame = estimate_many([*asked, scenario("does not fit")]).frame()
    assert list(frame["how"]) == ["solved", "solved", "refused"]
    assert list(frame["requests.concurrency"]) == [4, 8, 24]
    assert "requests.lengths.input" in frame
    assert "seed" not in frame
    assert frame["why_not"].str.len().gt(0).tolist() == [False, False, True]
    first = estimate(asked[0]).summary
    assert frame["ttft_s"][0] == pytest.approx(first.ttft_s.mean)
    assert frame["interval_80_low"][0] == pytest.approx(first.interval_80[0])
    assert math.isnan(frame["output_tokens_per_s_per_gpu"][2])


def test_progress_is_told_until_all_are_done_and_may_cancel() -> None:
    told: list[float] = []
    asked = [scenario("dense").override(f"requests.concurrency={count}") for count in (1, 2, 3)]
    estimate_many(asked, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0

    def cancel(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_many(asked, progress=cancel)


def test_what_the_closed_form_does_not_know_is_played_where_that_is_asked_for() -> None:
    drafts = scenario("drafts")
    assert beyond_closed_form(drafts)
    [refused] = estimate_many([drafts])
    assert refused.how == "refused"
    assert isinstance(refused.error, InfeasibleScenario)
    solved, played = estimate_many([scenario("dense"), drafts], play=True)
    assert (solved.how, played.how) == ("solved", "played")
    assert played.estimate is not None
    assert 0 < played.estimate.summary.requests_completed <= 240


@pytest.mark.parametrize("stack", ["sglang", "vllm", "trtllm"])
@pytest.mark.parametrize("kind", ["closed_loop", "poisson"])
@pytest.mark.parametrize("place", [DEEPSEEK, MIXTRAL, DENSE], ids=["ep", "tp", "dense"])
def test_loads_from_idle_to_too_many_are_solved_together_as_alone(place: dict[str, Any], kind: str, stack: str) -> None:
    asked = [
        Scenario.from_mapping(
            {
                **place,
                "stack": {"name": stack},
                "requests": {
                    "kind": kind,
                    "concurrency" if kind == "closed_loop" else "rate": load,
                    "count": 60,
                    "lengths": {"kind": "lognormal", "input": prompt, "output": answer, "cv": 0.5},
                },
            }
        )
        for load, prompt, answer in [(1, 300, 40), (7, 9000, 3), (40, 900, 200), (300, 100, 60), (60, 20000, 10)]
    ]
    for outcome in estimate_many(asked):
        expected = alone(outcome.scenario)
        assert outcome.how == "solved"
        assert outcome.estimate is not None
        assert isinstance(expected, Estimate)
        assert_same(asdict(outcome.estimate.summary), asdict(expected.summary), "summary")
        assert_same(dict(outcome.estimate.breakdown), dict(expected.breakdown), "breakdown")


def test_open_loops_that_are_bound_by_running_requests_and_not_by_memory_are_solved_together_as_alone() -> None:
    asked = [
        Scenario.from_mapping(
            {
                **DENSE,
                "stack": {"max_running": 64},
                "requests": OPEN
                | {"rate": rate, "lengths": {"kind": "lognormal", "input": 60, "output": 90, "cv": 0.8}},
            }
        )
        for rate in (3.0, 15.0, 40.0, 4000.0)
    ]
    for outcome in estimate_many(asked):
        expected = alone(outcome.scenario)
        assert outcome.estimate is not None
        assert isinstance(expected, Estimate)
        assert_same(asdict(outcome.estimate.summary), asdict(expected.summary), "summary")
        assert_same(dict(outcome.estimate.breakdown), dict(expected.breakdown), "breakdown")
