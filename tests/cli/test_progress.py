"""The progress bar: only where somebody sees it, and only when it is worth it."""

from __future__ import annotations

import io

import pytest

from simulator.cli import progress


def test_there_is_no_bar_where_standard_error_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress.progress_bar("simulating", enabled=True) as update:
        assert update is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("patience", "drawn"), [(0.0, True), (60.0, False)])
def test_the_bar_appears_after_the_patience_of_a_reader(
    monkeypatch: pytest.MonkeyPatch, patience: float, drawn: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE", patience)
    with progress.progress_bar("simulating", enabled=True) as update:
        assert update is not None
        update(0.25)
        update(0.5)
    assert ("simulating" in terminal.getvalue()) == drawn


def test_the_bar_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress.progress_bar("simulating", enabled=False) as update:
        assert update is None
