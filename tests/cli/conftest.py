"""A scenario file, a runner, and a stand-in for the simulator that answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner
from typer.testing import Result as Answer

import simulator
from simulator.cli.app import app
from simulator.results.columns import Columns
from simulator.results.values import Distribution, Estimate, Explanation, Finding, Result, Summary
from simulator.scenario import Scenario

SCENARIO = """
name = "two cards"
model = { name = "mixtral-8x7b" }
hardware = { device = "a100-sxm", node = "hgx-a100" }
parallelism = { tp = 2 }
requests = { kind = "closed_loop", concurrency = 4, count = 12, lengths = { input = 64, output = 8 } }
run = { traced_steps = 4 }
"""

NAN = float("nan")


@pytest.fixture
def scenario_file(tmp_path: Path) -> Path:
    path = tmp_path / "two_cards.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


@pytest.fixture
def moesim() -> Callable[..., Answer]:
    """Run the command with these arguments; standard output and error are kept apart."""
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def summary() -> Summary:
    latency = Distribution(mean=0.012, p50=0.011, p90=0.02, p99=0.05)
    return Summary(
        ttft_s=latency,
        tpot_s=latency,
        itl_s=replace(latency, p99=NAN),
        e2el_s=latency,
        input_tokens_per_s_per_gpu=1500.0,
        output_tokens_per_s_per_gpu=1234.5,
        total_tokens_per_s_per_gpu=2734.5,
        requests_completed=12,
        engine_steps=100,
        simulated_s=2.0,
        wall_s=0.5,
        goodput_rps=NAN,
        usd_per_million_output_tokens=0.5,
        request_throughput_rps=6.0,
        batch_size_mean=4.0,
        queue_length_mean=0.0,
        kv_use_mean=0.1,
        kv_use_max=0.2,
        preemptions=0,
        mfu=0.1,
        mbu=0.6,
        rank_imbalance_mean=1.1,
        rank_imbalance_p99=1.3,
        measured_steps=100.0,
    )


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, summary: Summary) -> ModuleType:
    """Put a stand-in in the place of ``simulator.api``; tests may replace its functions."""
    fake: Any = ModuleType("simulator.api")
    fake.scenarios = []

    def simulate(scenario: Scenario, *, progress: Callable[[float], None] | None = None) -> Result:
        fake.scenarios.append(scenario)
        return Result(
            scenario=scenario,
            summary=summary,
            breakdown={"attention": 1.0, "experts": 3.0, "idle": 0.0},
            request_columns=Columns({}),
            step_columns=Columns({}),
            warnings=("borrowed [kernels] of a relative",),
        )

    def estimate(scenario: Scenario) -> Estimate:
        fake.scenarios.append(scenario)
        mean = Distribution(mean=0.01, p50=NAN, p90=NAN, p99=NAN)
        means = replace(summary, ttft_s=mean, tpot_s=mean, itl_s=mean, e2el_s=mean, engine_steps=0, wall_s=NAN)
        return Estimate(scenario=scenario, summary=means, breakdown={"experts": 0.01})

    def explain(
        scenario: Scenario, *, phase: str = "decode", batch: int | None = None, context: int | None = None
    ) -> Explanation:
        fake.scenarios.append(scenario)
        ops = pd.DataFrame([op("routed_experts", "experts", 6e-3), op("qkv", "gemm", 2e-3), op("unused", "gemm", 0.0)])
        return Explanation(
            scenario=scenario, phase=phase, batch=batch or 4, context=context or 96, step_s=8e-3, ops=ops
        )

    def check(scenario: Scenario) -> tuple[Finding, ...]:
        return (Finding(level="note", where="hardware.node", message="the device's usual node"),)

    def save(result: Result, folder: Path) -> Path:
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")
        return folder

    for function in (simulate, estimate, explain, check, save):
        setattr(fake, function.__name__, function)
    monkeypatch.setitem(sys.modules, "simulator.api", fake)
    monkeypatch.setattr(simulator, "api", fake, raising=False)
    return fake


def op(name: str, component: str, time: float) -> dict[str, object]:
    return {
        "name": name,
        "kind": "gemm",
        "component": component,
        "repeat": 32.0,
        "time_s": time,
        "share": time / 8e-3,
        "bound": "memory",
        "flops": 1e9,
        "bytes": 1e6,
        "message_bytes": 0.0,
        "kernel": "gemm.cublas",
        "equation": "t = max(flops / peak, bytes / bandwidth)",
        "inputs": "m = 4, n = 4096, k = 4096",
        "source": "vendor datasheet [1]",
        "evidence": "fitted",
        "error": 0.05,
    }
