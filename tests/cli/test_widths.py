"""Tables fit the window of the reader: at 80, 100 and 120 columns no word and no number is broken."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.text import Text

from simulator.cli.console import seconds, table
from simulator.cli.tables import print_table

if TYPE_CHECKING:
    from typer.testing import Result as Answer

COMMANDS = [
    ("list", "devices"),
    ("list", "presets"),
    ("list", "models"),
    ("list", "keys"),
    ("show", "h100-sxm"),
    ("show", "deepseek-v3"),
    ("show", "vllm"),
    ("check", "deepseek-v3-h200", "--set", "requests.count=8"),
    ("estimate", "deepseek-v3-ep32-h800"),
    ("simulate", "deepseek-v3-h200", "--set", "requests.count=40"),
    ("explain", "deepseek-v3-ep32-h800"),
    ("timeline", "deepseek-v3-ep32-h800", "--set", "stack.overlap=two_batch"),
    ("exchange", "--device", "h800-sxm", "--ranks", "32"),
    ("exchange", "--device", "h800-sxm", "--ranks", "32", "--fidelity", "flow"),
    ("place", "mixtral-8x7b-a100", "--device", "h100-sxm", "--ep", "4", "--windows", "2"),
    ("routing", "stats", "sample:routing_24x32_top4.npz", "--ep", "4"),
]
#: What is drawn, not said: rules, bars, heat maps.
DRAWN = re.compile(r"[─█▓▒░▁▂▃▄▅▆▇]+")
#: What a machine's pace or a bar of the progress changes from one call to the next.
UNSTEADY = re.compile(r"^(engine|written to)\b")
#: Lines that terminals fold themselves, so that they can be copied.
WHOLE = ("next: ", "verdict: ", "fastest for both ways: ", "in decode steps ")


def said(
    moesim: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, width: int, command: tuple[str, ...]
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    answer = moesim(*command)
    assert answer.exit_code == 0, answer.output
    return [line.rstrip() for line in answer.stdout.splitlines() if not UNSTEADY.match(line)]


def words(lines: list[str]) -> set[str]:
    return {word for line in lines for word in DRAWN.sub(" ", line).split()}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_window_breaks_a_word_or_a_number(
    moesim: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    whole = words(said(moesim, monkeypatch, 500, command))
    for width in (80, 100, 120):
        lines = said(moesim, monkeypatch, width, command)
        assert words(lines) <= whole, f"{width}: {sorted(words(lines) - whole)[:8]}"
        too_long = [line for line in lines if len(line) > width and not line.startswith(WHOLE)]
        assert too_long == []


@pytest.mark.parametrize(
    ("command", "heading"),
    [
        (
            ("exchange", "--device", "h800-sxm", "--ranks", "32", "--fidelity", "flow"),
            r"algorithm +phase +closed +flow ",
        ),
        (("place", "deepseek-v3-ep32-h800", "--windows", "2"), r"policy +held out .* step +gain"),
    ],
    ids=str,
)
def test_wide_tables_stay_tables_at_80_columns(
    moesim: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], heading: str
) -> None:
    assert re.search(heading, "\n".join(said(moesim, monkeypatch, 80, command)))


def lines_of(grid_width: int, optional: tuple[str, ...] = ()) -> list[str]:
    out = Console(width=grid_width, markup=False, highlight=False, force_terminal=False, color_system=None)
    grid = table("name", "figure", "bar", "sentence", title="all of it", right=("figure",))
    grid.add_row("first-of-the-rows", "12,345.6 ms", Text("██"), "what is said at length, over more than one line")
    with out.capture() as captured:
        print_table(out, grid, optional)
    return captured.get().splitlines()


def test_columns_that_can_be_spared_go_before_rows_are_written_below_each_other() -> None:
    assert any("██" in line for line in lines_of(70, ("bar",)))
    narrow = lines_of(44, ("bar",))
    assert not any("██" in line for line in narrow)
    assert any("first-of-the-rows  12,345.6 ms" in line for line in narrow)


def test_rows_of_a_table_that_nothing_makes_fit_are_written_below_each_other() -> None:
    lines = lines_of(36)
    assert lines[:2] == ["all of it", "first-of-the-rows"]
    assert [line.split()[0] for line in lines[2:5]] == ["figure", "bar", "sentence"]
    assert all(len(line.rstrip()) <= 36 for line in lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "12.3 ms"), (61.2, "61.2 s"), (119.9, "120 s"), (120.0, "2:00 min"), (7384.4, "2:03:04 h")],
)
def test_times_are_in_seconds_up_to_two_minutes_and_then_read_off_a_clock(value: float, text: str) -> None:
    assert seconds(value) == text
