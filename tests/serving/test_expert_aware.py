"""Batching by expert: nobody is lost, nobody starves, and knowing the experts pays."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import Scenario, check, estimate, explain, simulate
from simulator.arrays import FloatArray, IntArray
from simulator.cost.model import CostModel
from simulator.deployment.fingerprint import fingerprint
from simulator.deployment.limits import Limits
from simulator.errors import InfeasibleScenario, ScenarioError
from simulator.hardware import load_hardware
from simulator.offload import Residency
from simulator.parallelism import Parallelism
from simulator.scenario.sections import Offload, Stack
from simulator.serving.engine import EngineRun, Pool, run_engine
from simulator.serving.instance import Instance
from simulator.serving.recorder import column
from simulator.serving.request_experts import RequestExperts, request_experts
from simulator.stack import customised
from simulator.step.pregated import PregatedCosts, PregatedTimer, pregated_costs
from simulator.step.tables import compile_tables
from simulator.step.timer import TableTimer
from simulator.step.totals import row_totals
from simulator.step.work import KnownExperts, StepTime, StepWork
from workloads.models.file import spec_from_table
from workloads.models.library import load_model
from workloads.models.spec import ModelSpec
from workloads.requests.generators import generate_requests
from workloads.requests.trace import RequestTrace
from workloads.routing.generators import generate_routing
from workloads.routing.trace import RoutingTrace

EXPERTS, BUDGET = 4, 32
LIMITS = Limits(
    dp=1,
    token_budget=BUDGET,
    max_running=24,
    pool=1.0,
    kv_per_token=0.0,
    kv_per_sequence=0.0,
    scheduler="expert_aware",
    chunked=True,
    offload=Offload(opening="all"),
)
FIRST = ("expert", "decode", "prompt")
MODEL = Path(__file__).parents[2] / "validation" / "baselines" / "one_expert.toml"


def small_model(top_k: int = 1) -> ModelSpec:
    table = tomllib.loads(MODEL.read_text(encoding="utf-8"))
    table["ffn"]["moe"]["top_k"] = top_k
    return spec_from_table(table, "small")


class Watched(PregatedTimer):
    """Keeps what it was asked."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.experts: list[int] = []
        self.fetched: list[int] = []

    def time(self, work: StepWork) -> StepTime:
        known = work.known_experts
        assert known is not None
        assert sum(known.tokens) == work.rows
        self.experts.append(sum(tokens > 0 for tokens in known.tokens))
        self.fetched.append(known.missing)
        return super().time(work)


@dataclass(frozen=True)
class Played:
    """A run, and what its timer saw of every step."""

    run: EngineRun
    experts: IntArray
    fetched: IntArray

    @property
    def first_token(self) -> FloatArray:
        return column(self.run.requests.first_token)

    @property
    def finish(self) -> FloatArray:
        return column(self.run.requests.finish)

    def step(self, name: str) -> FloatArray:
        return self.run.steps[name]


@lru_cache(maxsize=1)
def priced() -> tuple[CostModel, PregatedCosts]:
    cost = CostModel(hardware=load_hardware("a100-sxm"), stack=customised(Stack(name="vllm")))
    return cost, pregated_costs(cost, small_model(), 2 * BUDGET)


@lru_cache(maxsize=1)
def backbone() -> tuple[TableTimer, Any]:
    cost, costs = priced()
    tables = compile_tables(
        cost, costs.backbone, Parallelism(), None, most_tokens=BUDGET, most_sequences=BUDGET, most_context=512
    )
    totals = row_totals(tables, cost.stack)
    return TableTimer(tables, totals, None, cost.stack), totals.padded


def timer(fetch: float = 0.0, *, lookahead: bool = True) -> Watched:
    own, padded = backbone()
    return Watched(own, replace(priced()[1], fetch=fetch), padded, lookahead=lookahead)


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


def engine(
    requests: RequestTrace, experts: RequestExperts, limits: Limits, fetch: float = 0.0, probe: Any = None
) -> Played:
    own = timer(fetch, lookahead=limits.offload.lookahead)
    run = run_engine(requests, [Pool(timers=[own], limits=limits, experts=experts, probe=probe)])
    return Played(run, np.array(own.experts), np.array(own.fetched))


def offloading(limits: Limits = LIMITS, **changes: Any) -> Limits:
    return replace(limits, offload=limits.offload.model_copy(update=changes))


def play(limits: Limits = LIMITS, fetch: float = 0.0, **kind: Any) -> Played:
    requests, routing = load(**kind)
    return engine(requests, request_experts(requests, routing), limits, fetch)


@given(
    st.integers(0, 50),
    st.sampled_from(FIRST),
    st.sampled_from(("one", "worthwhile", "all")),
    st.integers(1, 40),
    st.integers(1, 24),
    st.integers(1, EXPERTS),
)
@settings(max_examples=12, deadline=None)
def test_every_token_is_computed_once_whatever_the_policy(
    seed: int, first: str, opening: str, patience: int, running: int, resident: int
) -> None:
    limits = offloading(
        replace(LIMITS, max_running=running), first=first, opening=opening, patience=patience, resident=resident
    )
    played = play(limits, fetch=0.01, count=8, seed=seed)
    requests, _ = load(count=8, seed=seed)
    rows = played.step("rows")
    assert rows.sum() == (requests.input_tokens + requests.output_tokens - 1).sum()
    assert played.step("prompt_total").sum() == requests.input_tokens.sum()
    assert rows.max() <= BUDGET
    assert played.step("running").max() <= running
    assert (played.first_token > requests.arrival).all()
    assert (played.finish >= played.first_token).all()
    assert ((played.experts >= 1) & (played.experts <= EXPERTS)).all()
    assert (played.step("offload_stall") <= played.step("duration_s")).all()


@pytest.mark.parametrize("opening", ["one", "all"])
def test_what_users_see_of_requests_that_are_held_back_adds_up_to_their_answers(opening: str) -> None:
    played = play(offloading(opening=opening), rate=500.0)
    requests, _ = load(rate=500.0)
    gaps = played.run.gaps
    assert gaps["tokens"].sum() == (requests.output_tokens - 1).sum()
    assert (gaps["gap_s"] * gaps["tokens"]).sum() == pytest.approx((played.finish - played.first_token).sum())


@pytest.mark.parametrize("first", FIRST)
def test_nothing_is_left_of_requests_that_are_done_nor_kept_of_more_than_there_is_room_for(first: str) -> None:
    class Watch:
        instance: Instance | None = None
        fullest = 0.0
        losses = 0

        def on_decode(self, instance: Instance) -> None:
            self.instance = instance
            self.fullest = max(self.fullest, 1.0 - instance.kv.left(0) / instance.limits.pool)

        def on_loss(self, *_: Any, **__: Any) -> None:
            self.losses += 1

    watch = Watch()
    requests, routing = load(rate=500.0)
    # Memory for the longest request and little more, so that some are preempted.
    tight = offloading(replace(LIMITS, pool=180.0, kv_per_token=1.0), first=first)
    played = engine(requests, request_experts(requests, routing), tight, probe=watch)
    assert watch.instance is not None
    assert watch.losses > 0
    assert watch.fullest <= 1.0
    assert set(watch.instance.counters().values()) == {0}
    assert not np.isnan(played.finish).any()


def test_steps_of_one_queue_run_one_expert_unless_somebody_waited_too_long() -> None:
    patient = play(offloading(opening="one", patience=10_000))
    hurried = play(offloading(opening="one", patience=2))
    assert (patient.experts == 1).all()
    assert hurried.experts.max() > 1


def test_batching_by_expert_activates_fewer_experts_per_token_and_finishes_sooner_when_the_server_is_full() -> None:
    aware, usual = play(rate=500.0, count=80), play(offloading(first="decode"), rate=500.0, count=80)
    assert aware.experts.sum() / aware.step("rows").sum() < usual.experts.sum() / usual.step("rows").sum()
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
    experts = request_experts(requests, lone)
    limits = replace(LIMITS, token_budget=8, max_running=30)
    waits = [
        engine(requests, experts, offloading(limits, opening="one", patience=patience)).first_token[0]
        for patience in (3, 50, 10_000)
    ]
    assert waits[0] < waits[1] < waits[2]


def test_with_room_for_all_tokens_opening_all_queues_is_the_usual_batch() -> None:
    alone = {"count": 1, "rate": 1.0}
    for first in FIRST:
        np.testing.assert_allclose(
            play(offloading(first=first), **alone).finish, play(offloading(first="decode"), **alone).finish
        )


def test_an_expert_fetched_during_the_step_before_costs_less_than_one_fetched_when_it_is_needed() -> None:
    few = offloading(resident=2)
    ahead = play(few, fetch=0.004)
    late = play(offloading(few, lookahead=False), fetch=0.004)
    whole = play(fetch=0.004)
    assert 0.0 < ahead.step("offload_stall").sum() < late.step("offload_stall").sum()
    assert late.step("offload_stall") == pytest.approx(0.004 * late.fetched)
    assert whole.fetched.sum() == 0


def test_experts_that_the_fewest_tokens_wait_for_make_room() -> None:
    experts = Residency(4, 2)
    assert experts.bring([2], [5, 1, 3, 0]) == 1
    assert experts.bring([0], [1, 1, 1, 1]) == 0
    assert experts.bring([1, 3], [1, 1, 1, 1]) == 2
    assert Residency(4).bring([0, 1, 2, 3], [0, 0, 0, 0]) == 0


def test_a_run_is_the_same_for_the_same_input() -> None:
    np.testing.assert_array_equal(play().finish, play().finish)


def test_more_experts_in_a_step_take_longer() -> None:
    work = StepWork(rows=8, decode_rows=8, decode_total=8, decode_context=100.0, logits=8, running=8)
    times = []
    for counts in ([8, 0, 0, 0], [4, 4, 0, 0], [2, 2, 2, 2]):
        work.known_experts = KnownExperts(counts, 0, follows=True)
        times.append(timer().time(work).duration)
    assert times[0] < times[1] < times[2]


def test_the_parts_of_all_steps_add_up_to_their_time() -> None:
    played = play(offloading(resident=2), fetch=0.004)
    parts = timer().breakdown(played.run.steps)
    assert sum(parts.values()) == pytest.approx(played.step("duration_s").sum())
    assert min(parts.values()) >= 0.0
    assert parts["offload_stall"] > 0.0


def test_an_expert_is_priced_by_its_weights_and_its_link() -> None:
    cost, costs = priced()
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


def test_the_scheduler_refuses_an_instance_that_does_not_know_its_experts() -> None:
    requests, routing = load(count=2)
    with pytest.raises(ScenarioError, match="experts of all tokens"):
        run_engine(requests, [Pool(timers=[timer()], limits=LIMITS)])
    with pytest.raises(ScenarioError, match="one rank"):
        engine(requests, request_experts(requests, routing), replace(LIMITS, dp=2))


ROUTER = """
name = "router"
hidden = 512
vocab = 4096
attention.full = { kind = "grouped_query", num_heads = 4, num_kv_heads = 4, head_dim = 128 }
ffn.dense = { kind = "dense", intermediate = 512 }
layers = [{ count = 1, attention = "full", ffn = "dense" }]
"""
SCENARIO = """
[model]
name = "small.toml"

[hardware]
device = "a100-sxm"

[stack]
name = "vllm"
scheduler = "expert_aware"
token_budget = 128

[offload]
router = "router.toml"
resident = 2

[routing]
kind = "sticky"

[requests]
kind = "poisson"
rate = 40.0
count = 60
lengths = { kind = "uniform", input = 64, output = 32, range_ratio = 0.2 }
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    for name, text in (
        ("small.toml", MODEL.read_text(encoding="utf-8")),
        ("router.toml", ROUTER),
        ("aware.toml", SCENARIO),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return Scenario.load(tmp_path / "aware.toml")


def test_a_scenario_batches_by_expert(scenario: Scenario) -> None:
    assert [finding for finding in check(scenario) if finding.level != "note"] == []
    result = simulate(scenario.override("run.warmup_requests=0", "run.drain=true"))
    asked = result.requests
    assert result.steps[["prefill_tokens", "decode_tokens"]].sum().sum() == (
        asked["input_tokens"].sum() + asked["output_tokens"].sum() - len(asked)
    )
    assert result.breakdown["offload_stall"] > 0.0
    assert sum(result.breakdown[name] for name in result.breakdown if name != "idle") == pytest.approx(
        result.steps["duration_s"].sum()
    )
    usual = simulate(scenario.override("offload.first=decode"))
    assert usual.summary.tpot_s.mean != result.summary.tpot_s.mean


def test_two_instances_and_a_closed_loop_are_served_by_expert_too(scenario: Scenario) -> None:
    loop = scenario.override("requests.kind=closed_loop", "requests.rate=1", "requests.concurrency=12")
    result = simulate(loop.override("parallelism.instances=2"))
    assert set(result.requests["instance"]) == {0, 1}
    assert result.requests["finish_s"].notna().all()


def test_experts_that_the_device_need_not_hold_leave_room_for_the_kv_cache(scenario: Scenario) -> None:
    kept = {finding.message for finding in check(scenario) if finding.where == "memory"}
    assert kept != {
        finding.message for finding in check(scenario.override("offload.resident=4")) if finding.where == "memory"
    }


def test_the_router_before_the_step_takes_time_and_counts_with_what_its_file_says(scenario: Scenario) -> None:
    assert scenario.offload.router is not None
    data = scenario.to_mapping()
    del data["offload"]["router"]
    free = simulate(Scenario.from_mapping(data))
    assert simulate(scenario).breakdown["gemm"] > free.breakdown["gemm"]
    before, path = fingerprint(scenario), Path(scenario.offload.router)
    path.write_text(ROUTER.replace("512", "1024"), encoding="utf-8")
    assert fingerprint(scenario) != before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("parallelism.tp=2", "one device per instance"),
        ("parallelism.dp=2", "one device per instance"),
        ("parallelism.pp=2", "one device per instance"),
        ("disaggregation.enabled=true", "disaggregation.enabled"),
        ("speculation.draft_tokens=1", "speculation.draft_tokens"),
        ("faults=[{at = '1 s'}]", "faults"),
        ("elastic.mechanism=elastic", "elastic.mechanism"),
        ("placement.rebalance.every_steps=5", "placement.rebalance"),
        ("model.name=mixtral-8x7b", "one per token"),
        ("model.name=qwen3-32b", "one per token"),
    ],
)
def test_what_batching_by_expert_does_not_know_is_refused_by_check_and_run_alike(
    scenario: Scenario, override: str, message: str
) -> None:
    asked = scenario.override(override, "stack.memory_fraction=1.0", "hardware.device=h200-sxm")
    with pytest.raises(ScenarioError, match=message):
        simulate(asked)
    assert any(message in finding.message for finding in check(asked) if finding.level == "error")


def test_the_closed_form_refuses_it_and_one_step_says_that_it_leaves_it_out(scenario: Scenario) -> None:
    with pytest.raises(InfeasibleScenario, match=r"stack\.scheduler"):
        estimate(scenario)
    assert any("batching by expert" in text for text in explain(scenario).warnings)
