"""A baseline: what moves is noticed, what is written can be read, what documents state is checked."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from hardware_profiles import loader
from simulator.cli.app import app
from simulator.scenario.features import FEATURES
from simulator.scenario.presets import preset_path
from simulator.scenario.sections import Scheduler
from validation.papers.report import PaperReport
from validation.regression import regress
from validation.regression.predicted import load_runs
from validation.regression.regress import BaselineError, Outcome, compare, load_baseline
from validation.regression.report import failures, junit, markdown
from validation.regression.stated import marked, stated_figures, written_like

DEVICE = "h100-sxm"
COMMAND = ["regress", "--baseline"]


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.json"
    regress.update(path, devices=[DEVICE])
    return path


@pytest.fixture
def with_coefficient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Give the device a profile in which one coefficient of one kernel is changed."""

    def change(table: str, name: str, factor: float) -> None:
        folder = tmp_path / "profiles" / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        built_in: dict[str, dict[str, object]] = {}
        for path in (Path(loader.__file__).parent / "kernels").glob(f"{DEVICE}*.toml"):
            built_in |= tomllib.loads(path.read_text(encoding="utf-8"))
        lines = [f'["{table}"]', '_provenance = { source = "a test", status = "assumption" }']
        for key, entry in built_in[table].items():
            if isinstance(entry, dict) and key != "_provenance":
                value = entry["value"] * factor if key == name else entry["value"]
                lines.append(f'{key} = {{ value = {json.dumps(value)}, unit = "{entry["unit"]}" }}')
        (folder / f"{DEVICE}.toml").write_text("\n".join(lines) + "\n")
        monkeypatch.setenv(loader.FOLDER_VARIABLE, str(folder.parent))

    return change


def test_nothing_moves_by_itself(baseline: Path) -> None:
    outcomes = regress.regress(baseline)
    assert len(outcomes) > 100
    assert {outcome.status for outcome in outcomes} == {"same"}


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("gemm.cublas.bfloat16", "memory"),
        ("attention_decode.flash.bfloat16", "memory"),
        ("moe.triton.fp8", "memory_efficiency"),
        ("all_reduce.nccl", "launch"),
        ("dispatch.deepep_low_latency", "launch"),
    ],
)
def test_a_coefficient_that_is_10_percent_off_is_noticed(
    baseline: Path, with_coefficient, tmp_path: Path, table: str, name: str
) -> None:
    with_coefficient(table, name, 1.1)
    report, xml = tmp_path / "report.md", tmp_path / "report.xml"
    answer = CliRunner().invoke(app, [*COMMAND, str(baseline), "--markdown", str(report), "--junit", str(xml)])
    assert answer.exit_code == 1
    assert "moved" in answer.stdout
    text = report.read_text(encoding="utf-8")
    assert "| figure | before | after | change |" in text
    assert f"/{table}/" in text
    # The report holds the coefficient, and of the predictions only those that use this kernel.
    moved = [line for line in text.splitlines() if line.startswith(("| kernel/", "| profile/"))]
    assert all(f"/{table}/" in line for line in moved)
    assert sum(line.startswith("| kernel/") for line in moved) > 0
    assert [line for line in moved if line.startswith(f"| profile/{DEVICE}/{table}/{name} ") and "+10.00 %" in line]
    failed = ET.parse(xml).getroot().findall(".//failure")  # noqa: S314  # our own file
    assert len(failed) == len(moved)
    assert all("->" in failure.get("message", "") for failure in failed)


def test_a_coefficient_that_no_call_of_the_grid_feels_is_noticed_too(baseline: Path, with_coefficient) -> None:
    with_coefficient("all_reduce.nccl", "scale_out_efficiency", 1.1)
    assert [o.key for o in failures(regress.regress(baseline))] == [
        f"profile/{DEVICE}/all_reduce.nccl/scale_out_efficiency"
    ]


def test_an_update_takes_the_new_predictions(baseline: Path, with_coefficient) -> None:
    with_coefficient("gemm.cublas.bfloat16", "memory", 1.1)
    answer = CliRunner().invoke(app, [*COMMAND, str(baseline), "--update"])
    assert answer.exit_code == 0
    assert "moved" in answer.stdout
    assert CliRunner().invoke(app, [*COMMAND, str(baseline)]).exit_code == 0


def test_scenarios_of_ones_own_are_covered(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(preset_path("gpt-oss-20b-h100").read_text(encoding="utf-8"))
    path = tmp_path / "baseline.json"
    answer = CliRunner().invoke(app, [*COMMAND, str(path), "--update", "--scenario", "mine.toml"])
    assert answer.exit_code == 0, answer.output
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["scenarios"] == ["mine.toml"]
    assert document["predictions"]["scenario/mine.toml/tpot_s"] > 0
    assert CliRunner().invoke(app, [*COMMAND, str(path)]).exit_code == 0
    text = (tmp_path / "mine.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace('name = "vllm"', 'name = "trtllm"'))
    assert CliRunner().invoke(app, [*COMMAND, str(path)]).exit_code == 1


RUNS = """
[scenario]
model = { name = "gpt-oss-20b" }
hardware = { device = "h100-sxm" }
requests = { kind = "poisson", rate = 50.0, count = 4, lengths = { input = 64, output = 4 } }
routing = { tokens = 64 }
[runs]
plain = []
crowded = ["stack.max_running=1"]
"""


def test_runs_of_events_are_covered_and_a_changed_input_is_told_from_a_changed_model(tmp_path: Path) -> None:
    (tmp_path / "runs.toml").write_text(RUNS, encoding="utf-8")
    path = tmp_path / "baseline.json"
    answer = CliRunner().invoke(app, [*COMMAND, str(path), "--update", "--runs", "runs.toml"])
    assert answer.exit_code == 0, answer.output
    document = json.loads(path.read_text(encoding="utf-8"))
    found, runs = document["predictions"], ("run/crowded", "run/plain")
    assert found["run/plain/engine_steps"] < found["run/crowded/engine_steps"]
    assert {"stack/sglang/cpu_gap", "model/gpt-oss-20b/routed_experts"} <= found.keys()
    assert tuple(document["fingerprints"]) == runs
    assert {outcome.status for outcome in regress.regress(path)} == {"same"}

    (tmp_path / "runs.toml").write_text(RUNS.replace("max_running=1", "max_running=2"), encoding="utf-8")
    outcomes = regress.regress(path)
    assert [outcome.key for outcome in outcomes if outcome.status == "input"] == ["run/crowded"]
    assert {outcome.key.rpartition("/")[0] for outcome in failures(outcomes)} == {"run/crowded"}
    assert "inputs changed of run/crowded" in markdown(outcomes)

    # The same inputs, another model: what it predicted before is what moves.
    moved = {**document, "predictions": {**found, "run/plain/ttft_s": 1.0}}
    (tmp_path / "runs.toml").write_text(RUNS, encoding="utf-8")
    path.write_text(json.dumps(moved), encoding="utf-8")
    outcomes = regress.regress(path)
    assert [outcome.key for outcome in outcomes if outcome.status != "same"] == ["run/plain/ttft_s"]


def test_every_feature_and_every_scheduler_has_a_run_of_events() -> None:
    runs = load_runs(regress.BUILT_IN.parent / "runs.toml").values()
    for feature in FEATURES:
        assert any(feature.asked(run) for run in runs), feature.name
    assert {run.stack.scheduler for run in runs} >= set(get_args(Scheduler))
    assert {run.stack.preemption for run in runs} == {"recompute", "swap"}


SCENARIO = "scenario = { model = { name = 'gpt-oss-20b' }, hardware = { device = 'h100-sxm' } }"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[runs]\n", "'scenario'"),
        (f"runs = 3\n{SCENARIO}", "not a file of runs"),
        ("[", "not valid TOML"),
        (None, "no such file"),
    ],
)
def test_a_file_that_holds_no_runs_is_refused(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "runs.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BaselineError, match=told):
        load_runs(tmp_path / "runs.toml")


def statuses(before: dict[str, float], after: dict[str, float]) -> dict[str, str]:
    base = regress.Baseline(
        scenarios=(), devices=(), documents=(), page="", predictions={}, tolerance=1e-3, accuracy=before
    )
    return {outcome.key: outcome.status for outcome in compare(base, {}, after)}


@pytest.mark.parametrize(
    ("key", "before", "after", "status"),
    [
        ("a/gemm/median_ape", 0.05, 0.054, "same"),
        ("a/gemm/median_ape", 0.05, 0.06, "worse"),
        ("a/gemm/median_ape", 0.05, 0.03, "same"),
        ("a/gemm/p90_ape", 0.2, 0.25, "worse"),
        ("a/gemm/coverage_80", 0.8, 0.88, "same"),
        ("a/gemm/coverage_80", 0.8, 0.65, "worse"),
        ("a/gemm/bias", 0.0, -0.05, "worse"),
        ("a/gemm/rows", 100.0, 90.0, "worse"),
        ("papers/counted_within", 100.0, 99.0, "worse"),
        ("papers/counted", 100.0, 101.0, "same"),
        ("papers/engine_missed", 0.0, 1.0, "worse"),
        ("papers/rows_within", 41.0, 40.0, "worse"),
        ("papers/rows_not_expressible", 230.0, 231.0, "worse"),
        ("papers/rows_quoted", 27.0, 20.0, "same"),
    ],
)
def test_accuracy_may_get_better_but_not_leave_its_band(key: str, before: float, after: float, status: str) -> None:
    assert statuses({key: before}, {key: after}) == {key: status}


def test_accuracy_that_cannot_be_recomputed_is_not_checked() -> None:
    assert statuses({"a/gemm/median_ape": 0.05}, {}) == {"a/gemm/median_ape": "unchecked"}


def test_predictions_that_come_or_go_are_noticed() -> None:
    base = regress.Baseline(
        scenarios=(), devices=(), documents=(), page="", predictions={"old": 1.0}, tolerance=1e-3, accuracy={}
    )
    assert [(o.key, o.status) for o in compare(base, {"fresh": 1.0}, {})] == [("fresh", "new"), ("old", "gone")]


@pytest.mark.parametrize(
    ("text", "value", "new"),
    [("4.3 %", 0.0517, "5.2 %"), ("1,234", 5678.4, "5,678"), ("0.25", 0.1, "0.10"), ("-1.0 %", -0.02, "-2.0 %")],
)
def test_a_figure_is_written_as_it_was(text: str, value: float, new: str) -> None:
    assert written_like(text, value) == new


def test_a_document_that_states_another_figure_fails_and_an_update_mends_it(baseline: Path) -> None:
    key = "a/gemm/median_ape"
    page = baseline.parent / "page.md"
    page.write_text(f"line one\nthe error is {marked(key, '4.3 %')} here, {marked('b/unknown/rows', '7')} there\n")
    document = json.loads(baseline.read_text(encoding="utf-8"))
    baseline.write_text(json.dumps({**document, "documents": ["page.md"], "accuracy": {key: 0.0517}}))
    answer = CliRunner().invoke(app, [*COMMAND, str(baseline)])
    assert answer.exit_code == 1
    assert "page.md:2" in answer.stdout
    regress.update(baseline)
    assert [(s.key, s.text) for s in stated_figures([page])] == [(key, "5.2 %"), ("b/unknown/rows", "7")]
    # The second mark names a figure that nobody computes, and stays wrong.
    assert [o.key for o in failures(regress.regress(baseline))] == ["b/unknown/rows"]


def test_an_update_counts_papers_under_the_names_of_today(baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(baseline.read_text(encoding="utf-8"))
    recorded = {"papers/a_name_of_before": 3.0, "a/gemm/rows": 7.0}
    baseline.write_text(json.dumps({**document, "accuracy": recorded}))
    monkeypatch.setattr(regress, "validate_papers", PaperReport)
    regress.update(baseline)
    accuracy = json.loads(baseline.read_text(encoding="utf-8"))["accuracy"]
    assert "papers/a_name_of_before" not in accuracy
    assert accuracy["papers/rows_within"] == 0.0
    assert accuracy["a/gemm/rows"] == 7.0


def test_a_document_that_is_not_there_is_told_and_fails_nothing(baseline: Path) -> None:
    document = json.loads(baseline.read_text(encoding="utf-8"))
    baseline.write_text(json.dumps({**document, "documents": ["absent.md"]}))
    answer = CliRunner().invoke(app, [*COMMAND, str(baseline)])
    assert answer.exit_code == 0
    assert "absent.md: no such file" in answer.stdout.replace("\n", "")


def test_a_passing_comparison_says_so() -> None:
    same = [Outcome(key="kernel/x/y", before=1.0, after=1.0, status="same")]
    assert "**Passed.**" in markdown(same)
    assert 'failures="0"' in junit(same)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "not a baseline"),
        ("nonsense", "not JSON"),
        ("[]", "not a baseline"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "too many digits"),
        ('{"format": 99}', "format 99"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(BaselineError, match=told):
        load_baseline(path)


def test_a_missing_baseline_exits_with_2(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, [*COMMAND, str(tmp_path / "none.json")])
    assert answer.exit_code == 2
    assert "--update" in answer.stderr


def test_what_is_covered_is_told_only_with_an_update(baseline: Path) -> None:
    answer = CliRunner().invoke(app, [*COMMAND, str(baseline), "--device", "a100"])
    assert answer.exit_code == 2
    assert "--update" in answer.stderr
