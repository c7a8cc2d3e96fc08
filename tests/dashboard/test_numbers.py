"""The catalogue of numbers: complete, with units and sources, and found by words."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from dashboard.figures.numbers import KINDS, catalogue_numbers, found
from dashboard.views.catalogue import _STATUSES
from hardware_profiles.loader import cluster_names, device_names, load_device, node_names
from simulator.stack import load_stack, stack_names
from simulator.startup import startup_names
from workloads.models.library import load_model, model_names

Open = Callable[..., AppTest]


@pytest.fixture(scope="module")
def numbers() -> pd.DataFrame:
    return catalogue_numbers()


def test_every_entry_of_every_catalogue_is_there(numbers: pd.DataFrame) -> None:
    names = {
        "device": device_names(),
        "node": node_names(),
        "cluster": cluster_names(),
        "stack": stack_names(),
        "model": model_names(),
        "start-up": startup_names(),
    }
    assert set(KINDS) == set(names)
    listed = {kind: set(rows["Name"]) for kind, rows in numbers.groupby("Kind")}
    # A cluster or a node may state nothing of its own; everything else has numbers.
    assert {kind: set(names[kind]) - listed[kind] for kind in ("device", "stack", "model", "start-up")} == {
        "device": set(),
        "stack": set(),
        "model": set(),
        "start-up": set(),
    }
    assert all(listed[kind] <= set(names[kind]) for kind in names)


def test_every_number_has_a_source_and_a_known_status(numbers: pd.DataFrame) -> None:
    assert numbers["Source"].str.strip().ne("").all()
    assert set(numbers["Status"]) <= set(_STATUSES)
    assert numbers["Value"].notna().all()
    assert not numbers.duplicated(["Kind", "Name", "Number"]).any()


def test_values_are_those_of_the_files(numbers: pd.DataFrame) -> None:
    def row(name: str, number: str) -> pd.Series:
        (found,) = numbers[(numbers["Name"] == name) & (numbers["Number"] == number)].to_dict("records")
        return pd.Series(found)

    memory = load_device("h100-sxm").memory_capacity
    assert (row("h100-sxm", "memory_capacity")["Value"], row("h100-sxm", "memory_capacity")["Unit"]) == (80.0, "GB")
    assert row("h100-sxm", "memory_capacity")["Source"] == memory.source
    assert row("vllm", "numbers.cpu_gap")["Value"] == load_stack("vllm").numbers["cpu_gap"].stated
    assert row("mixtral-8x7b", "hidden")["Value"] == load_model("mixtral-8x7b").hidden


@pytest.mark.parametrize(
    ("words", "kinds", "statuses"),
    [("", [], []), ("H100  Bandwidth", [], []), ("", ["node"], []), ("", [], ["assumption"]), ("gpu", ["device"], [])],
)
def test_what_is_found_holds_all_words_and_is_of_what_was_chosen(
    words: str, kinds: list[str], statuses: list[str], numbers: pd.DataFrame
) -> None:
    rows = found(numbers, words, kinds, statuses)
    assert len(rows)
    text = rows.drop(columns="Value").astype(str).agg(" ".join, axis=1).str.lower()
    assert all(text.str.contains(word, regex=False).all() for word in words.lower().split())
    assert set(rows["Kind"]) <= set(kinds or KINDS)
    assert set(rows["Status"]) <= set(statuses or _STATUSES)


def test_words_are_no_pattern(numbers: pd.DataFrame) -> None:
    assert found(numbers, "(.*", [], []).empty


def test_the_page_finds_and_says_where_it_finds_nothing(quick: None, open_page: Open) -> None:
    page = open_page(preset="gpt-oss-20b-h100")
    page._page_hash = calc_hash("catalogue")
    page.run()
    assert len(page.dataframe[0].value) > 2000
    page.text_input(key="search").set_value("mixtral-8x7b hidden").run()
    assert page.dataframe[0].value["Number"].to_list() == ["hidden"]
    page.text_input(key="search").set_value("no such number").run()
    assert not page.dataframe
    assert "None of" in page.info[0].value


def test_the_address_of_the_page_says_what_is_searched(open_page: Open) -> None:
    page = open_page(preset="gpt-oss-20b-h100")
    page._page_hash = calc_hash("catalogue")
    page.query_params["search"] = "mixtral-8x7b hidden"
    page.run()
    assert page.dataframe[0].value["Number"].to_list() == ["hidden"]
