"""Experts per batch, hit ratios, and latencies of batching by expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from simulator.cost.model import CostModel
from simulator.deployment.limits import Limits
from simulator.hardware import load_hardware
from simulator.offload import CachePolicy, replay_cache
from simulator.ops import StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.scenario.sections import Offload, Stack
from simulator.serving.engine import EngineRun, Pool, run_engine
from simulator.serving.recorder import column
from simulator.serving.request_experts import request_experts
from simulator.stack import customised
from simulator.step.pregated import PregatedCosts, PregatedTimer, pregated_costs
from simulator.step.tables import compile_tables
from simulator.step.timer import TableTimer
from simulator.step.totals import row_totals
from validation.papers.papers import Case
from workloads.models.sizes import active_parameters, total_parameters
from workloads.models.spec import ModelSpec
from workloads.requests.generators import generate_requests
from workloads.routing.generators import generate_routing
from workloads.routing.stats import repeat_fraction
from workloads.routing.trace import RoutingTrace
from workloads.streams import stream

Inputs = Mapping[str, Any]
_CAPACITIES = (2, 3, 4, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """The device, priced."""

    cost: CostModel
    costs: PregatedCosts
    limits: Limits


def figures(case: Case) -> Mapping[str, float]:
    """Sizes, experts [1], shares and gains [1]."""
    given, models = case.inputs, case.models
    moe, router = models["moe"], models["router"]
    cost = CostModel(hardware=load_hardware(given["device"]), stack=customised(Stack(name=given["stack"])))
    limits = Limits(
        dp=1,
        token_budget=given["token_budget"],
        max_running=given["max_running"],
        pool=1.0,
        kv_per_token=0.0,
        kv_per_sequence=0.0,
        scheduler="expert_aware",
        chunked=True,
    )
    setting = _Setting(cost=cost, costs=pregated_costs(cost, moe, limits.token_budget, router), limits=limits)
    return {
        "active": sum(active_parameters(moe).values()) + total_parameters(router),
        "total": total_parameters(moe) + total_parameters(router),
        **_unique(given),
        **_reuse(given),
        **_hits(given),
        **_single(given, setting, models),
        **_gains(given, setting),
    }


def _unique(given: Inputs) -> dict[str, float]:
    """Experts with at least one of a batch's tokens, every expert as likely [1]."""
    experts, batch = given["mixtral_experts"], given["mixtral_batch"]
    spared = 1.0 - given["mixtral_top_k"] / experts
    more = 1.0 - 1.0 / batch
    # The mean of spared**size over sizes 1, 2, ... of a geometric distribution.
    nobody = spared * (1.0 - more) / (1.0 - spared * more)
    return {"unique.fixed": experts * (1.0 - spared**batch), "unique.geometric": experts * (1.0 - nobody)}


def _routing(given: Inputs, tokens: int) -> RoutingTrace:
    """A router that keeps the expert of the token before as often as the paper says and else has no favourites."""
    used = given["used_experts"]
    stickiness = (given["reuse"] - 1.0 / used) / (1.0 - 1.0 / used)
    return generate_routing(
        "sticky",
        tokens=tokens,
        layers=1,
        num_experts=used,
        top_k=1,
        seed=given["seed"],
        stickiness=stickiness,
        exponent=0.0,
        sequence_tokens=given["sequence"],
    )


def _reuse(given: Inputs) -> dict[str, float]:
    repeats = float(repeat_fraction(_routing(given, 20 * given["sequence"]))[0])
    return {
        "reuse.readme": repeats * given["sequence"],
        "reuse.mixtral": float(np.mean(given["mixtral_repeats"])) * given["sequence"],
    }


def _hits(given: Inputs) -> dict[str, float]:
    """Hit ratios where the experts of successive batches are independent and equally likely [1]."""
    used = given["used_experts"]
    needed = stream(given["seed"], "routing").integers(used, size=given["references"])
    policies: tuple[CachePolicy, ...] = ("random", "lru", "belady")
    found: dict[str, float] = {}
    for policy in policies:
        run = replay_cache(needed, used, _CAPACITIES, policy, window=given["lookahead"], seed=given["seed"])
        found |= {f"hits.{policy}.{c}": float(rate) for c, rate in zip(_CAPACITIES, run.hit_rate, strict=True)}
    return found


def _single(given: Inputs, setting: _Setting, models: Mapping[str, ModelSpec]) -> dict[str, float]:
    """Mean step of one request that generates so many tokens, and what of it is the router's [1]."""
    cost, stack = setting.cost, setting.cost.stack
    context = given["prompt"] + np.arange(given["generated"])
    shape = StepShape(decode_sequences=np.ones(len(context)), decode_context=context)
    gap = stack.number("cpu_gap") + stack.number("cpu_gap_per_request")

    def step(model: ModelSpec, *names: str) -> float:
        ops = build_ops(model, Parallelism(), stack, shape)
        times = cost.times([op for op in ops if not names or op.name in names])
        return float(sum(time.seconds.mean() for time in times))

    pregated = step(setting.costs.backbone) + float(setting.costs.router[1]) + gap
    return {
        "router.layerwise": step(models["moe"], "router", "top_k") / (step(models["moe"]) + gap),
        "router.pregated": float(setting.costs.router[1]) / pregated,
        "reduction": 1.0 - pregated / (step(models["dense"]) + gap),
    }


def _gains(given: Inputs, setting: _Setting) -> dict[str, float]:
    """Latency that batching by expert saves, on the same requests and experts [1]."""
    lengths = {"kind": "lognormal", "cv": given["length_cv"], "minimum": 2, "maximum": given["longest"]}
    requests = generate_requests(
        requests=given["requests"],
        seed=given["seed"],
        arrivals={"kind": "poisson", "rate": given["rate"]},
        input_tokens={**lengths, "mean": given["prompt"]},
        output_tokens={**lengths, "mean": given["answer"]},
    )
    tokens = int((requests.input_tokens + requests.output_tokens).sum())
    experts = request_experts(requests, _routing(given, tokens))
    tables = compile_tables(
        setting.cost,
        setting.costs.backbone,
        Parallelism(),
        None,
        most_tokens=setting.limits.token_budget,
        most_sequences=min(setting.limits.max_running, setting.limits.token_budget),
        most_context=2 * given["longest"],
    )
    totals = row_totals(tables, setting.cost.stack)

    def play(first: Literal["expert", "decode", "prompt"]) -> EngineRun:
        timer = PregatedTimer(TableTimer(tables, totals, None, setting.cost.stack), setting.costs, totals.padded)
        limits = replace(setting.limits, offload=Offload(first=first))
        return run_engine(requests, [Pool(timers=[timer], limits=limits, experts=experts)])

    aware, answers, prompts = play("expert"), play("decode"), play("prompt")
    counted = slice(given["warmup"], -given["tail"])

    def latency(run: EngineRun, percentile: float | None) -> float:
        own = (column(run.requests.finish) - requests.arrival)[counted]
        return float(own.mean() if percentile is None else np.percentile(own, percentile))

    bounds = np.searchsorted(answers.steps["start_s"], requests.arrival[[given["warmup"], -given["tail"]]])
    found = {"batch": float(answers.steps["rows"][slice(*bounds.tolist())].mean())}
    for name, other in (("decode_first", answers), ("prompt_first", prompts)):
        for label, percentile in (("mean", None), ("p95", 95.0)):
            found[f"gain.{name}.{label}"] = 1.0 - latency(aware, percentile) / latency(other, percentile)
    return found
