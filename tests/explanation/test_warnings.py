"""What a single step says that it rests on or leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.errors import ScenarioError
from simulator.explanation.explanation import explain, timeline
from simulator.scenario import Scenario

SCENARIO = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "stack": {"name": "vllm"},
    "requests": {"kind": "closed_loop", "concurrency": 8, "count": 16},
    "routing": {"kind": "balanced"},
}


@pytest.mark.parametrize(
    ("change", "told"),
    [("hardware.device=duplex", "pim processor"), ('faults=[{at = "1 s"}]', "this step leaves out faults")],
)
def test_an_explanation_and_a_drawn_step_warn_alike(change: str, told: str) -> None:
    scenario = Scenario.from_mapping(SCENARIO).override(change)
    warnings = explain(scenario).warnings
    assert [warning for warning in warnings if told in warning]
    assert timeline(scenario).warnings == warnings


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"batch": 100_000}, "batch: 100000 is more than"),
        ({"context": 1_000_000}, "context: 1000000 is more than"),
        ({"phase": "prefill", "batch": 64, "context": 4096}, "262144 tokens are more than"),
    ],
)
def test_a_step_that_is_never_run_is_explained_with_a_warning_and_not_drawn(asked: dict[str, Any], told: str) -> None:
    scenario = Scenario.from_mapping(SCENARIO)
    assert [warning for warning in explain(scenario, **asked).warnings if told in warning]
    with pytest.raises(ScenarioError):
        timeline(scenario, **asked)
