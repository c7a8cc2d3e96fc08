"""Steady figures, offered beside served requests, overload and runs that are too short, on whole answers."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from simulator import Result, Scenario, check, estimate, simulate
from simulator.run.overloads import overload

#: A large model whose answers take long beside the time in which requests come.
LARGE: dict[str, Any] = {
    "model": {"name": "deepseek-v3"},
    "hardware": {"device": "h200-sxm", "node": "hgx-h200"},
    "parallelism": {"tp": 8, "ep": 8},
    "stack": {"name": "vllm"},
    "requests": {
        "kind": "poisson",
        "rate": 20.0,
        "count": 2000,
        "lengths": {"kind": "lognormal", "input": 2000, "output": 500, "cv": 0.8},
    },
    "slo": {"ttft": "2 s", "tpot": "50 ms"},
    "run": {"traced_steps": 0},
}
#: One that is quick.
SMALL: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "stack": {"name": "vllm"},
    "requests": {
        "kind": "poisson",
        "rate": 5.0,
        "count": 600,
        "lengths": {"kind": "lognormal", "input": 400, "output": 100, "cv": 0.8},
    },
    "routing": {"tokens": 512},
    "run": {"traced_steps": 0},
}
POOLS = ("disaggregation.enabled=true", "disaggregation.prefill.tp=8", "disaggregation.prefill.ep=8")


@cache
def large(*overrides: str) -> Result:
    return simulate(Scenario.from_mapping(LARGE).override(*overrides))


@cache
def small(*overrides: str) -> Result:
    return simulate(Scenario.from_mapping(SMALL).override(*overrides))


def warned(result: Any, start: str) -> list[str]:
    return [warning for warning in result.warnings if warning.startswith(start)]


def test_eight_nodes_that_keep_up_serve_and_cost_what_is_offered() -> None:
    """20 requests/s of 500 tokens on 64 GPUs of 2.05 USD/h are 3.64 USD per million tokens."""
    result = large("parallelism.instances=8")
    summary = result.summary
    assert summary.offered_rps == 20.0
    assert summary.request_throughput_rps == pytest.approx(20.0, rel=0.02)
    assert summary.usd_per_million_output_tokens == pytest.approx(3.64, rel=0.03)
    # All of the run, filling and emptying included, is what used to be printed.
    assert result.whole_run.request_throughput_rps < 14.0
    assert result.whole_run.usd_per_million_output_tokens > 5.0
    assert result.overload is None
    assert not warned(result, "too short")


def test_the_steady_figures_of_a_long_run_are_those_of_the_closed_form() -> None:
    long = small("requests.count=6000")
    solved = estimate(long.scenario).summary
    summary = long.summary
    assert summary.request_throughput_rps == pytest.approx(solved.request_throughput_rps, rel=0.02)
    assert summary.usd_per_million_output_tokens == pytest.approx(solved.usd_per_million_output_tokens, rel=0.02)
    assert summary.mfu == pytest.approx(solved.mfu, rel=0.02)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_short_run_measures_the_rate_of_a_long_one_where_the_whole_run_does_not(seed: int) -> None:
    short, long = (
        large("parallelism.instances=8", f"requests.count={count}", f"seed={seed}") for count in (2000, 5000)
    )
    for name in ("request_throughput_rps", "output_tokens_per_s_per_gpu"):
        wanted = getattr(long.summary, name)
        assert getattr(short.summary, name) == pytest.approx(wanted, rel=0.1), name
        assert getattr(short.whole_run, name) < 0.75 * wanted, name


def test_the_burst_with_which_a_closed_loop_begins_is_not_its_p99() -> None:
    loop = ("requests.kind=closed_loop", "requests.concurrency=32", "requests.count=320")
    fixed = ("requests.lengths.kind=fixed", "requests.lengths.input=2000", "requests.lengths.output=100")
    result = small(*loop, *fixed)
    assert result.measured.kind == "steady"
    assert result.summary.ttft_s.p99 < 1.2 * result.summary.ttft_s.p50
    assert result.whole_run.ttft_s.p99 > 2.0 * result.summary.ttft_s.p99
    assert math.isnan(result.summary.offered_rps)
    assert result.overload is None


def test_the_whole_run_is_what_the_file_for_benchmarks_says() -> None:
    from datetime import UTC, datetime

    from simulator.export.vllm_bench import vllm_bench_result

    result = small()
    benched = vllm_bench_result(result.requests, model_id="m", date=datetime(2026, 1, 1, tzinfo=UTC))
    whole = result.whole_run
    assert benched["duration"] == pytest.approx(whole.duration_s)
    assert benched["completed"] == whole.requests_completed == 600
    assert benched["request_throughput"] == pytest.approx(whole.request_throughput_rps)
    assert benched["output_throughput"] == pytest.approx(whole.output_tokens_per_s_per_gpu)
    for name in ("ttft", "tpot", "e2el"):
        assert benched[f"mean_{name}_ms"] == pytest.approx(1e3 * getattr(whole, f"{name}_s").mean)
        assert benched[f"p99_{name}_ms"] == pytest.approx(1e3 * getattr(whole, f"{name}_s").p99)
    assert whole.duration_s > result.summary.simulated_s


def test_keys_that_ask_for_everything_give_the_whole_run() -> None:
    asked = small("run.warmup_requests=0", "run.drain=true")
    whole = small().whole_run
    assert asked.measured.kind == "asked"
    for name in ("request_throughput_rps", "output_tokens_per_s_per_gpu", "usd_per_million_output_tokens"):
        assert getattr(asked.summary, name) == pytest.approx(getattr(whole, name)), name
    assert asked.summary.ttft_s == whole.ttft_s
    assert not warned(asked, "too short"), "who says what to measure knows what he does"


def test_the_breakdown_and_the_devices_are_of_the_same_window() -> None:
    result = small("parallelism.instances=2")
    assert sum(result.breakdown.values()) == pytest.approx(2 * result.summary.simulated_s)
    assert result.summary.measured_steps < result.summary.engine_steps
    steps, measured = result.steps, result.measured
    begin, end = steps["start_s"], steps["start_s"] + steps["duration_s"]
    inside = (end.clip(upper=measured.end_s) - begin.clip(lower=measured.begin_s)).clip(lower=0.0)
    busy = sum(seconds for part, seconds in result.breakdown.items() if part != "idle")
    assert busy == pytest.approx(inside.sum())


@pytest.mark.parametrize("answer", [simulate, estimate])
def test_overload_is_named_with_the_capacity_and_what_would_hold_it(answer: Any) -> None:
    result = answer(Scenario.from_mapping(LARGE))
    found = result.overload
    assert found is not None
    assert found.offered_rps == pytest.approx(20.0, rel=0.03)
    assert found.capacity_rps == pytest.approx(result.summary.request_throughput_rps, rel=1e-6)
    # As many as need no more than 90 % of what they can serve.
    assert found.needed * 0.9 * found.capacity_rps > found.offered_rps >= (found.needed - 1) * 0.9 * found.capacity_rps
    [sentence] = warned(result, "overloaded: ")
    assert f"{found.needed} instances instead of 1 (parallelism.instances) would hold it" in sentence
    assert result.document()["overload"]["needed"] == found.needed


def test_what_is_said_to_hold_a_load_holds_it() -> None:
    needed = large().overload.needed
    held = large(f"parallelism.instances={needed}")
    assert held.overload is None
    # A batch that grows to its limit takes longer than this run, so that the closed form must tell.
    short = large(f"parallelism.instances={needed - 1}", "requests.count=1000")
    assert short.overload is None, "its own queue does not grow"
    [sentence] = warned(short, "too short")
    assert "by the closed form the capacity is about " in sentence
    assert f"about {needed} instances instead of {needed - 1} (parallelism.instances) would hold them" in sentence
    assert estimate(held.scenario).overload is None


@pytest.mark.parametrize("rate", [6.5, 10.5, 16.0])
def test_the_instances_that_an_estimate_names_hold_the_load_in_a_run(rate: float) -> None:
    """The closed form says 5.98 requests/s where a long run serves 5.6, so that a plain quotient would be too few."""
    asked = Scenario.from_mapping(LARGE).override(f"requests.rate={rate}", "requests.count=3000")
    needed = estimate(asked).overload.needed
    held = simulate(asked.override(f"parallelism.instances={needed}"))
    assert held.overload is None
    assert not [text for text in held.warnings if "without bound" in text]
    assert held.summary.queue_length_mean < 1.0


def test_a_run_that_queues_for_nothing_is_not_overloaded_whatever_the_closed_form_says() -> None:
    result = small("requests.rate=50", "requests.lengths.output=1000", "requests.count=400")
    assert estimate(result.scenario).overload is not None
    assert result.overload is None
    assert not warned(result, "overloaded")
    assert warned(result, "too short to judge: ")


def test_no_capacity_is_named_that_is_below_what_is_served() -> None:
    for rate in (20, 30, 40, 60):
        result = small(f"requests.rate={rate}", "requests.lengths.output=1000", "requests.count=3000")
        served, error = result.summary.request_throughput_rps, result.measured.served_error
        if result.overload is None:
            assert not warned(result, "overloaded")
        else:
            assert result.overload.capacity_rps >= served * (1.0 - 1e-9)
            assert result.overload.offered_rps > served * (1.0 + error)


#: A day of 300 s on the quick model, whose peak is above what it serves.
DAY = (
    "requests.kind=diurnal",
    "requests.period=300 s",
    "requests.amplitude=0.9",
    "requests.lengths.output=1000",
    "requests.rate=9",
    "requests.count=2700",
    "stack.max_running=200",
)


def test_a_peak_that_is_above_the_capacity_is_named_with_what_would_hold_it() -> None:
    run = small(*DAY)
    solved = estimate(run.scenario)
    assert run.overload is None
    assert solved.overload is None
    findings = [each for each in check(run.scenario) if each.where == "requests.rate"]
    sentences = [*warned(run, "overloaded at the peak"), *warned(solved, "overloaded at the peak")]
    sentences += [each.message for each in findings]
    assert len(sentences) == 3
    for sentence in sentences:
        assert "17.1 requests/s are offered there" in sentence
        assert "instances instead of 1 (parallelism.instances) would hold the peak" in sentence
    needed = sentences[0].partition("; about ")[2].partition(" ")[0]
    held = small(*DAY, f"parallelism.instances={needed}")
    assert not warned(held, "overloaded")
    assert held.summary.ttft_s.p99 < 0.1 * run.summary.ttft_s.p99


def test_a_profile_has_its_peak_where_it_is_highest_and_only_once_it_is_reached() -> None:
    profile = "requests.profile=[1, 1, 1, 5, 1, 1]"
    day = Scenario.from_mapping(SMALL).override(*DAY, profile)
    assert warned(estimate(day), "overloaded at the peak: 27 requests/s")
    assert not warned(estimate(day.override("requests.count=500")), "overloaded")


def test_an_estimate_says_what_it_leaves_out_of_arrivals_that_come_unevenly() -> None:
    asked = Scenario.from_mapping(SMALL)
    [sentence] = warned(estimate(asked.override(*DAY)), "requests.kind: the closed form knows the mean rate alone")
    assert "up to 17.1/s" in sentence
    assert warned(estimate(asked.override("requests.kind=gamma", "requests.cv=3")), "requests.cv: bursts")
    for even in ("requests.kind=gamma", "requests.kind=constant", "requests.kind=poisson"):
        assert not [text for text in estimate(asked.override(even)).warnings if "mean rate alone" in text]


def test_bursts_of_a_recorded_trace_are_left_out_of_an_estimate_with_a_word(tmp_path: Path) -> None:
    rows = "".join(f"{10 * (row // 5)},400,100\n" for row in range(100))
    (tmp_path / "bursts.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows, "utf-8")
    requests = {"kind": "trace", "trace": str(tmp_path / "bursts.csv")}
    solved = estimate(Scenario.from_mapping({**SMALL, "requests": requests}))
    assert warned(solved, "requests.trace: bursts of gaps with a cv of 2")


def test_a_part_of_a_day_is_said_to_be_one_with_the_count_that_plays_all_of_it() -> None:
    part = Scenario.from_mapping(SMALL).override("requests.kind=diurnal", "requests.period=600 s", "requests.count=500")
    [finding] = [each.message for each in check(part) if each.where == "requests.count"]
    for answer in (simulate(part), estimate(part)):
        [sentence] = warned(answer, "requests.count: ")
        assert sentence == f"requests.count: {finding}"
        assert "of a period of 600 s" in sentence
        assert sentence.endswith("requests.count = 3000 plays all of it")
    whole = part.override("requests.count=3000")
    assert not warned(simulate(whole), "requests.count")


def test_a_load_of_just_what_can_be_served_is_no_overload_but_has_no_latencies_and_says_why() -> None:
    most = estimate(Scenario.from_mapping(LARGE)).summary.request_throughput_rps
    solved = estimate(Scenario.from_mapping(LARGE).override(f"requests.rate={1.005 * most}"))
    assert solved.overload is None
    assert math.isnan(solved.summary.ttft_s.mean)
    assert warned(solved, "at capacity: ")


def test_check_names_overload_before_a_run() -> None:
    asked = Scenario.from_mapping(LARGE)
    [finding] = [each for each in check(asked) if each.where == "requests.rate"]
    assert finding.level == "warning"
    assert finding.message == estimate(asked).overload.text()
    assert finding.remedy.startswith("parallelism.instances = ")
    assert not [each for each in check(asked.override("requests.rate=1")) if each.where == "requests.rate"]


def test_the_short_one_of_two_pools_is_named() -> None:
    asked = Scenario.from_mapping(LARGE).override(*POOLS, "requests.count=1500")
    findings = [each.message for each in check(asked) if each.where == "requests.rate"]
    assert any("the decode pool is short" in text for text in findings)
    assert any("the prefill pool is short" in text for text in findings)
    found = simulate(asked).overload
    assert (found.pool, found.instances) == ("decode", 1)
    prefill = simulate(asked.override("parallelism.instances=4")).overload
    assert (prefill.pool, prefill.key) == ("prefill", "disaggregation.prefill.instances")
    assert simulate(asked.override("parallelism.instances=4", "disaggregation.prefill.instances=3")).overload is None


def test_what_is_held_is_not_overload() -> None:
    assert overload(offered=2.0, capacity=2.0, instances=3) is None
    assert overload(offered=2.005, capacity=2.0, instances=3) is None, "both are written alike"
    assert overload(offered=math.nan, capacity=2.0, instances=3) is None
    assert overload(offered=4.0, capacity=3.0, instances=3).needed == 5


def test_rare_requests_are_measured_whole_rather_than_by_a_window_in_which_none_ends() -> None:
    result = small("requests.rate=0.001", "requests.count=3")
    assert result.measured.kind == "whole"
    assert result.summary.request_throughput_rps > 0.0
    assert warned(result, "too short to judge: 3 requests in")


def test_requests_that_come_all_at_once_have_no_rate_that_could_be_too_much(tmp_path: Path) -> None:
    (tmp_path / "once.csv").write_text("arrival_s,input_tokens,output_tokens\n5,100,10\n5,100,10\n5,100,20\n", "utf-8")
    requests = {"kind": "trace", "trace": str(tmp_path / "once.csv")}
    asked = Scenario.from_mapping({**SMALL, "requests": requests})
    assert not [each for each in check(asked) if each.where == "requests.rate"]
    for answer in (simulate(asked), estimate(asked)):
        assert answer.overload is None
        assert math.isnan(answer.summary.offered_rps)
        assert answer.summary.request_throughput_rps > 0.0


def test_later_turns_of_sessions_are_offered_as_they_come() -> None:
    result = small("requests.sessions.turns=3", "requests.sessions.think_time=1 s", "requests.count=900")
    summary, measured = result.summary, result.measured
    arrival = result.requests["arrival_s"]
    came = arrival.between(measured.begin_s, measured.end_s, inclusive="right").sum()
    assert summary.offered_rps == pytest.approx(came / summary.simulated_s)
    assert summary.request_throughput_rps == pytest.approx(summary.offered_rps, rel=0.05)
    first_turns = arrival[result.requests["turn"] == 1]
    assert measured.end_s == first_turns.max(), "after the last session has begun there are fewer and fewer"


@pytest.mark.parametrize(
    "overrides",
    [
        ("requests.count=40",),
        ("requests.count=10",),
        ("requests.count=1",),
        ("requests.kind=closed_loop", "requests.concurrency=1", "requests.count=3"),
        ("requests.kind=closed_loop", "requests.concurrency=16", "requests.count=16"),
        ("requests.kind=closed_loop", "requests.concurrency=16", "requests.count=40"),
    ],
)
def test_a_run_that_is_too_short_says_so_and_one_as_long_as_it_advises_does_not(overrides: tuple[str, ...]) -> None:
    [sentence] = warned(small("requests.rate=10", *overrides), "too short to judge: ")
    assert " in 0 times" not in sentence
    advised = sentence.rpartition("it takes at least requests.count = ")[2]
    longer = small("requests.rate=10", *overrides, f"requests.count={advised}")
    assert not warned(longer, "too short")
    assert longer.measured.kind == "steady"


@pytest.mark.parametrize(("rate", "count"), [(10.0, 100), (12.0, 200), (13.0, 300)])
def test_the_advised_count_is_enough_though_batches_of_longer_runs_are_larger(rate: float, count: int) -> None:
    load = ("requests.lengths.output=1000", "stack.max_running=400", f"requests.rate={rate}")
    [sentence] = warned(small(*load, f"requests.count={count}"), "too short to judge: ")
    advised = sentence.rpartition("requests.count = ")[2]
    assert not warned(small(*load, f"requests.count={advised}"), "too short")


def test_requests_within_the_objectives_are_told_as_a_share_and_not_at_all_without_any() -> None:
    met = small("slo.ttft=10 s").summary
    assert met.slo_share == 1.0
    assert met.goodput_rps == pytest.approx(met.request_throughput_rps)
    tight = small("slo.e2el=1 s")
    measured = tight.requests[tight.requests["measured"]]
    share = (measured["finish_s"] - measured["arrival_s"] <= 1.0).mean()
    assert 0.0 < share < 1.0
    assert tight.summary.slo_share == pytest.approx(share)
    assert math.isnan(small().summary.slo_share)


def test_nothing_is_cut_off_a_run_with_a_fault_or_a_day_in_it() -> None:
    fault = small("faults=[{at='1 s', rank=0, slowdown=2.0, lasts='2 s'}]")
    day = small("requests.kind=diurnal", "requests.period=60 s")
    for result in (fault, day):
        assert result.measured.kind == "transient"
        assert result.measured.begin_s == result.requests["arrival_s"].min()
        assert result.measured.end_s == result.requests["arrival_s"].max()
        assert result.requests["measured"].all()
        assert not warned(result, "too short")
    last = fault.requests["arrival_s"].max()
    late = small(f"faults=[{{at='{last + 0.1} s', rank=0, slowdown=2.0, lasts='2 s'}}]")
    assert late.measured.end_s == late.requests["finish_s"].max()
