"""What the page says that moesim does not model, moesim says itself: each line is a refusal or a warning."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator import check
from simulator.cli.app import app
from simulator.scenario import Scenario
from simulator.scenario.keys import scenario_keys
from simulator.scenario.presets import preset_path
from simulator.scenario.unmodelled import UNMODELLED, unmodelled

PAGE = Path(__file__).parents[2] / "docs" / "not-modelled.md"
REFUSED, WARNED = PAGE.read_text(encoding="utf-8").split("## ")[1:3]


def lines(section: str) -> list[tuple[str, str]]:
    rows = re.findall(r"^\| .* \| `(moesim .*?)` \| (.*) \|$", section, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\|", section, re.MULTILINE)) - 2
    return rows


def said(command: str) -> tuple[int, str]:
    # A wide terminal, so that sentences of tables stay whole.
    found = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "400", "TERM": "dumb"})
    return found.exit_code, " ".join(f"{found.stdout} {found.stderr}".split())


@pytest.mark.parametrize(("command", "words"), lines(REFUSED))
def test_what_is_not_modelled_is_refused_in_the_words_of_the_page(command: str, words: str) -> None:
    code, text = said(command)
    assert code == 2
    assert words in text


@pytest.mark.parametrize(("command", "words"), lines(WARNED))
def test_what_is_answered_with_reservations_carries_the_warning_of_the_page(command: str, words: str) -> None:
    code, text = said(command)
    assert code == 0
    assert words in text
    assert "warning" in text


def test_the_pools_that_the_page_compares_fit() -> None:
    (options,) = re.findall(r"`--set (disaggregation\.enabled=true [^`]*)`", PAGE.read_text(encoding="utf-8"))
    asked = Scenario.load(preset_path("deepseek-v3-h200"), options.split())
    assert not [finding for finding in check(asked) if finding.level == "error"]


def test_every_sentence_of_the_table_stands_for_a_line_of_the_page() -> None:
    commands = [command for command, _ in lines(REFUSED)]
    tried = {unmodelled(key.split(".")) for key in re.findall(r"([a-z_.]+)=", " ".join(commands))}
    assert set(UNMODELLED.values()) <= tried


def test_no_key_that_exists_is_taken_for_one_that_is_not_modelled() -> None:
    base = Scenario.load(preset_path("mixtral-8x7b-a100"))
    patterns = [pattern for patterns in UNMODELLED for pattern in patterns if not pattern.endswith(".*")]
    for key in scenario_keys():
        assert not any(fnmatchcase(key.name, pattern) for pattern in patterns), key.name
    assert base.override("prefix_cache.kind=instance", "offload.patience=2").prefix_cache.kind == "instance"
