"""The command line on the real simulator, with a scenario that takes a moment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from simulator.scenario.presets import preset_names

DISTRIBUTION = {"mean", "p50", "p90", "p99"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "two_cards.toml"
    path.write_text(
        """
        name = "two cards"
        model = { name = "mixtral-8x7b" }
        hardware = { device = "h100-sxm", node = "hgx-h100" }
        parallelism = { tp = 2 }
        requests = { kind = "closed_loop", concurrency = 4, count = 12, lengths = { input = 64, output = 8 } }
        routing = { tokens = 256 }
        run = { traced_steps = 4, warmup_requests = 0, drain = true }
        """,
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def document(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Simulate once, as JSON and into a folder."""
    from typer.testing import CliRunner

    from simulator.cli.app import app

    folder = tmp_path_factory.mktemp("out") / "run"
    answer = CliRunner().invoke(app, ["simulate", str(file), "--out", str(folder), "--json"])
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout), folder


def test_the_summary_has_every_agreed_number(document: tuple[dict[str, Any], Path]) -> None:
    summary = document[0]["summary"]
    for latency in ("ttft_s", "tpot_s", "itl_s", "e2el_s"):
        assert set(summary[latency]) == DISTRIBUTION
        assert summary[latency]["mean"] > 0
    assert summary["requests_completed"] == 12
    assert summary["engine_steps"] >= 3 * 8, "three rounds of eight tokens"
    assert summary["input_tokens_per_s_per_gpu"] == pytest.approx(8 * summary["output_tokens_per_s_per_gpu"])
    assert {"total_tokens_per_s_per_gpu", "simulated_s", "wall_s", "goodput_rps"} <= summary.keys()
    assert summary["usd_per_million_output_tokens"] > 0
    assert document[0]["breakdown"]["experts"] > 0


def test_the_folder_repeats_the_run(document: tuple[dict[str, Any], Path], moesim: Any, tmp_path: Path) -> None:
    first, folder = document
    for name in ("requests.parquet", "steps.parquet", "summary.json", "scenario.toml", "vllm_bench.json", "trace.json"):
        assert (folder / name).is_file(), name
    copy = tmp_path / "scenario.toml"
    shutil.copy(folder / "scenario.toml", copy)
    again = json.loads(moesim("simulate", copy, "--json").stdout)
    assert again["scenario_hash"] == first["scenario_hash"]
    assert {**again["summary"], "wall_s": 0} == {**first["summary"], "wall_s": 0}


def test_the_text_of_a_run_names_what_it_measured(moesim: Any, file: Path) -> None:
    answer = moesim("simulate", file)
    assert answer.exit_code == 0
    for word in ("two cards", "12 requests completed", "TTFT", "experts", "moesim explain"):
        assert word in answer.stdout
    assert "nan" not in answer.stdout.split()


def test_an_estimate_has_the_document_of_a_simulation_with_means_only(
    moesim: Any, file: Path, document: tuple[dict[str, Any], Path]
) -> None:
    estimate = json.loads(moesim("estimate", file, "--json").stdout)
    assert estimate["scenario_hash"] == document[0]["scenario_hash"]
    assert estimate.keys() == document[0].keys()
    assert estimate["summary"].keys() == document[0]["summary"].keys()
    assert estimate["summary"]["tpot_s"]["mean"] > 0
    assert estimate["summary"]["tpot_s"]["p99"] is None
    text = moesim("estimate", file).stdout
    assert "estimated, without events" in text
    assert "p99" not in text


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_ops_of_an_explanation_add_up_to_the_step(moesim: Any, file: Path, phase: str) -> None:
    arguments = ("explain", file, "--phase", phase, "--batch", 4, "--context", 128)
    explained = json.loads(moesim(*arguments, "--json").stdout)
    assert (explained["phase"], explained["batch"], explained["context"]) == (phase, 4, 128)
    assert sum(op["time_s"] for op in explained["ops"]) == pytest.approx(explained["step_s"])
    assert sum(explained["components"].values()) == pytest.approx(explained["step_s"])
    kernels = [op for op in explained["ops"] if op["flops"] > 0]
    assert all(op["equation"] and op["inputs"] and op["source"] for op in kernels)
    text = moesim(*arguments).stdout
    assert "routed_experts" in text
    assert "equations, inputs and sources" in text


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("hardware.device=h100-smx", "h100-sxm"),
        ("model.name=mixtral-8x7", "mixtral-8x7b"),
        ("stack.name=vlm", "vllm"),
        ("hardware.node=hgx-h10", "hgx-h100"),
        ("parallelism.tp=3", "3"),
        ("parallelism.ep=5", "5"),
        ("model.weights=fp9", "fp8"),
        ("requests.trace=nowhere.csv", "nowhere.csv"),
    ],
)
def test_what_cannot_run_is_one_message_for_simulate_and_an_error_for_check(
    moesim: Any, file: Path, assignment: str, expected: str
) -> None:
    assignments = [assignment, "requests.kind=trace"] if "trace" in assignment else [assignment]
    answer = moesim("simulate", file, "--set", *assignments)
    assert answer.exit_code == 2, answer.output
    assert expected in answer.stderr
    assert answer.stdout == ""
    checked = moesim("check", file, "--set", *assignments, "--json")
    assert checked.exit_code == 2
    findings = json.loads(checked.stdout)["findings"]
    assert any(expected in finding["message"] for finding in findings if finding["level"] == "error")


def test_a_model_that_does_not_fit_says_by_how_much(moesim: Any, file: Path, tmp_path: Path) -> None:
    answer = moesim("simulate", file, "--set", "model.name=deepseek-v3", "--out", tmp_path / "run")
    assert answer.exit_code == 2
    assert answer.stderr.startswith("infeasible: ")
    assert "GB" in answer.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_passes_its_check(moesim: Any, preset: str) -> None:
    answer = moesim("check", preset, "--set", "routing.tokens=512")
    assert answer.exit_code == 0, answer.output
