"""Whole runs: what goes in, what comes out, and what is said where it cannot."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from simulator import MoesimError, Scenario, check, estimate, simulate
from simulator.results.values import Result
from simulator.step.components import COMPONENTS

BASE: dict[str, Any] = {
    "model": {"name": "mixtral-8x7b"},
    "hardware": {"device": "a100-sxm"},
    "parallelism": {"tp": 1, "dp": 2, "ep": 2},
    "stack": {"name": "vllm"},
    "requests": {
        "kind": "poisson",
        "rate": 4.0,
        "count": 60,
        "lengths": {"kind": "lognormal", "input": 200, "output": 40, "cv": 0.7},
    },
    "routing": {"kind": "zipf", "tokens": 512, "skew": 0.8},
    # All of the run, so that frames say what the summary should.
    "run": {"traced_steps": 3, "warmup_requests": 0, "drain": True},
}


def scenario(**sections: dict[str, Any]) -> Scenario:
    data = {key: dict(value) for key, value in BASE.items()}
    for key, values in sections.items():
        data[key] = {**data.get(key, {}), **values}
    return Scenario.from_mapping(data)


@cache
def run(*overrides: str) -> Result:
    return simulate(scenario().override(*overrides))


def identical(first: Result, second: Result) -> bool:
    pd.testing.assert_frame_equal(first.requests, second.requests)
    pd.testing.assert_frame_equal(first.steps, second.steps)
    return dict(first.breakdown) == dict(second.breakdown) and first.slices == second.slices


def test_the_same_scenario_and_seed_give_the_same_result() -> None:
    assert identical(run(), simulate(scenario()))


def test_another_seed_gives_another_load() -> None:
    assert not run("seed=1").requests["arrival_s"].equals(run().requests["arrival_s"])


@pytest.mark.parametrize(
    "override",
    ["placement.policy=balanced", "parallelism.instances=2", "stack.scheduler=prefill_first", "routing.skew=0.1"],
)
def test_a_change_of_policy_keeps_the_requests(override: str) -> None:
    before, after = run().requests, run(override).requests
    for column in ("arrival_s", "input_tokens", "output_tokens"):
        pd.testing.assert_series_equal(before[column], after[column])
    assert not before["finish_s"].equals(after["finish_s"])


def test_a_change_of_the_load_keeps_the_routing() -> None:
    busy, quiet = run("requests.rate=40.0"), run("requests.rate=0.01")
    first_steps = [result.steps["rank_imbalance"].iloc[0] for result in (busy, quiet)]
    assert first_steps[0] > 1.0
    assert busy.requests["input_tokens"].tolist() == quiet.requests["input_tokens"].tolist()


def test_frames_hold_every_request_and_every_step() -> None:
    result = run()
    requests, steps = result.requests, result.steps
    assert requests["request_id"].tolist() == list(range(60))
    assert requests["measured"].all()
    assert not requests.isna().any(axis=None)
    assert (requests["arrival_s"].diff().dropna() >= 0).all()
    assert steps["prefill_tokens"].sum() == requests["input_tokens"].sum()
    assert steps["decode_tokens"].sum() == (requests["output_tokens"] - 1).sum()
    assert (steps["duration_s"] > 0).all()
    assert (steps["rank_imbalance"] >= 1.0 - 1e-12).all()
    assert steps["kv_use"].between(0, 1).all()
    assert set(requests["rank"]) == {0, 1}


def test_the_summary_follows_from_the_frames() -> None:
    result = run()
    requests, summary = result.requests, result.summary
    ttft = requests["first_token_s"] - requests["arrival_s"]
    assert summary.ttft_s.mean == pytest.approx(ttft.mean())
    assert summary.ttft_s.p99 == pytest.approx(np.percentile(ttft, 99))
    assert summary.e2el_s.mean == pytest.approx((requests["finish_s"] - requests["arrival_s"]).mean())
    span = requests["finish_s"].max() - requests["arrival_s"].min()
    assert summary.output_tokens_per_s_per_gpu == pytest.approx(requests["output_tokens"].sum() / span / 2)
    assert summary.requests_completed == 60
    assert summary.engine_steps == len(result.steps)
    assert summary.usd_per_million_output_tokens > 0
    assert 0 < summary.mfu < 1
    assert 0 < summary.mbu < 1


@pytest.mark.parametrize("overrides", [(), ("parallelism.instances=2",), ("stack.scheduler=prefill_first",)])
def test_the_breakdown_covers_the_whole_run(overrides: tuple[str, ...]) -> None:
    result = run(*overrides)
    instances = result.scenario.parallelism.instances
    assert tuple(result.breakdown) == COMPONENTS
    assert min(result.breakdown.values()) >= 0.0
    assert sum(result.breakdown.values()) == pytest.approx(result.summary.simulated_s * instances, rel=1e-6)
    busy = sum(seconds for part, seconds in result.breakdown.items() if part != "idle")
    assert busy == pytest.approx(result.steps["duration_s"].sum(), rel=1e-6)
    for part in ("attention", "gemm", "experts", "small_kernels", "imbalance_wait", "cpu_gap"):
        assert result.breakdown[part] > 0.0, part


def test_traced_steps_are_drawn_with_their_components_inside() -> None:
    slices = run().slices
    steps = [item for item in slices if item.name.endswith(" step")]
    assert len(steps) == 3
    for step in steps:
        inside = [
            item
            for item in slices
            if item is not step and step.start_s <= item.start_s < step.start_s + step.duration_s
        ]
        assert sum(item.duration_s for item in inside) == pytest.approx(step.duration_s, rel=1e-6)


def test_progress_is_told_up_to_the_end() -> None:
    told: list[float] = []
    simulate(scenario(requests={"count": 10}), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_one_expert_rank_waits_for_nobody_whatever_the_router() -> None:
    """Expert parallelism over one rank is none: neither skew nor placement can change a step."""
    split = {"parallelism": {"tp": 2, "dp": 1, "ep": 1}}
    plain = simulate(scenario(**split))
    balanced = simulate(scenario(**split, placement={"policy": "balanced"}))
    for part in ("imbalance_wait", "dispatch", "combine"):
        assert plain.breakdown[part] == pytest.approx(0.0, abs=1e-12)
    assert (plain.steps["rank_imbalance"] == 1.0).all()
    pd.testing.assert_frame_equal(plain.steps, balanced.steps)


def test_skewed_routing_waits_for_its_hottest_rank_and_balance_shortens_the_wait() -> None:
    skewed = "routing.skew=1.5"
    linear, balanced = run(skewed), run(skewed, "placement.policy=balanced")
    assert balanced.breakdown["imbalance_wait"] < linear.breakdown["imbalance_wait"]
    assert balanced.summary.rank_imbalance_mean < linear.summary.rank_imbalance_mean
    assert run("routing.kind=balanced").summary.rank_imbalance_mean < balanced.summary.rank_imbalance_mean


def test_preempted_requests_end_with_all_their_tokens() -> None:
    tight = scenario(
        requests={"rate": 200.0, "count": 40, "lengths": {"input": 2000, "output": 400}},
        stack={"memory_fraction": 0.72},
        model={"kv_cache": "bfloat16"},
    )
    result = simulate(tight)
    assert result.summary.preemptions > 0
    assert result.summary.kv_use_max <= 1.0
    assert result.requests["finish_s"].notna().all()
    assert result.requests["preemptions"].sum() == result.summary.preemptions
    assert result.steps["prefill_tokens"].sum() > result.requests["input_tokens"].sum()


def test_more_instances_share_the_requests() -> None:
    requests = run("parallelism.instances=3", "requests.rate=40.0").requests
    assert set(requests["instance"]) == {0, 1, 2}
    dealt = run("parallelism.instances=3", "stack.balancer=round_robin").requests["instance"]
    assert dealt.tolist() == [number % 3 for number in range(60)]


def test_the_warm_up_is_left_out_of_the_measurement() -> None:
    result = run("run.warmup_requests=20")
    assert result.requests["measured"].tolist() == [False] * 20 + [True] * 40


def test_documents_of_both_kinds_of_answer_have_the_same_shape() -> None:
    played, solved = run().document(), estimate(scenario()).document()
    assert played.keys() == solved.keys()
    assert played["summary"].keys() == solved["summary"].keys()
    assert played["breakdown"].keys() == solved["breakdown"].keys()
    assert played["scenario_hash"] == solved["scenario_hash"] == scenario().hash


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown device": (
        {"hardware": {"device": "a100-smx"}},
        "unknown device 'a100-smx'; did you mean 'a100-sxm'",
    ),
    "unknown model": ({"model": {"name": "mixtrl-8x7b"}}, "unknown model 'mixtrl-8x7b'; did you mean 'mixtral-8x7b'"),
    "model of another size": ({"model": {"name": "mixtral-8x8b"}}, "none of that name ships"),
    "unknown stack": ({"stack": {"name": "sglng"}}, "unknown serving stack 'sglng'; did you mean 'sglang'"),
    "unknown node": ({"hardware": {"node": "hgx-a10"}}, "unknown node 'hgx-a10'; did you mean 'hgx-a100'"),
    "node of another device": (
        {"hardware": {"node": "hgx-h100"}},
        "node hgx-h100 holds h100-sxm, not a100-sxm; nodes of a100-sxm: hgx-a100",
    ),
    "heads do not divide": ({"parallelism": {"tp": 3, "dp": 1, "ep": 1}}, "tp=3 must divide the 32 heads"),
    "experts do not divide": (
        {"parallelism": {"dp": 16, "ep": 16}},
        "ep=16 must divide the 8 expert slots per layer; 8 more redundant slots (placement.redundant_slots) would do",
    ),
    "slots do not divide": (
        {"placement": {"redundant_slots": 1}},
        "ep=2 must divide the 9 expert slots per layer; 1 more redundant slots",
    ),
    "does not fit": ({"parallelism": {"dp": 1, "ep": 1}}, "2 devices would hold it"),
    "request does not fit": (
        {"requests": {"lengths": {"input": 10_000_000, "output": 4}}},
        "the longest request, 10000004 tokens, needs ",
    ),
    "no rate": ({"requests": {"rate": None}}, "requests.rate: is required where requests.kind = 'poisson'"),
    "no concurrency": (
        {"requests": {"kind": "closed_loop"}},
        "requests.concurrency: is required where requests.kind = 'closed_loop'",
    ),
    "no trace": ({"requests": {"kind": "trace"}}, "requests.trace: is required where requests.kind = 'trace'"),
    "missing trace": ({"requests": {"kind": "trace", "trace": "/none/x.csv"}}, "/none/x.csv: no such file"),
    "unknown sample": (
        {"requests": {"kind": "trace", "trace": "sample:azure_lik.csv"}},
        "unknown name 'azure_lik.csv'; did you mean 'azure_like.csv'",
    ),
    "no routing trace": ({"routing": {"kind": "trace"}}, "routing.trace: is required where routing.kind = 'trace'"),
    "routing trace of more experts": (
        {"routing": {"kind": "trace", "trace": "sample:routing_24x32_top4.npz"}},
        "it has 24 MoE layers of 32 experts, top-4; the model has 32 MoE layers of 8 experts, top-2",
    ),
    "routing trace of fewer layers": (
        {"routing": {"kind": "trace", "trace": "sample:routing_4x8_top2.parquet"}},
        "it has 4 MoE layers of 8 experts, top-2; the model has 32 MoE layers of 8 experts, top-2",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_run_says_why_in_one_message_and_check_finds_it_too(name: str) -> None:
    sections, message = WRONG[name]
    wrong = scenario(**sections)
    for verb in (simulate, estimate):
        with pytest.raises(MoesimError) as error:
            verb(wrong)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    found = [finding.message for finding in check(wrong) if finding.level == "error"]
    assert any(message in text for text in found), found


@pytest.mark.parametrize("name", ["routing_24x32_top4.npz"])
def test_a_recorded_routing_trace_is_replayed_over_the_recorded_requests(name: str) -> None:
    replayed = simulate(
        Scenario.from_mapping(
            {
                "model": {"name": "gpt-oss-20b"},
                "hardware": {"device": "h100-sxm"},
                "parallelism": {"dp": 2, "ep": 2},
                "stack": {"name": "vllm"},
                "requests": {"kind": "trace", "trace": "sample:azure_like.csv", "count": 40},
                "routing": {"kind": "trace", "trace": f"sample:{name}"},
            }
        )
    )
    assert len(replayed.requests) == 40
    assert replayed.summary.rank_imbalance_mean > 1.0
    assert int(replayed.provenance["routing_tokens"]) > 0


def test_requests_of_two_pools_say_when_the_prompt_was_done_and_when_its_cache_set_off() -> None:
    frame = run("disaggregation.enabled=true", "disaggregation.prefill.tp=2").requests
    several = frame[frame["output_tokens"] > 1]
    order = several[["admitted_s", "computed_s", "sent_s", "first_token_s"]].to_numpy()
    assert (np.diff(order, axis=1) >= 0).all()
    assert (several["first_token_s"] > several["sent_s"]).all()


def test_a_late_first_arrival_changes_nothing_that_is_measured(tmp_path: Path) -> None:
    """Our own format may count from any time; a power of two keeps every arrival exact."""
    found = []
    for first in (0.0, 2.0**20):
        rows = "".join(f"{first + index * 0.0625},64,16\n" for index in range(20))
        trace = tmp_path / f"from_{first:.0f}.csv"
        trace.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}", "utf-8")
        found.append(simulate(scenario(requests={"kind": "trace", "trace": str(trace), "count": 20, "rate": None})))
    soon, late = found
    for name in ("mfu", "mbu", "simulated_s", "total_tokens_per_s_per_gpu"):
        assert getattr(late.summary, name) == pytest.approx(getattr(soon.summary, name), rel=1e-6), name
    assert late.breakdown["idle"] == pytest.approx(soon.breakdown["idle"], rel=1e-5)


@pytest.mark.parametrize("change", ["run.drain=false", "run.warmup_requests=20"])
@pytest.mark.parametrize("load", [{}, {"kind": "closed_loop", "concurrency": 6, "rate": None}])
def test_utilisation_and_tokens_are_of_the_same_time(load: dict[str, Any], change: str) -> None:
    """The work of a token is about the same in any part of a run, so MFU over tokens per second is as well."""
    whole = scenario(requests={"count": 400, **load, "lengths": {"input": 200, "output": 40}})
    per_token = [
        result.summary.mfu / result.summary.total_tokens_per_s_per_gpu
        for result in (simulate(whole), simulate(whole.override(change)))
    ]
    assert per_token[1] == pytest.approx(per_token[0], rel=0.05)


def test_the_simulated_time_is_that_which_rates_are_over() -> None:
    for overrides in [(), ("run.warmup_requests=20",), ("run.drain=false",)]:
        result = run(*overrides)
        begin, end = result.measured.begin_s, result.measured.end_s
        assert end - begin == pytest.approx(result.summary.simulated_s)
        frame = result.requests
        first, finish = frame["first_token_s"].clip(begin, end), frame["finish_s"].clip(begin, end)
        later = (finish - first) / (frame["finish_s"] - frame["first_token_s"]) * (frame["output_tokens"] - 1)
        served = (later + frame["first_token_s"].gt(begin) * frame["first_token_s"].le(end)) / frame["output_tokens"]
        rate = served.sum() / (end - begin)
        assert result.summary.request_throughput_rps == pytest.approx(rate)
