"""What reaches a terminal is text: nothing that it would obey, and nothing endless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from simulator.cli.console import console, pairs, table

ESCAPES = "\x1b[31m\x07\x9b2J\u202e"


def test_a_console_draws_no_control_characters_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    out, grid = console(), table(f"a{ESCAPES}", title=ESCAPES)
    grid.add_row(f"b{ESCAPES}")
    for each in (f"c{ESCAPES}", Text(f"d{ESCAPES}\nnext line"), grid, pairs([(f"e{ESCAPES}", f"f{ESCAPES}")])):
        out.print(each)
    drawn = capsys.readouterr().out
    assert all(line.isprintable() for line in drawn.split("\n"))
    assert "d?[31m?2J?\nnext line" in drawn


@pytest.mark.parametrize("command", ["simulate", "estimate", "check", "explain"])
def test_names_from_a_scenario_are_not_obeyed(api: Any, moesim: Any, scenario_file: Path, command: str) -> None:
    scenario_file.write_text(scenario_file.read_text().replace("two cards", r"two\u001b[31m\u009b\u202e cards"))
    for extra in ((), ("--json",)):
        answer = moesim(command, scenario_file, *extra)
        assert answer.exit_code == 0
        for stream in (answer.stdout, answer.stderr):
            assert all(line.isprintable() for line in stream.split("\n"))
    if command == "simulate":
        assert json.loads(answer.stdout)["scenario"] == "two\x1b[31m\x9b\u202e cards"


def test_paths_in_errors_are_not_obeyed(moesim: Any, tmp_path: Path) -> None:
    for name in ("a\x1b[31m.toml", "a\nb.toml", "x" * 240 + ".toml"):
        (tmp_path / name).write_text("nonsense")
        answer = moesim("simulate", tmp_path / name)
        assert answer.exit_code == 2
        assert answer.stderr.count("\n") == 1
        assert len(answer.stderr) < 500
        assert answer.stderr[:-1].isprintable()


@pytest.mark.parametrize("keys", [1, 3, 50, 20_000])
def test_many_unknown_keys_are_the_first_few_and_a_count(moesim: Any, scenario_file: Path, keys: int) -> None:
    with scenario_file.open("a") as opened:
        opened.writelines(f"[unknown_{number}]\n" for number in range(keys))
    answer = moesim("simulate", scenario_file)
    assert answer.exit_code == 2
    assert "unknown_0: unknown key" in answer.stderr
    assert len(answer.stderr) < 500 or keys == 1
    assert ("more; 'moesim check' shows them" in answer.stderr) == (keys > 1)
    found = moesim("check", scenario_file)
    assert found.exit_code == 2
    assert len(found.stdout) < 20_000


@pytest.mark.parametrize(
    "key",
    [
        "stack.memory_fraction=true",
        'stack.memory_fraction="0.9"',
        "run.drain=1",
        'run.drain="yes"',
        'hardware.node=""',
        "elastic.target=true",
        'requests.rate="1"',
        "requests.profile=[true, 1]",
        'slo.ttft="1e308 s"',
        "hardware.device=''",
        'stack.cpu_gap="1e10 s"',
        f'name="{"x" * 400}"',
    ],
)
def test_values_of_another_kind_or_beyond_all_measure_are_refused(moesim: Any, scenario_file: Path, key: str) -> None:
    answer = moesim("check", scenario_file, "--set", key)
    assert answer.exit_code == 2
    assert "error" in answer.stdout
