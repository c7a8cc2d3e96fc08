"""Which model, device, storage format and price: what the form offers and what a link may name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.catalogue import load_catalogue
from workloads.models.library import known_names, load_model

SMALL = {"preset": "gpt-oss-20b-h100", "requests.count": "12"}
Open = Callable[..., AppTest]


def test_every_key_that_an_error_asks_for_has_a_widget(quick: None, open_page: Open) -> None:
    page = open_page(**SMALL)
    page.selectbox(key="form.model.weights").set_value("fp8").run()
    page.selectbox(key="form.model.kv_cache").set_value("fp8").run()
    page.selectbox(key="form.hardware.price").set_value("on_demand").run()
    page.number_input(key="form.run.warmup_requests").set_value(3).run()
    page.selectbox(key="form.run.drain").set_value(False).run()
    assert not page.exception
    assert not page.error
    asked = {"model.weights": "fp8", "model.kv_cache": "fp8", "hardware.price": "on_demand"}
    assert page.query_params == {**SMALL, **asked, "run.warmup_requests": "3", "run.drain": "false"}
    page.selectbox(key="form.model.weights").set_value(None).run()
    assert "model.weights" not in page.query_params


def test_a_price_is_offered_with_its_amount_and_goes_with_its_device(quick: None, open_page: Open) -> None:
    page = open_page(**SMALL, **{"hardware.price": "tco_hyperscaler"})
    price = page.selectbox(key="form.hardware.price")
    assert any("on demand" in option and "USD/h" in option for option in price.options)
    assert "USD/h" in price.proto.placeholder
    page.selectbox(key="form.hardware.device").set_value("a100-sxm").run()
    assert page.selectbox(key="form.hardware.price").value is None
    assert page.query_params.get("hardware.price", "") == ""


def test_every_variant_of_a_model_is_offered(quick: None, open_page: Open) -> None:
    offered = open_page(**SMALL).selectbox(key="form.model.name").options
    assert "Qwen3-235B-A22B-FP8" in offered
    assert set(offered) == set(known_names().values())


@pytest.mark.parametrize("name", sorted(known_names()))
def test_every_name_of_a_model_is_that_of_the_model_that_it_stands_for(name: str) -> None:
    assert load_model(known_names()[name]) == load_model(name)


@pytest.mark.parametrize(
    ("key", "text", "listed"),
    [
        ("model.name", "qwen3-235b-a22b-fp8", "Qwen3-235B-A22B-FP8"),
        ("model.name", "deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("model.name", "../../srv/deepseek-v3", "deepseek-v3"),
        ("hardware.device", "H100", "h100-sxm"),
        ("stack.name", "vLLM", "vllm"),
    ],
)
def test_a_link_takes_the_names_that_the_command_line_takes(key: str, text: str, listed: str) -> None:
    names = load_catalogue().names()
    assert names.listed(key, text) == listed
    assert listed in names.by_key[key]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("model.name", "/srv/models/own/config.json"),
        ("model.name", "own.toml"),
        ("model.name", "deepseek-v3/"),
        ("model.name", "deepseek-v3/config.json"),
        ("hardware.device", "../devices/h100"),
        ("hardware.device", "./h100-sxm"),
        ("stack.name", "own/vllm"),
        ("hardware.price", "../price"),
        ("hardware.profiles", "/srv/profiles"),
    ],
)
def test_a_link_names_no_file(key: str, text: str, quick: None, open_page: Open) -> None:
    page = open_page(**SMALL, **{key: text})
    assert not page.exception
    assert key in page.warning[0].value.replace("\\", "")
    assert key not in page.query_params
