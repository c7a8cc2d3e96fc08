"""Explanation, timeline and the engine's timer tell one and the same time of a step, whatever a scenario asks for.

Routing is balanced, so that no step depends on which tokens of a trace it replays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, explain
from simulator.deployment.deployment import Deployment, deploy
from simulator.deployment.inputs import scenario_requests
from simulator.explanation.explanation import timeline
from simulator.explanation.priced import asked_step, decode_certainty, priced_step, step_gap
from simulator.scenario.features import FEATURES
from simulator.serving.plan import prompt_scenario
from simulator.step.columns import STEP_COLUMNS, step_row
from simulator.step.work import StepWork
from workloads.models.spec import Phase

BASE: dict[str, Any] = {
    "model": {"name": "qwen3-30b-a3b"},
    "hardware": {"device": "h100-sxm"},
    "stack": {"name": "sglang"},
    "requests": {
        "kind": "closed_loop",
        "concurrency": 512,
        "count": 600,
        "lengths": {"kind": "fixed", "input": 2048, "output": 256},
    },
    "routing": {"kind": "balanced", "tokens": 512},
}
ONE_EXPERT = str(Path(__file__).parents[2] / "validation" / "baselines" / "one_expert.toml")
MTP: dict[str, Any] = {"draft_tokens": 3, "acceptance": (0.8, 0.7, 0.6), "draft": "mtp"}
EP16: dict[str, Any] = {
    "model": {"name": "deepseek-v3"},
    "hardware": {"device": "h100-sxm", "cluster": "hgx-h100-ib"},
    "parallelism": {"dp": 16, "ep": 16},
}
POOLS: dict[str, Any] = {
    "disaggregation": {"enabled": True, "prefill": {"instances": 1, "tp": 4}},
    "parallelism": {"tp": 2},
}

#: What is asked for, and a batch of the decode step.
ASKED: dict[str, tuple[dict[str, Any], int]] = {
    "one device": ({}, 32),
    "dense": ({"model": {"name": "llama-3.1-8b"}}, 24),
    "linear attention": ({"model": {"name": "nemotron-3-nano"}, "parallelism": {"tp": 2}}, 40),
    "sliding window": ({"model": {"name": "gpt-oss-20b"}}, 17),
    "tensor parallel": ({"parallelism": {"tp": 4}}, 64),
    "small expert parallel": ({"parallelism": {"tp": 1, "dp": 2, "ep": 2}}, 65),
    "DP attention, fewer requests than ranks": ({"parallelism": {"dp": 8, "ep": 8}}, 3),
    "DP attention, uneven": ({"parallelism": {"dp": 4, "ep": 4}}, 99),
    "all-gather exchange": (
        {"parallelism": {"dp": 4, "ep": 4}, "stack": {"name": "vllm", "exchange": "all_gather"}},
        99,
    ),
    "pipeline": ({"parallelism": {"tp": 2, "pp": 2}}, 61),
    "pipeline of one request": ({"parallelism": {"pp": 4}}, 1),
    "graph padding": ({"stack": {"name": "vllm"}}, 33),
    "no graph for so many": ({"stack": {"name": "trtllm"}}, 65),
    "no graph for so many on a stage": ({"stack": {"name": "trtllm"}, "parallelism": {"pp": 2}}, 131),
    "fp8": ({"model": {"name": "qwen3-30b-a3b", "weights": "fp8"}, "hardware": {"device": "h200-sxm"}}, 16),
    "drafts": ({**EP16, "speculation": MTP}, 320),
    "drafts on one device": ({"speculation": {"draft_tokens": 2, "acceptance": (0.7,)}}, 20),
    "drafts beyond the captured graphs": (
        {"speculation": {"draft_tokens": 3, "acceptance": (0.7,)}, "stack": {"name": "trtllm"}},
        20,
    ),
    "shared experts beside the dispatch": ({**EP16, "stack": {"name": "sglang", "overlap": "shared_expert"}}, 500),
    "two batches": ({**EP16, "stack": {"name": "sglang", "overlap": "two_batch"}}, 500),
    "two batches of drafts": ({**EP16, "stack": {"name": "sglang", "overlap": "two_batch"}, "speculation": MTP}, 320),
    "whatever ends first": ({**EP16, "stack": {"name": "sglang", "overlap": "auto"}}, 64),
    "redundant experts": ({**EP16, "placement": {"policy": "balanced", "redundant_slots": 16}}, 256),
    "placement that changes": (
        {"parallelism": {"dp": 4, "ep": 4}, "placement": {"rebalance": {"every_steps": 100}}},
        64,
    ),
    "pools": (POOLS, 40),
    "prefix cache": ({"prefix_cache": {"kind": "instance"}}, 16),
    "swapped requests": ({"stack": {"name": "sglang", "preemption": "swap"}}, 16),
    "experts known before the step": (
        {"model": {"name": ONE_EXPERT}, "stack": {"name": "vllm", "scheduler": "expert_aware"}},
        16,
    ),
    "priorities": ({"requests": {**BASE["requests"], "priorities": (0.5, 0.5)}}, 16),
    "changes of size": (
        {"parallelism": {"dp": 4, "ep": 4}, "elastic": {"mechanism": "horizontal", "max_size": 8}},
        16,
    ),
    "faults": ({"parallelism": {"instances": 2}, "faults": [{"kind": "instance", "at": "1 s"}]}, 16),
}


def scenario_of(name: str) -> tuple[Scenario, int]:
    asked, batch = ASKED[name]
    return Scenario.from_mapping({**BASE, **asked}, name), batch


def components(deployment: Deployment, work: StepWork) -> dict[str, float]:
    """Seconds by component of a step that the engine has recorded."""
    timer = deployment.timer()
    row = step_row(work, timer.time(work), instance=0, start=0.0, queue_length=0, kv_use=0.0, context=0.0)
    return timer.breakdown({name: np.array([value]) for name, value in zip(STEP_COLUMNS, row, strict=True)})


def engine(scenario: Scenario, phase: Phase, batch: int, context: int) -> tuple[Deployment, StepWork, float]:
    """Time a step as the engine does [s]."""
    own = prompt_scenario(scenario) if scenario.disaggregation.enabled and phase == "prefill" else scenario
    deployment = deploy(own, scenario_requests(scenario.requests, scenario.seed))
    work = asked_step(deployment, phase, batch, context)
    return deployment, work, deployment.timer().time(work).duration


@pytest.mark.parametrize("name", ASKED)
def test_a_decode_step_takes_as_long_wherever_it_is_asked_for(name: str) -> None:
    scenario, batch = scenario_of(name)
    deployment, work, played = engine(scenario, "decode", batch, 1200)
    drawn = timeline(scenario, batch=batch, context=1200)
    assert drawn.step_s == pytest.approx(played, rel=1e-9)
    assert drawn.schedule.makespan == pytest.approx(played, rel=1e-9)
    told = explain(scenario, batch=batch, context=1200)
    assert told.step_s == pytest.approx(played, rel=0.01)
    if drawn.overlap == "none":
        parts = told.ops.groupby("component")["time_s"].sum()
        for name, seconds in components(deployment, work).items():
            assert parts.get(name, 0.0) == pytest.approx(seconds, abs=0.01 * played), name
    # What one step shows is not said to be left out of it.
    absent = {feature.words for feature in FEATURES if feature.asked(scenario) and not feature.in_one_step}
    said = " ".join(told.warnings)
    assert {feature.words for feature in FEATURES if feature.words in said} == absent


@pytest.mark.parametrize("name", ASKED)
def test_a_prompt_step_takes_as_long_wherever_it_is_asked_for(name: str) -> None:
    scenario, _ = scenario_of(name)
    _, _, played = engine(scenario, "prefill", 2, 2048)
    drawn = timeline(scenario, phase="prefill", batch=2, context=2048)
    assert drawn.step_s == pytest.approx(played, rel=1e-9)
    assert drawn.schedule.makespan == pytest.approx(played, rel=1e-9)
    assert explain(scenario, phase="prefill", batch=2, context=2048).step_s == pytest.approx(played, rel=0.01)


def test_every_feature_stands_on_the_ladder() -> None:
    on_it = {feature.name for name in ASKED for feature in FEATURES if feature.asked(scenario_of(name)[0])}
    assert on_it == {feature.name for feature in FEATURES}


@pytest.mark.parametrize("name", ["one device", "no graph for so many", "drafts", "pipeline"])
def test_the_interval_of_a_step_rests_on_its_own_mix(name: str) -> None:
    """The host's share of the evidence is its share of the step that the engine plays."""
    scenario, batch = scenario_of(name)
    deployment, work, played = engine(scenario, "decode", batch, 1200)
    gap = deployment.timer().time(work).gap
    certainty = decode_certainty(deployment, batch, 1200, None)
    host = str(deployment.stack.numbers["cpu_gap"].status)
    assert sum(certainty.evidence.values()) == pytest.approx(1.0)
    assert certainty.evidence[host] >= 0.99 * gap / played


def test_drafts_cost_a_decode_step_their_verification_and_their_making() -> None:
    scenario, _ = scenario_of("drafts")
    ops = explain(scenario, batch=512, context=1200).ops
    without = explain(scenario.override("speculation.draft_tokens=0"), batch=512, context=1200).ops
    verified, alone = (frame[frame["name"] == "o_proj"]["flops"].sum() for frame in (ops, without))
    assert verified == pytest.approx(4 * alone)
    drafting = ops[ops["name"].str.startswith("draft_")]
    assert set(drafting["repeat"]) >= {3.0}
    assert drafting["time_s"].sum() > 0.0


@pytest.mark.parametrize("name", ["one device", "tensor parallel", "DP attention, uneven", "pipeline", "drafts"])
def test_a_step_with_prompts_and_decoding_takes_as_long_as_its_ops_and_its_host(name: str) -> None:
    scenario, batch = scenario_of(name)
    deployment, work, _ = engine(scenario, "decode", batch, 1200)
    work.add_prompts(rows=work.rows + 200, prompt_rows=200, sequences=2, prefix=100.0, total=200 * deployment.split.dp)
    times = priced_step(deployment, work)
    busy = sum(float(time.seconds + time.imbalance_wait) for time in times)
    told = busy + step_gap(deployment, work, busy)
    assert told == pytest.approx(deployment.timer().time(work).duration, rel=0.02)
