"""The examples run, and print what stands beside them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from simulator import Scenario, check, simulate

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PRESETS = sorted((ROOT / "examples").glob("*.toml"))
NUMBER = re.compile(r"\d+(?:\.(\d+))?(?:e[+-]\d+)?")
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
    summary = simulate(scenario).summary
    assert summary.requests_completed == 8
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
