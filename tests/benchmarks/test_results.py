"""The benchmark measures what it says, and its page shows what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import history, machine, report
from benchmarks.cases import CASES, QUICK, short_requests
from benchmarks.pace import Pace, Timed
from benchmarks.rows import amount, cells, step, took

ROOT = Path(__file__).parents[2]


class Given(Pace):
    """A machine whose pace is given; then a million timeouts a second."""

    def __init__(self, *paces: float) -> None:
        super().__init__()
        self.left = list(paces)

    def take(self) -> float:
        return self.left.pop(0) if self.left else 1e6


def test_the_page_shows_the_recorded_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    shown = page.split(report.BEGIN)[1].split(report.END)[0].strip()
    assert shown == report.markdown(results)
    assert {"cpu", "cores", "memory", "python", "numpy", "date"} <= results["machine"].keys()


def test_a_row_is_met_on_the_right_side_of_its_bound() -> None:
    timed = Timed(seconds=0.002, timeouts=3000)
    assert [took("x", timed, "ms", most=bound).met for bound in (1.9, 2.0, 2.1)] == [False, True, True]
    assert [step("x", timed, most=bound).met for bound in (2999, 3000)] == [False, True]
    assert [amount("x", 0.5, "GiB", most=bound).met for bound in (0.4, 0.5)] == [False, True]
    assert cells(took("x", timed, "ms", most=1)) == ("x", "2 ms", "3,000", "at most 1 ms", "no")


def test_a_time_is_stated_by_the_pace_around_it() -> None:
    timed = Given(1e6, 2e6, 2e6, 1e6).time(lambda: 0.5, repeats=3)
    assert timed == Timed(seconds=0.5, timeouts=0.75e6)
    assert timed.per(10) == Timed(seconds=0.05, timeouts=0.75e5)


def test_ten_times_the_requests_take_ten_times_the_steps() -> None:
    """Events, not seconds: the engine does no more per request when there are more of them."""
    rows = {row.name: row for row in short_requests(Given(), 2560, 25600)}
    assert rows["gpt-oss-20b: steps of 1 M over 100 k requests"].value == pytest.approx(10, rel=0.05)


def test_every_case_can_be_asked_for_and_the_quick_ones_are_cases() -> None:
    assert set(QUICK) < set(CASES)


def test_a_run_is_set_beside_the_last_of_the_same_kind_of_machine(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    assert history.last(machine.kind(), file) is None
    rows = [took("a", Timed(seconds=1, timeouts=100)), took("b", Timed(seconds=1, timeouts=100)), amount("c", 3)]
    history.append(history.entry(rows, 1e6), file)
    history.append({**history.entry(rows, 1e6), "machine": {"cpu": "another"}}, file)
    found = history.last(machine.kind(), file)
    assert found
    assert found["figures"] == {"a": 100, "b": 100, "c": 3}
    now = {"a": 109.0, "b": 111.0, "c": 3.0, "new": 1.0}
    assert history.moved(found["figures"], now) == [history.Move(name="b", before=100, now=111)]


def test_the_recorded_history_can_be_read() -> None:
    lines = history.HISTORY.read_text(encoding="utf-8").splitlines() if history.HISTORY.exists() else []
    for line in lines:
        assert {"date", "commit", "machine", "timeouts_per_s", "figures"} <= json.loads(line).keys()
