"""A scenario is called by its file's name until something changes that such a name may state."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboard.state import apply, differences
from simulator.cli.scenario_argument import load_scenario
from simulator.scenario import Scenario
from simulator.scenario.presets import preset_path
from simulator.scenario.title import made_title, title, titled_from

NAMED = Scenario.from_mapping(
    {
        "name": "Mixtral on two A100",
        "model": {"name": "mixtral-8x7b"},
        "hardware": {"device": "a100-sxm"},
        "parallelism": {"tp": 2},
        "requests": {"concurrency": 8, "count": 80},
    }
)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("hardware.device=h100-sxm", "mixtral-8x7b on 2x h100-sxm"),
        ("parallelism.tp=4", "mixtral-8x7b on 4x a100-sxm"),
        ("parallelism.instances=3", "mixtral-8x7b on 6x a100-sxm"),
        ("model.weights=int8", "mixtral-8x7b (int8 weights) on 2x a100-sxm"),
        ("model.name=checkpoints/Some-8x22B/config.json", "Some-8x22B on 2x a100-sxm"),
        ("disaggregation.enabled=true", "mixtral-8x7b on 3x a100-sxm"),
        ("stack.name=vllm", "mixtral-8x7b on 2x a100-sxm"),
    ],
)
def test_a_name_that_may_state_what_was_changed_gives_way_to_the_content(override: str, expected: str) -> None:
    assert NAMED.override(override).name == expected


@pytest.mark.parametrize("override", ["seed=3", "requests.count=10", "slo.ttft=1 s", "parallelism.tp=2"])
def test_a_name_stays_where_nothing_changes_that_it_may_state(override: str) -> None:
    assert NAMED.override(override).name == NAMED.name


def test_a_name_that_is_given_with_the_changes_is_kept() -> None:
    assert NAMED.override("parallelism.tp=4", f"name={NAMED.name}").name == NAMED.name
    assert NAMED.override("name=mine", "hardware.device=h100-sxm").name == "mine"


def test_a_device_on_the_command_line_does_not_run_under_the_name_of_another() -> None:
    scenario = load_scenario("mixtral-8x7b-a100", [], "h100-sxm", None)
    assert scenario.name == "mixtral-8x7b on 2x h100-sxm"
    plain = Scenario.load(preset_path("mixtral-8x7b-a100"))
    assert load_scenario("mixtral-8x7b-a100", ["seed=5"], None, None).name == plain.name


def test_a_file_without_a_name_is_called_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nname = "mixtral-8x7b"\n[hardware]\ndevice = "a100-sxm"\n', encoding="utf-8")
    scenario = Scenario.load(path, ["parallelism.tp=4"])
    assert title(scenario) == made_title(scenario) == "mixtral-8x7b on 4x a100-sxm"


def test_a_saved_scenario_keeps_the_title_that_is_true_of_it(tmp_path: Path) -> None:
    path = tmp_path / "saved.toml"
    path.write_text(NAMED.override("parallelism.tp=4").to_toml(), encoding="utf-8")
    assert Scenario.load(path).name == "mixtral-8x7b on 4x a100-sxm"


def test_a_page_that_changes_a_preset_retitles_it_and_shows_no_key_for_it() -> None:
    changes = {"hardware.device": "h100-sxm"}
    edited = apply(NAMED, changes)
    assert edited.name == "mixtral-8x7b on 2x h100-sxm"
    assert differences(NAMED, edited) == changes


def test_taking_an_edit_back_brings_the_first_name_back() -> None:
    edited = titled_from(NAMED, NAMED, NAMED.model_copy(update={"hardware": NAMED.override("seed=1").hardware}))
    assert edited.name == NAMED.name
    other = NAMED.override("parallelism.tp=4")
    back = other.model_copy(update={"parallelism": NAMED.parallelism})
    assert titled_from(NAMED, other, back).name == NAMED.name
    own = other.model_copy(update={"name": "mine"})
    assert titled_from(NAMED, own, own.model_copy(update={"seed": 4})).name == "mine"
