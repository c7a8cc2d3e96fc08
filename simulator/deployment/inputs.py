"""What a scenario names: models, hardware, stacks and traces, read or generated, and kept while their files stay so.

What reads and draws traces is loaded when a scenario asks for it: most find theirs on the disk.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.files import contents, stamp
from hardware_profiles.loader import FOLDER_VARIABLE, load_device
from hardware_profiles.residuals import load_residuals, load_transfer
from simulator.arrays import FloatArray
from simulator.deployment.disk import kept_on_disk
from simulator.deployment.prices import PRICES, digest
from simulator.errors import InfeasibleScenario, ScenarioError
from simulator.hardware import Hardware, load_hardware
from simulator.scenario.sections import HardwareChoice, Lengths, Model, Requests, Routing
from simulator.stack import StackProfile, load_stack
from simulator.startup import Startup, load_startup
from workloads.memory import require_memory
from workloads.models.library import load_model, with_dtypes
from workloads.models.spec import ModelSpec
from workloads.requests.arrivals import DAY
from workloads.requests.generators import SessionShape, generate_requests
from workloads.requests.trace import RequestTrace, head, repeat, scale_rate
from workloads.requests.turns import first_requests, mean_rate
from workloads.routing.mixed import Router, apart, by_kind, largest, side_by_side
from workloads.routing.trace import RoutingTrace, check_routing, with_experts
from workloads.samples import sample_path
from workloads.streams import stream

T = TypeVar("T")

#: Least memory of a request that is played, and of one expert chosen by a generated token [bytes].
_REQUEST_BYTES, _CHOICE_BYTES = 400.0, 16.0

#: A value, and the digest of all that it says, which stands for it in a fingerprint.
Digested = tuple[T, str]


def read_model(choice: Model) -> Digested[ModelSpec]:
    """Load the model that a scenario names, in the dtypes that it asks for."""

    def read() -> Digested[ModelSpec]:
        model = load_model(choice.name)
        if choice.weights is not None or choice.kv_cache is not None:
            model = with_dtypes(model, weights=cast("Any", choice.weights), kv_cache=cast("Any", choice.kv_cache))
        if model.encoders:
            text = f"prompts are text: {model.encoders / 1e6:,.0f} M parameters of encoders take memory, nothing more"
            model = replace(model, notes=(*model.notes, text))
        return model, digest(model)

    return PRICES.loaded("model", choice, read)


def read_hardware(choice: HardwareChoice, devices: int) -> Digested[Hardware]:
    """Load the hardware that a scenario names, with as many nodes as ``devices`` need.

    The digest knows besides how far predictions with its kernels, its relatives' among them, are off.
    """
    folder = Path(choice.profiles) if choice.profiles else None

    def read() -> Digested[Hardware]:
        hardware = load_hardware(
            choice.device, choice.node, choice.cluster, folder, devices=devices, offer=choice.price
        )
        owner = hardware.device
        errors: list[object] = [load_residuals(owner.id, folder)]
        while owner.main.kernels_from is not None:
            owner = load_device(owner.main.kernels_from, folder)
            errors.append({owner.architecture: load_residuals(owner.id, folder)})
        return hardware, digest(hardware, errors, load_transfer(folder))

    return PRICES.loaded("hardware", (choice, devices, os.environ.get(FOLDER_VARIABLE)), read)


def read_stack(name: str) -> Digested[StackProfile]:
    """Load the stack that a scenario names, as its file states it."""
    return PRICES.loaded("stack", name, lambda: _digested(load_stack(name)))


def read_startup(name: str) -> Digested[Startup]:
    """Load the start-up profile that a scenario names."""
    return PRICES.loaded("startup", name, lambda: _digested(load_startup(name)))


def _digested(value: T) -> Digested[T]:
    return value, digest(value)


def scenario_model(choice: Model) -> ModelSpec:
    """Return the model that a scenario names, in the dtypes that it asks for."""
    return read_model(choice)[0]


def scenario_hardware(choice: HardwareChoice, devices: int) -> Hardware:
    """Return the hardware that a scenario names, with as many nodes as ``devices`` need."""
    return read_hardware(choice, devices)[0]


def scenario_requests(choice: Requests, seed: int) -> RequestTrace:
    """Read or generate the requests of a scenario; kept until the choice or its file changes.

    Raises
    ------
    ScenarioError
        A key that the kind of load needs is missing.
    WorkloadError
        The trace cannot be read.
    """
    return PRICES.loaded("requests", (choice, seed), lambda: _requests(choice, seed))


def _requests(choice: Requests, seed: int) -> RequestTrace:
    if choice.priorities:
        trace = _requests(choice.model_copy(update={"priorities": ()}), seed)
        shares = np.asarray(choice.priorities) / sum(choice.priorities)
        classes = stream(seed, "priorities").choice(len(shares), size=len(trace), p=shares)
        # All turns of a session are as urgent as its first.
        return replace(trace, priority=classes.astype(np.int64)[first_requests(trace)])
    if choice.kind == "trace":
        if choice.trace is None:
            raise ScenarioError("requests.trace: is required where requests.kind = 'trace'")
        from workloads.requests.files import read_request_trace

        reader = partial(
            read_request_trace,
            time_unit=choice.time_unit,
            block_tokens=choice.block_tokens,
            turn_prompts=choice.turn_prompts,
            concurrency=choice.concurrency,
        )
        trace = _read(reader, choice.trace)
        if choice.count is not None:
            trace = _first(trace, choice.count)
        if choice.rate is not None:
            trace = _rescaled(trace, choice.rate)
        require_memory("requests.repeat", len(trace) * choice.repeat, _REQUEST_BYTES)
        return repeat(trace, choice.repeat) if choice.repeat > 1 else trace
    count = choice.count or _default_count(choice)
    require_memory("requests.count" if choice.count else "requests.concurrency", count, _REQUEST_BYTES)
    sessions = choice.sessions
    return generate_requests(
        requests=count,
        seed=seed,
        arrivals=_arrivals(choice),
        input_tokens=_lengths(choice.lengths, choice.lengths.input),
        output_tokens=_lengths(choice.lengths, choice.lengths.output),
        sessions=SessionShape(
            turns=sessions.turns,
            spread=sessions.spread,
            think_time=sessions.think_time,
            think_kind=sessions.think_kind,
            added_tokens=_lengths(choice.lengths, sessions.input or choice.lengths.input),
        )
        if sessions.active
        else None,
    )


def _default_count(choice: Requests) -> int:
    if choice.kind != "closed_loop":
        return 1000
    return 10 * (choice.concurrency or 1) * math.ceil(choice.sessions.turns)


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
        arrivals["profile"] = _profile(choice)
        if choice.period is not None:
            arrivals["period"] = choice.period
    return arrivals


def _profile(choice: Requests) -> tuple[float, ...]:
    swing = choice.amplitude * np.sin(2 * np.pi * np.arange(24) / 24)
    return choice.profile or tuple((1.0 + swing).tolist())


def daily_rates(choice: Requests) -> tuple[FloatArray, float]:
    """Return the rates of the equal parts of a day, shape (parts,) [1/s], and how long it is [s]."""
    if choice.rate is None:
        raise ScenarioError(f"requests.rate: is required where requests.kind = {choice.kind!r}")
    profile = np.array(_profile(choice))
    return choice.rate * profile / profile.mean(), choice.period or DAY


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
    if trace.concurrency is not None:
        raise ScenarioError(
            f"requests.rate: got {rate:g}, but the trace is a closed loop of {trace.concurrency}, which sends requests "
            "as others end; leave it out"
        )
    own = mean_rate(trace)
    if not own > 0:
        raise ScenarioError("requests.rate: a trace whose requests all arrive at once has no rate to scale")
    return scale_rate(trace, rate / own)


def trace_path(name: str) -> Path:
    """Path of a trace or fit, or of the sample that ``sample:NAME`` names."""
    return sample_path(name.removeprefix("sample:")) if name.startswith("sample:") else Path(name)


def _read(read: Callable[[Path], T], name: str) -> T:
    path = trace_path(name)
    stamp(path)
    return read(path)


def scenario_routing(choice: Routing, model: ModelSpec, seed: int) -> RoutingTrace | None:
    """Read or generate the routing trace of a scenario, kept until something of it changes; ``None`` for a dense model.

    Raises
    ------
    WorkloadError
        The trace cannot be read or does not match the model.
    """
    if not model.moe_layers:
        return None
    _require_routing_source(choice)
    routers = tuple(
        Router(num_experts=moe.num_experts, null_experts=moe.null_experts, top_k=moe.top_k) for moe in model.moe_layers
    )
    return PRICES.loaded("routing", (choice, routers, seed), lambda: _kept_routing(choice, routers, seed))


def _kept_routing(choice: Routing, routers: tuple[Router, ...], seed: int) -> RoutingTrace:
    """Take a routing that is drawn from the disk, where an earlier process drew it."""
    if choice.kind in ("trace", "balanced"):
        return _routing(choice, routers, seed)
    fit = contents(trace_path(choice.fit)) if choice.fit else None
    said = (choice.model_dump(), fit, *(dataclasses.astuple(router) for router in routers), seed)
    kept = kept_on_disk("routing", said, lambda: _routing_arrays(_routing(choice, routers, seed)))
    return RoutingTrace(
        expert_ids=kept["expert_ids"],
        sequence_start=kept["sequence_start"],
        num_experts=int(kept["num_experts"]),
        source=str(kept["source"]),
        padded=bool(kept["padded"]),
    )


def _routing_arrays(trace: RoutingTrace) -> dict[str, NDArray[Any]]:
    return {field.name: np.asarray(getattr(trace, field.name)) for field in fields(trace)}


def _routing(choice: Routing, routers: tuple[Router, ...], seed: int) -> RoutingTrace:
    """Route the tokens of every MoE layer, each kind of layer by itself where they differ."""
    whole, kinds = largest(routers), by_kind(routers)
    if choice.kind == "trace":
        trace = _recorded_routing(choice, routers)
    else:
        require_memory("routing.tokens", choice.tokens * len(routers) * whole.top_k, _CHOICE_BYTES)
        drawn = {
            router: _drawn_routing(choice, len(layers), router.choices, router.top_k, seed)
            for router, layers in kinds.items()
        }
        trace = drawn[whole] if len(kinds) == 1 else side_by_side(drawn, routers)
    if not (trace.expert_ids < whole.num_experts).any():
        raise InfeasibleScenario(f"routing trace {trace.source}: no token chooses any expert that computes")
    if choice.capacity_factor is None:
        return trace
    from workloads.routing.routers import drop_trace

    return drop_trace(trace, choice.capacity_factor, min(choice.capacity_batch, trace.tokens))


def _recorded_routing(choice: Routing, routers: tuple[Router, ...]) -> RoutingTrace:
    from workloads.routing.files import read_routing_trace

    whole = largest(routers)
    trace = _read(read_routing_trace, str(choice.trace))
    check_routing(trace, num_experts=whole.choices, layers=len(routers), top_k=whole.top_k)
    trace = with_experts(trace, whole.choices)
    return trace if len(set(routers)) == 1 else side_by_side(apart(trace, routers), routers)


def _drawn_routing(choice: Routing, layers: int, experts: int, top_k: int, seed: int) -> RoutingTrace:
    if choice.kind == "balanced":
        return balanced_routing(layers, experts, top_k)
    if choice.kind == "fitted":
        return _fitted_routing(choice, layers, experts, top_k, seed)
    return _generated_routing(choice, layers, experts, top_k, seed)


def _require_routing_source(choice: Routing) -> None:
    """Ask for the file that the kind of routing reads."""
    for kind, key, value in (("trace", "trace", choice.trace), ("fitted", "fit", choice.fit)):
        if choice.kind == kind and not value:
            raise ScenarioError(f"routing.{key}: is required where routing.kind = {kind!r}")


def _fitted_routing(choice: Routing, layers: int, experts: int, top_k: int, seed: int) -> RoutingTrace:
    parameters: dict[str, dict[str, Any]] = {
        "group_limited": {"num_groups": choice.groups, "top_k_groups": choice.top_k_groups},
        "top_p": {"p": choice.top_p, "most": experts},
    }
    from workloads.routing.fit_files import read_routing_fit
    from workloads.routing.latent import generate_fitted

    return generate_fitted(
        _read(read_routing_fit, str(choice.fit)),
        tokens=choice.tokens,
        seed=seed,
        layers=layers,
        num_experts=experts,
        top_k=top_k,
        router=choice.router,
        router_parameters=parameters.get(choice.router or ""),
    )


def _generated_routing(choice: Routing, layers: int, experts: int, top_k: int, seed: int) -> RoutingTrace:
    parameters: dict[str, dict[str, Any]] = {
        "zipf": {"exponent": choice.skew},
        "power_law": {"lowest": choice.skew, "highest": choice.skew},
        "dirichlet": {"alpha": choice.alpha},
        "domain": {"spread": choice.skew},
        "sticky": {"exponent": choice.skew},
        "drifting": {"exponent": choice.skew},
    }
    from workloads.routing.generators import generate_routing

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
