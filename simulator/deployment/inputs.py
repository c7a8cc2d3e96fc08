"""What a scenario replays: its request trace and its routing trace, read or generated and kept while they stay so."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import InfeasibleScenario, ScenarioError
from simulator.scenario.sections import Lengths, Requests, Routing
from workloads.models.spec import ModelSpec
from workloads.requests.files import read_request_trace
from workloads.requests.generators import generate_requests
from workloads.requests.trace import RequestTrace, head, repeat, scale_rate
from workloads.routing.files import read_routing_trace
from workloads.routing.fit_files import read_routing_fit
from workloads.routing.generators import generate_routing
from workloads.routing.latent import generate_fitted
from workloads.routing.routers import drop_trace
from workloads.routing.trace import RoutingTrace, check_routing, with_experts
from workloads.samples import sample_path
from workloads.streams import stream


def scenario_requests(choice: Requests, seed: int) -> RequestTrace:
    """Read or generate the requests of a scenario; kept until the choice or its file changes.

    Raises
    ------
    ScenarioError
        A key that the kind of load needs is missing.
    WorkloadError
        The trace cannot be read.
    """
    file = _sample_or_path(choice.trace) if choice.trace else None
    return _requests(choice, seed, file.stat().st_mtime_ns if file and file.is_file() else 0)


@lru_cache(maxsize=4)
def _requests(choice: Requests, seed: int, stamp: int) -> RequestTrace:
    if choice.priorities:
        trace = _requests(choice.model_copy(update={"priorities": ()}), seed, stamp)
        shares = np.asarray(choice.priorities) / sum(choice.priorities)
        classes = stream(seed, "priorities").choice(len(shares), size=len(trace), p=shares)
        return replace(trace, priority=classes.astype(np.int64))
    if choice.kind == "trace":
        if choice.trace is None:
            raise ScenarioError("requests.trace: is required where requests.kind = 'trace'")
        trace = read_request_trace(_sample_or_path(choice.trace))
        if choice.count is not None:
            trace = _first(trace, choice.count)
        if choice.rate is not None:
            trace = _rescaled(trace, choice.rate)
        return repeat(trace, choice.repeat) if choice.repeat > 1 else trace
    if choice.trace is not None:
        raise ScenarioError(f"requests.trace: is only read where requests.kind = 'trace', got {choice.kind!r}")
    return generate_requests(
        requests=choice.count or _default_count(choice),
        seed=seed,
        arrivals=_arrivals(choice),
        input_tokens=_lengths(choice.lengths, choice.lengths.input),
        output_tokens=_lengths(choice.lengths, choice.lengths.output),
    )


def _default_count(choice: Requests) -> int:
    return 10 * (choice.concurrency or 1) if choice.kind == "closed_loop" else 1000


def _arrivals(choice: Requests) -> dict[str, Any]:
    if choice.kind == "closed_loop":
        if choice.concurrency is None:
            raise ScenarioError("requests.concurrency: is required where requests.kind = 'closed_loop'")
        return {"kind": "closed_loop", "concurrency": choice.concurrency}
    if choice.rate is None:
        raise ScenarioError(f"requests.rate: is required where requests.kind = {choice.kind!r}")
    arrivals: dict[str, Any] = {"kind": choice.kind, "rate": choice.rate}
    if choice.kind == "gamma":
        arrivals["cv"] = choice.cv
    if choice.kind == "diurnal":
        swing = choice.amplitude * np.sin(2 * np.pi * np.arange(24) / 24)
        arrivals["profile"] = choice.profile or tuple((1.0 + swing).tolist())
        if choice.period is not None:
            arrivals["period"] = choice.period
    return arrivals


def _lengths(choice: Lengths, tokens: int) -> dict[str, Any]:
    match choice.kind:
        case "fixed":
            return {"kind": "fixed", "length": tokens}
        case "uniform":
            return {"kind": "uniform", "length": tokens, "ratio": choice.range_ratio}
        case "lognormal":
            return {"kind": "lognormal", "mean": tokens, "cv": choice.cv}


def _first(trace: RequestTrace, count: int) -> RequestTrace:
    """Cut a trace to its first requests, and note where it has fewer."""
    if count <= len(trace):
        return head(trace, count)
    note = f"requests.count: got {count}, but the trace has {len(trace)} requests and is played once (requests.repeat)"
    return replace(trace, notes=(*trace.notes, note))


def _rescaled(trace: RequestTrace, rate: float) -> RequestTrace:
    span = float(trace.arrival[-1] - trace.arrival[0])
    if span <= 0:
        raise ScenarioError("requests.rate: a trace whose requests all arrive at once has no rate to scale")
    return scale_rate(trace, rate * span / max(len(trace) - 1, 1))


def _sample_or_path(name: str) -> Path:
    return sample_path(name.removeprefix("sample:")) if name.startswith("sample:") else Path(name)


def scenario_routing(choice: Routing, model: ModelSpec, seed: int) -> RoutingTrace | None:
    """Read or generate the routing trace of a scenario; ``None`` for a dense model.

    Raises
    ------
    InfeasibleScenario
        The model has MoE blocks of several shapes.
    WorkloadError
        The trace cannot be read or does not match the model.
    """
    blocks = model.moe_layers
    if not blocks:
        return None
    if len(set(blocks)) > 1:
        raise InfeasibleScenario(f"{model.name}: MoE layers of {len(set(blocks))} different shapes are not supported")
    moe, layers = blocks[0], len(blocks)
    experts = moe.num_experts + moe.null_experts
    _check_routing_keys(choice)
    if choice.kind == "trace":
        trace = read_routing_trace(_sample_or_path(str(choice.trace)))
        if trace.num_experts < experts:
            # The last experts may simply never have been chosen.
            trace = with_experts(trace, experts)
        check_routing(trace, num_experts=experts, layers=layers, top_k=moe.top_k)
    elif choice.kind == "balanced":
        trace = balanced_routing(layers, experts, moe.top_k)
    elif choice.kind == "fitted":
        file = _sample_or_path(str(choice.fit))
        stamp = file.stat().st_mtime_ns if file.is_file() else 0
        trace = _fitted_routing(choice, layers, experts, moe.top_k, seed, stamp)
    else:
        trace = _generated_routing(choice, layers, experts, moe.top_k, seed)
    if choice.capacity_factor is None:
        return trace
    return drop_trace(trace, choice.capacity_factor, min(choice.capacity_batch, trace.tokens))


def _check_routing_keys(choice: Routing) -> None:
    """Refuse keys that the kind of routing does not read, and ask for those that it needs."""
    for kind, key, value in (("trace", "trace", choice.trace), ("fitted", "fit", choice.fit)):
        if choice.kind == kind and value is None:
            raise ScenarioError(f"routing.{key}: is required where routing.kind = {kind!r}")
    if choice.kind != "trace" and choice.trace:
        raise ScenarioError(f"routing.trace: is only read where routing.kind = 'trace', got {choice.kind!r}")
    if choice.kind != "fitted" and (choice.fit or choice.router):
        key = "fit" if choice.fit else "router"
        raise ScenarioError(f"routing.{key}: is only read where routing.kind = 'fitted', got {choice.kind!r}")


@lru_cache(maxsize=4)
def _fitted_routing(choice: Routing, layers: int, experts: int, top_k: int, seed: int, _stamp: int) -> RoutingTrace:
    parameters: dict[str, dict[str, Any]] = {
        "group_limited": {"num_groups": choice.groups, "top_k_groups": choice.top_k_groups},
        "top_p": {"p": choice.top_p, "most": experts},
    }
    return generate_fitted(
        read_routing_fit(_sample_or_path(str(choice.fit))),
        tokens=choice.tokens,
        seed=seed,
        layers=layers,
        num_experts=experts,
        top_k=top_k,
        router=choice.router,
        router_parameters=parameters.get(choice.router or ""),
    )


@lru_cache(maxsize=4)
def _generated_routing(choice: Routing, layers: int, experts: int, top_k: int, seed: int) -> RoutingTrace:
    parameters: dict[str, dict[str, Any]] = {
        "zipf": {"exponent": choice.skew},
        "power_law": {"lowest": choice.skew, "highest": choice.skew},
        "dirichlet": {"alpha": choice.alpha},
        "domain": {"spread": choice.skew},
        "sticky": {"exponent": choice.skew},
        "drifting": {"exponent": choice.skew},
    }
    return generate_routing(
        "layer_skew" if choice.kind == "power_law" else choice.kind,
        tokens=choice.tokens,
        layers=layers,
        num_experts=experts,
        top_k=top_k,
        seed=seed,
        **parameters.get(choice.kind, {}),
    )


def balanced_routing(layers: int, num_experts: int, top_k: int) -> RoutingTrace:
    """Route so that every window of tokens loads experts, and contiguous groups of them, as evenly as it can.

    Assignments go round the experts with the golden stride, which spreads any run of them evenly.
    """
    stride = max(round(num_experts * 0.618), 1)
    while np.gcd(stride, num_experts) != 1:
        stride += 1
    tokens = num_experts * 4
    turn: NDArray[np.int64] = (np.arange(tokens * top_k) * stride % num_experts).reshape(tokens, 1, top_k)
    return RoutingTrace(
        expert_ids=np.broadcast_to(turn, (tokens, layers, top_k)).astype(np.uint16),
        # A sequence for every token keeps this order in decode batches too.
        sequence_start=np.arange(tokens, dtype=np.int64),
        num_experts=num_experts,
        source="balanced",
    )
