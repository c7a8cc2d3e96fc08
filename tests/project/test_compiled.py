"""The engine runs the same compiled and plain, and never runs what was compiled from another source."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, simulate
from simulator.compiled import MODULES, choose_engine, engine, source, stamp_file, stamps
from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests
from simulator.serving.engine import Pool, run_engine

ROOT = Path(__file__).parents[2]
REQUESTS = {"kind": "closed_loop", "count": 300, "concurrency": 64, "lengths": {"kind": "uniform", "input": 300}}
#: One rank; ranks that overlap halves of a batch; pools; prefixes and little memory.
SCENARIOS: dict[str, dict[str, Any]] = {
    "one rank": {"model": {"name": "gpt-oss-20b"}, "hardware": {"device": "h100-sxm"}, "requests": REQUESTS},
    "expert parallel": {
        "model": {"name": "deepseek-v3"},
        "hardware": {"device": "h800-sxm", "cluster": "hgx-h800-ib"},
        "parallelism": {"dp": 16, "ep": 16},
        "stack": {"name": "sglang", "overlap": "auto"},
        "requests": {**REQUESTS, "count": 900, "concurrency": 700},
        "routing": {"kind": "zipf", "skew": 0.5, "tokens": 512},
    },
    "pools": {
        "model": {"name": "deepseek-v3"},
        "hardware": {"device": "h800-sxm", "cluster": "hgx-h800-ib"},
        "parallelism": {"dp": 16, "ep": 16},
        "disaggregation": {"enabled": True, "prefill": {"dp": 16, "ep": 16}},
        "requests": {**REQUESTS, "kind": "poisson", "rate": 20.0},
        "routing": {"tokens": 512},
    },
    "prefixes": {
        "model": {"name": "qwen3-30b-a3b"},
        "hardware": {"device": "h200-sxm"},
        "parallelism": {"instances": 2},
        "stack": {"name": "vllm", "balancer": "cache_aware"},
        "prefix_cache": {"kind": "instance"},
        "requests": {"kind": "trace", "trace": "sample:mooncake_like.jsonl", "repeat": 5, "rate": 20.0},
        "routing": {"tokens": 512},
    },
}


def played() -> dict[str, str]:
    """Digest all that each scenario yields: the records of the engine where one pool runs, and every figure."""
    found = {}
    for name, data in SCENARIOS.items():
        scenario = Scenario.from_mapping(data)
        result = simulate(scenario)
        summary = replace(result.summary, wall_s=0.0)
        digest = hashlib.sha256(repr((summary, sorted(result.breakdown.items()))).encode())
        digest.update(result.requests.select_dtypes("number").to_numpy(np.float64).tobytes())
        if name in {"one rank", "expert parallel"}:
            trace = scenario_requests(scenario.requests, scenario.seed)
            deployment = deploy(scenario, trace)
            run = run_engine(trace, [Pool(timers=[deployment.timer()], limits=deployment.limits)])
            for values in (*run.steps.values(), *run.gaps.values()):
                digest.update(np.ascontiguousarray(values).tobytes())
        found[name] = digest.hexdigest()
    return found


@pytest.mark.skipif(engine() == "plain", reason="the engine is not compiled; make test-compiled compiles it")
def test_a_compiled_engine_gives_the_same_numbers_bit_by_bit() -> None:
    environment = {**os.environ, "MOESIM_ENGINE": "plain"}
    command = [sys.executable, str(Path(__file__))]
    plain = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    told = json.loads(plain.stdout)
    assert told == {"engine": "plain", "played": played()}


def test_what_is_compiled_is_there_to_be_compiled() -> None:
    assert [module for module in MODULES if not source(module).is_file()] == []
    assert list(MODULES) == sorted(MODULES)


@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed")
def test_every_module_that_may_be_compiled_can_be_translated(tmp_path: Path) -> None:
    script = f"import hatch_build, pathlib; hatch_build.translate(pathlib.Path({str(ROOT)!r}), {str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.rglob("*.c"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for compiled modules, in a process that has chosen no engine yet."""
    monkeypatch.delenv("MOESIM_ENGINE", raising=False)
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if type(each).__name__ != "_Finder"])
    return tmp_path


def test_without_compiled_modules_python_runs_the_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choose_engine(folder)
    assert engine() == "plain"
    assert capsys.readouterr() == ("", "")


def test_what_was_compiled_from_another_source_is_not_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = stamps(MODULES).splitlines(keepends=True)
    for changed in ("".join(["00000000" + first[8:], *others]), "".join(others)):
        stamp_file(folder).write_text(changed, encoding="ascii")
        choose_engine(folder)
        told = capsys.readouterr().err
        assert engine() == "plain"
        assert "has changed since it was compiled" in told
        assert told.count("\n") == 1


def test_damaged_stamps_are_those_of_another_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamp_file(folder).write_bytes(b"\xff\x00" + stamps(MODULES).encode())
    choose_engine(folder)
    assert engine() == "plain"
    assert "has changed since it was compiled" in capsys.readouterr().err


def test_what_was_compiled_from_this_source_is_found_first(folder: Path) -> None:
    stamp_file(folder).write_text(stamps(MODULES), encoding="ascii")
    choose_engine(folder)
    assert engine() == "compiled"
    spec = sys.meta_path[0].find_spec("simulator.serving.batch", None)
    assert spec is not None
    assert Path(spec.origin or "").parent == folder / "simulator" / "serving"
    assert sys.meta_path[0].find_spec("simulator.serving.engine", None) is None


def test_the_environment_can_ask_for_the_plain_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESIM_ENGINE", "plain")
    stamp_file(folder).write_text(stamps(MODULES), encoding="ascii")
    choose_engine(folder)
    assert engine() == "plain"


def test_results_and_the_command_line_say_which_engine_ran() -> None:
    result = simulate(Scenario.from_mapping(SCENARIOS["one rank"]))
    assert result.provenance["engine"] == engine()
    moesim = Path(sys.executable).with_name("moesim")
    told = subprocess.run([moesim, "--version"], check=True, capture_output=True, text=True, timeout=60).stdout
    assert told.endswith(f"engine: {engine()}\n")


if __name__ == "__main__":
    print(json.dumps({"engine": engine(), "played": played()}))
