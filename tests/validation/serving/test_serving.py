"""Measured serving runs beside simulated ones: what is read, what is left out, what is reported."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from simulator import api
from simulator.cli.app import app
from simulator.errors import ScenarioError, TraceFormatError
from validation.serving.points import Named, read_points
from validation.serving.run import asked_dtypes, point_scenario, step_floor
from validation.serving.validate import ServingReport, spearman, validate_serving
from workloads.models.library import load_model

SAMPLES = Path(__file__).parents[2] / "data" / "serving"
ROW: dict[str, Any] = {
    "id": "one",
    "stack": "vllm",
    "model": "mixtral-8x7b",
    "device": "h100_sxm",
    "isl": 256,
    "osl": 32,
    "concurrency": 4,
    "tp_size": 2,
    "moe_tp_size": 2,
    "moe_ep_size": 1,
    "mean_ttft_ms": 50.0,
    "mean_tpot_ms": 10.0,
}


def table(folder: Path, *changes: dict[str, Any]) -> Path:
    """A table of rows that differ from ROW as said."""
    path = folder / "points.csv"
    rows = [ROW | change for change in changes]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def result(folder: Path, name: str, **changes: Any) -> Path:
    """A result file of ``vllm bench serve``, latencies in seconds."""
    folder.mkdir(exist_ok=True)
    content = {
        "model_id": "mistralai/mixtral-8x7b",
        "max_concurrency": 4,
        "completed": 8,
        "duration": 2.0,
        "total_input_tokens": 2048,
        "total_output_tokens": 256,
        "median_ttft": 0.05,
        "median_tpot": 0.01,
        "median_e2el": 0.36,
    }
    path = folder / name
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def test_a_run_is_played_as_its_benchmark_did(tmp_path: Path) -> None:
    point = read_points(table(tmp_path, {}), Named())[0]
    scenario = point_scenario(point)
    load, lengths = scenario.requests, scenario.requests.lengths
    assert (load.kind, load.concurrency, load.count) == ("closed_loop", 4, 40)
    assert (lengths.kind, lengths.input, lengths.output, lengths.range_ratio) == ("uniform", 256, 32, 0.8)
    assert scenario.run.warmup_requests == 0
    assert scenario.run.drain
    summary = api.simulate(scenario).summary
    report = validate_serving(tmp_path / "points.csv")
    assert report.rows[0].played.predicted["tpot"] == summary.tpot_s.mean
    assert report.rows[0].played.predicted["throughput"] == summary.total_tokens_per_s_per_gpu


def test_prefill_and_decode_pools_become_a_disaggregated_scenario(tmp_path: Path) -> None:
    pools = {"mode": "disagg", "prefill_tp_size": 2, "prefill_num_workers": 3, "decode_tp_size": 4}
    point = read_points(table(tmp_path, pools), Named())[0]
    scenario = point_scenario(point)
    assert point.devices == 10
    assert scenario.disaggregation.enabled
    assert (scenario.disaggregation.prefill.tp, scenario.disaggregation.prefill.instances) == (2, 3)
    assert scenario.parallelism.tp == 4
    assert scenario.hardware.cluster is not None


def test_what_cannot_be_played_is_listed_with_its_reason(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        {"id": "model", "model": "nobody-7b"},
        {"id": "device", "device": "h1000"},
        {"id": "stack", "stack": "vlm"},
        {"id": "memory", "model": "DeepSeek-R1", "mean_tpot_ms": 60.0},
        {"id": "open", "concurrency": ""},
        {"id": "split", "moe_ep_size": 4},
        {"id": "drafts", "speculative": "mtp"},
        {"id": "physics", "mean_tpot_ms": 0.5},
    )
    reasons = {point.id: reason for point, reason in validate_serving(path).skipped}
    expected = {
        "model": "unknown model 'nobody-7b'",
        "device": "unknown device 'h1000'",
        "stack": "did you mean 'vllm'",
        "memory": "does not fit",
        "open": "no concurrency",
        "split": "experts on 2 x 4 devices",
        "drafts": "acceptance is not known",
        "physics": "disagrees with physics",
    }
    assert set(reasons) == set(expected)
    for name, text in expected.items():
        assert text in reasons[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"isl": "long"}, "row 1: isl: got 'long', expected a whole number"),
        ({"mean_tpot_ms": -1}, "mean_tpot_ms: got '-1', expected a number above 0"),
        ({"mean_ttft_ms": "nan"}, "mean_ttft_ms: got 'nan'"),
    ],
)
def test_a_malformed_cell_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message.replace("(", r"\(")):
        read_points(table(tmp_path, changes), Named())


def test_a_missing_column_file_or_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("stack,model,device,isl,osl\nvllm,a,b,1,1\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="column concurrency is missing"):
        read_points(path, Named())
    with pytest.raises(ScenarioError, match="no such file"):
        read_points(tmp_path / "none.csv", Named())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScenarioError, match="no serving measurements"):
        read_points(tmp_path / "empty", Named())


def test_result_files_say_split_stack_and_device_by_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "serving_h100_vllm_mixtral"
    result(folder, "mixtral_vllm_dep4_isl256_osl32_conc4.json")
    result(folder, "mixtral_vllm_tp2_isl256_osl32_conc4.json", mean_tpot_ms=11.0)
    first, second = read_points(folder, Named())
    assert (first.stack, first.device, first.model) == ("vllm", "h100-sxm", "mistralai/mixtral-8x7b")
    assert (first.pools[0].dp, first.pools[0].ep, first.pools[0].tp) == (4, 4, 1)
    assert (first.isl, first.osl, first.requests) == (256, 32, 8)
    assert (first.statistic, first.measured["tpot"], first.measured["throughput"]) == ("p50", 0.01, 288.0)
    assert (second.statistic, second.measured["tpot"]) == ("mean", 0.011)
    assert read_points(folder, Named(device="a100", stack="sglang"))[0].device == "a100-sxm"


def test_result_files_without_a_split_or_a_device_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="the name says no split"):
        read_points(result(tmp_path, "vllm_h100.json"), Named())
    with pytest.raises(ScenarioError, match="say --device"):
        read_points(result(tmp_path, "vllm_tp2.json"), Named())
    with pytest.raises(TraceFormatError, match="completed"):
        read_points(result(tmp_path, "vllm_h100_tp2.json", completed=0), Named())


def test_quantised_checkpoints_run_as_they_are_published() -> None:
    dense, native = load_model("llama-3.1-70b"), load_model("gpt-oss-120b")
    assert asked_dtypes(dense, {"dense": "fp8", "experts": "fp8"}) == {"weights": "fp8"}
    assert asked_dtypes(native, {"dense": "nvfp4", "experts": "nvfp4"}) == {}
    assert asked_dtypes(load_model("deepseek-v3"), {"experts": "fp8_block", "kv_cache": "fp8"}) == {"kv_cache": "fp8"}
    assert asked_dtypes(load_model("deepseek-v3"), {"experts": "nvfp4"}) == {"weights": "nvfp4"}


def test_no_simulated_step_is_faster_than_its_floor(tmp_path: Path) -> None:
    point = read_points(table(tmp_path, {"concurrency": 64}), Named())[0]
    run = api.simulate(point_scenario(point))
    assert step_floor(point_scenario(point), 60, 250) < run.summary.tpot_s.mean


@given(st.lists(st.integers(1, 300), min_size=3, max_size=20, unique=True))
def test_a_rising_function_keeps_ranks(values: list[int]) -> None:
    points = np.array(values, np.float64)
    assert spearman(points, np.exp(points)) == pytest.approx(1.0)
    assert spearman(points, -points) == pytest.approx(-1.0)


def test_the_report_counts_errors_ranks_and_intervals(tmp_path: Path) -> None:
    rows = [{"id": str(n), "concurrency": n, "mean_tpot_ms": 40.0} for n in (2, 4, 8, 16)]
    predicted = [row.played.predicted["tpot"] for row in validate_serving(table(tmp_path, *rows)).rows]
    fitted = [
        row | {"mean_tpot_ms": 1e3 * tpot / factor}
        for row, tpot, factor in zip(rows, predicted, (1.0, 1.1, 1.2, 1.3), strict=True)
    ]
    report = validate_serving(table(tmp_path, *fitted))
    tpot = report.summary()["tpot"]
    assert tpot.rows == 4
    assert tpot.median_ape == pytest.approx(0.15, abs=1e-6)
    assert tpot.bias == pytest.approx(0.15, abs=1e-6)
    assert tpot.spearman == tpot.spearman_lowest == pytest.approx(1.0)
    assert 0 < tpot.coverage_80 < 1


def test_every_other_run_and_the_same_run_twice(tmp_path: Path) -> None:
    path = table(tmp_path, {"id": "a"}, {"id": "b", "concurrency": 2}, {"id": "c"})
    report: ServingReport = validate_serving(path, every=2)
    assert [row.point.id for row in report.rows] == ["a", "c"]
    assert report.rows[0].played is report.rows[1].played
    with pytest.raises(ScenarioError, match="--every"):
        validate_serving(path, every=0)


def test_the_command_prints_a_table_and_a_document(tmp_path: Path) -> None:
    path = str(table(tmp_path, {}, {"id": "two", "device": "h1000"}))
    text = CliRunner().invoke(app, ["validate", "serving", "--measurements", path])
    assert text.exit_code == 0
    assert "skipped: two: unknown device" in " ".join(text.output.split())
    answer = CliRunner().invoke(app, ["validate", "serving", "--measurements", path, "--json"])
    document = json.loads(answer.output)
    assert set(document) >= {"rows", "summary", "skipped"}
    assert set(document["summary"]["tpot"]) >= {"rows", "median_ape", "p90_ape", "bias", "spearman"}
    assert {"id", "measured", "predicted"} <= set(document["rows"][0])
    wrong = CliRunner().invoke(app, ["validate", "serving", "--measurements", str(tmp_path / "none")])
    assert wrong.exit_code == 2


def test_measured_points_are_met() -> None:
    report = validate_serving(SAMPLES / "points.csv")
    assert report.skipped == ()
    summary = report.summary()
    assert summary["tpot"].median_ape < 0.08
    assert summary["e2el"].median_ape < 0.08
    assert summary["ttft"].median_ape < 0.4


def test_results_of_a_benchmark_are_read() -> None:
    runs = read_points(SAMPLES / "h200_vllm_minimax_m2.5", Named())
    assert len(runs) == 4
    assert not [point.id for point in runs if point.reason]
    assert {point.device for point in runs} == {"h200-sxm"}
