"""Whatever is wrong with what was typed: one message that says so, exit code 2, nothing on standard output or disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from typer.testing import Result as Answer

SCENARIO = """
name = "small"
model = { name = "gpt-oss-20b" }
hardware = { device = "h100-sxm", node = "hgx-h100" }
parallelism = { dp = 4, ep = 4 }
requests = { kind = "poisson", rate = 20.0, count = 12, lengths = { kind = "lognormal", input = 64, output = 8 } }
routing = { tokens = 256 }
"""

ROUTING = "sample:routing_24x32_top4.npz"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


@pytest.mark.parametrize("command", ["simulate", "check"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["parallelism.ep=3"], "ep=3 must divide"),
        (["hardware.device=h100-smx"], "did you mean 'h100-sxm'"),
        (["model.name=gpt-os-20b"], "did you mean 'gpt-oss-20b'"),
        (["stack.name=vlm"], "did you mean 'vllm'"),
        (["slo.ttft=5"], "needs its unit"),
        (["slo.ttft=5 GB"], "expected time"),
        (["requests.rate=nan"], "must be finite"),
        (["requests.kind=poison"], "did you mean 'poisson'"),
        (["placement.policy=eplp"], "did you mean 'eplb'"),
        (["requests.kind=trace", "requests.trace={}"], "is a folder"),
        (["disaggregation.enabled=true", "parallelism.instances=0"], "parallelism.instances: got 0"),
        (["disaggregation.enabled=true", "disaggregation.prefill.ep=3"], "ep=3 must divide"),
        (["prefix_cache.kind=instance"], "no hash blocks"),
        (["speculation.draft_tokens=2", "speculation.acceptance=[1.5]"], "speculation.acceptance.0: got 1.5"),
        (["speculation.draft_tokens=2", "speculation.acceptance=0.5"], "expected a list of numbers, as in [0.5, 0.3]"),
        (["speculation.draft_tokens=2"], "speculation.acceptance: is required"),
        (["faults=[{at='1 s', rank=9}]"], "faults.0.rank: got 9; instance 0 has ranks 0 to 3"),
        (["faults=[{at='-1 s'}]"], "must be zero or more"),
        (["faults=[{at='1 s', knd='nic'}]"], "did you mean 'kind'"),
        (["faults=[{at='1 s', kind='nic'}]"], "cross no NIC"),
        (["faults.at='1 s'"], "tables in double brackets, as in [[faults]]"),
        (["stack.overlap=shared_expert"], "has no shared experts"),
        (["placement.redundant_slots=4000"], "redundant slots (placement.redundant_slots) instead of 4000 fit"),
        (["placement.rebalance.every='1 s'", "placement.rebalance.every_steps=4"], "not both"),
        (["elastic.mechanism=elastic", "elastic.events=[{at='1 s', size=80000}]"], "at most 64 ranks"),
        (["elastic.mechanism=elastic"], "needs at least one"),
    ],
)
def test_a_scenario_that_cannot_run_says_why(
    moesim: Callable[..., Answer], small: Path, tmp_path: Path, command: str, settings: list[str], message: str
) -> None:
    settings = [text.replace("{}", str(tmp_path)) for text in settings]
    out = ["--out", tmp_path / "out"] if command == "simulate" else ["--json"]
    answer = moesim(command, small, "--set", *settings, *out)
    assert answer.exit_code == 2
    assert not (tmp_path / "out").exists()
    if command == "simulate":
        assert answer.stdout == ""
        assert message in answer.stderr
        return
    errors = [finding["message"] for finding in json.loads(answer.stdout)["findings"] if finding["level"] == "error"]
    assert any(message in error for error in errors)


@pytest.mark.parametrize("command", ["simulate", "estimate", "explain", "timeline", "scale", "place"])
def test_a_file_that_is_no_scenario_is_one_message(moesim: Callable[..., Answer], tmp_path: Path, command: str) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for file, message in (
        (tmp_path, "is a folder, not a file"),
        (binary, "is no text in UTF-8"),
        (tmp_path / "nowhere.toml", "no such scenario file or preset"),
    ):
        answer = moesim(command, file)
        assert answer.exit_code == 2
        assert message in answer.stderr
        assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exchange", "--device", "h800", "--ranks", "32", "--skew", "0.7"], "--skew: only --routing zipf reads it"),
        (
            ["exchange", "--device", "h800", "--ranks", "32", "--layer", "3"],
            "--layer: only a recorded trace has layers",
        ),
        (["exchange", "--device", "h800", "--ranks", "12"], "12 ranks do not tile nodes of 8 devices"),
        (
            ["routing", "generate", "--from", "sample:fit_gpt_oss_20b.toml", "--set", "a=1", "--out", "{}/a.npz"],
            "--set is",
        ),
        (
            [
                "routing",
                "generate",
                "--from",
                "sample:fit_gpt_oss_20b.toml",
                "--router-set",
                "p=1",
                "--out",
                "{}/a.npz",
            ],
            "--router-set needs a --router",
        ),
        (["routing", "stats", "{}"], "is a folder, not a file"),
        (["routing", "stats", "{}/empty.json"], "'records' is missing"),
        (["place", "--routing", "{}/trace.pt", "--device", "h100-sxm"], "is .npz or .parquet, not .pt"),
        (["timeline", "gpt-oss-20b-h100", "--phase", "x" * 5000], "is not one of 'prefill', 'decode'"),
        (["x" * 5000], "No such command"),
        (["explain", "gpt-oss-20b-h100", "--batch", "9" * 100], "has 100 digits; expected at most 18"),
        (["explain", "gpt-oss-20b-h100", "--batch=" + "9" * 18], "batch: got 9999"),
        (["routing", "generate", "--kind", "zipf", "--tokens", "9" * 5000, "--out", "{}/a.npz"], "has 5,000 digits"),
        (["regress", "--baseline", "{}/empty.json"], "not a baseline: 'format' is missing"),
        (["regress", "--baseline", "{}/noise.txt"], "noise.txt: not JSON (Expecting value"),
    ],
)
def test_words_that_do_not_fit_are_one_message(
    moesim: Callable[..., Answer], tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "empty.json").write_text("{}", encoding="utf-8")
    (tmp_path / "noise.txt").write_text("noise", encoding="utf-8")
    (tmp_path / "trace.pt").write_bytes(b"x")
    before = sorted(tmp_path.iterdir())
    answer = moesim(*(word.replace("{}", str(tmp_path)) for word in words))
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert len(answer.stderr) < 500
    assert sorted(tmp_path.iterdir()) == before


def test_a_pt_file_of_something_else_is_refused_in_one_sentence(moesim: Callable[..., Answer], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "noise.pt"
    file.write_bytes(b"x")
    answer = moesim("routing", "stats", file)
    assert answer.exit_code == 2
    assert "not a .pt of tensors and plain values alone" in answer.stderr
    assert "weights_only" not in answer.stderr


def test_a_trace_that_is_shorter_than_the_run_is_said_to_repeat(moesim: Callable[..., Answer], small: Path) -> None:
    recorded = ["routing.kind=trace", f"routing.trace={ROUTING}"]
    long = moesim("simulate", small, "--set", *recorded, "requests.count=60", "--json")
    assert any(text.startswith("the routing trace has 600 tokens") for text in json.loads(long.stdout)["warnings"])
    short = moesim("simulate", small, "--set", *recorded, "requests.count=3", "--json")
    assert not any("repeats" in text for text in json.loads(short.stdout)["warnings"])


def test_more_requests_than_a_trace_has_are_said_to_be_missing(moesim: Callable[..., Answer], small: Path) -> None:
    played = ["requests.kind=trace", "requests.trace=sample:requests.csv", "requests.count=1000"]
    warnings = json.loads(moesim("simulate", small, "--set", *played, "--json").stdout)["warnings"]
    assert any(text.startswith("requests.count: got 1000, but the trace has") for text in warnings)


def test_a_step_longer_than_what_is_held_out_is_said_to_repeat(moesim: Callable[..., Answer]) -> None:
    words = [
        "place",
        "--routing",
        ROUTING,
        "--device",
        "h100-sxm",
        "--ep",
        "8",
        "--policies",
        "linear",
        "--windows",
        "1",
    ]
    assert "they repeat" in moesim(*words, "--batch", 4096).stderr
    assert moesim(*words, "--batch", 8).stderr == ""


def test_a_batch_that_is_never_run_is_warned_of(moesim: Callable[..., Answer], small: Path) -> None:
    answer = moesim("explain", small, "--batch", 10**6, "--json")
    assert any(text.startswith("batch: 1000000 is more than") for text in json.loads(answer.stdout)["warnings"])
    assert not np.isnan(json.loads(answer.stdout)["step_s"])


def test_many_faults_are_a_short_message_and_more_in_check(moesim: Callable[..., Answer], tmp_path: Path) -> None:
    file = tmp_path / "many.toml"
    file.write_text(SCENARIO + "".join(f"unknown_{at} = 1\n" for at in range(5000)), encoding="utf-8")
    answer = moesim("simulate", file)
    assert answer.exit_code == 2
    assert len(answer.stderr) < 500
    assert "'moesim check' shows them" in answer.stderr
    assert 20 < len(json.loads(moesim("check", file, "--json").stdout)["findings"]) < 100


def test_an_estimate_of_one_request_says_that_it_has_no_rate(moesim: Callable[..., Answer], small: Path) -> None:
    trace = small.with_name("one.csv")
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,64,8\n", encoding="utf-8")
    answer = moesim("estimate", small, "--set", "requests.kind=trace", "requests.rate=", f"requests.trace={trace}")
    assert answer.exit_code == 2
    assert "one request has no rate" in answer.stderr


@pytest.mark.parametrize("command", [["validate", "kernels"], ["calibrate", "fit"]])
@pytest.mark.parametrize("name", ["a" * 300, "a\x00b", "folder"])
def test_measurements_that_cannot_be_read_are_one_message(
    moesim: Callable[..., Answer], tmp_path: Path, command: list[str], name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "gemm.parquet").mkdir()
    answer = moesim(*command, "--device", "h100-sxm", "--measurements", tmp_path / name)
    assert answer.exit_code == 2
    assert 0 < len(answer.stderr) < 500
