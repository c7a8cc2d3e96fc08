"""Batching by expert: nobody is lost, nobody starves, and knowing the experts pays."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cost.model import CostModel
from simulator.errors import ScenarioError
from simulator.hardware import load_hardware
from simulator.offload import PregatedCosts, pregated_costs
from simulator.scenario.sections import Stack
from simulator.serving.expert_aware import (
    BATCHINGS,
    Batching,
    Opening,
    PregatedLimits,
    PregatedRun,
    PregatedTimer,
    request_experts,
    serve_pregated,
)
from simulator.stack import customised
from workloads.models.file import spec_from_table
from workloads.models.library import load_model
from workloads.models.spec import ModelSpec
from workloads.requests.generators import generate_requests
from workloads.requests.trace import RequestTrace
from workloads.routing.generators import generate_routing
from workloads.routing.trace import RoutingTrace

EXPERTS, BUDGET = 4, 32
LIMITS = PregatedLimits(token_budget=BUDGET, max_running=24)


def small_model(experts: int = EXPERTS, top_k: int = 1) -> ModelSpec:
    return spec_from_table(
        {
            "name": "small",
            "hidden": 2048,
            "vocab": 4096,
            "attention": {"full": {"kind": "grouped_query", "num_heads": 16, "num_kv_heads": 16, "head_dim": 128}},
            "ffn": {"moe": {"kind": "moe", "num_experts": experts, "top_k": top_k, "intermediate": 8192}},
            "layers": [{"count": 16, "attention": "full", "ffn": "moe"}],
        },
        "small",
    )


@lru_cache(maxsize=1)
def priced() -> tuple[CostModel, PregatedCosts, PregatedTimer]:
    cost = CostModel(hardware=load_hardware("a100-sxm"), stack=customised(Stack(name="vllm")))
    costs = pregated_costs(cost, small_model(), BUDGET)
    return cost, costs, PregatedTimer(cost, costs, LIMITS, 512)


def load(
    count: int = 40, rate: float = 30.0, seed: int = 0, stickiness: float = 0.6
) -> tuple[RequestTrace, RoutingTrace]:
    requests = generate_requests(
        requests=count,
        seed=seed,
        arrivals={"kind": "poisson", "rate": rate},
        input_tokens={"kind": "uniform", "length": 60, "ratio": 0.1},
        output_tokens={"kind": "uniform", "length": 30, "ratio": 0.1},
    )
    routing = generate_routing(
        "sticky", tokens=4000, layers=1, num_experts=EXPERTS, top_k=1, seed=seed, stickiness=stickiness, exponent=0.0
    )
    return requests, routing


def play(batching: Batching, limits: PregatedLimits = LIMITS, fetch: float = 0.0, **kind: float) -> PregatedRun:
    requests, routing = load(**kind)  # type: ignore[arg-type]
    return serve_pregated(requests, request_experts(requests, routing), priced()[2], limits, batching, fetch=fetch)


@given(
    st.integers(0, 50),
    st.sampled_from(BATCHINGS),
    st.sampled_from(("one", "worthwhile", "all")),
    st.integers(1, 40),
    st.integers(1, 24),
    st.integers(1, EXPERTS),
)
@settings(max_examples=12, deadline=None)
def test_every_token_is_computed_once_whatever_the_policy(
    seed: int, batching: Batching, opening: Opening, patience: int, running: int, resident: int
) -> None:
    limits = replace(LIMITS, opening=opening, patience=patience, max_running=running, resident=resident)
    run = play(batching, limits, fetch=0.01, count=8, seed=seed)
    requests, _ = load(count=8, seed=seed)
    assert run.tokens.sum() == (requests.input_tokens + requests.output_tokens - 1).sum()
    assert run.tokens.max() <= BUDGET
    assert (run.first_token > run.arrival).all()
    assert (run.finish >= run.first_token).all()
    assert ((run.experts >= 1) & (run.experts <= EXPERTS)).all()
    assert (run.stall <= run.duration).all()


def test_steps_of_one_queue_run_one_expert_unless_somebody_waited_too_long() -> None:
    patient = play("expert_aware", replace(LIMITS, opening="one", patience=10_000))
    hurried = play("expert_aware", replace(LIMITS, opening="one", patience=2))
    assert (patient.experts == 1).all()
    assert hurried.experts.max() > 1


def test_batching_by_expert_activates_fewer_experts_per_token_and_finishes_sooner_when_the_server_is_full() -> None:
    aware, usual = play("expert_aware", rate=500.0, count=80), play("decode_first", rate=500.0, count=80)
    assert aware.experts.sum() / aware.tokens.sum() < usual.experts.sum() / usual.tokens.sum()
    assert aware.finish.max() < usual.finish.max()


def test_patience_bounds_how_long_a_rare_expert_waits() -> None:
    routing = load()[1]
    requests = replace(
        load(count=30)[0], arrival=np.zeros(30), input_tokens=np.full(30, 4), output_tokens=np.full(30, 40)
    )
    # One request alone needs the last expert, all others the first.
    ids = np.zeros(30 * 44, dtype=np.int64)
    ids[:44] = EXPERTS - 1
    lone = replace(routing, expert_ids=ids.reshape(-1, 1, 1), sequence_start=np.array([0]))
    experts, timer = request_experts(requests, lone), priced()[2]
    limits = replace(LIMITS, token_budget=8, opening="one", max_running=30)
    waits = [
        serve_pregated(requests, experts, timer, replace(limits, patience=patience), "expert_aware").first_token[0]
        for patience in (3, 50, 10_000)
    ]
    assert waits[0] < waits[1] < waits[2]


def test_with_room_for_all_tokens_opening_all_queues_is_the_usual_batch() -> None:
    alone = {"count": 1, "rate": 1.0}
    for batching in BATCHINGS:
        np.testing.assert_allclose(play(batching, **alone).finish, play("decode_first", **alone).finish)


def test_an_expert_fetched_during_the_step_before_costs_less_than_one_fetched_when_it_is_needed() -> None:
    few = replace(LIMITS, resident=2)
    ahead = play("expert_aware", few, fetch=0.004)
    late = play("expert_aware", replace(few, lookahead=False), fetch=0.004)
    whole = play("expert_aware", LIMITS, fetch=0.004)
    assert 0.0 < ahead.stall.sum() < late.stall.sum()
    assert whole.fetched.sum() == 0


def test_a_run_is_the_same_for_the_same_input() -> None:
    np.testing.assert_array_equal(play("expert_aware").finish, play("expert_aware").finish)


def test_more_experts_in_a_step_take_longer() -> None:
    from simulator.step.work import StepWork

    work = StepWork(rows=8, decode_rows=8, decode_total=8, decode_context=100.0, logits=8, running=8)
    times = [priced()[2].time(work, np.array(counts)) for counts in ([8, 0, 0, 0], [4, 4, 0, 0], [2, 2, 2, 2])]
    assert times[0] < times[1] < times[2]


def test_an_expert_is_priced_by_its_weights_and_its_link() -> None:
    cost, costs, _ = priced()
    assert costs.expert_bytes == 16 * 3 * 2048 * 8192 * 2
    assert costs.fetch == pytest.approx(5e-6 + costs.expert_bytes / 31.5e9)
    assert costs.expert[1] > costs.expert_bytes / cost.hardware.silicon.memory_bandwidth
    assert costs.expert[0] == 0.0


@pytest.mark.parametrize("model", [small_model(top_k=2), load_model("deepseek-v3"), load_model("qwen3-32b")])
def test_a_model_without_one_expert_for_all_layers_is_refused(model: ModelSpec) -> None:
    with pytest.raises(ScenarioError, match="one per token"):
        pregated_costs(priced()[0], model, 8)


def test_a_routing_trace_of_several_layers_is_refused() -> None:
    routing = generate_routing("uniform", tokens=100, layers=2, num_experts=EXPERTS, top_k=1, seed=0)
    with pytest.raises(ScenarioError, match="one expert for all layers"):
        request_experts(load()[0], routing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_budget": 0}, "token_budget: got 0"),
        ({"patience": 0}, "patience: got 0"),
        ({"resident": 0}, "resident: got 0"),
        ({"opening": "two"}, "opening"),
    ],
)
def test_impossible_limits_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        play("expert_aware", replace(LIMITS, **change))  # type: ignore[arg-type]


def test_an_unknown_batching_names_the_nearest() -> None:
    with pytest.raises(ScenarioError, match="expert_aware"):
        play("expert_awar")  # type: ignore[arg-type]
