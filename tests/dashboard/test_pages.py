"""The pages and the tabs: each is in one table, and the router opens it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from dashboard import app
from dashboard.app import PAGES
from dashboard.panels.tabs import TABS, open_tabs
from dashboard.state import FIRST_TAB
from dashboard.views.page import Page
from simulator.scenario import Scenario
from simulator.scenario.features import FEATURES

Open = Callable[..., AppTest]
SMALL = {"preset": "gpt-oss-20b-h100", "requests.count": "12"}


def turn_to(page: AppTest, path: str) -> AppTest:
    """Follow the navigation, which leaves the parameters of the address behind."""
    page._page_hash = calc_hash(path)
    for key in list(page.query_params):
        del page.query_params[key]
    return page.run()


def test_every_page_has_an_address_of_its_own_and_the_first_is_at_the_root() -> None:
    paths = [page.path for page in PAGES]
    assert paths[0] == ""
    assert all(paths[1:])
    assert len(set(paths)) == len(paths) == len({page.title for page in PAGES})


@pytest.mark.parametrize("page", PAGES, ids=[page.title for page in PAGES])
def test_the_router_opens_every_page(page: Page, quick: None, open_page: Open) -> None:
    opened = turn_to(open_page(**SMALL), page.path)
    assert not opened.exception
    assert not opened.error
    assert len(opened.title) == 1


def test_a_page_is_as_it_was_left(quick: None, open_page: Open) -> None:
    page = open_page(**SMALL, tab="why")
    page.number_input(key="form.requests.count").set_value(13).run()
    link = dict(page.query_params)
    turn_to(page, "catalogue")
    assert page.title[0].value == "What the answers rest on"
    turn_to(page, "")
    assert page.number_input(key="form.requests.count").value == 13
    assert page.query_params == link
    assert page.session_state["tab"] == "Why"


def test_every_tab_has_names_of_its_own_and_the_first_is_always_there() -> None:
    assert len({tab.name for tab in TABS}) == len({tab.label for tab in TABS}) == len(TABS)
    plain = Scenario.from_mapping({"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"}})
    assert FIRST_TAB in open_tabs(plain)


@pytest.mark.parametrize(
    ("asked", "tab"),
    [
        ("disaggregation.enabled=true", "pools"),
        ("prefix_cache.kind=instance", "cache"),
        ("speculation.draft_tokens=2", "drafts"),
        ("faults=[{at = '1 s'}]", "faults"),
        ("elastic.mechanism=elastic", "scaling"),
        ("parallelism.ep=2", "placement"),
    ],
)
def test_a_tab_is_there_where_its_feature_is_asked_for(asked: str, tab: str) -> None:
    plain = Scenario.from_mapping({"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"}})
    assert set(open_tabs(plain.override(asked))) - set(open_tabs(plain)) == {tab}


def test_what_the_closed_form_refuses_has_a_tab_or_is_on_one() -> None:
    refused = {feature.name for feature in FEATURES if feature.closed_form == "refused"}
    assert refused <= {
        "disaggregation",
        "prefix_cache",
        "speculation",
        "faults",
        "elastic",
        "rebalance",
        "expert_aware",
    }


def test_no_folder_beside_the_router_is_taken_by_streamlit_for_its_own() -> None:
    assert not Path(app.__file__).with_name("pages").exists()


def test_the_documentation_names_every_page_and_every_tab_in_their_order() -> None:
    text = (Path(app.__file__).parents[1] / "docs" / "dashboard.md").read_text(encoding="utf-8")
    assert all(f"**{page.title}**" in text for page in PAGES)
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text.partition("| tab |")[2].partition("\n\n")[0], re.MULTILINE)
    assert [row for row in rows if not row.startswith("---")] == [tab.label for tab in TABS]
