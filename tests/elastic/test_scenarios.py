"""Scenarios that scale: what a run reports, and what is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, check, estimate, simulate
from simulator.errors import InfeasibleScenario, MoesimError, ScenarioError
from simulator.results.values import Result

BASE: dict[str, Any] = {
    "model": {"name": "deepseek-v2-lite"},
    "hardware": {"device": "ascend-910c-die", "node": "cloudmatrix384-dies"},
    "parallelism": {"tp": 2, "dp": 2, "ep": 4},
    "stack": {"name": "vllm", "max_running": 16},
    "requests": {"kind": "poisson", "rate": 6.0, "count": 240, "lengths": {"input": 200, "output": 100}},
    "routing": {"kind": "uniform", "tokens": 512},
    "slo": {"ttft": "1 s"},
}


def scenario(mechanism: str = "elastic", **changes: Any) -> Scenario:
    elastic = {"mechanism": mechanism, "events": [{"at": "10 s", "size": 4}], **changes.pop("elastic", {})}
    return Scenario.from_mapping({**BASE, **changes, "elastic": elastic})


@cache
def run(mechanism: str) -> Result:
    return simulate(scenario(mechanism))


MECHANISMS = ["cold_restart", "horizontal", "vertical_new", "colocated", "elastic", "ideal"]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_run_reports_what_changed_when(mechanism: str) -> None:
    result = run(mechanism)
    scaling = result.scaling
    assert scaling is not None
    assert result.requests["finish_s"].notna().all()
    assert scaling.changes[["before", "after"]].to_numpy().tolist() == [[2, 4]]
    change = scaling.changes.iloc[0]
    assert change["command_s"] <= change["ready_s"] <= change["switched_s"] <= change["released_s"]
    assert (scaling.phases["end_s"] <= change["ready_s"] + 1e-9).all()
    spans = scaling.instances
    assert (spans["end_s"] >= spans["start_s"]).all()
    assert scaling.summary.device_hours * 3600 == pytest.approx(
        scaling.summary.devices_mean * result.requests["finish_s"].max()
    )
    bins = scaling.timeline
    width = bins["end_s"] - bins["start_s"]
    assert float((bins["devices"] * width).sum()) == pytest.approx(scaling.summary.device_hours * 3600)
    assert float((bins["arrivals_per_s"] * width).sum()) == pytest.approx(240)
    emitted = float((bins["tokens_per_s"] * width).sum())
    assert emitted == pytest.approx(float(result.steps["decode_tokens"].sum()))


def test_a_size_that_pads_its_experts_is_reported_whole() -> None:
    # 64 experts do not divide over 6 ranks.
    requests = {**BASE["requests"], "count": 24}
    result = simulate(scenario(parallelism={"tp": 2, "dp": 3, "ep": 6}, requests=requests))
    assert result.imbalance_cost is not None
    assert result.imbalance_cost.step_s > 0.0


def test_only_the_cold_restart_leaves_nobody_serving() -> None:
    down = {name: run(name).scaling.summary.downtime_s for name in MECHANISMS}  # type: ignore[union-attr]
    assert down.pop("cold_restart") == pytest.approx(run("cold_restart").scaling.summary.latency_max_s)  # type: ignore[union-attr]
    assert set(down.values()) == {0.0}


def test_what_costs_least_meets_the_objective_most_often() -> None:
    met = {name: run(name).scaling.summary.attainment for name in MECHANISMS}  # type: ignore[union-attr]
    assert met["ideal"] >= met["elastic"] > met["cold_restart"]
    assert met["vertical_new"] > met["colocated"]


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    "split", [{"tp": 2, "pp": 2, "ep": 2}, {"pp": 2, "ep": 1}, {"tp": 2, "dp": 2, "ep": 4, "pp": 3}]
)
def test_pipeline_stages_scale_by_whole_instances_or_are_refused(mechanism: str, split: dict[str, int]) -> None:
    """Whatever the split: what a check lets through is played, and no mechanism fails in any other way."""
    size = 2 * split.get("dp", 1)
    asked = scenario(
        mechanism,
        parallelism=split,
        requests={**BASE["requests"], "count": 60},
        elastic={"events": [{"at": "2 s", "size": size}]},
    )
    if mechanism != "horizontal":
        with pytest.raises(InfeasibleScenario, match=f"{mechanism} changes dp and ep of one pipeline stage"):
            simulate(asked)
        assert [finding.where for finding in check(asked) if finding.level == "error"] == ["elastic"]
        return
    assert [finding for finding in check(asked) if finding.level == "error"] == []
    result = simulate(asked)
    assert result.scaling is not None
    assert result.scaling.changes[["before", "after"]].to_numpy().tolist() == [[size // 2, size]]
    assert result.requests["finish_s"].notna().all()


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    "split", [{"tp": 2}, {"dp": 2}, {"tp": 2, "dp": 2}, {"tp": 2, "dp": 2, "ep": 2}, {"tp": 4, "ep": 2}]
)
def test_every_split_of_experts_grows_and_shrinks(mechanism: str, split: dict[str, int]) -> None:
    """Shared by all devices, by some, or by none: what a device is short of is moved, and all is answered."""
    small = split.get("dp", 1)
    asked = scenario(
        mechanism,
        parallelism=split,
        requests={**BASE["requests"], "count": 30},
        elastic={"step": small, "events": [{"at": "0.5 s", "size": 2 * small}, {"at": "200 s", "size": small}]},
    )
    result = simulate(asked)
    assert result.scaling is not None
    assert result.scaling.changes["after"].iloc[0] == 2 * small
    assert result.requests["finish_s"].notna().all()


def test_the_same_scenario_gives_the_same_run() -> None:
    again = simulate(scenario("elastic"))
    assert np.array_equal(again.requests["finish_s"], run("elastic").requests["finish_s"])


def test_scaling_at_no_cost_before_the_first_request_equals_starting_larger() -> None:
    early = simulate(scenario("ideal", elastic={"events": [{"at": "0 s", "size": 4}]}))
    larger = simulate(Scenario.from_mapping({**BASE, "parallelism": {"tp": 2, "dp": 4, "ep": 8}}))
    assert np.array_equal(early.requests["finish_s"], larger.requests["finish_s"])
    assert np.array_equal(early.requests["first_token_s"], larger.requests["first_token_s"])


def test_an_objective_that_nobody_can_meet_is_answered_with_the_best_reachable() -> None:
    result = simulate(scenario("elastic", slo={"ttft": "1 ms"}))
    warning = next(text for text in result.warnings if "slo.ttft" in text)
    assert "1 ms cannot be met at 2 or 4 ranks" in warning
    assert "best reachable is" in warning
    assert result.scaling is not None
    assert result.scaling.summary.attainment == 0.0


REFUSED = [
    ({"elastic": {"events": [{"at": "1 s", "size": 400}]}}, "cloudmatrix384-dies has 768: at most 384 ranks"),
    ({"elastic": {"min_size": 5, "max_size": 3}}, "elastic.min_size: got 5, more than elastic.max_size = 3"),
    ({"elastic": {"max_size": 3}}, "elastic.events at 10 s: 4 ranks lie outside"),
    ({"elastic": {"min_size": 3, "events": [{"at": "1 s", "size": 3}]}}, "parallelism.dp: 2 ranks lie outside"),
    ({"elastic": {"events": []}}, "policy schedule needs at least one"),
    ({"elastic": {"policy": "queue"}}, "only the policy schedule reads them"),
    ({"elastic": {"policy": "slo", "events": []}, "slo": {}}, "needs an objective"),
    ({"elastic": {"step": 3}}, "4 ranks cannot be reached from 2 in steps of 3 .* is 5"),
    ({"elastic": {"startup": "vllm-ascent"}}, "did you mean 'vllm-ascend'"),
    ({"parallelism": {"tp": 2, "dp": 2, "ep": 4, "instances": 2}}, "resizes one instance"),
    ({"faults": [{"at": "1 s"}]}, "does not go with faults"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_cannot_be_is_refused_with_one_clear_message(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MoesimError, match=message):
        simulate(scenario(**changes))


def test_two_copies_of_the_weights_must_fit_where_both_live_on_the_same_devices() -> None:
    with pytest.raises(InfeasibleScenario, match=r"colocated leaves .* two copies of the weights"):
        simulate(scenario("colocated", stack={"name": "vllm", "memory_fraction": 0.25}))


def test_other_mechanisms_have_no_parts_to_switch_off() -> None:
    with pytest.raises(ScenarioError, match="only the mechanism elastic"):
        simulate(scenario("cold_restart", elastic={"without": ["p2p"]}))


def test_new_devices_beside_the_old_ones_must_exist() -> None:
    many = {"elastic": {"mechanism": "vertical_new", "events": [{"at": "1 s", "size": 300}]}}
    with pytest.raises(InfeasibleScenario, match=r"beside the old instance's 598, and .* has 768: at most 192 ranks"):
        simulate(scenario(**many))


@pytest.mark.parametrize(("key", "value"), [("mechanism", "elastik"), ("policy", "queues")])
def test_unknown_names_are_answered_with_those_that_exist(key: str, value: str) -> None:
    with pytest.raises(ScenarioError, match=f"elastic.{key}: got '{value}'; input should be .*'{value[:5]}"):
        scenario(elastic={key: value})


def test_check_finds_what_a_run_would_refuse_and_pads_experts_as_a_run_does() -> None:
    uneven = {"tp": 2, "dp": 3, "ep": 6}
    sound = scenario("elastic", parallelism=uneven)
    assert [finding for finding in check(sound) if finding.level == "error"] == []
    beyond = scenario("elastic", elastic={"max_size": 1000})
    assert [finding.where for finding in check(beyond) if finding.level == "error"] == ["elastic"]


def test_the_closed_form_refuses_what_changes_its_size() -> None:
    with pytest.raises(InfeasibleScenario, match=r"elastic\.mechanism"):
        estimate(scenario("elastic"))


def test_fewer_ranks_than_shared_an_expert_are_played_or_refused_alike_by_check() -> None:
    asked = Scenario.from_mapping(
        {
            "model": {"name": "gpt-oss-20b"},
            "hardware": {"device": "h100-sxm"},
            "parallelism": {"dp": 8, "ep": 2},
            "requests": {"kind": "constant", "rate": 20.0, "count": 12, "lengths": {"input": 16, "output": 4}},
            "routing": {"tokens": 64},
            "elastic": {"mechanism": "cold_restart", "events": [{"at": "0.2 s", "size": 1}]},
        }
    )
    errors = [finding for finding in check(asked) if finding.level == "error"]
    try:
        result = simulate(asked)
    except MoesimError:
        assert errors
    else:
        assert result.summary.requests_completed > 0
        assert not errors
