"""No op and no run moves more bytes than the memory can, however unevenly tokens are routed."""

from __future__ import annotations

from typing import Any

import pytest

from simulator import Scenario, estimate, explain, simulate
from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests

ROUTINGS: dict[str, dict[str, Any]] = {
    "balanced": {"kind": "balanced"},
    "uniform": {"kind": "uniform"},
    "zipf": {"kind": "zipf", "skew": 2.0},
    "few experts": {"kind": "dirichlet", "alpha": 0.02},
    "domains": {"kind": "domain"},
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3-30b-a3b": {},
    "deepseekmoe-16b": {"parallelism": {"dp": 4, "ep": 4}},
    "mixtral-8x7b": {"parallelism": {"tp": 2, "pp": 2}, "stack": {"name": "sglang"}},
    "gpt-oss-20b": {"speculation": {"draft_tokens": 2, "acceptance": (0.7,)}},
    "llama-3.1-8b": {},
}


def scenario_of(model: str, routing: str) -> Scenario:
    return Scenario.from_mapping(
        {
            "hardware": {"device": "h100-sxm"},
            "requests": {
                "kind": "closed_loop",
                "concurrency": 64,
                "count": 96,
                "lengths": {"kind": "uniform", "input": 64, "output": 40},
            },
            **MODELS[model],
            "model": {"name": model},
            "routing": {**ROUTINGS[routing], "tokens": 256},
        }
    )


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("model", MODELS)
def test_neither_a_run_nor_an_op_is_faster_than_the_memory(model: str, routing: str) -> None:
    scenario = scenario_of(model, routing)
    deployment = deploy(scenario, scenario_requests(scenario.requests, scenario.seed))
    bandwidth = deployment.hardware.silicon.memory_bandwidth
    for phase, batch in (("decode", 1), ("decode", 64), ("prefill", 1), ("prefill", 8)):
        ops = explain(scenario, phase=phase, batch=batch, context=80).ops  # type: ignore[arg-type]  # a phase
        assert (ops["bytes"] <= bandwidth * ops["time_s"] * (1 + 1e-9)).all(), (phase, batch)
    assert 0.0 < simulate(scenario).summary.mbu < 1.0
    if not scenario.speculation.draft_tokens:
        assert 0.0 < estimate(scenario).summary.mbu < 1.0


def test_traffic_counts_the_experts_that_are_touched() -> None:
    """The fewer experts tokens go to, the fewer weights a step reads, and the sooner it ends."""
    answers = {routing: simulate(scenario_of("qwen3-30b-a3b", routing)) for routing in ("balanced", "few experts")}
    few, all_of_them = (
        answers[routing].summary.mbu * answers[routing].summary.simulated_s for routing in ("few experts", "balanced")
    )
    assert few < 0.6 * all_of_them


def test_a_window_bounds_the_cache_that_a_decoded_token_reads() -> None:
    """Half of the layers of gpt-oss look back 128 tokens, so ten times the context is not ten times the cache."""
    short, long = (
        explain(scenario_of("gpt-oss-20b", "balanced"), batch=64, context=context).ops for context in (1000, 10_000)
    )
    read = [frame.loc[frame["name"] == "attention_decode", "bytes"] for frame in (short, long)]
    assert read[1].min() == pytest.approx(read[0].min())
    assert read[1].max() == pytest.approx(10 * read[0].max(), rel=0.03)
