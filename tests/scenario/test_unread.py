"""Keys without effect are named; those with an effect are not."""

from __future__ import annotations

import pytest

from simulator import Scenario, check, estimate, simulate
from simulator.scenario.presets import preset_names, preset_path
from simulator.scenario.unread import unread_keys


def scenario(*overrides: str) -> Scenario:
    base = Scenario.from_mapping(
        {
            "model": {"name": "gpt-oss-20b"},
            "hardware": {"device": "h100-sxm"},
            "parallelism": {"dp": 2, "ep": 2},
            "requests": {"kind": "poisson", "rate": 20.0, "count": 6, "lengths": {"input": 32, "output": 4}},
            "routing": {"tokens": 256},
        }
    )
    return base.override(*overrides)


@pytest.mark.parametrize("name", preset_names())
def test_presets_set_nothing_in_vain(name: str) -> None:
    assert unread_keys(Scenario.load(preset_path(name))) == ()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["requests.concurrency=4"], "requests.concurrency"),
        (["requests.cv=2.0"], "requests.cv"),
        (["requests.repeat=2"], "requests.repeat"),
        (["requests.lengths.cv=0.5"], "requests.lengths.cv"),
        (["requests.kind=trace", "requests.trace=sample:requests.csv"], "requests.lengths."),
        (["requests.kind=diurnal", "requests.profile=[1, 2]", "requests.amplitude=0.2"], "requests.amplitude"),
        (["requests.priorities=[1.0]"], "requests.priorities"),
        (["routing.kind=uniform", "routing.skew=3"], "routing.skew"),
        (["routing.kind=balanced"], "routing.tokens"),
        (["routing.alpha=3"], "routing.alpha"),
        (["routing.kind=fitted", "routing.top_p=0.3"], "routing.top_p"),
        (["routing.capacity_batch=64"], "routing.capacity_batch"),
        (["routing.trace=sample:routing_24x32_top4.npz"], "routing.trace"),
        (["routing.fit=sample:fit_gpt_oss_20b.toml"], "routing.fit"),
        (["routing.router=top_p", "routing.top_p=0.3"], "routing."),
        (["requests.trace=sample:requests.csv"], "requests.trace"),
        (["disaggregation.prefill.dp=4"], "disaggregation.prefill.dp"),
        (["prefix_cache.kind=instance", "prefix_cache.store=1 GB"], "prefix_cache.store"),
        (["speculation.acceptance=[0.5]"], "speculation.acceptance"),
        (["offload.patience=3"], "offload.patience"),
        (["stack.scheduler=expert_aware", "offload.first=decode", "offload.opening=all"], "offload.opening"),
        (["stack.scheduler=expert_aware", "offload.lookahead=false"], "offload.lookahead"),
        (["speculation.draft_tokens=1", "speculation.acceptance=[0.5, 0.4]"], "speculation.acceptance"),
        (["stack.balancer=power_of_two"], "stack.balancer"),
        (["parallelism.instances=2", "stack.balancer=cache_aware"], "stack.balancer"),
        (["parallelism.dp=1", "parallelism.ep=1", "stack.exchange=fused"], "stack.exchange"),
        (["parallelism.ep=1", "placement.policy=eplb"], "placement.policy"),
        (["placement.replica_routing=local"], "placement.replica_routing"),
        (["placement.rebalance.window=64"], "placement.rebalance.window"),
        (["placement.rebalance.every=1 s", "placement.rebalance.bandwidth_share=0.3"], "placement.rebalance."),
        (["elastic.events=[{at='1 s', size=4}]"], "elastic.events"),
        (["elastic.mechanism=elastic", "elastic.policy=queue", "elastic.band=0.3"], "elastic.band"),
        (["faults=[{at='1 s', slowdown=2.0, restart='5 s'}]"], "faults.0.restart"),
        (["faults=[{at='1 s', kind='instance', rank=1}]"], "faults.0.rank"),
    ],
)
def test_a_key_that_nothing_reads_is_named(overrides: list[str], key: str) -> None:
    found = unread_keys(scenario(*overrides))
    assert found
    assert all(text.startswith(key) and "effect" in text for text in found)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["requests.kind=gamma", "requests.cv=2.0"],
        ["routing.kind=dirichlet", "routing.alpha=3"],
        ["disaggregation.enabled=true", "disaggregation.prefill.dp=2", "disaggregation.prefill.ep=2"],
        [
            "prefix_cache.kind=shared",
            "prefix_cache.store=1 GB",
            "parallelism.instances=2",
            "stack.balancer=cache_aware",
        ],
        ["speculation.draft_tokens=2", "speculation.acceptance=[0.5]"],
        ["placement.redundant_slots=2", "placement.replica_routing=local", "placement.policy=eplb"],
        ["faults=[{at='1 s', rank=1, restart='5 s', detection='1 s', retry='restart'}]"],
        ["elastic.mechanism=horizontal", "elastic.events=[{at='1 s', size=4}]", "stack.balancer=round_robin"],
    ],
)
def test_a_key_that_is_read_is_not_named(overrides: list[str]) -> None:
    assert unread_keys(scenario(*overrides)) == ()


def test_runs_estimates_and_checks_say_what_has_no_effect() -> None:
    asked = scenario("requests.concurrency=4")
    assert any(text.startswith("requests.concurrency has no effect") for text in simulate(asked).warnings)
    assert any(text.startswith("requests.concurrency has no effect") for text in estimate(asked).warnings)
    (finding,) = (finding for finding in check(asked) if finding.where == "requests.concurrency")
    assert finding.level == "warning"
    assert finding.message.startswith("has no effect")


def test_a_fault_after_the_last_answer_is_said_to_be_late() -> None:
    warnings = simulate(scenario("faults=[{at='1000 s', rank=1}]")).warnings
    assert any(text.startswith("faults.0 never happens: due at 1000 s") for text in warnings)


def test_an_objective_that_nobody_can_meet_is_answered_with_the_best_that_can_be_had() -> None:
    asked = scenario("slo.ttft=1 us", "slo.tpot=10 s")
    for answer in (simulate(asked), estimate(asked)):
        (text,) = (text for text in answer.warnings if text.startswith("slo."))
        assert text.startswith("slo.ttft = 1 us cannot be met: the best reachable is")
    assert not [text for text in simulate(scenario("slo.ttft=1 s", "slo.tpot=1 s")).warnings if "slo." in text]


def test_an_estimate_says_that_it_leaves_priorities_out() -> None:
    warnings = estimate(scenario("requests.priorities=[1.0, 1.0]")).warnings
    assert any(text.startswith("requests.priorities: left out") for text in warnings)


def test_switching_the_kind_of_routing_or_requests_leaves_a_note_and_runs(tmp_path) -> None:
    recorded = Scenario.load(preset_path("gpt-oss-20b-h100"))
    for overrides, key in (
        (["routing.kind=zipf"], "routing.trace"),
        (["routing.kind=fitted", "routing.fit=sample:fit_gpt_oss_20b.toml"], "routing.trace"),
        (["requests.kind=closed_loop", "requests.concurrency=4"], "requests."),
    ):
        switched = recorded.override(*overrides)
        assert all(finding.level != "error" for finding in check(switched))
        assert any(warning.startswith(key) for warning in estimate(switched).warnings)


def test_a_trace_that_is_not_read_need_not_exist() -> None:
    gone = scenario("requests.trace=gone.csv", "routing.trace=gone.npz", "routing.fit=gone.toml")
    assert estimate(gone).summary.output_tokens_per_s_per_gpu > 0
