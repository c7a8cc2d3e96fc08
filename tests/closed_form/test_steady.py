"""The closed form against the events, where there is neither contention nor randomness to part them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, estimate, simulate
from simulator.closed_form.load import busiest_prompts, mean_load
from simulator.closed_form.steady import solve
from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests
from simulator.results.values import Estimate, Result
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import mean_rate

CASES: dict[str, dict[str, Any]] = {
    "mixtral-8x7b on a100, tp 2": {
        "model": {"name": "mixtral-8x7b"},
        "hardware": {"device": "a100-sxm"},
        "parallelism": {"tp": 2},
        "stack": {"name": "vllm"},
    },
    "deepseek-v3 on h200, tp 8 ep 8": {
        "model": {"name": "deepseek-v3"},
        "hardware": {"device": "h200-sxm"},
        "parallelism": {"tp": 8, "ep": 8},
    },
    "deepseek-v3 on h200, dp 8 ep 8": {
        "model": {"name": "deepseek-v3"},
        "hardware": {"device": "h200-sxm"},
        "parallelism": {"dp": 8, "ep": 8},
    },
    "gpt-oss-20b on h100": {
        "model": {"name": "gpt-oss-20b"},
        "hardware": {"device": "h100-sxm"},
        "stack": {"name": "vllm"},
    },
}


def scenario(case: str, concurrency: int, **sections: Any) -> Scenario:
    """A steady closed loop of prompts and answers of unequal length, warm-up and tail left out."""
    data: dict[str, Any] = {
        **CASES[case],
        "routing": {"kind": "zipf", "tokens": 1024},
        "requests": {
            "kind": "closed_loop",
            "concurrency": concurrency,
            "count": 20 * concurrency,
            "lengths": {"kind": "uniform", "input": 1024, "output": 256, "range_ratio": 0.5},
        },
        "run": {"warmup_requests": 2 * concurrency, "drain": False, "traced_steps": 0},
    }
    return Scenario.from_mapping({**data, **sections})


@cache
def both(case: str, concurrency: int) -> tuple[Estimate, Result]:
    asked = scenario(case, concurrency)
    return estimate(asked), simulate(asked)


LOADS = [(case, concurrency) for case in CASES for concurrency in (4, 16, 64)]


@pytest.mark.parametrize(("case", "concurrency"), LOADS)
def test_estimate_and_simulation_agree_within_three_percent(case: str, concurrency: int) -> None:
    closed_form, events = (answer.summary for answer in both(case, concurrency))
    assert closed_form.tpot_s.mean == pytest.approx(events.tpot_s.mean, rel=0.03)
    rates = (answer.output_tokens_per_s_per_gpu for answer in (closed_form, events))
    assert next(rates) == pytest.approx(next(rates), rel=0.03)


@pytest.mark.parametrize("case", CASES)
def test_estimate_and_simulation_agree_on_the_first_token_of_a_light_load(case: str) -> None:
    closed_form, events = (answer.summary for answer in both(case, 4))
    assert closed_form.ttft_s.mean == pytest.approx(events.ttft_s.mean, rel=0.1)


@pytest.mark.parametrize("case", CASES)
def test_estimate_and_simulation_agree_on_where_the_time_goes(case: str) -> None:
    closed_form, events = both(case, 16)
    whole = sum(events.breakdown.values())
    for part, seconds in events.breakdown.items():
        share = closed_form.breakdown[part] / sum(closed_form.breakdown.values())
        assert share == pytest.approx(seconds / whole, abs=0.02), part


@pytest.mark.parametrize("case", CASES)
def test_littles_law_ties_the_estimate_together(case: str) -> None:
    asked, summary = scenario(case, 16), both(case, 16)[0].summary
    in_flight = summary.request_throughput_rps * summary.e2el_s.mean
    assert in_flight == pytest.approx(16, rel=1e-3)
    outputs = scenario_requests(asked.requests, asked.seed).output_tokens.mean()
    devices = asked.parallelism.tp * asked.parallelism.dp
    assert summary.output_tokens_per_s_per_gpu * devices == pytest.approx(summary.request_throughput_rps * outputs)
    decoding = summary.request_throughput_rps * summary.tpot_s.mean * (outputs - 1)
    assert decoding == pytest.approx(summary.batch_size_mean, rel=0.02)


def test_one_request_alone_on_many_ranks_takes_its_own_time() -> None:
    """Seven of eight ranks are empty, and the step takes as long as the one that is not."""
    closed_form, events = (answer.summary for answer in both("deepseek-v3 on h200, dp 8 ep 8", 1))
    assert closed_form.tpot_s.mean == pytest.approx(events.tpot_s.mean, rel=0.02)


def as_it_came(asked: Scenario) -> Scenario:
    """Ask for the rate at which a sample of requests really came."""
    came = mean_rate(scenario_requests(asked.requests, asked.seed))
    return asked.override(f"requests.rate={came!r}") if came else asked


def test_an_open_loop_is_estimated_at_the_rate_that_is_asked_for() -> None:
    load = {"kind": "poisson", "rate": 3.0, "count": 40, "lengths": {"input": 512, "output": 32}}
    summary = estimate(scenario("gpt-oss-20b on h100", 1, requests=load)).summary
    assert summary.offered_rps == summary.request_throughput_rps == pytest.approx(3.0, rel=1e-9)


@pytest.mark.parametrize("rate", [0.05, 1.0, 6.0])
def test_an_open_loop_below_capacity_agrees_too(rate: float) -> None:
    """From one request now and then, which no other shares its steps with, to a busy server."""
    asked = scenario(
        "gpt-oss-20b on h100",
        16,
        requests={
            "kind": "poisson",
            "rate": rate,
            "count": 200 if rate < 1 else 600,
            "lengths": {"kind": "uniform", "input": 1024, "output": 128, "range_ratio": 0.5},
        },
        run={"traced_steps": 0},
    )
    closed_form, events = estimate(as_it_came(asked)).summary, simulate(asked).summary
    assert closed_form.tpot_s.mean == pytest.approx(events.tpot_s.mean, rel=0.03)
    assert closed_form.ttft_s.mean == pytest.approx(events.ttft_s.mean, rel=0.1)
    # A step that computes a prompt alone counts as running nobody, which the closed form does not see.
    assert closed_form.batch_size_mean == pytest.approx(events.batch_size_mean, rel=0.06, abs=0.12)
    assert closed_form.request_throughput_rps == pytest.approx(events.request_throughput_rps, rel=0.03)


def test_prompts_that_meet_on_a_rank_hold_up_all_ranks() -> None:
    """Many requests on eight ranks: a prefill step takes as long as the rank with most prompt tokens."""
    closed_form, events = (answer.summary for answer in both("deepseek-v3 on h200, dp 8 ep 8", 256))
    assert closed_form.tpot_s.mean == pytest.approx(events.tpot_s.mean, rel=0.03)
    assert closed_form.output_tokens_per_s_per_gpu == pytest.approx(events.output_tokens_per_s_per_gpu, rel=0.03)


def test_prompts_that_come_late_share_a_step() -> None:
    """The frontend takes as long as several decode steps, in which more requests end."""
    asked = scenario("deepseek-v3 on h200, dp 8 ep 8", 64, model={"name": "deepseek-v2-lite"})
    closed_form, events = estimate(asked).summary, simulate(asked)
    frontend = deploy(asked).stack.number("frontend")
    decode = events.steps.loc[events.steps["prefill_tokens"] == 0, "duration_s"].mean()
    assert frontend > 2 * decode
    assert closed_form.tpot_s.mean == pytest.approx(events.summary.tpot_s.mean, rel=0.03)
    rate = events.summary.output_tokens_per_s_per_gpu
    assert closed_form.output_tokens_per_s_per_gpu == pytest.approx(rate, rel=0.03)


def test_long_prompts_are_computed_in_chunks_in_both() -> None:
    lengths = {"kind": "uniform", "input": 16_384, "output": 128, "range_ratio": 0.5}
    requests = {"kind": "closed_loop", "concurrency": 4, "count": 240, "lengths": lengths}
    asked = scenario("gpt-oss-20b on h100", 4, requests=requests, stack={"name": "vllm", "token_budget": 2048})
    closed_form, events = estimate(as_it_came(asked)).summary, simulate(asked).summary
    # The closed form does not know that such prompts queue for the budget of a step.
    assert closed_form.tpot_s.mean == pytest.approx(events.tpot_s.mean, rel=0.045)
    assert closed_form.output_tokens_per_s_per_gpu == pytest.approx(events.output_tokens_per_s_per_gpu, rel=0.06)


@pytest.mark.parametrize("dp", [1, 4, 32])
@pytest.mark.parametrize("ends", [0.01, 0.5, 3.0, 20.0])
def test_the_busiest_rank_holds_the_largest_of_random_sums(dp: int, ends: float) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(500, 1000, 1000)
    load = mean_load(
        RequestTrace(arrival=np.zeros(1000), input_tokens=lengths, output_tokens=np.full(1000, 9), concurrency=1), 1
    )
    prompts = rng.poisson(ends, 40_000 if ends > 0.1 else 1_000_000)
    prompts = prompts[prompts > 0][:20_000]
    sums = np.zeros((len(prompts), dp))
    for turn in range(int(prompts.max())):
        rows = np.flatnonzero(prompts > turn)
        np.add.at(sums, (rows, rng.integers(0, dp, len(rows))), rng.choice(lengths, len(rows)))
    assert busiest_prompts(load, dp, ends) == pytest.approx(sums.max(axis=1).mean(), rel=0.01)


def test_a_load_beyond_capacity_is_said_to_be() -> None:
    asked = scenario("gpt-oss-20b on h100", 1)
    deployment = deploy(asked)
    trace = scenario_requests(asked.requests, asked.seed)
    load = mean_load(trace, 1)
    assert load.concurrency == 1
    flooded = asked.override("requests.kind=poisson", "requests.rate=10000", "requests.count=200")
    summary = estimate(flooded).summary
    assert np.isnan(summary.ttft_s.mean)
    assert summary.goodput_rps == 0.0
    assert summary.request_throughput_rps < 10_000
    assert not solve(deployment, load).saturated


@pytest.mark.parametrize("case", CASES)
def test_more_requests_in_flight_raise_throughput_and_latency(case: str) -> None:
    summaries = [both(case, concurrency)[0].summary for concurrency in (4, 16, 64)]
    rates = [summary.output_tokens_per_s_per_gpu for summary in summaries]
    gaps = [summary.tpot_s.mean for summary in summaries]
    assert rates == sorted(rates)
    assert gaps == sorted(gaps)


def test_instances_share_the_load_evenly() -> None:
    one = both("gpt-oss-20b on h100", 16)[0].summary
    four = scenario("gpt-oss-20b on h100", 64, parallelism={"instances": 4})
    shared = estimate(four).summary
    assert shared.tpot_s.mean == pytest.approx(one.tpot_s.mean, rel=0.02)
    assert shared.request_throughput_rps == pytest.approx(4 * one.request_throughput_rps, rel=0.02)
    assert shared.output_tokens_per_s_per_gpu == pytest.approx(one.output_tokens_per_s_per_gpu, rel=0.02)
    played = simulate(four).summary
    assert played.tpot_s.mean == pytest.approx(shared.tpot_s.mean, rel=0.03)


@pytest.mark.parametrize("stack", ["vllm", "sglang"])
@pytest.mark.parametrize("answer", [2, 5, 17, 64])
def test_short_answers_of_an_open_loop_meet_the_prompts_that_came_during_their_own(stack: str, answer: int) -> None:
    asked = scenario(
        "gpt-oss-20b on h100",
        1,
        stack={"name": stack},
        requests={
            "kind": "poisson",
            "rate": 2.0,
            "count": 800,
            "lengths": {"kind": "uniform", "input": 2000, "output": answer, "range_ratio": 0.3},
        },
        run={"traced_steps": 0},
    )
    closed_form, events = estimate(as_it_came(asked)).summary, simulate(asked).summary
    assert closed_form.ttft_s.mean == pytest.approx(events.ttft_s.mean, rel=0.08)
    assert closed_form.e2el_s.mean == pytest.approx(events.e2el_s.mean, rel=0.08)
    assert closed_form.tpot_s.mean == pytest.approx(events.tpot_s.mean, rel=0.15)


@pytest.mark.parametrize("case", list(CASES)[1:])
def test_users_get_their_tokens_late_in_both(case: str) -> None:
    """TensorRT-LLM schedules a step ahead and handles tokens a step behind."""
    asked = scenario(case, 16, stack={"name": "trtllm"})
    assert deploy(asked).limits.delivery_steps > 0
    closed_form, events = estimate(as_it_came(asked)).summary, simulate(asked).summary
    assert closed_form.ttft_s.mean == pytest.approx(events.ttft_s.mean, rel=0.06)
    assert closed_form.tpot_s.mean == pytest.approx(events.tpot_s.mean, rel=0.03)
    assert closed_form.e2el_s.mean == pytest.approx(events.e2el_s.mean, rel=0.03)
