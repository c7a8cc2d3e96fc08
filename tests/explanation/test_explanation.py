"""Taking one step apart: the rows add up to the step, and the step is the engine's."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from simulator import Explanation, MoesimError, Scenario, explain
from simulator.deployment.deployment import deploy
from simulator.kernels.families import FAMILIES
from simulator.step.components import COMPONENTS
from simulator.step.work import StepWork

CASES: dict[str, dict[str, Any]] = {
    "mixtral": {
        "model": {"name": "mixtral-8x7b"},
        "hardware": {"device": "a100-sxm"},
        "parallelism": {"tp": 2},
        "stack": {"name": "vllm"},
    },
    "deepseek": {
        "model": {"name": "deepseek-v3"},
        "hardware": {"device": "h200-sxm"},
        "parallelism": {"dp": 8, "ep": 8},
        "stack": {"name": "sglang", "exchange": "deepep"},
    },
    "dense": {"model": {"name": "llama-3.1-8b"}, "hardware": {"device": "h100-sxm"}},
    "hybrid": {"model": {"name": "nemotron-3-nano"}, "hardware": {"device": "h100-sxm"}},
}
PHASES = ("decode", "prefill")


def scenario(case: str) -> Scenario:
    return Scenario.from_mapping(
        {
            **CASES[case],
            "requests": {"concurrency": 32, "count": 64, "lengths": {"input": 700, "output": 100}},
            "routing": {"tokens": 1024},
        }
    )


@cache
def explained(case: str, phase: str, batch: int | None = None, context: int | None = None) -> Explanation:
    return explain(scenario(case), phase=phase, batch=batch, context=context)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("case", CASES)
def test_rows_add_up_to_the_step_and_shares_to_one(case: str, phase: str) -> None:
    explanation = explained(case, phase)
    ops = explanation.ops
    assert ops["time_s"].sum() == pytest.approx(explanation.step_s, rel=1e-12)
    assert ops["share"].sum() == pytest.approx(1.0, rel=1e-12)
    assert np.allclose(ops["share"], ops["time_s"] / explanation.step_s)
    assert (ops["time_s"] > 0).all()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("case", CASES)
def test_every_row_says_what_bounds_it_by_which_equation_from_what(case: str, phase: str) -> None:
    ops = explained(case, phase).ops
    assert set(ops["component"]) <= set(COMPONENTS)
    known = ops.drop(columns="error")
    assert not known.isna().any(axis=None)
    kernels = ops[~ops["component"].isin(["imbalance_wait", "cpu_gap"])]
    for column in ("bound", "kernel", "equation", "inputs", "source", "evidence"):
        assert (kernels[column] != "").all(), column
    assert all(row.equation == FAMILIES[row.kind].equation for row in kernels.itertuples())
    assert (kernels["error"] > 0).all()
    assert (ops.loc[ops["component"] == "cpu_gap", "source"] != "").all()


@pytest.mark.parametrize("case", CASES)
def test_a_decode_step_is_explained_as_the_engine_times_it(case: str) -> None:
    deployment = deploy(scenario(case))
    dp = deployment.split.dp
    explanation = explained(case, "decode", batch=32, context=500)
    each = 32 // dp
    work = StepWork(rows=each, decode_rows=each, decode_context=500.0, decode_total=32, logits=each, running=32)
    timer = deployment.timer()
    timed = np.mean([timer.time(work).duration for _ in range(32)])
    assert explanation.step_s == pytest.approx(timed, rel=0.02)


@pytest.mark.parametrize("case", CASES)
def test_a_prefill_step_is_explained_as_the_engine_times_it(case: str) -> None:
    deployment = deploy(scenario(case))
    dp = deployment.split.dp
    explanation = explained(case, "prefill", batch=dp, context=700)
    work = StepWork(rows=700, prompt_rows=700, prompt_sequences=1, prompt_total=700 * dp, logits=1, running=0)
    timer = deployment.timer()
    timed = np.mean([timer.time(work).duration for _ in range(16)])
    assert explanation.step_s == pytest.approx(timed, rel=0.03)


def test_a_larger_batch_and_a_longer_context_take_longer() -> None:
    small = explained("mixtral", "decode", batch=4, context=500)
    assert explained("mixtral", "decode", batch=64, context=500).step_s > small.step_s
    longer = explained("mixtral", "decode", batch=4, context=8000)
    attention = [e.ops.loc[e.ops["component"] == "attention", "time_s"].sum() for e in (small, longer)]
    assert attention[1] > 2 * attention[0]


def test_without_a_batch_the_steady_state_of_the_load_is_explained() -> None:
    explanation = explained("mixtral", "decode")
    assert 25 <= explanation.batch <= 32
    assert 700 < explanation.context < 800
    prefill = explained("mixtral", "prefill")
    assert (prefill.batch, prefill.context) == (1, 700)


def test_exchange_and_waiting_show_where_experts_are_spread() -> None:
    names = set(explained("deepseek", "decode").ops["name"])
    assert {"moe_dispatch", "moe_combine", "imbalance_wait", "routed_experts", "mla_decode", "cpu_gap"} <= names
    assert not {"moe_dispatch", "imbalance_wait", "routed_experts"} & set(explained("dense", "decode").ops["name"])


def test_a_scenario_that_cannot_run_cannot_be_explained() -> None:
    with pytest.raises(MoesimError, match="tp=3 must divide the 32 heads"):
        explain(scenario("mixtral").override("parallelism.tp=3"))


@pytest.mark.parametrize("batch", [1, 16, 32])
@pytest.mark.parametrize("device", ["a100-sxm", "h100-sxm", "h200-sxm"])
def test_products_of_few_rows_are_never_bound_by_arithmetic(device: str, batch: int) -> None:
    scenario = Scenario.from_mapping(
        {
            "model": {"name": "qwen3-30b-a3b"},
            "hardware": {"device": device},
            "requests": {"concurrency": 4, "count": 8, "lengths": {"input": 64, "output": 8}},
        }
    )
    ops = explain(scenario, batch=batch, context=512).ops
    assert "compute" not in set(ops.loc[ops["kind"].isin(["gemm", "moe"]), "bound"])
    large = explain(scenario, phase="prefill", batch=8, context=4096).ops
    assert "compute" in set(large.loc[large["kind"] == "gemm", "bound"])


def test_a_step_that_no_memory_holds_is_explained_with_a_warning_of_it() -> None:
    scenario = Scenario.from_mapping(
        {"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "h100-sxm"}, "parallelism": {"tp": 2}}
        | {"requests": {"concurrency": 4, "count": 8, "lengths": {"input": 64, "output": 8}}}
    )
    found = explain(scenario, batch=100_000, context=30_000).warnings
    assert any("of KV cache on each device, which has" in text for text in found)
    assert not any("of KV cache" in text for text in explain(scenario, batch=4, context=1000).warnings)
