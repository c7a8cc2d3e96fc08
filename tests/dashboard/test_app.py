"""The page, run without a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from hardware_profiles.loader import device_names, load_device
from simulator.results.values import Result
from simulator.scenario import Scenario
from simulator.scenario.presets import preset_names
from simulator.scenario.sections import Routing

#: A preset of one device, asked little, so that a run takes a moment.
SMALL = {"preset": "gpt-oss-20b-h100", "requests.count": "12"}
Open = Callable[..., AppTest]


def metrics(page: AppTest) -> dict[str, str]:
    """Return what the headline knows; an estimate does not know percentiles."""
    return {metric.label: metric.value for metric in page.metric if metric.value != "n/a"}


def badges(page: AppTest) -> str:
    return " ".join(text.value for text in page.markdown)


def press(page: AppTest, label: str) -> AppTest:
    return next(button for button in page.button if button.label == label).click().run()


def test_a_preset_is_estimated_at_once(open_page: Open) -> None:
    page = open_page(**SMALL)
    assert not page.exception
    assert not page.error
    assert metrics(page)["TPOT, mean"].endswith("s")
    assert "closed form" in badges(page)


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_fits_the_form_and_its_link_is_short(preset: str, quick: None, open_page: Open) -> None:
    page = open_page(preset=preset)
    assert not page.exception
    assert not page.warning
    assert page.query_params == {"preset": preset}


def test_a_changed_value_changes_the_estimate_and_the_link(open_page: Open) -> None:
    page = open_page(**SMALL)
    before = metrics(page)
    page.selectbox(key="form.hardware.device").set_value("h200-sxm").run()
    assert not page.exception
    assert metrics(page)["TPOT, mean"] != before["TPOT, mean"]
    assert page.query_params["hardware.device"] == "h200-sxm"


def test_choosing_a_device_offers_its_nodes_and_drops_the_others(quick: None, open_page: Open) -> None:
    page = open_page(preset="deepseek-v3-h200")
    page.selectbox(key="form.hardware.device").set_value("b200-sxm").run()
    node = page.selectbox(key="form.hardware.node")
    assert node.value is None
    assert any("b200" in option for option in node.options)
    assert not any("h200" in option for option in node.options)
    assert "hardware.node" not in page.query_params or page.query_params["hardware.node"] == ""
    assert not page.error


def test_choosing_a_preset_fills_the_form_and_the_link(quick: None, open_page: Open) -> None:
    page = open_page(**SMALL)
    page.selectbox(key="preset").set_value("deepseek-v3-h200").run()
    assert page.selectbox(key="form.model.name").value == "deepseek-v3"
    assert page.query_params == {"preset": "deepseek-v3-h200"}


def test_other_arrivals_drop_the_trace_and_ask_for_a_rate(quick: None, open_page: Open) -> None:
    page = open_page(**SMALL)
    page.selectbox(key="form.requests.kind").set_value("poisson").run()
    assert not page.error
    assert page.number_input(key="form.requests.rate").value == 1.0
    page.selectbox(key="form.requests.kind").set_value("closed_loop").run()
    page.number_input(key="form.requests.concurrency").set_value(4).run()
    assert not page.error
    assert page.query_params["requests.concurrency"] == "4"


@pytest.mark.parametrize("kind", ["balanced", "uniform", "zipf", "dirichlet", "power_law", "domain", "sticky"])
def test_every_routing_kind_can_be_chosen(kind: str, quick: None, open_page: Open) -> None:
    page = open_page(**SMALL)
    page.selectbox(key="form.routing.kind").set_value(kind).run()
    assert not page.exception
    assert page.query_params.get("routing.kind", Routing().kind) == kind
    assert page.query_params["routing.trace"] == ""


def test_an_infeasible_scenario_shows_findings_and_what_would_fit(open_page: Open) -> None:
    page = open_page(preset="deepseek-v3-h200", **{"parallelism.tp": "1", "parallelism.ep": "1"})
    assert not page.exception
    assert not page.error
    assert "GB" in page.warning[0].value
    assert not page.metric
    assert "cannot run" in page.info[0].value
    assert [each.proto.label for each in page.get("download_button")] == ["Scenario, TOML"]
    page.number_input(key="form.parallelism.tp").set_value(8).run()
    assert not page.error
    assert page.metric


def test_a_link_with_faults_opens_with_findings(open_page: Open) -> None:
    page = open_page(**SMALL, **{"routing.trace": "/etc/passwd", "parallelism.tp": "zero"})
    assert not page.exception
    faults = " ".join(warning.value for warning in page.warning)
    assert "parallelism.tp" in faults
    assert "routing.trace" in faults
    assert page.metric


@pytest.mark.parametrize(
    "change",
    [
        {"slo.tpot": "1e-12 s", "slo.ttft": "1e12 s"},
        {"requests.kind": "poisson", "requests.trace": "", "requests.rate": "1e-8"},
        {"requests.kind": "diurnal", "requests.trace": "", "requests.rate": "1", "requests.amplitude": "0.999"},
        {"stack.memory_fraction": "1e-9"},
        {"seed": "9007199254740991", "requests.count": "1000000000000"},
    ],
)
def test_values_beyond_what_the_form_invites_to_do_not_break_it(
    change: dict[str, str], quick: None, open_page: Open
) -> None:
    page = open_page(**{**SMALL, **change})
    assert not page.exception


def test_an_emptied_value_that_is_needed_returns(quick: None, open_page: Open) -> None:
    page = open_page(**SMALL, **{"requests.kind": "poisson", "requests.trace": "", "requests.rate": "3"})
    page.number_input(key="form.requests.rate").set_value(None).run()
    assert page.number_input(key="form.requests.rate").value == 3.0
    assert not page.error


def test_an_emptied_value_that_is_optional_stays_empty(quick: None, open_page: Open) -> None:
    page = open_page(**SMALL)
    page.number_input(key="form.slo.tpot").set_value(None).run()
    assert page.query_params["slo.tpot"] == ""
    assert page.number_input(key="form.slo.tpot").value is None


def test_simulating_shows_percentiles_charts_and_a_link_that_says_so(open_page: Open) -> None:
    page = open_page(**SMALL)
    press(page, "Simulate")
    assert not page.exception
    assert metrics(page)["TTFT, p99"].endswith("s")
    assert "Simulated" in badges(page)
    assert page.query_params["simulated"] == "1"
    page.session_state["tab"] = "Latencies"
    page.run()
    assert page.query_params["tab"] == "latency"
    assert any("half of the requests within" in text.value for text in page.markdown)


def test_a_link_to_a_simulation_simulates(open_page: Open) -> None:
    page = open_page(**SMALL, simulated="1", tab="steps")
    assert not page.exception
    assert "TTFT, p99" in metrics(page)
    assert any("engine steps" in text.value for text in page.markdown)


def test_a_change_after_a_simulation_returns_to_the_estimate(open_page: Open) -> None:
    page = open_page(**SMALL, simulated="1")
    page.number_input(key="form.requests.count").set_value(13).run()
    assert "TTFT, p99" not in metrics(page)
    assert "simulated" not in page.query_params


def test_deltas_compare_with_the_pinned_baseline_of_the_same_kind(open_page: Open) -> None:
    page = open_page(**SMALL)
    press(page, "Pin as baseline")
    assert {metric.delta for metric in page.metric if metric.value != "n/a"} == {"0 %, same"}
    page.selectbox(key="form.hardware.device").set_value("a100-sxm").run()
    assert next(metric for metric in page.metric if metric.label == "TPOT, mean").delta.endswith("worse")
    press(page, "Simulate")
    assert next(metric for metric in page.metric if metric.label == "TPOT, p99").delta.endswith("worse")
    press(page, "Unpin baseline")
    assert {metric.delta for metric in page.metric} == {""}
    assert "baseline" not in page.query_params


def test_a_link_carries_the_baseline(open_page: Open) -> None:
    page = open_page(**SMALL, baseline="preset=gpt-oss-20b-h100&requests.count=12&hardware.device=a100-sxm")
    assert next(metric for metric in page.metric if metric.label == "TPOT, mean").delta.endswith("better")


@pytest.mark.parametrize("tab", ["latency", "steps"])
def test_an_empty_chart_says_how_to_fill_it(tab: str, open_page: Open) -> None:
    page = open_page(**SMALL, tab=tab)
    assert "Press Simulate" in page.info[0].value


def test_why_lists_the_ops_of_both_phases_with_their_sources(open_page: Open) -> None:
    page = open_page(**SMALL, tab="why")
    assert not page.exception
    assert len(page.dataframe) == 2
    table = page.dataframe[0].value
    assert {"Op", "Bound", "Equation", "Inputs", "Source", "Evidence"} <= set(table.columns)
    assert len(table) > 5


def test_the_scenario_can_be_copied_and_downloaded(open_page: Open) -> None:
    page = open_page(**SMALL, tab="share", simulated="1")
    assert len(page.code) == 3
    assert "--set requests.count=12" in page.code[0].value
    labels = [download.proto.label for download in page.get("download_button")]
    assert labels == ["Scenario, TOML", "Summary, JSON", "Requests, CSV", "Requests, Parquet", "Steps, Parquet"]


def test_every_chart_has_alt_text(open_page: Open) -> None:
    for tab in ("breakdown", "latency", "steps", "why"):
        page = open_page(**SMALL, tab=tab, simulated="1")
        charts = page.get("plotly_chart")
        assert charts
        assert all(len(chart.proto.alt) > 40 for chart in charts)


def test_a_stopped_simulation_says_so_and_leaves_the_estimate(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit.runtime.scriptrunner_utils.exceptions import StopException

    def stopped(*args: object, **kwargs: object) -> None:
        raise StopException

    page = open_page(**SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("simulator.api.simulate", stopped)
        press(page, "Simulate")
    page.run()
    assert any("stopped before its end" in warning.value for warning in page.warning)
    assert "TTFT, p99" not in metrics(page)
    page.run()
    assert not any("stopped" in warning.value for warning in page.warning)


def test_a_simulation_that_fails_becomes_a_finding(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from simulator.errors import WorkloadError

    def failing(*args: object, **kwargs: object) -> None:
        msg = "row 3: the trace ends"
        raise WorkloadError(msg)

    page = open_page(**SMALL)
    monkeypatch.setattr("simulator.api.simulate", failing)
    press(page, "Simulate")
    assert not page.exception
    assert "the trace ends" in page.error[0].value


WITH_MORE = [name for name in device_names() if len(load_device(name).processors) > 1]


@pytest.mark.parametrize("device", WITH_MORE)
def test_a_processor_that_nothing_uses_is_said_beside_the_answer(
    device: str, quick_estimate: None, open_page: Open
) -> None:
    page = open_page(**{**SMALL, "hardware.device": device})
    further = set(load_device(device).processors) - {load_device(device).main.name}
    said = " ".join(warning.value for warning in page.warning)
    assert all(f"the {name} processor of {device}" in said for name in further)


def test_what_the_baseline_s_simulation_ended_with_is_said_beside_the_result(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulator.api import simulate
    from simulator.errors import WorkloadError

    def failing(scenario: Scenario, **kwargs: Any) -> Result:
        if scenario.requests.count == 13:
            msg = "row 3: the trace ends"
            raise WorkloadError(msg)
        return simulate(scenario, **kwargs)

    page = open_page(**SMALL, baseline="preset=gpt-oss-20b-h100&requests.count=13")
    monkeypatch.setattr("simulator.api.simulate", failing)
    press(page, "Simulate")
    assert "TTFT, p99" in metrics(page)
    assert [error.value.replace("\\", "") for error in page.error] == ["**Error in baseline.** row 3: the trace ends."]
    page.number_input(key="form.requests.count").set_value(14).run()
    assert not page.error
