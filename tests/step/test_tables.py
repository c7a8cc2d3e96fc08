"""Step tables against the ops that they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from simulator.deployment.deployment import Deployment, deploy
from simulator.ops import StepShape, build_ops
from simulator.scenario import Scenario
from simulator.step.columns import STEP_COLUMNS, step_row
from simulator.step.components import STEP_PARTS
from simulator.step.tables import expert_seconds
from simulator.step.work import StepWork, graph_rows

DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "mixtral-8x7b": {"hardware": {"device": "a100-sxm"}, "parallelism": {"tp": 2}, "stack": {"name": "vllm"}},
    "gpt-oss-20b": {"hardware": {"device": "h100-sxm"}, "stack": {"name": "vllm"}},
    "deepseek-v3": {
        "hardware": {"device": "h200-sxm"},
        "parallelism": {"dp": 8, "ep": 8},
        "stack": {"name": "sglang", "exchange": "all_gather"},
    },
}
SHAPES = 60


@cache
def deployment(model: str, routing: str = "zipf") -> Deployment:
    return deploy(
        Scenario.from_mapping(
            {
                **DEPLOYMENTS[model],
                "model": {"name": model},
                "requests": {"kind": "closed_loop", "concurrency": 512, "lengths": {"input": 4096, "output": 1024}},
                "routing": {"kind": routing, "tokens": 4096},
            }
        )
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step in which every data-parallel rank does the same."""

    decodes: int = 0
    context: float = 0.0
    prompts: int = 0
    new: int = 0
    prefix: float = 0.0

    def work(self, dp: int) -> StepWork:
        prompt = self.prompts * self.new
        return StepWork(
            rows=self.decodes + prompt,
            decode_rows=self.decodes,
            decode_context=self.context,
            prompt_rows=prompt,
            prompt_sequences=self.prompts,
            prompt_prefix=self.prefix,
            prompt_total=prompt * dp,
            decode_total=self.decodes * dp,
            logits=self.decodes + self.prompts,
            running=self.decodes * dp,
        )


def op_seconds(d: Deployment, drivers: set[str], **shape: float) -> float:
    ops = build_ops(d.model, d.split, d.stack, StepShape(**shape))
    return sum(float(d.cost.time(op).seconds) for op in ops if op.driver in drivers)


def expert_time(d: Deployment, tokens: int, *, prompt: bool) -> float:
    """Slowest rank of every layer for the first tokens of the routing trace [s]."""
    if d.routing is None:
        return 0.0
    counts = d.routing.counts("prefill" if prompt else "decode", tokens, 1)
    return float(expert_seconds(d.cost, d.model, d.split, counts, tokens, prompt=prompt).max(axis=-1).sum())


def direct(d: Deployment, step: Step) -> float:
    """Sum the ops of a step, each priced for exactly this step [s]."""
    prompt, tokens = step.prompts * step.new, step.decodes + step.prompts * step.new
    width = tokens if prompt else int(graph_rows(tokens, d.stack))
    width_of = {"prefill_tokens": tokens} if prompt else {"decode_sequences": width}
    total = op_seconds(d, {"tokens"}, **width_of, decode_context=1.0)
    total += op_seconds(d, {"logits"}, decode_sequences=step.decodes + step.prompts, decode_context=1.0)
    if step.decodes:
        total += op_seconds(d, {"decode"}, decode_sequences=step.decodes, decode_context=step.context)
    if prompt:
        shape = {"prefill_tokens": prompt, "prefill_sequences": step.prompts, "prefill_prefix": step.prefix}
        total += op_seconds(d, {"prefill"}, **shape)
    imbalance = 1.0
    if d.routing is not None:
        load = d.routing.prefill.load(0, prompt * d.split.dp) + d.routing.decode.load(0, step.decodes * d.split.dp)
        imbalance = float((load.max(axis=0) / load.mean(axis=0)).mean())
    uneven = d.tables.prompt_exchange if prompt else d.tables.exchange
    return total + float(uneven[tokens]) * (imbalance - 1.0)


def error(d: Deployment, step: Step) -> float:
    """Relative error of the tables, without the host's gap [1]."""
    looked_up = d.timer().time(step.work(d.split.dp))
    prompt = step.prompts * step.new > 0
    tokens = (step.decodes + step.prompts * step.new) * d.split.dp
    exact = direct(d, step) + expert_time(d, tokens, prompt=prompt)
    return (looked_up.duration - looked_up.gap) / exact - 1.0


@pytest.mark.parametrize("routing", ["balanced", "zipf"])
@pytest.mark.parametrize("model", DEPLOYMENTS)
def test_decode_steps_are_within_two_percent_of_their_ops(model: str, routing: str) -> None:
    d, rng = deployment(model, routing), np.random.default_rng(0)
    most = np.log2(min(d.limits.max_running, 256))
    steps = [
        Step(decodes=int(2 ** rng.uniform(0, most)), context=float(2 ** rng.uniform(4, 12))) for _ in range(SHAPES)
    ]
    errors = np.array([error(d, step) for step in steps])
    assert np.abs(errors).max() < 0.02
    assert np.abs(errors).mean() < 0.006


@pytest.mark.parametrize("model", DEPLOYMENTS)
def test_prompt_steps_are_within_two_percent_of_their_ops(model: str) -> None:
    """All but a few: a chunk just beyond a tile of queries, after a long prefix, may be further off."""
    d, rng = deployment(model), np.random.default_rng(1)
    most = np.log2(d.limits.token_budget / 4)
    steps = [
        Step(
            prompts=int(rng.integers(1, 4)),
            new=int(2 ** rng.uniform(3, most)),
            prefix=float(rng.choice([0.0, rng.uniform(0, 3000)])),
        )
        for _ in range(SHAPES)
    ]
    errors = np.abs([error(d, step) for step in steps])
    assert np.percentile(errors, 95) < 0.02
    assert errors.mean() < 0.007
    assert errors.max() < 0.10


@pytest.mark.parametrize("model", ["mixtral-8x7b", "gpt-oss-20b"])
def test_mixed_steps_add_decoding_to_their_prompts(model: str) -> None:
    d = deployment(model)
    prompt, both = Step(prompts=1, new=500), Step(prompts=1, new=500, decodes=16, context=1024.0)
    timer = d.timer()
    alone, mixed = (timer.time(step.work(1)).attention for step in (prompt, both))
    decoding = op_seconds(d, {"decode"}, decode_sequences=16, decode_context=1024.0)
    assert mixed - alone == pytest.approx(decoding, rel=1e-6)


@pytest.mark.parametrize("model", DEPLOYMENTS)
def test_components_of_recorded_steps_add_up_to_their_durations(model: str) -> None:
    d, timer = deployment(model), deployment(model).timer()
    rows: list[tuple[float, ...]] = []
    for step in (
        Step(decodes=1, context=100.0),
        Step(decodes=37, context=800.0),
        Step(prompts=2, new=300),
        Step(prompts=1, new=900, prefix=900.0),
    ):
        work = step.work(d.split.dp)
        rows.append(
            step_row(work, timer.time(work), instance=0, start=0.0, queue_length=0, kv_use=0.0, context=step.context)
        )
    recorded = dict(zip(STEP_COLUMNS, np.array(rows).T, strict=True))
    parts = timer.breakdown(recorded)
    assert sum(parts.values()) == pytest.approx(recorded["duration_s"].sum(), rel=1e-9)
    assert min(parts.values()) >= 0.0
    assert parts["cpu_gap"] == pytest.approx(recorded["gap"].sum())
    assert tuple(parts) == STEP_PARTS


@pytest.mark.parametrize("model", DEPLOYMENTS)
def test_a_larger_batch_or_longer_context_never_takes_less_time(model: str) -> None:
    d = deployment(model, "balanced")
    for context in (64.0, 4000.0):
        times = [d.timer().time(Step(decodes=n, context=context).work(d.split.dp)).duration for n in (1, 4, 16, 64)]
        assert times == sorted(times)
    times = [d.timer().time(Step(decodes=16, context=c).work(d.split.dp)).duration for c in (32.0, 500.0, 4000.0)]
    assert times == sorted(times)


def test_balanced_routing_waits_for_nobody() -> None:
    d = deployment("deepseek-v3", "balanced")
    step = d.timer().time(Step(decodes=64, context=500.0).work(8))
    assert step.imbalance_wait == pytest.approx(0.0, abs=1e-9)
    assert step.imbalance == pytest.approx(1.0, abs=1e-9)
    skewed = deployment("deepseek-v3", "zipf").timer().time(Step(decodes=64, context=500.0).work(8))
    assert skewed.imbalance > 1.1
    assert skewed.imbalance_wait > 0.0


def test_the_replayed_window_moves_on_with_every_step() -> None:
    d = deployment("deepseek-v3")
    timer, work = d.timer(), Step(decodes=4, context=500.0).work(8)
    waits = [timer.time(work).imbalance_wait for _ in range(20)]
    assert len(set(waits)) > 10
    again = d.timer()
    assert [again.time(work).imbalance_wait for _ in range(20)] == waits


def test_instances_begin_at_different_places_of_the_trace() -> None:
    d = deployment("deepseek-v3")
    work = Step(decodes=4, context=500.0).work(8)
    first, second = (d.timer(index, 2).time(work).imbalance_wait for index in range(2))
    assert first != second


def test_graphs_are_padded_to_the_sizes_that_were_captured() -> None:
    stack = deployment("gpt-oss-20b").stack
    pad, top = int(stack.number("graph_pad")), int(stack.number("graph_max_batch"))
    rows = graph_rows(np.arange(top + 51), stack)
    assert (pad, top) == (8, 512)
    assert rows[[0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 505]].tolist() == [0, 1, 2, 4, 4, 8, 8, 16, 16, 24, 512]
    assert rows[513:].tolist() == list(range(513, 563))


def test_a_uniform_router_with_many_tokens_approaches_the_balanced_time() -> None:
    excess = [
        expert_time(deployment("deepseek-v3", "uniform"), tokens, prompt=True)
        / expert_time(deployment("deepseek-v3", "balanced"), tokens, prompt=True)
        - 1.0
        for tokens in (2048, 8192, 32_768)
    ]
    assert excess[0] > excess[1] > excess[2] > -0.001
    assert excess[2] < 0.04


def test_prompt_steps_exchange_tokens_as_the_stack_does_for_prompts() -> None:
    """DeepEP has a mode for prompts and one for decoding; a stack may choose between them by phase."""
    exchanges = {}
    for mode in ("deepep", "deepep_normal", "deepep_low_latency"):
        scenario = {
            "model": {"name": "deepseek-v2-lite"},
            "hardware": {"device": "h100-sxm"},
            "parallelism": {"dp": 8, "ep": 8},
            "stack": {"name": "sglang", "exchange": mode},
            "requests": {"kind": "closed_loop", "concurrency": 64, "lengths": {"input": 512, "output": 64}},
            "routing": {"kind": "balanced"},
        }
        timer = deploy(Scenario.from_mapping(scenario)).timer()
        exchanges[mode] = []
        for step in (Step(prompts=1, new=512), Step(decodes=8, context=512.0)):
            timed = timer.time(step.work(8))
            exchanges[mode].append(timed.duration - timed.gap)
    assert exchanges["deepep"] == [exchanges["deepep_normal"][0], exchanges["deepep_low_latency"][1]]
    assert exchanges["deepep_normal"][0] != exchanges["deepep_low_latency"][0]
    assert exchanges["deepep_normal"][1] != exchanges["deepep_low_latency"][1]


def test_the_host_takes_its_time_per_step_per_request_and_for_launches_that_it_cannot_hide() -> None:
    d = deployment("gpt-oss-20b")
    timer, number = d.timer(), d.stack.number
    decode = timer.time(Step(decodes=10, context=100.0).work(1))
    assert decode.gap == pytest.approx(number("cpu_gap") + 10 * number("cpu_gap_per_request"))
    prompt = timer.time(Step(prompts=1, new=16).work(1))
    host = d.tables.launches * number("launch_eager")
    fixed, each = number("cpu_gap") + number("prefill_gap"), number("cpu_gap_per_request")
    assert prompt.duration - fixed - each == pytest.approx(host)
    long = timer.time(Step(prompts=2, new=4000).work(1))
    assert long.duration - long.gap > host
    assert long.gap == pytest.approx(fixed + 2 * each)


def test_experts_of_many_steps_timed_at_once_take_the_times_of_each() -> None:
    d = deployment("deepseek-v3")
    assert d.routing is not None
    lines, share = d.tables.experts["decode"], d.routing.mean_load
    tokens = np.array([64, 100, 64, 900])
    loads = np.stack([d.routing.decode.load(2 * n, n).max(axis=0) for n in tokens.tolist()]).astype(np.float64)
    each = [lines.at(n).time(load, n * share) for n, load in zip(tokens.tolist(), loads, strict=True)]
    assert np.transpose(lines.times(tokens, loads, share)) == pytest.approx(np.array(each), rel=1e-12)
    alike = lines.at(64).times(loads[[0, 2]], 64 * share)
    assert np.transpose(alike) == pytest.approx(np.array(each)[[0, 2]], rel=1e-12)
