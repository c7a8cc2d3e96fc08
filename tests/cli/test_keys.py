"""The keys of a scenario: listed for people, and in step with the documentation."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hardware_profiles.units import parse_quantity_text
from simulator.cli.app import app
from simulator.errors import ScenarioError
from simulator.scenario import Scenario
from simulator.scenario.keys import scenario_keys, with_table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_documented_keys_are_those_of_the_scenario() -> None:
    page = DOCS / "formats" / "scenario.md"
    text = page.read_text(encoding="utf-8")
    wanted = with_table(text)
    assert text == wanted, f"{page} is out of date; write it anew with simulator.scenario.keys.with_table"


def test_every_key_has_a_meaning() -> None:
    assert [key.name for key in scenario_keys() if not key.meaning] == []


def test_every_stated_default_is_taken_by_set(scenario_file: Path) -> None:
    keys = [key for key in scenario_keys() if key.default]
    assert len(keys) > 20
    plain = Scenario.load(scenario_file)
    for key in keys:
        changed = plain.override(f"{key.name}={key.default}")
        value: Any = changed
        for part in key.name.split("."):
            value = getattr(value, part)
        stated = parse_quantity_text(key.default, "bytes") if key.takes.startswith("size") else key.default
        assert stated in {str(value).lower(), f"{value} s", value}


@pytest.mark.parametrize(("quantity", "right", "wrong"), [("duration", "3 ms", "3 GB"), ("size", "3 GB", "3 ms")])
def test_a_key_takes_the_quantity_that_it_is_said_to_take(
    scenario_file: Path, quantity: str, right: str, wrong: str
) -> None:
    keys = [key.name for key in scenario_keys() if key.takes == f"{quantity} with its unit"]
    assert keys
    plain = Scenario.load(scenario_file)
    for key in keys:
        plain.override(f"{key}={right}")
        with pytest.raises(ScenarioError, match=wrong):
            plain.override(f"{key}={wrong}")


def test_durations_and_sizes_are_told_from_numbers() -> None:
    takes = {key.name: key.takes for key in scenario_keys()}
    assert takes["prefix_cache.store"] == "size with its unit"
    assert takes["slo.ttft"] == "duration with its unit"
    assert takes["requests.rate"] == "number > 0"
    assert takes["parallelism.tp"] == "whole number ≥ 1, ≤ 16384"


def test_the_example_of_the_page_is_a_valid_scenario() -> None:
    text = (DOCS / "formats" / "scenario.md").read_text(encoding="utf-8")
    example = text.split("```toml")[1].split("```")[0]
    assert Scenario.from_mapping(tomllib.loads(example)).parallelism.tp == 2


def test_the_page_of_results_names_every_number_of_the_summary(summary: Any) -> None:
    text = (DOCS / "formats" / "results.md").read_text(encoding="utf-8")
    missing = [name for name in summary.__dataclass_fields__ if f"`{name}`" not in text]
    assert missing == []


def options(command: Any) -> Iterator[tuple[str, str]]:
    """Commands with their options, those of all commands below included."""
    for below in getattr(command, "commands", {}).values():
        yield from options(below)
    for parameter in command.params:
        yield from ((command.name, name) for name in parameter.opts if name.startswith("--"))


def test_the_page_of_the_command_line_names_every_option_of_every_command() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    found = list(options(get_command(app)))
    assert len(found) > 80
    assert [pair for pair in found if pair[1] not in listed] == []
