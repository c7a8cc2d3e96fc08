"""Figures of published serving systems, from steps of their stated batch.

A case lists scenarios and points. A point is a step with the batch, lengths and parallelism that the publication
states, or a load that the closed form or the engine answers. Publications of systems with pools for prompts and answers
count each phase's own tokens on that phase's own devices, and so do these figures.

Point keys: ``scenario`` and ``set`` (what runs), ``phase`` (``prefill``, ``decode``, ``estimate`` or ``simulate``),
``batch`` (tokens of a rank in a prefill step, requests of a rank in a decode step), ``length`` (prompt length or KV
length), ``prefix`` (cached tokens before each prompt), ``routing`` (text whose placement was computed on other text)
and ``policy`` (of that placement), ``overlap`` (instead of the scenario's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from simulator.api import estimate, simulate
from simulator.deployment.deployment import Deployment, deploy, expert_nodes, repriced
from simulator.errors import ScenarioError
from simulator.placement import place_experts
from simulator.placement.replay import replay
from simulator.results.values import Summary
from simulator.scenario import Scenario
from simulator.scenario.sections import PlacementPolicy
from simulator.step.work import StepWork
from simulator.study.placement import split_trace
from validation.papers.papers import Case
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
            found |= {f"{name}.{key}": value for key, value in _load(given, point).items()}
        else:
            found |= {f"{name}.{key}": value for key, value in _step(given, point).items()}
    for name, (first, second) in given.get("ratios", {}).items():
        found[name] = found[f"{first}.rate"] / found[f"{second}.rate"]
    for name, (first, second) in given.get("slowdowns", {}).items():
        found[name] = found[f"{first}.step"] / found[f"{second}.step"]
    for name, points in given.get("peaks", {}).items():
        found[name] = float(np.argmax([found[f"{point}.rate"] for point in points]))
    for name, factor in given.get("per", {}).items():
        found |= {f"{key}_per_{name}": factor * found[key] for key in list(found) if key.endswith(".rate")}
    return found


def _scenario(given: Mapping[str, Any], point: Mapping[str, Any]) -> Scenario:
    base = Scenario.from_mapping(given["scenarios"][point["scenario"]], point["scenario"])
    return base.override(*point.get("set", ()))


def _load(given: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, float]:
    scenario = _scenario(given, point)
    answer = estimate(scenario) if point["phase"] == "estimate" else simulate(scenario)
    summary: Summary = answer.summary
    return {
        "rate": summary.output_tokens_per_s_per_gpu,
        "tpot": summary.tpot_s.mean,
        "ttft": summary.ttft_s.mean,
        "batch": summary.batch_size_mean,
    }


def _step(given: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, float]:
    scenario = _scenario(given, point)
    text = Text(**given["routing"][point["routing"]]) if "routing" in point else None
    deployment = _deployment(scenario, text, point.get("policy", scenario.placement.policy))
    if "overlap" in point:
        deployment = replace(deployment, stack=replace(deployment.stack, overlap=point["overlap"]))
    prompt = point["phase"] == "prefill"
    work = prompt_work(deployment, point) if prompt else decode_work(deployment, point)
    timer = deployment.timer()
    seconds = float(np.mean([timer.time(work).duration for _ in range(WINDOWS)]))
    gain = 1.0 if prompt else deployment.limits.accepted_per_step
    devices = deployment.split.tp * deployment.split.pp
    return {
        "step": seconds,
        "tpot": seconds / gain,
        "speed": gain / seconds,
        "rate": point["batch"] * gain / seconds / devices,
    }


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
    return StepWork.prefill(sequences * ranks, tokens * ranks, dp=ranks, prefix=float(point.get("prefix", 0)))


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
