"""The folder that a run is handed out as."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simulator.export.result import write_result
from simulator.results.columns import Columns
from simulator.results.trace import Slice, TokenGaps
from simulator.results.values import Distribution, Result, Summary
from simulator.scenario import Scenario
from workloads.requests.files import read_request_trace

LATENCY = Distribution(mean=0.1, p50=0.1, p90=0.2, p99=0.3)
LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2el_s")
SUMMARY = Summary(
    **{field.name: LATENCY if field.name in LATENCIES else 1 for field in fields(Summary)}
    | {"goodput_rps": float("nan"), "interval_80": (0.9, 1.1)}
)
REQUESTS = pd.DataFrame(
    {
        "request_id": [0, 1, 2],
        "arrival_s": [0.0, 1.0, 2.0],
        "first_token_s": [0.5, 2.0, np.nan],
        "finish_s": [1.5, 6.0, np.nan],
        "input_tokens": [100, 200, 300],
        "output_tokens": [11, 5, 7],
    }
)


@pytest.fixture
def result() -> Result:
    scenario = Scenario.from_mapping(
        {
            "name": "two requests",
            "seed": 5,
            "model": {"name": "mixtral-8x7b"},
            "hardware": {"device": "a100-sxm"},
            "requests": {"kind": "gamma", "rate": 4.0, "cv": 2.0, "count": 3},
            "slo": {"ttft": "600 ms"},
        }
    )
    return Result(
        scenario=scenario,
        summary=SUMMARY,
        breakdown={"attention": 1.0},
        request_columns=Columns(REQUESTS),
        step_columns=Columns({"start_s": np.array([0.0]), "duration_s": np.array([0.5])}),
        slices=(Slice(track="instance 0", thread="rank 0", name="step", start_s=0.0, duration_s=0.5),),
    )


def test_the_folder_holds_what_its_page_in_the_documentation_lists(result: Result, tmp_path: Path) -> None:
    folder = write_result(result, tmp_path / "run")
    page = (Path(__file__).parents[2] / "docs" / "formats" / "results.md").read_text(encoding="utf-8")
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and "." in line.split("`")[1]}
    # Only a run that scales has these.
    listed -= {"scaling_*.parquet"}
    assert {item.name for item in folder.iterdir()} == listed


def test_the_scenario_in_the_folder_is_the_one_that_was_run(result: Result, tmp_path: Path) -> None:
    folder = write_result(result, tmp_path / "run")
    again = Scenario.load(folder / "scenario.toml")
    assert again == result.scenario
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["scenario_hash"], manifest["seed"]) == (again.hash, 5)


def test_the_summary_is_the_document_of_the_command_line(result: Result, tmp_path: Path) -> None:
    folder = write_result(result, tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == set(result.document())
    assert summary["summary"]["ttft_s"] == {"mean": 0.1, "p50": 0.1, "p90": 0.2, "p99": 0.3}
    assert summary["summary"]["goodput_rps"] is None


def test_the_benchmark_speaks_of_the_load_and_the_objective_of_the_scenario(result: Result, tmp_path: Path) -> None:
    folder = write_result(result, tmp_path / "run")
    benchmark = json.loads((folder / "vllm_bench.json").read_text())
    assert (benchmark["model_id"], benchmark["request_rate"], benchmark["burstiness"]) == ("mixtral-8x7b", 4.0, 0.25)
    assert benchmark["max_concurrency"] is None
    assert benchmark["request_goodput"] == pytest.approx(1 / 6)


def test_the_benchmark_can_be_replayed_as_a_request_trace(result: Result, tmp_path: Path) -> None:
    folder = write_result(result, tmp_path / "run")
    trace = read_request_trace(folder / "vllm_bench.json")
    assert trace.arrival.tolist() == [0.0, 1.0]
    assert trace.input_tokens.tolist() == [100, 200]
    assert trace.output_tokens.tolist() == [11, 5]


def test_the_benchmark_takes_the_gaps_that_the_engine_saw(result: Result, tmp_path: Path) -> None:
    gaps = TokenGaps(columns={"gap_s": np.array([0.1, 0.9]), "tokens": np.array([13, 1])})
    folder = write_result(replace(result, token_gaps=gaps), tmp_path / "run")
    benchmark = json.loads((folder / "vllm_bench.json").read_text())
    assert benchmark["median_itl_ms"] == pytest.approx(100.0)
    assert benchmark["mean_itl_ms"] == pytest.approx(2200 / 14)


@pytest.mark.parametrize(
    ("requests", "rate"),
    [({"kind": "closed_loop", "concurrency": 2}, "inf"), ({"kind": "trace", "trace": "some.csv"}, 1.0)],
)
def test_a_load_without_a_stated_rate_is_given_the_one_that_was_seen(
    result: Result, tmp_path: Path, requests: dict[str, object], rate: object
) -> None:
    scenario = Scenario.from_mapping({**result.scenario.to_mapping(), "requests": requests})
    folder = write_result(replace(result, scenario=scenario), tmp_path / "run")
    assert json.loads((folder / "vllm_bench.json").read_text())["request_rate"] == rate


def test_the_trace_shows_the_sampled_steps(result: Result, tmp_path: Path) -> None:
    folder = write_result(result, tmp_path / "run")
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert [event["name"] for event in events if event["ph"] == "X"] == ["step"]
