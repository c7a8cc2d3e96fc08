"""Experts per batch, hit ratios, and latencies of batching by expert, read from runs of the scenarios beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from simulator.api import explain, simulate
from simulator.offload import CachePolicy, replay_cache
from simulator.results.values import Result
from simulator.scenario import Scenario
from validation.papers.papers import Case
from validation.papers.systems import scenario_file
from workloads.models.sizes import active_parameters, total_parameters
from workloads.routing.generators import generate_routing
from workloads.routing.stats import repeat_fraction
from workloads.streams import stream

Inputs = Mapping[str, Any]
_CAPACITIES = (2, 3, 4, 5)


def figures(case: Case) -> Mapping[str, float]:
    """Sizes, experts [1], shares and gains [1]."""
    given, models = case.inputs, case.models
    moe, router = models["moe"], models["router"]
    return {
        "active": sum(active_parameters(moe).values()) + total_parameters(router),
        "total": total_parameters(moe) + total_parameters(router),
        **_unique(given),
        **_reuse(given),
        **_hits(given),
        **_single(given),
        **_gains(),
    }


def _scenario(name: str, *changes: str) -> Scenario:
    return Scenario.load(scenario_file("readme", name), changes)


def _unique(given: Inputs) -> dict[str, float]:
    """Experts with at least one of a batch's tokens, every expert as likely [1]."""
    experts, batch = given["mixtral_experts"], given["mixtral_batch"]
    spared = 1.0 - given["mixtral_top_k"] / experts
    more = 1.0 - 1.0 / batch
    # The mean of spared**size over sizes 1, 2, ... of a geometric distribution.
    nobody = spared * (1.0 - more) / (1.0 - spared * more)
    return {"unique.fixed": experts * (1.0 - spared**batch), "unique.geometric": experts * (1.0 - nobody)}


def _reuse(given: Inputs) -> dict[str, float]:
    """Tokens of a sequence that keep the expert before, with a router that has no other favourites [1]."""
    experts = given["experts"]
    trace = generate_routing(
        "sticky",
        tokens=20 * given["sequence"],
        layers=1,
        num_experts=experts,
        top_k=1,
        seed=given["seed"],
        stickiness=(given["reuse"] - 1.0 / experts) / (1.0 - 1.0 / experts),
        exponent=0.0,
        sequence_tokens=given["sequence"],
    )
    return {
        "reuse.readme": float(repeat_fraction(trace)[0]) * given["sequence"],
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


def _single(given: Inputs) -> dict[str, float]:
    """Shares of routers in a token's time, and what the experts save of a request's latency [1]."""
    beside = scenario_file("readme", "single").parent
    experts = f"model.name={beside / 'moe.toml'}"
    before = (experts, "stack.scheduler=expert_aware")
    dense, pregated, free = (
        simulate(_scenario("single", *changes)).summary
        for changes in ((), (*before, f"offload.router={beside / 'router.toml'}"), before)
    )
    step = explain(_scenario("single", experts), phase="decode", batch=1, context=given["context"])
    of_router = step.ops["name"].isin(("router", "top_k"))
    return {
        "router.layerwise": float(step.ops["time_s"][of_router].sum()) / step.step_s,
        "router.pregated": 1.0 - free.tpot_s.mean / pregated.tpot_s.mean,
        "reduction": 1.0 - pregated.e2el_s.mean / dense.e2el_s.mean,
    }


def _gains() -> dict[str, float]:
    """Latency that batching by expert saves, on the same requests and experts [1]."""
    aware, answers, prompts = (
        simulate(_scenario("batched", f"offload.first={first}")) for first in ("expert", "decode", "prompt")
    )
    # While requests arrive, before the server drains.
    steps, arrivals = answers.steps, answers.requests.loc[answers.requests["measured"], "arrival_s"]
    loaded = steps[steps["start_s"].between(arrivals.min(), arrivals.max())]
    found = {"batch": float((loaded["prefill_tokens"] + loaded["decode_tokens"]).mean())}
    for name, other in (("decode_first", answers), ("prompt_first", prompts)):
        found[f"gain.{name}.mean"] = 1.0 - aware.summary.e2el_s.mean / other.summary.e2el_s.mean
        found[f"gain.{name}.p95"] = 1.0 - _p95(aware) / _p95(other)
    return found


def _p95(result: Result) -> float:
    """95th percentile of the latency of the measured requests [s]."""
    measured = result.requests[result.requests["measured"]]
    return float(np.percentile(measured["finish_s"] - measured["arrival_s"], 95.0))
