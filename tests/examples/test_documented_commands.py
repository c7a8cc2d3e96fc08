"""The commands that the tutorial and the how-tos show are sound."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from simulator import Scenario, check
from simulator.scenario.presets import scenario_path

ROOT = Path(__file__).parents[2]
NAMES = ("tutorial", "how-to-replay-traces", "how-to-compare-deployments", "how-to-read-an-explanation")
PAGES = [ROOT / "docs" / f"{name}.md" for name in NAMES]
VERBS = {"simulate", "estimate", "explain", "check"}


def console_lines(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("moesim ")]


COMMANDS = sorted({line for page in PAGES for line in console_lines(page)})


def toml_of_the_tutorial() -> str:
    found = re.search(r"^```toml\n(.*?)^```", PAGES[0].read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_names_a_sound_scenario(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb, file, *rest = shlex.split(command.partition(" > ")[0])[1:]
    assert verb in VERBS
    if file == "mine.toml":
        (tmp_path / file).write_text(toml_of_the_tutorial(), encoding="utf-8")
        file = str(tmp_path / file)
    monkeypatch.chdir(ROOT)
    # A few tokens of routing are as good as many, here.
    overrides = [word for word in rest if "=" in word]
    scenario = Scenario.load(scenario_path(file), [*overrides, "routing.tokens=64"])
    errors = [finding.message for finding in check(scenario) if finding.level == "error"]
    # One command shows what a model that does not fit says.
    assert bool(errors) == (command == "moesim check mixtral-8x7b-a100 --set parallelism.tp=1")


def test_the_pages_show_commands() -> None:
    assert all(console_lines(page) for page in PAGES)
