"""A choice that does not go with the rest takes that away with a word, or is mended with one click."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.mending import Room, mend
from simulator import api
from simulator.scenario import Scenario
from simulator.scenario.presets import preset_path

SMALL = {"preset": "gpt-oss-20b-h100", "requests.count": "12"}
Open = Callable[..., AppTest]


def said(page: AppTest) -> str:
    return " ".join(each.value.replace("\\", "") for each in page.info)


def mending(page: AppTest) -> AppTest:
    return next(button for button in page.button if button.label.startswith("Mend it")).click().run()


def test_another_model_takes_the_recorded_routing_away_and_says_so(quick_estimate: None, open_page: Open) -> None:
    page = open_page(**SMALL, **{"routing.kind": "trace"})
    page.selectbox(key="form.model.name").set_value("qwen3-30b-a3b").run()
    assert not page.exception
    assert not page.error
    assert "routing.trace" in said(page)
    assert page.metric
    assert page.selectbox(key="form.routing.kind").value == "zipf"
    assert page.query_params["routing.trace"] == ""
    page.number_input(key="form.requests.count").set_value(13).run()
    assert "routing.trace" not in said(page)


def test_a_recording_of_the_same_shape_stays(quick_estimate: None, open_page: Open) -> None:
    page = open_page(**SMALL)
    page.selectbox(key="form.model.name").set_value("gpt-oss-20b-bf16").run()
    assert page.selectbox(key="form.routing.kind").value == "trace"
    assert "Taken away" not in said(page)


@pytest.mark.parametrize(
    ("widget", "value", "key"),
    [("routing.kind", "zipf", "routing.trace"), ("hardware.device", "a800-sxm", "hardware.price")],
)
def test_what_another_choice_takes_away_is_said(
    widget: str, value: str, key: str, quick: None, open_page: Open
) -> None:
    page = open_page(**SMALL, **{"hardware.price": "on_demand_longtail"})
    page.selectbox(key=f"form.{widget}").set_value(value).run()
    assert key in said(page)
    assert page.query_params.get(key, "") == ""


def test_what_does_not_fit_is_split_by_one_click(quick_estimate: None, open_page: Open) -> None:
    page = open_page(**SMALL)
    page.selectbox(key="form.model.name").set_value("qwen3-235b-a22b").run()
    assert not page.error
    assert "does not fit" in page.warning[0].value
    mending(page)
    assert not page.exception
    assert not page.warning
    assert page.metric
    assert page.number_input(key="form.parallelism.tp").value == 8
    assert page.query_params["parallelism.tp"] == "8"


def test_a_link_to_what_cannot_run_is_mended_by_one_click(quick_estimate: None, open_page: Open) -> None:
    page = open_page(preset="gpt-oss-20b-h100", **{"model.name": "mixtral-8x7b"})
    assert not page.error
    mending(page)
    assert page.metric
    assert page.query_params["routing.kind"] == "zipf"
    assert page.selectbox(key="form.routing.kind").value == "zipf"


def test_what_nothing_mends_is_an_error(open_page: Open) -> None:
    page = open_page(preset="deepseek-v3-h200", **{"stack.memory_fraction": "0.001"})
    assert page.error
    assert not any(button.label.startswith("Mend it") for button in page.button)


@pytest.mark.parametrize("model", ["deepseek-v3", "llama-3.1-70b", "qwen3-235b-a22b", "gpt-oss-120b"])
def test_a_proposal_runs_under_a_title_that_is_true(model: str) -> None:
    scenario = Scenario.load(preset_path("gpt-oss-20b-h100")).override(f"model.name={model}")
    found = mend(scenario, Room(devices=8, cluster="hgx-h100-ib"), api.check)
    assert found is not None
    assert all(finding.level != "error" for finding in api.check(found.scenario))
    assert model in found.scenario.name
