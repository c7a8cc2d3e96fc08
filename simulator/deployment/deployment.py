"""A scenario made ready to run: everything it names loaded, checked against each other, and priced.

Priced tables depend on the model, hardware, split, stack and routing but not on the load, so they are kept under the
fingerprint of these and shared by all scenarios that differ in the load alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from simulator.cost.model import CostModel
from simulator.deployment.fingerprint import fingerprint
from simulator.deployment.inputs import scenario_model, scenario_requests, scenario_routing
from simulator.deployment.layout import lay_out
from simulator.deployment.limits import Limits, instance_limits
from simulator.deployment.prices import PRICES, digest
from simulator.errors import ScenarioError
from simulator.hardware import Hardware, unused_processors
from simulator.memory import MemoryBudget, require_fit
from simulator.parallelism import Parallelism
from simulator.placement import place_experts
from simulator.placement.replay import RoutingReplay, replay
from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.scenario.sections import Model, Offload, Stack
from simulator.stack import StackProfile
from simulator.step.pregated import PregatedCosts, PregatedTimer, pregated_costs
from simulator.step.tables import StepTables, compile_tables
from simulator.step.timer import StepTimer, TableTimer
from simulator.step.totals import RowTotals, row_totals
from workloads.models.spec import ModelSpec
from workloads.requests.trace import RequestTrace
from workloads.routing.trace import RoutingTrace


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
    fingerprint : str
        Names all that the tables depend on: sections that price, contents of files, and the sizes of the load.
    pregated : PregatedCosts or None
        Prices of experts that are known before the step; ``model`` and the tables then have one as their dense FFN.
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
    fingerprint: str
    pregated: PregatedCosts | None = None

    def timer(self, instance: int = 0, instances: int = 1) -> TableTimer:
        """Return a step timer; instances begin at different places of the routing trace."""
        return TableTimer(self.tables, self.totals, self.routing, self.stack, self.split.pp, instance / instances)

    def engine_timer(self, instance: int = 0, instances: int = 1) -> StepTimer:
        """Return the timer that the engine plays with: that of :meth:`timer`, or one that knows the experts."""
        timer = self.timer(instance, instances)
        if self.pregated is None:
            return timer
        return PregatedTimer(timer, self.pregated, self.totals.padded, lookahead=self.limits.offload.lookahead)


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
    pricing, sizes = scenario.pricing(), (_power_of_two(longest), _power_of_two(trace.concurrency or 0))
    key = digest(fingerprint(pricing), sizes)
    deployment = PRICES.kept("deployment", key, lambda: _deploy(pricing, *sizes, key))
    require_fit(deployment.budget, deployment.model, deployment.split, longest)
    if longest <= deployment.model.max_context:
        return deployment
    warning = f"extrapolated: requests of {longest} tokens exceed the model's context of {deployment.model.max_context}"
    return replace(deployment, warnings=(*deployment.warnings, warning))


def _power_of_two(count: int) -> int:
    """Round up to a power of two; 0 stays 0."""
    return 1 << (count - 1).bit_length() if count else 0


def _deploy(scenario: Scenario, longest: int, concurrency: int, key: str) -> Deployment:
    laid = lay_out(scenario)
    model, hardware, split, stack = laid.model, laid.hardware, laid.split, laid.stack
    require_overlap(scenario.stack, model, split)
    limits = instance_limits(scenario, laid, concurrency)
    most_prompt = limits.token_budget if limits.chunked else max(limits.token_budget, longest)
    cost = CostModel(hardware=hardware, stack=stack)
    most_tokens = most_prompt + limits.max_running * limits.query_tokens
    pregated = None
    if asks(scenario, "expert_aware"):
        require_known_experts(split, limits)
        pregated = pregated_costs(cost, model, most_tokens, _router(scenario.offload))
        model = pregated.backbone
    routing_trace = scenario_routing(scenario.routing, model, scenario.seed)
    concurrency = limits.max_running * split.dp
    routing = _place(scenario, routing_trace, model, split, hardware, concurrency) if routing_trace else None
    drafts = scenario.speculation.draft_tokens if scenario.speculation.draft == "mtp" else 0
    tables = compile_tables(
        cost,
        model,
        split,
        routing,
        most_tokens=most_tokens,
        most_sequences=limits.max_running,
        most_context=longest,
        query_tokens=limits.query_tokens,
        drafts=drafts,
    )
    return Deployment(
        model=model,
        hardware=hardware,
        split=split,
        stack=stack,
        budget=laid.budget,
        routing=routing,
        cost=cost,
        tables=tables,
        totals=row_totals(tables, stack, limits.query_tokens),
        drafts=drafts,
        limits=limits,
        longest=longest,
        warnings=_warnings(hardware, tables.kernels),
        fingerprint=key,
        pregated=pregated,
    )


def _router(choice: Offload) -> ModelSpec | None:
    return None if choice.router is None else scenario_model(Model(name=choice.router))


def require_known_experts(split: Parallelism, limits: Limits) -> None:
    """Refuse a split or a stack on which steps cannot be made of requests that need the same experts.

    Raises
    ------
    ScenarioError
        The instance has several devices, or its stack does not cut prompts.
    """
    if split != Parallelism():
        raise ScenarioError(
            f"stack.scheduler: got 'expert_aware' with tp={split.tp}, dp={split.dp}, pp={split.pp}, ep={split.ep}; it "
            "knows one device per instance, so leave parallelism at 1 (instances may be more)"
        )
    if not limits.chunked:
        raise ScenarioError(
            "stack.scheduler: got 'expert_aware' with a stack that computes prompts in one piece, but the tokens of a "
            "prompt need different experts; use a stack that cuts prompts"
        )


def require_overlap(choice: Stack, model: ModelSpec, split: Parallelism) -> None:
    """Refuse an overlap that has nothing to hide.

    Raises
    ------
    ScenarioError
        No tokens travel to experts, or the model has no shared expert to compute meanwhile.
    """
    if choice.overlap in (None, "none"):
        return
    moe = model.moe
    if moe is None or not split.exchanges_tokens:
        msg = (
            f"stack.overlap: got {choice.overlap!r}, but no tokens travel to experts with tp={split.tp} and "
            f"dp={split.dp}, so nothing can be hidden; use 'none', or dp > 1 on a model with routed experts"
        )
        raise ScenarioError(msg)
    if choice.overlap == "shared_expert" and not moe.shared_intermediate:
        msg = (
            f"stack.overlap: got 'shared_expert', but {model.name} has no shared experts that could run beside the "
            "exchange; use 'none', 'two_batch' or 'auto'"
        )
        raise ScenarioError(msg)


def repriced(deployment: Deployment, *, cost: CostModel, routing: RoutingReplay | None) -> Deployment:
    """Price a deployment anew: as it runs after a fault, a rebalance or with another text, under the same limits.

    Parameters
    ----------
    deployment : Deployment
        What was priced; its ``split`` may have been replaced since.
    cost : CostModel
        The hardware and stack of now.
    routing : RoutingReplay or None
        The routing trace on the placement of now.

    Returns
    -------
    Deployment
        With tables as large as before. It is not kept: no scenario asks for it again.
    """
    tables = compile_tables(
        cost,
        deployment.model,
        deployment.split,
        routing,
        most_tokens=len(deployment.tables.tokens) - 1,
        most_sequences=deployment.limits.max_running,
        most_context=deployment.longest,
        query_tokens=deployment.limits.query_tokens,
        drafts=deployment.drafts,
    )
    return replace(
        deployment,
        hardware=cost.hardware,
        cost=cost,
        routing=routing,
        tables=tables,
        totals=row_totals(tables, deployment.stack, deployment.limits.query_tokens),
        fingerprint=digest(deployment.fingerprint, deployment.split, cost.hardware, _content(routing)),
    )


def _content(routing: RoutingReplay | None) -> str:
    """Name what a replay replays."""
    if routing is None:
        return ""
    content = hashlib.blake2b(routing.placement.slot_expert.tobytes())
    content.update(routing.slot_ids.tobytes())
    content.update(routing.decode_order.tobytes())
    return content.hexdigest()


def _place(
    scenario: Scenario,
    trace: RoutingTrace,
    model: ModelSpec,
    split: Parallelism,
    hardware: Hardware,
    concurrency: int,
) -> RoutingReplay:
    choice, nodes = scenario.placement, expert_nodes(split, hardware)
    # With rebalancing nothing is known of the load at first.
    policy = "linear" if choice.rebalance.active else choice.policy
    placement = place_experts(policy, trace, model, split.ep, choice.redundant_slots, nodes=nodes, seed=scenario.seed)
    return replay(trace, placement, concurrency, replica_routing=choice.replica_routing, nodes=nodes)


def expert_nodes(split: Parallelism, hardware: Hardware) -> int:
    """Count the scale-up domains that the expert-parallel ranks of a stage fill [1]; 1 where they do not tile them."""
    domain = hardware.fabric.domain
    return split.group // domain if split.group % domain == 0 and split.ep % (split.group // domain) == 0 else 1


def _warnings(hardware: Hardware, used: frozenset[str]) -> tuple[str, ...]:
    found = [*unused_processors(hardware.device)]
    if borrowed := sorted({name.split(".")[0] for name in used if name not in hardware.device.main.kernels}):
        # What a device has of its own is borrowed from nobody.
        relatives = hardware.evidence.removeprefix("own; ")
        found.append(f"extrapolated: {hardware.device.id} takes {', '.join(borrowed)} from its {relatives}")
    return tuple(found)
