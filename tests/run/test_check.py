"""Checking without running: everything at once, worst first."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator import Scenario, check, simulate
from simulator.scenario.presets import preset_names, preset_path


def scenario(*overrides: str) -> Scenario:
    base = Scenario.from_mapping(
        {
            "model": {"name": "mixtral-8x7b"},
            "hardware": {"device": "a100-sxm"},
            "parallelism": {"tp": 2},
            "requests": {"concurrency": 2, "count": 3, "lengths": {"input": 32, "output": 4}},
            "routing": {"tokens": 256},
        }
    )
    return base.override(*overrides)


def errors(asked: Scenario) -> list[tuple[str, str]]:
    return [(finding.where, finding.message) for finding in check(asked) if finding.level == "error"]


@pytest.mark.parametrize("name", preset_names())
def test_presets_have_no_errors(name: str) -> None:
    assert errors(Scenario.load(preset_path(name), ["routing.tokens=256"])) == []


def test_a_scenario_that_checks_out_runs() -> None:
    assert errors(scenario()) == []
    assert simulate(scenario()).summary.requests_completed == 3


def test_everything_that_is_wrong_is_found_at_once() -> None:
    found = errors(scenario("parallelism.tp=3", "model.name=mixtral-8x9b", "hardware.device=a101", "stack.name=vlm"))
    assert [where for where, _ in found] == ["model", "hardware", "stack"]
    found = errors(scenario("parallelism.tp=3", "requests.kind=poisson", "routing.kind=trace"))
    assert {where for where, _ in found} == {"parallelism", "requests", "routing"}
    assert len([where for where, _ in found if where == "parallelism"]) == 3


def test_findings_come_worst_first() -> None:
    levels = [finding.level for finding in check(scenario("hardware.device=h20", "parallelism.tp=3"))]
    order = {"error": 0, "warning": 1, "note": 2}
    assert levels == sorted(levels, key=order.__getitem__)
    assert set(levels) >= {"error", "warning"}


def test_a_device_that_nobody_measured_is_warned_of() -> None:
    (warning,) = (f for f in check(scenario("hardware.device=h20")) if f.where == "hardware.device")
    assert warning.level == "warning"
    assert warning.message.startswith("h20 was never measured here")
    assert warning.remedy
    assert not [f for f in check(scenario()) if f.where == "hardware.device"]


def test_requests_beyond_the_models_context_are_warned_of() -> None:
    (warning,) = (f for f in check(scenario("requests.lengths.input=40000")) if f.where == "requests")
    assert warning.level == "warning"
    assert "40004 tokens, beyond the model's context of 32768" in warning.message


def test_the_memory_left_for_the_cache_is_noted() -> None:
    (note,) = (f for f in check(scenario()) if f.where == "memory")
    assert note.level == "note"
    assert "leaves" in note.message
    assert "(36 tokens)" in note.message


def test_a_stage_that_spans_nodes_is_noted() -> None:
    spread = scenario("parallelism.tp=1", "parallelism.dp=16", "parallelism.ep=8")
    assert [f.message for f in check(spread) if f.where == "parallelism"] == [
        "a stage of 16 devices spans scale-up domains of 8"
    ]


def test_a_broken_trace_is_found_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "broken.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,100,10\nnonsense,1,1\n", "utf-8")
    ((where, message),) = errors(scenario("requests.kind=trace", f"requests.trace={path}"))
    assert where == "requests"
    assert str(path) in message
    assert "3" in message


@pytest.mark.parametrize(
    ("override", "where", "message"),
    [
        ("speculation.draft_tokens=2", "speculation", "speculation.acceptance: is required"),
        ("prefix_cache.kind=instance", "prefix_cache", "no hash blocks"),
        ("faults=[{at='1 s', rank=7}]", "faults", "faults.0.rank: got 7"),
        ("placement.rebalance.every=1 s", "placement.rebalance", "nothing to rebalance"),
        ("stack.overlap=two_batch", "stack.overlap", "no tokens travel to experts"),
    ],
)
def test_what_only_the_engine_knows_is_checked_as_well(override: str, where: str, message: str) -> None:
    found = [finding for finding in check(scenario(override)) if finding.level == "error"]
    assert [finding.where for finding in found] == [where]
    assert message in found[0].message
