"""A scenario made ready to run: everything it names loaded, checked against each other, and priced.

Priced tables depend on the model, hardware, split, stack and routing but not on the load, so they are kept and
shared by all scenarios that differ in the load alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from simulator.cost.model import CostModel
from simulator.cost.step_time import StepTables, compile_tables
from simulator.errors import InfeasibleScenario, ScenarioError
from simulator.hardware import Hardware, load_hardware
from simulator.memory import MemoryBudget, memory_budget, require_fit
from simulator.parallelism import Parallelism, require_split
from simulator.placement import Placement, place
from simulator.placement.affinity import coactivation
from simulator.placement.replay import RoutingReplay, replay
from simulator.scenario import Scenario
from simulator.sections import (
    Disaggregation,
    ElasticChoice,
    HardwareChoice,
    Lengths,
    Model,
    PrefixCache,
    Requests,
    Routing,
    Run,
    Slo,
)
from simulator.serving.speculation import tokens_per_step
from simulator.serving.state import Limits
from simulator.serving.timer import RowTotals, TableTimer, row_totals
from simulator.stack import StackProfile, customised
from workloads.model_library import load_model, with_dtypes
from workloads.model_spec import ModelSpec
from workloads.request_files import read_request_trace
from workloads.request_generators import generate_requests
from workloads.request_trace import RequestTrace, head, repeat, scale_rate
from workloads.routers import drop_trace
from workloads.routing_files import read_routing_trace
from workloads.routing_fit_files import read_routing_fit
from workloads.routing_generators import generate_routing
from workloads.routing_latent import generate_fitted
from workloads.routing_stats import expert_load
from workloads.routing_trace import RoutingTrace, check_routing, with_experts
from workloads.samples import sample_path
from workloads.streams import stream


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deployment:
    """One instance of a scenario, priced.

    Attributes
    ----------
    model, hardware, split, stack
        What runs where, how it is split, and what runs it.
    budget : MemoryBudget
        Memory of a device.
    routing : RoutingReplay or None
        The routing trace on its placement; ``None`` for a dense model.
    cost : CostModel
        Prices single ops.
    tables, totals : StepTables, RowTotals
        Price steps.
    limits : Limits
        What bounds steps and batches.
    drafts : int
        Tokens that the model itself drafts per step [1].
    longest : int
        Longest request that steps are priced for [tokens].
    warnings : tuple of str
        What a reader of the result must know.
    """

    model: ModelSpec
    hardware: Hardware
    split: Parallelism
    stack: StackProfile
    budget: MemoryBudget
    routing: RoutingReplay | None
    cost: CostModel
    tables: StepTables
    totals: RowTotals
    limits: Limits
    drafts: int
    longest: int
    warnings: tuple[str, ...]

    def timer(self, instance: int = 0, instances: int = 1) -> TableTimer:
        """Return a step timer; instances begin at different places of the routing trace."""
        return TableTimer(self.tables, self.totals, self.routing, self.stack, self.split.pp, instance / instances)


def scenario_model(choice: Model) -> ModelSpec:
    """Load the model that a scenario names, in the dtypes that it asks for."""
    model = load_model(choice.name)
    if choice.weights is None and choice.kv_cache is None:
        return model
    return with_dtypes(model, weights=cast("Any", choice.weights), kv_cache=cast("Any", choice.kv_cache))


def scenario_hardware(choice: HardwareChoice, devices: int) -> Hardware:
    """Load the hardware that a scenario names, with as many nodes as ``devices`` need."""
    folder = Path(choice.profiles) if choice.profiles else None
    alone = load_hardware(choice.device, choice.node, choice.cluster, folder, offer=choice.price)
    nodes = max(-(-devices // alone.node.devices), 1)
    return load_hardware(choice.device, choice.node, choice.cluster, folder, nodes=nodes, offer=choice.price)


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
            trace = head(trace, choice.count)
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


def deploy(scenario: Scenario, requests: RequestTrace | None = None) -> Deployment:
    """Make an instance of a scenario ready to run.

    Parameters
    ----------
    scenario : Scenario
        What to build.
    requests : RequestTrace or None
        The load, where it is known already; its longest request must fit.

    Raises
    ------
    MoesimError
        Anything that cannot be loaded, does not match or does not fit.
    """
    trace = requests if requests is not None else scenario_requests(scenario.requests, scenario.seed)
    longest = int((trace.input_tokens + trace.output_tokens).max())
    # Tables are sized in powers of two, so that scenarios which differ in their load alone share them.
    priced = scenario.model_copy(
        update={
            "name": "",
            "requests": Requests(),
            "disaggregation": Disaggregation(),
            "prefix_cache": PrefixCache(),
            "faults": (),
            "elastic": ElasticChoice(),
            "slo": Slo(),
            "run": Run(),
            "parallelism": scenario.parallelism.model_copy(update={"instances": 1}),
        }
    )
    deployment = _deploy(priced, _power_of_two(longest), _power_of_two(trace.concurrency or 0))
    require_fit(deployment.budget, deployment.model, deployment.split, longest)
    if longest <= deployment.model.max_context:
        return deployment
    warning = f"extrapolated: requests of {longest} tokens exceed the model's context of {deployment.model.max_context}"
    return replace(deployment, warnings=(*deployment.warnings, warning))


def _power_of_two(count: int) -> int:
    """Round up to a power of two; 0 stays 0."""
    return 1 << (count - 1).bit_length() if count else 0


@lru_cache(maxsize=8)
def _deploy(scenario: Scenario, longest: int, concurrency: int) -> Deployment:
    model = scenario_model(scenario.model)
    split = Parallelism(**scenario.parallelism.model_dump(include={"tp", "dp", "pp", "ep"}))
    stack = customised(scenario.stack)
    hardware = scenario_hardware(scenario.hardware, split.devices)
    slots = model.moe_layers[0].num_experts + scenario.placement.redundant_slots if model.moe_layers else None
    require_split(model, split, slots)
    if scenario.stack.overlap not in (None, "none") and not (model.moe_layers and split.exchanges_tokens):
        msg = (
            f"stack.overlap: got {scenario.stack.overlap!r}, but no tokens travel to experts with tp={split.tp} and "
            f"dp={split.dp}, so nothing can be hidden; use 'none', or dp > 1 on a model with routed experts"
        )
        raise ScenarioError(msg)
    budget = device_budget(model, split, stack, hardware, slots)
    require_fit(budget, model, split, 1, scenario.placement.redundant_slots)
    limits = _limits(scenario, stack, hardware, split, budget, concurrency)
    most_prompt = limits.token_budget if limits.chunked else max(limits.token_budget, longest)
    routing_trace = scenario_routing(scenario.routing, model, scenario.seed)
    concurrency = limits.max_running * split.dp
    routing = _place(scenario, routing_trace, model, split, hardware, concurrency) if routing_trace else None
    cost = CostModel(hardware=hardware, stack=stack)
    drafts = scenario.speculation.draft_tokens if scenario.speculation.draft == "mtp" else 0
    tables = compile_tables(
        cost,
        model,
        split,
        routing,
        most_tokens=most_prompt + limits.max_running * limits.queries,
        most_sequences=limits.max_running,
        most_context=longest,
        queries=limits.queries,
        drafts=drafts,
    )
    return Deployment(
        model=model,
        hardware=hardware,
        split=split,
        stack=stack,
        budget=budget,
        routing=routing,
        cost=cost,
        tables=tables,
        totals=row_totals(tables, stack, limits.queries),
        drafts=drafts,
        limits=limits,
        longest=longest,
        warnings=_warnings(hardware, cost.used, routing),
    )


def repriced(deployment: Deployment, *, cost: CostModel, routing: RoutingReplay | None) -> Deployment:
    """Price a deployment anew: on other hardware, or with its experts on other ranks."""
    tables = compile_tables(
        cost,
        deployment.model,
        deployment.split,
        routing,
        most_tokens=len(deployment.tables.tokens) - 1,
        most_sequences=deployment.limits.max_running,
        most_context=deployment.longest,
        queries=deployment.limits.queries,
        drafts=deployment.drafts,
    )
    return replace(
        deployment,
        hardware=cost.hardware,
        cost=cost,
        routing=routing,
        tables=tables,
        totals=row_totals(tables, deployment.stack, deployment.limits.queries),
    )


def device_budget(
    model: ModelSpec, split: Parallelism, stack: StackProfile, hardware: Hardware, slots: int | None
) -> MemoryBudget:
    """Split the memory of one device as the stack does."""
    return memory_budget(
        model,
        split,
        capacity=hardware.device.memory_capacity.value * stack.number("memory_fraction"),
        token_budget=stack.number("token_budget"),
        reserve=stack.number("activation_reserve"),
        expert_slots=slots,
    )


def _limits(
    scenario: Scenario,
    stack: StackProfile,
    hardware: Hardware,
    split: Parallelism,
    budget: MemoryBudget,
    concurrency: int,
) -> Limits:
    host = hardware.device.links.get("host")
    most = int(stack.number("max_running"))
    if budget.kv_per_sequence > 0:
        most = min(most, max(int(budget.pool / budget.sequence_bytes(1)), 1))
    if concurrency:
        most = min(most, -(-concurrency // split.dp) + 1)
    return Limits(
        dp=split.dp,
        token_budget=int(stack.number("token_budget")),
        max_running=max(most, 1),
        pool=budget.pool,
        kv_per_token=budget.kv_per_token,
        kv_per_sequence=budget.kv_per_sequence,
        scheduler=stack.scheduler,
        chunked=stack.chunked,
        reserved_output=stack.number("reserved_output"),
        preemption=scenario.stack.preemption,
        queries=1 + scenario.speculation.draft_tokens,
        gain=tokens_per_step(scenario.speculation),
        swap_rate=host.bandwidth.value if host else hardware.fabric.scale_out_bandwidth,
    )


def _place(
    scenario: Scenario,
    trace: RoutingTrace,
    model: ModelSpec,
    split: Parallelism,
    hardware: Hardware,
    concurrency: int,
) -> RoutingReplay:
    moe, choice = model.moe_layers[0], scenario.placement
    load = expert_load(trace)[:, : moe.num_experts].astype(np.float64)
    nodes = expert_nodes(split, hardware)
    placement: Placement = place(
        # With rebalancing nothing is known of the load at first.
        "linear" if choice.rebalance.active else choice.policy,
        load,
        split.ep,
        choice.redundant_slots,
        nodes=nodes,
        groups=moe.num_groups,
        seed=scenario.seed,
        together=coactivation(trace)[:, : moe.num_experts, : moe.num_experts] if choice.policy == "affinity" else None,
    )
    return replay(trace, placement, concurrency, replica_routing=choice.replica_routing, nodes=nodes)


def expert_nodes(split: Parallelism, hardware: Hardware) -> int:
    """Count the scale-up domains that the expert-parallel ranks of a stage fill [1]; 1 where they do not tile them."""
    domain = hardware.fabric.domain
    return split.group // domain if split.group % domain == 0 and split.ep % (split.group // domain) == 0 else 1


def _warnings(hardware: Hardware, used: frozenset[str], routing: RoutingReplay | None) -> tuple[str, ...]:
    found = []
    if borrowed := sorted({name.split(".")[0] for name in used if name not in hardware.device.main.kernels}):
        found.append(f"extrapolated: {hardware.device.id} takes {', '.join(borrowed)} from {hardware.evidence}")
    if routing is not None and routing.tokens < routing.recorded_tokens:
        found.append(f"routing trace cut to its first {routing.tokens} of {routing.recorded_tokens} tokens")
    return tuple(found)
