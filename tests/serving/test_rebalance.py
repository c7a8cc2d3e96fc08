"""Rebalancing while serving: no request is lost, costs add up, and the account says what each change was worth."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from simulator import Result, Scenario, estimate, simulate
from simulator.deployment.deployment import deploy
from simulator.errors import MoesimError
from simulator.serving.controls.rebalance import RebalancingTimer
from simulator.step.work import StepWork

BASE = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "parallelism": {"dp": 4, "ep": 4},
    "placement": {"policy": "refined", "redundant_slots": 8},
    "routing": {"kind": "zipf", "skew": 1.2, "tokens": 1024},
    "requests": {"concurrency": 256, "count": 400, "lengths": {"input": 64, "output": 64}},
}


def scenario(*overrides: str) -> Scenario:
    return Scenario.from_mapping(BASE).override(*overrides)


@cache
def result(*overrides: str) -> Result:
    return simulate(scenario(*overrides))


STALL = ("placement.rebalance.every_steps=40", "placement.rebalance.window=4096")
OVERLAP = (*STALL, "placement.rebalance.mode=overlap")


@pytest.mark.parametrize("overrides", [STALL, OVERLAP, ("placement.rebalance.every=100 ms", "parallelism.instances=2")])
def test_every_request_is_answered_once_across_rebalances(overrides: tuple[str, ...]) -> None:
    done = result(*overrides)
    assert done.rebalances
    assert done.whole_run.requests_completed == 400
    assert done.requests["finish_s"].notna().all()
    assert {int(row["instance"]) for row in done.rebalances} == set(range(done.scenario.parallelism.instances))


def test_rebalancing_a_skewed_load_pays_and_ends_sooner_than_never() -> None:
    never = result("placement.policy=linear")
    rebalanced = result(*STALL)
    assert rebalanced.whole_run.duration_s < never.whole_run.duration_s
    saved = sum(row["saved_in_all_s"] for row in rebalanced.rebalances)
    cost = sum(row["cost_s"] for row in rebalanced.rebalances)
    assert saved > cost > 0
    assert never.whole_run.duration_s - rebalanced.whole_run.duration_s == pytest.approx(saved - cost, rel=0.1)
    assert any("it pays" in warning for warning in rebalanced.warnings)


def test_steps_before_the_first_rebalance_are_those_of_a_linear_placement() -> None:
    never, rebalanced = result("placement.policy=linear").steps, result(*STALL).steps
    np.testing.assert_allclose(never["duration_s"][:40], rebalanced["duration_s"][:40], rtol=1e-12)
    assert rebalanced["rank_imbalance"][60:].mean() < never["rank_imbalance"][60:].mean()


def test_a_stall_costs_the_time_of_the_move() -> None:
    for row in result(*STALL).rebalances:
        assert row["cost_s"] == row["move_s"] > 0
        assert row["near_bytes"] > 0 == row["far_bytes"]


def test_a_stall_is_in_the_gap_of_one_step() -> None:
    plain, stalled = result("placement.policy=linear"), result(*STALL)
    grown = stalled.steps["duration_s"][40] - plain.steps["duration_s"][40]
    saved = stalled.rebalances[0]["saved_s"] / stalled.rebalances[0]["steps"]
    assert grown == pytest.approx(stalled.rebalances[0]["move_s"] - saved, abs=2 * saved)


def test_nothing_moves_where_it_would_gain_too_little() -> None:
    assert result(*STALL, "placement.rebalance.least_gain=0.99").rebalances == ()
    few = result(*STALL, "placement.rebalance.least_gain=0.1").rebalances
    assert 1 <= len(few) < len(result(*STALL).rebalances)


def test_a_rebalancing_timer_that_never_switches_times_as_the_plain_one() -> None:
    deployment = deploy(scenario("placement.policy=linear"))
    plain, watched = deployment.timer(), RebalancingTimer(deployment.timer(), deployment)
    for tokens in (4, 64, 17):
        work = StepWork(rows=tokens, decode_rows=tokens, decode_context=100.0, decode_total=4 * tokens, logits=tokens)
        assert plain.time(work).duration == watched.time(work).duration
    assert plain.places == watched.places


def test_the_result_carries_the_account() -> None:
    document = result(*STALL).document()
    assert len(document["rebalances"]) == len(result(*STALL).rebalances)
    assert "rebalances" not in result("placement.policy=linear").document()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("placement.rebalance.every=1 s", "placement.rebalance.every_steps=5"), "not both"),
        (("placement.rebalance.every=1 s", "parallelism.ep=1", "parallelism.dp=1"), "at least 2 ranks"),
        (("placement.rebalance.every=1",), "a duration needs its unit"),
        (("placement.rebalance.bandwidth_share=1",), "less than 1"),
    ],
)
def test_rebalancing_that_makes_no_sense_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(MoesimError, match=message):
        simulate(scenario(*overrides))


def test_the_closed_form_refuses_rebalancing() -> None:
    with pytest.raises(MoesimError, match=r"placement\.rebalance; use simulate"):
        estimate(scenario("placement.rebalance.every=1 s"))
