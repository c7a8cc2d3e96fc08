"""A scenario made ready to run: everything it names loaded, checked against each other, and priced.

Priced tables depend on the model, hardware, split, stack and routing but not on the load, so they are kept under the
fingerprint of these and shared by all scenarios that differ in the load alone. A load says how far tables must reach;
they are made anew with a longer reach where one asks for more, and say the same of less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from weakref import ref

from hardware_profiles.files import contents
from simulator.cost.model import CostModel
from simulator.cost.origins import borrowed_kernels, mixed_evidence
from simulator.deployment.fingerprint import fingerprint
from simulator.deployment.inputs import read_model, scenario_model, scenario_requests, scenario_routing, trace_path
from simulator.deployment.layout import Layout, lay_out
from simulator.deployment.limits import Limits, instance_limits, loaded_limits
from simulator.deployment.prepared import kept_replay, recall_experts
from simulator.deployment.prices import PRICES, Sized, digest
from simulator.errors import ScenarioError
from simulator.hardware import Hardware, unused_processors
from simulator.memory import MemoryBudget, require_fit
from simulator.ops import Op
from simulator.parallelism import Parallelism
from simulator.placement import place_experts
from simulator.placement.replay import RoutingReplay, reordered, replay
from simulator.placement.replica_routing import ORDER_FREE
from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.scenario.sections import Model, Offload, Stack
from simulator.stack import StackProfile
from simulator.step.pregated import PregatedCosts, PregatedTimer, pregated_costs
from simulator.step.row_table import row_grid
from simulator.step.tables import ExpertTables, StepTables, compile_tables, sample_ops
from simulator.step.timer import StepTimer, TableTimer
from simulator.step.totals import RowTotals, row_totals
from workloads.models.spec import ModelSpec
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import most_in_flight
from workloads.routing.trace import RoutingTrace

#: Requests of a rank and tokens of a request that tables reach to at least: few loads ask for more [1], [tokens].
_LEAST_SEQUENCES, _LEAST_CONTEXT = 2048, 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far tables reach: tokens of one rank's step, decoded sequences in it, tokens of the longest sequence [1]."""

    tokens: int
    sequences: int
    context: int

    def covers(self, other: Reach) -> bool:
        """Whether these tables reach as far as others."""
        return self.longer(other) == self

    def longer(self, other: Reach) -> Reach:
        """Return the reach of both."""
        return Reach(
            tokens=max(self.tokens, other.tokens),
            sequences=max(self.sequences, other.sequences),
            context=max(self.context, other.context),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What of a scenario is known before it is priced, whatever its load: the instance, its bounds, its routing trace.

    ``sequences`` is how many sequences the routing trace has, 0 without one [1].
    """

    laid: Layout
    limits: Limits
    sequences: int


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
        What bounds steps and batches under the load.
    drafts : int
        Tokens that the model itself drafts per step [1].
    longest : int
        Longest request of the load, rounded up to a power of two [tokens].
    reach : Reach
        How far the tables reach; no less than the load needs.
    warnings : tuple of str
        What a reader of the result must know.
    fingerprint : str
        Names all that prices depend on: sections that price, contents of files, and the order of decoded tokens.
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
    reach: Reach
    warnings: tuple[str, ...]
    fingerprint: str
    pregated: PregatedCosts | None = None

    @property
    def most_tokens(self) -> int:
        """Largest step of one rank under the load [tokens]."""
        return _most_tokens(self.limits, self.longest)

    @property
    def parts(self) -> tuple[Sized, ...]:
        """What is large of it, the routing of which other deployments may share."""
        own: tuple[Sized, ...] = (*self.tables.parts, self.totals)
        routing = self.routing
        return own if routing is None else (*own, routing.slot_ids, routing.prefill, routing.decode, routing.kept)

    def timer(self, instance: int = 0, instances: int = 1) -> TableTimer:
        """Return a step timer; instances begin at different places of the routing trace."""
        return TableTimer(self.tables, self.totals, self.routing, self.stack, self.split.pp, instance / instances)

    def engine_timer(self, instance: int = 0, instances: int = 1) -> StepTimer:
        """Return the timer that the engine plays with: that of :meth:`timer`, or one that knows the experts."""
        if self.routing is not None:
            self.routing.refine()
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
    pricing = scenario.pricing()
    name = fingerprint(pricing)
    ground = PRICES.kept("ground", name, lambda: _ground(pricing))
    # Loads are rounded up to powers of two, so that those that hardly differ have the same bounds.
    limits = loaded_limits(ground.limits, _power_of_two(most_in_flight(trace)))
    lanes = min(limits.max_running * limits.dp, ground.sequences)
    reach = _reach(ground.limits, limits, longest)
    deployment = PRICES.grown(
        "deployment",
        name,
        lambda known: _deploy(pricing, ground, reach if known is None else known.reach.longer(reach), name),
        lambda known: known.reach.covers(reach),
    )
    if lanes:
        bare, key = deployment, digest(name, lanes)
        deployment = PRICES.grown(
            "deployment",
            key,
            lambda known: _routed(pricing, ground, bare, lanes, key, known),
            lambda known: known.totals is bare.totals,
        )
    deployment = replace(deployment, limits=limits, longest=_power_of_two(longest))
    require_fit(deployment.budget, deployment.model, deployment.split, longest)
    if longest <= deployment.model.max_context:
        return deployment
    warning = f"extrapolated: requests of {longest} tokens exceed the model's context of {deployment.model.max_context}"
    return replace(deployment, warnings=(*deployment.warnings, warning))


def _power_of_two(count: int) -> int:
    """Round up to a power of two; 0 stays 0."""
    return 1 << (count - 1).bit_length() if count else 0


def _ground(scenario: Scenario) -> _Ground:
    laid = lay_out(scenario)
    require_overlap(scenario.stack, laid.model, laid.split)
    limits = instance_limits(scenario, laid)
    if asks(scenario, "expert_aware"):
        # An expert per token is priced as a dense FFN.
        require_known_experts(laid.split, limits)
        return _Ground(laid=laid, limits=limits, sequences=0)
    trace = scenario_routing(scenario.routing, laid.model, scenario.seed)
    return _Ground(laid=laid, limits=limits, sequences=len(trace.sequence_start) if trace else 0)


def _reach(bounds: Limits, limits: Limits, longest: int) -> Reach:
    """Return how far tables must reach for a load, and what few go beyond besides.

    Parameters
    ----------
    bounds, limits : Limits
        Bounds of the instance, and under the load.
    longest : int
        Longest request of the load [tokens].
    """
    sequences = min(bounds.max_running, max(_power_of_two(limits.max_running), _LEAST_SEQUENCES))
    context = max(_power_of_two(longest), _LEAST_CONTEXT)
    tokens = _most_tokens(replace(bounds, max_running=sequences), context)
    return Reach(tokens=tokens, sequences=sequences, context=context)


def _most_tokens(limits: Limits, longest: int) -> int:
    """Largest step of one rank that computes prompts and decodes [tokens]."""
    prompts = limits.token_budget if limits.chunked else max(limits.token_budget, longest)
    return prompts + limits.max_running * limits.query_tokens


def _deploy(scenario: Scenario, ground: _Ground, reach: Reach, key: str) -> Deployment:
    """Price all that does not depend on the routing."""
    laid, limits = ground.laid, ground.limits
    model, hardware, split, stack = laid.model, laid.hardware, laid.split, laid.stack
    cost = CostModel(hardware=hardware, stack=stack)
    pregated = None
    if asks(scenario, "expert_aware"):
        pregated = pregated_costs(cost, model, int(row_grid(reach.tokens)[-1]), _router(scenario.offload))
        model = pregated.backbone
    drafts = scenario.speculation.draft_tokens if scenario.speculation.draft == "mtp" else 0
    tables = _tables(cost, model, split, None, reach, limits.query_tokens, drafts)
    return Deployment(
        model=model,
        hardware=hardware,
        split=split,
        stack=stack,
        budget=laid.budget,
        routing=None,
        cost=cost,
        tables=tables,
        totals=row_totals(tables, stack, limits.query_tokens),
        drafts=drafts,
        limits=limits,
        longest=reach.context,
        reach=reach,
        warnings=_warnings(cost, sample_ops(cost, model, split), tables.kernels, scenario.hardware.profiles),
        fingerprint=key,
        pregated=pregated,
    )


def _tables(
    cost: CostModel,
    model: ModelSpec,
    split: Parallelism,
    routing: RoutingReplay | None,
    reach: Reach,
    query_tokens: int,
    drafts: int,
) -> StepTables:
    return compile_tables(
        cost,
        model,
        split,
        routing,
        most_tokens=reach.tokens,
        most_sequences=reach.sequences,
        most_context=reach.context,
        query_tokens=query_tokens,
        drafts=drafts,
    )


def _routed(
    scenario: Scenario, ground: _Ground, bare: Deployment, lanes: int, key: str, known: Deployment | None
) -> Deployment:
    """Add the routing and its experts to what was priced without; those that are known stay when tables grow."""
    if known is not None:
        routing, experts = known.routing, known.tables.experts
    else:
        routing = _replayed(scenario, ground.laid, lanes)
        alike = bare.tables.experts if scenario.placement.replica_routing in ORDER_FREE else None
        experts = ExpertTables(bare.cost, bare.model, bare.split, routing, alike)
        recall_experts(experts, key)
    return replace(bare, routing=routing, tables=replace(bare.tables, experts=experts), fingerprint=key)


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
    limits, reach = deployment.limits, deployment.reach
    tables = _tables(cost, deployment.model, deployment.split, routing, reach, limits.query_tokens, deployment.drafts)
    return replace(
        deployment,
        hardware=cost.hardware,
        cost=cost,
        routing=routing,
        tables=tables,
        totals=row_totals(tables, deployment.stack, limits.query_tokens),
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


def _replayed(scenario: Scenario, laid: Layout, lanes: int) -> RoutingReplay:
    """Replay the routing trace, or take it from another deployment that replays it in the same way.

    Where replicas are chosen without a look at the order of decoded tokens, another order shares all else.
    """
    choice, nodes, seed = scenario.placement, expert_nodes(laid.split, laid.hardware), scenario.seed
    routing = scenario.routing
    files = [contents(trace_path(name)) for name in (routing.trace, routing.fit) if name]
    said = routing.model_dump(exclude={"trace", "fit"}), files, choice.model_dump(), seed
    name = digest(read_model(scenario.model)[1], said, laid.split.ep, nodes)

    def trace() -> RoutingTrace:
        return cast("RoutingTrace", scenario_routing(routing, laid.model, seed))

    def first() -> RoutingReplay:
        # With rebalancing nothing is known of the load at first.
        policy = "linear" if choice.rebalance.active else choice.policy
        slots = choice.redundant_slots
        placement = place_experts(policy, trace(), laid.model, laid.split.ep, slots, nodes=nodes, seed=seed)
        return replay(trace(), placement, lanes, replica_routing=choice.replica_routing, nodes=nodes)

    if choice.replica_routing not in ORDER_FREE:
        key = digest(name, lanes)
        return _while_used(key, lambda: kept_replay(key, first))

    def in_order() -> RoutingReplay:
        return reordered(_while_used(name, lambda: kept_replay(name, first)), trace(), lanes)

    return _while_used(digest(name, lanes), in_order)


def balanced_replay(scenario: Scenario, deployment: Deployment) -> RoutingReplay:
    """Replay balanced routing on the placement that a scenario asks for, as its deployment would with it.

    Parameters
    ----------
    scenario : Scenario
        What has some routing.
    deployment : Deployment
        What it is deployed as, for a model with experts.
    """
    unread = {"trace": None, "fit": None, "router": None}
    balanced = scenario.model_copy(
        update={"routing": scenario.routing.model_copy(update={"kind": "balanced", **unread})}
    )
    laid = lay_out(balanced.pricing())
    trace = cast("RoutingTrace", scenario_routing(balanced.routing, laid.model, scenario.seed))
    lanes = min(deployment.limits.max_running * deployment.limits.dp, len(trace.sequence_start))
    return _replayed(balanced, laid, lanes)


def _while_used(key: str, make: Callable[[], RoutingReplay]) -> RoutingReplay:
    """Return the replay of a key that a deployment holds, or make one; it goes with the last deployment."""
    made: list[RoutingReplay] = []

    def anew(_: object) -> ref[RoutingReplay]:
        made.append(make())
        return ref(made[-1])

    found = PRICES.grown("replay", key, anew, lambda known: known() is not None)()
    if found is None:
        anew(None)
    return made[-1] if found is None else found


def expert_nodes(split: Parallelism, hardware: Hardware) -> int:
    """Count the scale-up domains that the expert-parallel ranks of a stage fill [1]; 1 where they do not tile them."""
    domain = hardware.fabric.domain
    return split.group // domain if split.group % domain == 0 and split.ep % (split.group // domain) == 0 else 1


def _warnings(cost: CostModel, ops: Sequence[Op], used: frozenset[str], profiles: str | None) -> tuple[str, ...]:
    hardware, folder = cost.hardware, Path(profiles) if profiles else None
    return (
        *unused_processors(hardware.device),
        *borrowed_kernels(hardware, used, folder),
        *mixed_evidence(cost, ops, folder),
    )
