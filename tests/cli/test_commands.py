"""The commands that answer questions about a scenario, against a stand-in for the simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulator.cli.lists import spread_lists
from simulator.errors import InfeasibleScenario
from simulator.results.values import Finding


def test_simulate_prints_headline_latency_breakdown_and_warnings(api: Any, moesim: Any, scenario_file: Path) -> None:
    answer = moesim("simulate", scenario_file)
    assert answer.exit_code == 0
    assert "1,230 output" in answer.stdout
    assert "TTFT" in answer.stdout
    assert "12.0 ms" in answer.stdout or "12 ms" in answer.stdout
    assert "75.0 %" in answer.stdout
    assert "30 ms" in answer.stdout, "3 s of experts over 100 steps"
    assert "borrowed [kernels] of a relative" in answer.stdout


def test_simulate_names_the_explain_command_of_the_same_scenario(api: Any, moesim: Any, scenario_file: Path) -> None:
    answer = moesim("simulate", scenario_file, "--set", "seed=7", "--device", "h100-sxm")
    words = " ".join(answer.stdout.split())
    assert "moesim explain" in words
    assert "--set seed=7 --device h100-sxm" in words


@pytest.mark.parametrize("command", ["simulate", "estimate", "explain", "check"])
def test_json_is_one_strict_document_and_nothing_else(api: Any, moesim: Any, scenario_file: Path, command: str) -> None:
    answer = moesim(command, scenario_file, "--json")
    assert answer.exit_code == 0
    assert answer.stderr == ""
    json.loads(answer.stdout, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def test_simulate_json_has_the_agreed_keys(api: Any, moesim: Any, scenario_file: Path) -> None:
    document = json.loads(moesim("simulate", scenario_file, "--json").stdout)
    assert {"scenario_hash", "summary", "breakdown", "warnings"} <= document.keys()
    assert document["summary"]["ttft_s"] == {"mean": 0.012, "p50": 0.011, "p90": 0.02, "p99": 0.05}
    assert document["summary"]["goodput_rps"] is None


def test_one_set_takes_several_assignments_as_do_several_sets(api: Any, moesim: Any, scenario_file: Path) -> None:
    together = moesim("simulate", "--set", "seed=7", "parallelism.tp=4", scenario_file, "--json")
    apart = moesim("simulate", scenario_file, "--set", "seed=7", "--set", "parallelism.tp=4", "--json")
    assert together.exit_code == apart.exit_code == 0
    assert [(s.seed, s.parallelism.tp) for s in api.scenarios] == [(7, 4), (7, 4)]


def test_assignments_without_set_stay_arguments() -> None:
    lists = {"--set": (r"[A-Za-z_][\w.]*=", False)}
    assert spread_lists(["a=b.toml", "--json"], lists) == ["a=b.toml", "--json"]
    assert spread_lists(["--set", "a=1", "folder/x=1.toml"], lists) == ["--set", "a=1", "folder/x=1.toml"]


@pytest.mark.parametrize("written", [["--ep", "4,8"], ["--ep", "4", "8"], ["--ep", "4", "--ep", "8"], ["--ep", "4, 8"]])
def test_a_list_is_written_in_every_way_alike(moesim: Any, written: list[str]) -> None:
    found = moesim("routing", "stats", *written, "sample:routing_24x32_top4.npz", "--json")
    assert found.exit_code == 0, found.stderr
    assert {row["ranks"] for row in json.loads(found.stdout)["batches"]} == {4, 8}


@pytest.mark.parametrize(
    "written", [["--algorithm", "deepep_normal,all_to_all"], ["--algorithm", "deepep_normal", "all_to_all"]]
)
def test_names_of_a_list_are_written_alike_too(moesim: Any, written: list[str]) -> None:
    found = moesim("exchange", "--device", "h800-sxm", "--ranks", "16", "--tokens", "8", *written, "--json")
    assert found.exit_code == 0, found.stderr
    assert {row["algorithm"] for row in json.loads(found.stdout)["exchanges"]} == {"deepep_normal", "all_to_all"}


def test_a_device_replaces_the_files_device_and_node(api: Any, moesim: Any, scenario_file: Path) -> None:
    moesim("estimate", scenario_file, "--device", "h100-sxm")
    moesim("estimate", scenario_file, "--device", "h100-sxm", "--set", "hardware.node=hgx-h100")
    moesim("estimate", scenario_file, "--device", "a100-sxm")
    places = [(s.hardware.device, s.hardware.node) for s in api.scenarios]
    assert places == [("h100-sxm", None), ("h100-sxm", "hgx-h100"), ("a100-sxm", "hgx-a100")]


def test_profiles_reach_the_scenario(api: Any, moesim: Any, scenario_file: Path, tmp_path: Path) -> None:
    moesim("estimate", scenario_file, "--profiles", tmp_path)
    assert api.scenarios[0].hardware.profiles == str(tmp_path)


def test_out_writes_the_folder_and_says_where(api: Any, moesim: Any, scenario_file: Path, tmp_path: Path) -> None:
    answer = moesim("simulate", scenario_file, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").is_file()
    assert "written to" in answer.stdout


def test_an_unwritable_folder_is_refused_before_the_run(
    api: Any, moesim: Any, scenario_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work")
    answer = moesim("simulate", scenario_file, "--out", tmp_path / "taken")
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: ")
    assert api.scenarios == []
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.tex"]


def test_explain_groups_ops_by_component_and_gives_their_reasons(api: Any, moesim: Any, scenario_file: Path) -> None:
    answer = moesim("explain", scenario_file, "--phase", "prefill", "--batch", "3", "--context", "128")
    assert answer.exit_code == 0
    assert "one prefill step, batch 3, context 128" in answer.stdout
    assert answer.stdout.index("\n GEMM") < answer.stdout.index("\n experts")
    assert "t = max(flops / peak, bytes / bandwidth)" in answer.stdout
    assert "vendor datasheet [1]" in answer.stdout
    assert "unused" not in answer.stdout


def test_explain_json_totals_its_components(api: Any, moesim: Any, scenario_file: Path) -> None:
    document = json.loads(moesim("explain", scenario_file, "--json").stdout)
    assert document["components"] == {"gemm": 0.002, "experts": 0.006}
    assert sum(document["components"].values()) == pytest.approx(document["step_s"])
    assert len(document["ops"]) == 3


def test_check_exits_with_2_only_if_there_is_an_error(api: Any, moesim: Any, scenario_file: Path) -> None:
    assert moesim("check", scenario_file).exit_code == 0
    api.check = lambda _: (
        Finding(level="warning", where="routing", message="short trace"),
        Finding(level="error", where="parallelism.tp", message="tp 3 does not divide 32 heads", remedy="use 2 or 4"),
    )
    answer = moesim("check", scenario_file)
    assert answer.exit_code == 2
    assert answer.stdout.index("tp 3 does not divide") < answer.stdout.index("short trace"), "errors come first"
    assert "1 error, 1 warning, 0 notes" in answer.stdout
    document = json.loads(moesim("check", scenario_file, "--json").stdout)
    assert (document["errors"], document["warnings"]) == (1, 1)


def test_check_lists_all_wrong_keys_at_once(api: Any, moesim: Any, scenario_file: Path) -> None:
    wrong = ("--set", "parallelism.tpp=2", "requests.count=-1", "slo.ttft=5")
    document = json.loads(moesim("check", scenario_file, *wrong, "--json").stdout)
    text = "\n".join(finding["message"] for finding in document["findings"])
    assert document["errors"] == 3
    assert "did you mean 'tp'" in text
    assert "requests.count" in text
    assert "needs its unit" in text


def test_an_infeasible_scenario_is_an_answer_with_exit_code_2(api: Any, moesim: Any, scenario_file: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InfeasibleScenario("weights need 94 GB\nof 80 GB")

    api.simulate = refuse
    answer = moesim("simulate", scenario_file)
    assert answer.exit_code == 2
    assert answer.stderr == "infeasible: weights need 94 GB\n            of 80 GB\n"
    document = json.loads(moesim("simulate", scenario_file, "--json").stdout)
    assert document == {"error": {"kind": "InfeasibleScenario", "message": "weights need 94 GB\nof 80 GB"}}


def test_an_interrupt_says_that_nothing_was_written(api: Any, moesim: Any, scenario_file: Path, tmp_path: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    api.simulate = interrupt
    answer = moesim("simulate", scenario_file, "--out", tmp_path / "run")
    assert answer.exit_code == 130
    assert "nothing was written" in answer.stderr
    assert not (tmp_path / "run").exists()


def test_a_bug_keeps_its_traceback(api: Any, moesim: Any, scenario_file: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    api.simulate = fail
    answer = moesim("simulate", scenario_file)
    assert answer.exit_code == 1
    assert isinstance(answer.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "paralelism.tp=2"], "did you mean 'parallelism'"),
        (["--set", "parallelism.tp"], "expected section.key=value"),
        (["--set", "seed.x=2"], "seed"),
        (["--set", "requests.rate=nan"], "must be finite"),
        (["--set", "parallelism.tp=0"], "parallelism.tp"),
        (["--set", "stack.cpu_gap=5"], "needs its unit"),
        (["--set", "stack.cpu_gap='5 GB'"], "stack.cpu_gap"),
    ],
)
def test_a_bad_assignment_gets_one_message(
    api: Any, moesim: Any, scenario_file: Path, arguments: list[str], expected: str
) -> None:
    answer = moesim("simulate", scenario_file, *arguments)
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert expected in answer.stderr
    assert answer.stderr.startswith("error: ")
    assert "Traceback" not in answer.stderr


def test_an_unknown_scenario_names_the_nearest_preset(
    api: Any, moesim: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mixtral-8x7b-a100.toml").write_text("")
    monkeypatch.setattr("simulator.scenario.presets._FOLDERS", (tmp_path,))
    answer = moesim("simulate", "mixtral-8x7-a100")
    assert answer.exit_code == 2
    assert "did you mean 'mixtral-8x7b-a100'" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["simulat"], "Did you mean 'simulate'"),
        (["simulate", "x.toml", "--jsn"], "--json"),
        (["list", "device"], "devices"),
        (["explain", "x.toml", "--batch", "0"], "--batch"),
        (["explain", "x.toml", "--phase", "decoding"], "decode"),
        (["simulate"], "FILE"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_what_is_allowed(moesim: Any, arguments: list[str], expected: str) -> None:
    answer = moesim(*arguments)
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert expected in answer.stderr
