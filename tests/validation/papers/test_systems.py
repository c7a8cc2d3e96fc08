"""Steps of published systems: what a point of a case becomes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from simulator.api import check, explain
from simulator.deployment.deployment import deploy
from simulator.scenario import Scenario
from validation.papers import systems
from validation.papers.papers import CASES, Case
from validation.papers.published_grouped import predict, published
from validation.papers.systems import decode_work, prompt_work, system_figures

SCENARIO: dict[str, Any] = {
    "model": {"name": "qwen3-30b-a3b"},
    "hardware": {"device": "h100-sxm"},
    "parallelism": {"tp": 1, "dp": 4, "ep": 4},
    "placement": {"policy": "eplb", "redundant_slots": 4},
    "stack": {"name": "sglang", "token_budget": 1024, "max_running": 16},
    "requests": {"kind": "closed_loop", "concurrency": 64, "count": 1, "lengths": {"input": 512, "output": 64}},
    "routing": {"kind": "balanced"},
}
TEXT = {"spread": 1.5, "shared": 0.5, "sequence_tokens": 8, "tokens": 512}


@pytest.fixture(autouse=True)
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the scenario beside a case."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "it.toml").write_text(tomli_w.dumps(SCENARIO), encoding="utf-8")
    monkeypatch.setattr(systems, "CASES", tmp_path)


def figures(points: dict[str, Any], **more: Any) -> dict[str, float]:
    inputs = {"routing": {"text": TEXT}, "points": points, **more}
    return system_figures(Case(name="x", paper="x", source="x", models={}, inputs=inputs, checks=()))


def point(**keys: Any) -> dict[str, Any]:
    return {"scenario": "it", "phase": "decode", "batch": 8, "length": 256, **keys}


def test_a_rate_counts_the_tokens_of_a_device_and_a_draft_adds_those_that_are_accepted() -> None:
    drafted = ["speculation.draft_tokens=1", "speculation.acceptance=[0.5]", "speculation.draft=none"]
    found = figures({"plain": point(), "drafted": point(set=drafted)}, per={"node": 8})
    assert found["plain.rate"] == pytest.approx(8 / found["plain.step"])
    assert found["plain.rate_per_node"] == pytest.approx(8 * found["plain.rate"])
    assert found["drafted.rate"] == pytest.approx(1.5 * 8 / found["drafted.step"])
    assert found["drafted.tpot"] == pytest.approx(found["drafted.step"] / 1.5)
    assert found["drafted.step"] > found["plain.step"]


def test_ratios_slowdowns_and_peaks_compare_points() -> None:
    points = {"small": point(batch=2), "large": point()}
    found = figures(
        points,
        ratios={"gain": ["large", "small"]},
        slowdowns={"slow": ["large", "small"]},
        peaks={"best": list(points)},
    )
    assert found["gain"] == pytest.approx(found["large.rate"] / found["small.rate"])
    assert found["slow"] == pytest.approx(found["large.step"] / found["small.step"])
    assert found["best"] == 1.0


def test_text_that_a_placement_has_not_seen_costs_time_and_eplb_wins_some_of_it_back() -> None:
    keys = {"phase": "prefill", "batch": 1024, "length": 512}
    points = {
        "even": point(**keys),
        "eplb": point(**keys, routing="text"),
        "linear": point(**keys, routing="text", policy="linear"),
    }
    found = figures(points)
    assert found["even.step"] < found["eplb.step"] < found["linear.step"]


def test_steps_describe_the_ranks_of_the_deployment() -> None:
    deployment = deploy(Scenario.from_mapping(SCENARIO))
    decode = decode_work(deployment, {"batch": 8, "length": 256})
    assert (decode.rows, decode.decode_rows, decode.decode_total, decode.prompt_total) == (8, 8, 32, 0)
    prompt = prompt_work(deployment, {"batch": 1024, "length": 512})
    assert (prompt.prompt_rows, prompt.prompt_sequences, prompt.prompt_total) == (1024, 2, 4096)


def test_a_step_is_the_one_that_explain_prices_for_the_file() -> None:
    found = figures({"decode": point(), "prompts": point(phase="prefill", batch=1024, length=512)})
    scenario = Scenario.from_mapping(SCENARIO)
    assert found["decode.step"] == explain(scenario, phase="decode", batch=32, context=256).step_s
    assert found["prompts.step"] == explain(scenario, phase="prefill", batch=8, context=512).step_s


SCENARIOS = sorted(file for file in CASES.glob("*/*.toml") if "hardware" in tomllib.loads(file.read_text()))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_scenario_beside_a_case_can_run(file: Path) -> None:
    assert [finding.message for finding in check(Scenario.load(file)) if finding.level == "error"] == []


def test_the_int8_grouped_product_of_ascend_meets_its_published_times() -> None:
    from simulator.hardware import load_hardware
    from simulator.kernels.kernel import coefficients
    from simulator.kernels.moe import MoeKernel

    table = load_hardware("ascend-910b").kernels["moe.grouped_matmul.int8"]
    rows = [row for row in published() if row["dtype"] == "int8"]
    measured = np.array([float(row["time_us"]) * 1e-6 for row in rows])
    errors = np.abs(predict(rows, coefficients(MoeKernel, table, "int8")) / measured - 1.0)
    assert np.median(errors) < 0.25
    assert errors.max() < 0.4
