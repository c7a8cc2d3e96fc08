"""Figures of published serving systems, from steps of their stated batch.

A point is a scenario file beside the case, and either a step of it with the batch and lengths that the publication
states, as :func:`simulator.explain` prices it, or its load as the closed form or the engine answers it. Publications of
systems with pools for prompts and answers count each phase's own tokens on that phase's own devices, and so do these
figures.

Point keys: ``scenario`` (file without its suffix) and ``set`` (what runs), ``phase`` (``prefill``, ``decode``,
``estimate`` or ``simulate``), ``batch`` (tokens of a rank in a prefill step, requests of a rank in a decode step),
``length`` (prompt length or KV length), ``routing`` (text whose placement was computed on other text, which no scenario
says yet) and ``policy`` (of that placement).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from simulator.api import estimate, explain, simulate
from simulator.deployment.deployment import Deployment, deploy, expert_nodes, repriced
from simulator.errors import ScenarioError
from simulator.placement import place_experts
from simulator.placement.replay import replay
from simulator.results.values import Summary
from simulator.scenario import Scenario
from simulator.scenario.sections import PlacementPolicy
from simulator.step.speculation import tokens_per_step
from simulator.step.work import StepWork
from simulator.study.placement import split_trace
from validation.papers.papers import CASES, Case
from workloads.models.spec import ModelSpec
from workloads.routing.generators import generate_routing
from workloads.routing.trace import RoutingTrace

#: Steps that are averaged, each with the next tokens of the routing trace [1].
WINDOWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Routed text of which a placement has seen one half and serves the other.

    ``spread`` and ``shared`` are those of the ``domain`` generator, ``sequence_tokens`` the mean tokens that a sequence
    adds to a step [tokens], ``tokens`` those of both halves [tokens].
    """

    spread: float
    shared: float
    sequence_tokens: int
    tokens: int


def system_figures(case: Case) -> dict[str, float]:
    """Figures of all points, named ``<point>.step`` [s], ``.tpot`` [s], ``.rate`` [tokens/s per device] and so on.

    ``ratios`` maps a name to two points, whose rates are divided [1]; ``slowdowns`` one to two, whose steps are;
    ``peaks`` one to several, of which the place of that with the highest rate is given [1]; ``per`` a name to the
    devices that it stands for: ``<point>.rate_per_<name>`` is their rate together.
    """
    given: Mapping[str, Any] = case.inputs
    found: dict[str, float] = {}
    for name, point in given["points"].items():
        if point["phase"] in ("estimate", "simulate"):
            found |= {f"{name}.{key}": value for key, value in _load(_scenario(case, point), point).items()}
        else:
            found |= {f"{name}.{key}": value for key, value in _step(_scenario(case, point), given, point).items()}
    for name, (first, second) in given.get("ratios", {}).items():
        found[name] = found[f"{first}.rate"] / found[f"{second}.rate"]
    for name, (first, second) in given.get("slowdowns", {}).items():
        found[name] = found[f"{first}.step"] / found[f"{second}.step"]
    for name, points in given.get("peaks", {}).items():
        found[name] = float(np.argmax([found[f"{point}.rate"] for point in points]))
    for name, factor in given.get("per", {}).items():
        found |= {f"{key}_per_{name}": factor * found[key] for key in list(found) if key.endswith(".rate")}
    return found


def _scenario(case: Case, point: Mapping[str, Any]) -> Scenario:
    return Scenario.load(scenario_file(case.name, point["scenario"]), point.get("set", ()))


def scenario_file(case: str, name: str) -> Path:
    """File of a scenario beside a case, which a reader can run and change."""
    return CASES / case / f"{name}.toml"


def _load(scenario: Scenario, point: Mapping[str, Any]) -> dict[str, float]:
    answer = estimate(scenario) if point["phase"] == "estimate" else simulate(scenario)
    summary: Summary = answer.summary
    return {
        "rate": summary.output_tokens_per_s_per_gpu,
        "tpot": summary.tpot_s.mean,
        "ttft": summary.ttft_s.mean,
        "batch": summary.batch_size_mean,
    }


def _step(scenario: Scenario, given: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, float]:
    prompt = point["phase"] == "prefill"
    batch, length, ranks = int(point["batch"]), int(point["length"]), scenario.parallelism.dp
    if "routing" in point:
        seconds = _step_of_text(scenario, Text(**given["routing"][point["routing"]]), point)
    else:
        sequences = max(batch // length, 1) if prompt else batch
        seconds = explain(scenario, phase=point["phase"], batch=sequences * ranks, context=length).step_s
    gain = 1.0 if prompt else tokens_per_step(scenario.speculation)
    return {
        "step": seconds,
        "tpot": seconds / gain,
        "speed": gain / seconds,
        "rate": batch * gain / seconds / (scenario.parallelism.tp * scenario.parallelism.pp),
    }


def _step_of_text(scenario: Scenario, text: Text, point: Mapping[str, Any]) -> float:
    """Time of a step on text that the placement has not seen [s]."""
    deployment = _deployment(scenario, text, point.get("policy", scenario.placement.policy))
    work = prompt_work(deployment, point) if point["phase"] == "prefill" else decode_work(deployment, point)
    timer = deployment.timer()
    return float(np.mean([timer.time(work).duration for _ in range(WINDOWS)]))


def decode_work(deployment: Deployment, point: Mapping[str, Any]) -> StepWork:
    """Describe a decode step in which every rank holds ``batch`` requests of KV length ``length``."""
    ranks = deployment.split.dp
    return StepWork.decode(
        int(point["batch"]) * ranks,
        float(point["length"]),
        dp=ranks,
        query_tokens=deployment.limits.query_tokens,
    )


def prompt_work(deployment: Deployment, point: Mapping[str, Any]) -> StepWork:
    """Describe a prefill step in which every rank computes ``batch`` tokens of prompts of ``length`` tokens."""
    tokens, ranks = int(point["batch"]), deployment.split.dp
    sequences = max(tokens // int(point["length"]), 1)
    return StepWork.prefill(sequences * ranks, tokens * ranks, dp=ranks)


@lru_cache(maxsize=16)
def _deployment(scenario: Scenario, text: Text | None, policy: PlacementPolicy) -> Deployment:
    """Deploy a scenario; a text is served in one half by experts that were placed by the other half."""
    deployment = deploy(scenario)
    if text is None:
        return deployment
    seen, served = _halves(text, deployment.model, scenario.seed)
    nodes = expert_nodes(deployment.split, deployment.hardware)
    redundant = scenario.placement.redundant_slots
    placement = place_experts(
        policy, seen, deployment.model, deployment.split.ep, redundant, nodes=nodes, seed=scenario.seed
    )
    lanes = deployment.limits.max_running * deployment.split.dp
    routing = replay(served, placement, lanes, replica_routing=scenario.placement.replica_routing, nodes=nodes)
    return repriced(deployment, cost=deployment.cost, routing=routing)


@lru_cache(maxsize=2)
def _halves(text: Text, model: ModelSpec, seed: int) -> tuple[RoutingTrace, RoutingTrace]:
    moe = model.moe
    if moe is None:
        raise ScenarioError(f"{model.name}: a text needs a model with experts")
    trace = generate_routing(
        "domain",
        tokens=text.tokens,
        layers=len(model.moe_layers),
        num_experts=moe.num_experts,
        top_k=moe.top_k,
        seed=seed,
        sequence_tokens=text.sequence_tokens,
        spread=text.spread,
        shared=text.shared,
        stickiness=0.0,
    )
    return split_trace(trace, 0.5)
