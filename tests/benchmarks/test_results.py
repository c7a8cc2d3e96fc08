"""The benchmark measures what it says, and its page shows what it measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_main", ROOT / "benchmarks" / "__main__.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_recorded_results(bench: ModuleType) -> None:
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    shown = page.split(bench.BEGIN)[1].split(bench.END)[0].strip()
    assert shown == bench.markdown(results)
    assert {"cpu", "cores", "memory", "python", "numpy", "date"} <= results["machine"].keys()


def test_a_row_is_met_on_the_right_side_of_its_bound(bench: ModuleType) -> None:
    assert [bench.at_least("x", value, "1/s", 20).met for value in (19.9, 20.0, 21.0)] == [False, True, True]
    assert [bench.at_most("x", value, "s", 0.3).met for value in (0.2, 0.3, 0.31)] == [True, True, False]
    assert bench.cells(bench.at_most("x", 12345.6, "s", 0.3)) == ("x", "12,346 s", "at most 0.3", "no")


def test_ten_times_the_requests_take_ten_times_the_steps(bench: ModuleType) -> None:
    """Events, not seconds: the engine does no more per request when there are more of them."""
    few, many = bench.short_requests(2560, 1), bench.short_requests(25600, 1)
    assert many["steps"] / few["steps"] == pytest.approx(10, rel=0.05)
    assert few["cpu_s"] > 0
    # The result frames of 23,040 more requests and their steps, and little else.
    assert many["peak_bytes"] - few["peak_bytes"] < 100e6
