"""What is said of a run's length before it begins."""

from __future__ import annotations

import pytest

from simulator import Scenario, check, simulate
from simulator.deployment.inputs import scenario_requests
from simulator.errors import WorkloadError
from simulator.run import extent
from simulator.run.extent import most_steps
from simulator.run.plan import plan_start


def scenario(*overrides: str) -> Scenario:
    return Scenario.from_mapping(
        {
            "model": {"name": "qwen3-30b-a3b"},
            "hardware": {"device": "h100-sxm"},
            "requests": {"kind": "poisson", "rate": 1.0, "count": 200},
        }
    ).override(*overrides)


@pytest.mark.parametrize("load", [("requests.rate=0.5",), ("requests.kind=closed_loop", "requests.concurrency=16")])
def test_steps_of_a_run_are_guessed_within_a_factor_of_two(load: tuple[str, ...]) -> None:
    asked = scenario(*load)
    trace = scenario_requests(asked.requests, asked.seed)
    pools, _ = plan_start(asked, trace)
    assert most_steps(pools, trace) == pytest.approx(len(simulate(asked).steps), rel=1.0)


def test_a_run_that_no_memory_holds_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.memory.allowed_memory", lambda: 1e9)
    year = scenario("requests.count=500_000", "requests.rate=0.01")
    assert [f.where for f in check(year) if f.level == "error" and "steps of the run" in f.message] == ["requests"]
    with pytest.raises(WorkloadError, match=r"steps of the run: [\d,]+ take at least [\d,]+ GB of memory"):
        simulate(year)


def test_a_long_run_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extent, "_WORTH_A_WORD", 1e6)
    assert [f.message for f in check(scenario()) if "GB of memory" in f.message and f.level == "note"]


@pytest.mark.parametrize(("left_out", "said"), [(199, 0), (200, 1), (10_000, 1)])
def test_a_warm_up_that_leaves_nothing_is_named(left_out: int, said: int) -> None:
    asked = scenario(f"run.warmup_requests={left_out}")
    assert len([f for f in check(asked) if f.where == "run.warmup_requests"]) == said
    assert len([text for text in simulate(asked).warnings if "would leave out all 200" in text]) == said
