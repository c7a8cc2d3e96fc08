"""What is copied from the page means the same scenario."""

from __future__ import annotations

import shlex
import tomllib
from typing import Any

import pytest

from dashboard.snippets import as_command, as_python
from dashboard.state import apply, differences
from simulator.scenario import Scenario
from simulator.scenario.presets import preset_names, preset_path

PRESET = preset_names()[0]
BASE = Scenario.load(preset_path(PRESET))
CHANGED = BASE.override("requests.count=7", "slo.tpot=33 ms", 'name=it\'s a "test"')
WITHOUT = apply(CHANGED, {"slo.tpot": "", "stack.name": "vllm"})


def run_without_simulating(text: str, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    asked: list[Scenario] = []

    class Answer:
        summary = "done"

    def simulate(scenario: Scenario) -> Answer:
        asked.append(scenario)
        return Answer()

    monkeypatch.setattr("simulator.api.simulate", simulate)
    exec(compile(text, "snippet", "exec"), {})  # noqa: S102  the snippet is what is tested
    return asked[0]


@pytest.mark.parametrize("scenario", [BASE, CHANGED, WITHOUT], ids=["preset", "changed", "without a key"])
def test_the_python_snippet_simulates_the_same_scenario(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = as_python(PRESET, differences(BASE, scenario), scenario)
    assert run_without_simulating(text, monkeypatch) == scenario
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize("scenario", [BASE, CHANGED], ids=["preset", "changed"])
def test_the_command_line_means_the_same_scenario(scenario: Scenario) -> None:
    words = shlex.split(as_command(PRESET, differences(BASE, scenario)).replace("\\\n", " "))
    assert words[:3] == ["moesim", "simulate", PRESET]
    assert set(words[3::2]) <= {"--set"}
    assert Scenario.load(preset_path(PRESET), words[4::2]) == scenario


def test_the_command_line_points_to_the_file_where_a_key_was_taken_away() -> None:
    assert as_command(PRESET, differences(BASE, WITHOUT)).endswith("moesim simulate scenario.toml")


def test_the_toml_is_the_scenario() -> None:
    data: dict[str, Any] = tomllib.loads(WITHOUT.to_toml())
    assert Scenario.from_mapping(data) == WITHOUT
