"""The headline: the same cards whatever answered, with all devices, and the price that is paid."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.cards import cards, gpu_seconds_per_token, gpus
from simulator.results.values import Estimate, Result, Summary

SMALL = {"preset": "gpt-oss-20b-h100", "requests.count": "12"}
POOLS = {
    "disaggregation.enabled": "true",
    "disaggregation.prefill.tp": "8",
    "disaggregation.prefill.ep": "8",
    "parallelism.instances": "2",
}
Open = Callable[..., AppTest]


def read(answer: Result | Estimate) -> dict[str, float]:
    return {card.label: card.of(answer) for card in cards(answer.scenario)}


def headline(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def test_rates_are_given_in_all_by_device_and_by_user(result: Result) -> None:
    shown = read(result)
    assert shown["GPUs"] == 2
    assert shown["tok/s in all"] == 2 * shown["tok/s per GPU"] == 440
    assert shown["tok/s per user"] == pytest.approx(1 / 0.02)
    assert shown["TTFT, p99"] == pytest.approx(0.6)
    assert shown["USD per Mtok"] == 2.5


def test_objectives_stand_there_only_where_there_are_any(result: Result) -> None:
    assert "Goodput [req/s]" not in read(result)
    asked = Result(
        scenario=result.scenario.override("slo.tpot=50 ms"),
        summary=replace(result.summary, slo_share=0.5),
        breakdown=result.breakdown,
        request_columns=result.request_columns,
        step_columns=result.step_columns,
    )
    assert read(asked)["In SLO [%]"] == 50
    assert read(asked)["Goodput [req/s]"] == read(asked)["Served [req/s]"] == 20


def test_the_prefill_pool_counts(make_summary: Callable[..., Summary], result: Result) -> None:
    changes = (f"{key}={value}" for key, value in POOLS.items())
    scenario = result.scenario.override("model.name=deepseek-v3", "parallelism.tp=8", "parallelism.ep=8", *changes)
    assert gpus(Estimate(scenario=scenario, summary=make_summary(), breakdown={})) == 24


def test_the_time_of_a_token_adds_up_over_devices(result: Result) -> None:
    assert gpu_seconds_per_token(result) == pytest.approx(1 / 220)


def test_an_estimate_and_a_simulation_have_the_same_cards(open_page: Open) -> None:
    page = open_page(**SMALL)
    estimated = headline(page)
    next(button for button in page.button if button.label == "Simulate").click().run()
    simulated = headline(page)
    assert list(estimated) == list(simulated)
    assert {label for label, value in estimated.items() if value == "n/a"} == {"TTFT, p99", "TPOT, p99", "In SLO [%]"}
    assert "n/a" not in simulated.values()
    assert any("The closed form gives a mean TTFT" in text.value for text in page.markdown)


def test_the_price_and_the_nodes_are_named_beside_the_numbers(open_page: Open) -> None:
    page = open_page(**SMALL)
    said = " ".join(text.value.replace("\\", "") for text in page.markdown)
    assert "3-year rental, published: 1.78 USD per GPU hour" in said
    assert "1 node of 8" in said
    page.selectbox(key="form.hardware.price").set_value("on_demand").run()
    assert any("on demand, published: 3.00 USD" in text.value.replace("\\", "") for text in page.markdown)


def test_the_baseline_is_named_with_what_changed_since(quick_estimate: None, open_page: Open) -> None:
    page = open_page(**SMALL)
    next(button for button in page.button if button.label == "Pin as baseline").click().run()
    page.number_input(key="form.requests.count").set_value(20).run()
    said = " ".join(text.value.replace("\\", "") for text in page.markdown)
    assert "The baseline is gpt-oss-20b" in said
    assert "changed since: requests.count = 20" in said


def test_a_summary_without_tokens_has_no_cost_of_a_token(result: Result) -> None:
    empty = replace(result, summary=replace(result.summary, output_tokens_per_s_per_gpu=0.0))
    assert math.isnan(gpu_seconds_per_token(empty))


def test_the_window_that_was_measured_and_how_sure_its_rate_is_are_said(open_page: Open) -> None:
    load = {"requests.kind": "poisson", "requests.rate": "4", "requests.trace": "", "requests.count": "400"}
    page = open_page(**{**SMALL, **load}, simulated="1")
    said = " ".join(text.value.replace("\\", "") for text in page.markdown)
    assert re.search(r"measured \S+.*?: [\d.]+ m?s to \S+ s, served rate ± \d+ %", said)
    assert float(headline(page)["Offered [req/s]"]) == pytest.approx(4, rel=0.2)
