"""The examples run, and print what stands beside them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator import Scenario, check, simulate
from simulator.cli.app import app

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PRESETS = sorted((ROOT / "examples").glob("*.toml"))
NUMBER = re.compile(r"\d+(?:\.(\d+))?(?:e[+-]\d+)?")
#: Pages that show what their commands print, and what they show of runs that no command of theirs asks for.
SHOWING = [ROOT / "docs" / f"{name}.md" for name in ("tutorial", "how-to-place-experts", "how-to-read-an-explanation")]
UNASKED = "rebalancing:"
RENEW = "if the change of numbers is meant: .venv/bin/python examples/NAME.py > examples/NAME.out"


def words(text: str) -> str:
    """Text with every number and the width of gaps left out."""
    return re.sub(r"[ \t]+", " ", NUMBER.sub("#", text))


def agree(found: re.Match[str], wanted: re.Match[str]) -> bool:
    """Whether two numbers agree to three digits, or to one unit of the last place that is shown."""
    place = 10.0 ** -len(wanted[1] or "")
    return abs(float(found[0]) - float(wanted[0])) <= max(0.005 * float(wanted[0]), 1.001 * place)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_example_prints_what_stands_beside_it(script: Path) -> None:
    done = subprocess.run([sys.executable, script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = script.with_suffix(".out").read_text(encoding="utf-8")
    assert words(done.stdout) == words(wanted), RENEW
    pairs = zip(NUMBER.finditer(done.stdout), NUMBER.finditer(wanted), strict=True)
    assert [(found[0], number[0]) for found, number in pairs if not agree(found, number)] == [], RENEW


def shown_outputs(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Outputs that a page shows, each with the commands that it has shown so far, the last first."""
    commands: list[str] = []
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for language, block in blocks:
        if language == "console":
            commands = [*reversed([line for line in block.splitlines() if line.startswith("moesim ")]), *commands]
        elif language in {"", "text"} and not block.startswith(UNASKED):
            yield block, commands


@cache
def output_of(command: str) -> str:
    """What a command prints, in one line."""
    done = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "150"})
    return " ".join(done.output.split())


def disagreements(shown: str, printed: str) -> list[tuple[str, str]] | None:
    """Numbers of a text that are printed otherwise; None where the words are not printed at all."""
    pattern = re.escape(words(" ".join(shown.split()))).replace(re.escape("#"), rf"({NUMBER.pattern})")
    found = re.search(pattern, printed)
    if found is None:
        return None
    pairs = zip(NUMBER.finditer(shown), NUMBER.finditer(found[0]), strict=True)
    return [(number[0], other[0]) for number, other in pairs if not agree(other, number)]


SHOWN = [(page, shown, commands) for page in SHOWING for shown, commands in shown_outputs(page)]


@pytest.mark.parametrize(
    ("page", "shown", "commands"), SHOWN, ids=[f"{page.stem}-{number}" for number, (page, *_) in enumerate(SHOWN)]
)
def test_a_page_shows_what_is_printed(
    page: Path, shown: str, commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    # Tables are shown in part, line by line; sentences run over lines.
    parts = [shown] if shown.rstrip().endswith(")") else [line for line in shown.splitlines() if line.strip()]
    for part in parts:
        found = (disagreements(part, output_of(command)) for command in commands if "mine.toml" not in command)
        assert next((numbers for numbers in found if numbers is not None), "not printed") == [], (page.name, part)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_example_is_short_and_asks_a_question(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert re.match(r'"""[^"]+\?"""\n', text)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.name)
def test_a_preset_is_sound_and_runs(preset: Path) -> None:
    scenario = Scenario.load(preset)
    # As a file says it, but for the size: few requests and a short routing trace.
    small = ["requests.count=8"]
    if scenario.requests.concurrency:
        small.append("requests.concurrency=8")
    if scenario.routing.kind != "trace":
        small.append("routing.tokens=128")
    scenario = scenario.override(*small)
    assert [finding.message for finding in check(scenario) if finding.level == "error"] == []
    result = simulate(scenario)
    summary = result.summary
    assert result.whole_run is not None
    assert result.whole_run.requests_completed == 8
    assert 0 < summary.tpot_s.mean < 1
    assert summary.output_tokens_per_s_per_gpu > 0


def test_numbers_that_differ_in_the_third_digit_are_told_apart() -> None:
    def numbers(text: str) -> re.Match[str]:
        found = NUMBER.search(text)
        assert found
        return found

    assert agree(numbers("123.4"), numbers("123.5"))
    assert agree(numbers("0.417"), numbers("0.418"))
    assert not agree(numbers("124.9"), numbers("123.5"))
    assert not agree(numbers("1.39e+03"), numbers("1.41e+03"))
