"""The pools of a scenario: which deployments run how many instances, and what lies between and beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.deployment.deployment import Deployment, deploy
from simulator.deployment.inputs import scenario_model, scenario_routing
from simulator.errors import InfeasibleScenario, ScenarioError
from simulator.scenario import Scenario
from simulator.scenario.features import asked_features, asks
from simulator.serving.engine import Pool, PrefixCaching
from simulator.serving.kv_link import KVLink
from simulator.serving.request_experts import RequestExperts, request_experts
from simulator.serving.state import Role
from workloads.models.work import kv_bytes_per_token_by_layer
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import answer_blocks, follows, session_block_tokens, session_blocks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolPlan:
    """Instances of one deployment; ``first`` is the index of the first of them.

    They begin at so many different ``places`` of the routing trace, each at its own where absent.
    """

    role: Role
    deployment: Deployment
    instances: int
    first: int = 0
    places: int | None = None

    @property
    def devices(self) -> int:
        """Devices of all its instances [1]."""
        return self.instances * self.deployment.split.devices

    def pool(self, experts: RequestExperts | None = None) -> Pool:
        """Return the pool that the engine runs; with the expert of every token where its scheduler knows them."""
        timers = [self.deployment.engine_timer(index, self.places or self.instances) for index in range(self.instances)]
        return Pool(timers=timers, limits=self.deployment.limits, role=self.role, experts=experts)

    def ran(self, instance: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which rows of a column of instances are of this pool."""
        return (instance >= self.first) & (instance < self.first + self.instances)


def plan_pools(scenario: Scenario, trace: RequestTrace) -> tuple[PoolPlan, ...]:
    """Deploy the pools of a scenario: one for all, or one that decodes and one that computes prompts.

    Raises
    ------
    MoesimError
        As for :func:`deploy`; what is wrong with the pool of prompts says so.
    """
    count = scenario.parallelism.instances
    whole = deploy(scenario, trace)
    if not asks(scenario, "disaggregation"):
        return (PoolPlan(role="both", deployment=whole, instances=count),)
    prompts, instances = deploy_prompts(scenario, trace), scenario.disaggregation.prefill.instances
    return (
        PoolPlan(role="decode", deployment=whole, instances=count),
        PoolPlan(role="prefill", deployment=prompts, instances=instances, first=count),
    )


def deploy_prompts(scenario: Scenario, trace: RequestTrace) -> Deployment:
    """Deploy an instance that computes prompts.

    Raises
    ------
    MoesimError
        As for :func:`deploy`; what does not fit names the pool, and its split where ``[parallelism]`` has another.
    """
    try:
        return deploy(prompt_scenario(scenario), trace)
    except InfeasibleScenario as error:
        own, usual = scenario.disaggregation.prefill, scenario.parallelism
        sizes = ((name, getattr(own, name), getattr(usual, name)) for name in ("tp", "dp", "pp", "ep"))
        other = [f"disaggregation.prefill.{name} = {wanted}" for name, size, wanted in sizes if size != wanted]
        remedy = f"; it has a split of its own: as [parallelism] it would be {', '.join(other)}" if other else ""
        msg = f"prefill pool (disaggregation.prefill): {error}{remedy}"
        raise InfeasibleScenario(msg) from error


def require_alone(scenario: Scenario) -> None:
    """Refuse what batching by expert does not know.

    Raises
    ------
    ScenarioError
        The scenario asks for both; one line for each feature.
    """
    if not asks(scenario, "expert_aware"):
        return
    unknown = ("disaggregation", "speculation", "faults", "elastic", "rebalance")
    lines = [
        f"stack.scheduler: 'expert_aware' knows nothing of {feature.key}; leave out one of the two"
        for feature in asked_features(scenario)
        if feature.name in unknown
    ]
    if lines:
        raise ScenarioError("\n".join(lines))


def known_experts(scenario: Scenario, trace: RequestTrace) -> RequestExperts | None:
    """Deal the experts of the routing trace out to the requests, where they are known before the step.

    The router before the step names one expert for all layers: the one that the trace has for the first of them.

    Raises
    ------
    MoesimError
        The trace cannot be loaded, or tokens use several experts.
    """
    if not asks(scenario, "expert_aware"):
        return None
    routing = scenario_routing(scenario.routing, scenario_model(scenario.model), scenario.seed)
    if routing is None:
        raise ScenarioError(f"stack.scheduler: got 'expert_aware', but {scenario.model.name} has no routed experts")
    return request_experts(trace, replace(routing, expert_ids=routing.expert_ids[:, :1]))


def prompt_scenario(scenario: Scenario) -> Scenario:
    """Return a scenario as its instances that compute prompts see it: with their split and their token budget."""
    split = scenario.disaggregation
    stack = scenario.stack.model_copy(
        update={"token_budget": split.token_budget} if split.token_budget is not None else {}
    )
    return scenario.model_copy(update={"parallelism": split.prefill, "stack": stack})


def kv_link(scenario: Scenario, plans: tuple[PoolPlan, ...]) -> KVLink | None:
    """Describe the way of KV caches from the pool of prompts to that which decodes; ``None`` where there is one pool.

    Notes
    -----
    Every device of a rank that computes prompts sends its part of the layers and heads; every device of a rank that
    decodes receives what it keeps, a latent on each of them. Both run at the bandwidth of a device's share of the
    scale-out links, or of the scale-up links where all pools lie in one domain.
    """
    if len(plans) == 1:
        return None
    decode, prefill = (plan.deployment for plan in plans)
    fabric = prefill.hardware.fabric
    within = sum(plan.devices for plan in plans) <= fabric.domain
    rate = fabric.scale_up_bandwidth if within else fabric.scale_out_bandwidth
    latency = fabric.scale_up_latency if within else fabric.scale_out_latency
    kept = prefill.budget.kv_per_token * prefill.split.tp * prefill.split.pp
    distinct = min(float(sum(kv_bytes_per_token_by_layer(prefill.model))), kept)
    return KVLink(
        send_per_token=distinct / (prefill.split.tp * prefill.split.pp) / rate,
        receive_per_token=decode.budget.kv_per_token / rate,
        per_sequence=decode.budget.kv_per_sequence / rate,
        latency=latency,
        layers=len(prefill.model.layers),
        overlapped=scenario.disaggregation.overlap,
    )


def prefix_caching(scenario: Scenario, trace: RequestTrace, plans: tuple[PoolPlan, ...]) -> PrefixCaching | None:
    """Describe how prefixes are cached.

    Where the trace does not say which prompts begin alike, turns begin with the prompt and the answer before them.

    Raises
    ------
    ScenarioError
        The trace has no hash blocks, and no request follows another.
    """
    choice = scenario.prefix_cache
    if not asks(scenario, "prefix_cache"):
        return None
    turns = follows(trace)
    if trace.block_hashes is None and not turns:
        raise ScenarioError(
            f"prefix_cache.kind: got {choice.kind!r}, but the requests have no hash blocks that say which prompts "
            "begin alike, and none follows another; use a trace that has them, as Mooncake's do, sessions "
            "(requests.sessions), or kind = 'none'"
        )
    deployment = plans[-1].deployment
    if trace.block_hashes is None:
        block_tokens = session_block_tokens(trace)
        blocks = session_blocks(trace, block_tokens)
    else:
        block_tokens = trace.block_tokens
        full = (trace.input_tokens // block_tokens).tolist()
        blocks = [hashes[:count] for hashes, count in zip(trace.block_hashes, full, strict=True)]
    per_token = deployment.budget.kv_per_token
    shared = choice.kind == "shared" and per_token > 0
    # A token takes memory on every device of a rank; the pool keeps each byte once.
    group = deployment.split.tp * deployment.split.pp
    return PrefixCaching(
        blocks=blocks,
        block_tokens=block_tokens,
        answers=answer_blocks(trace, blocks, block_tokens) if turns else None,
        store_tokens=choice.store / (per_token * group) if shared else 0.0,
        fetch_per_token=per_token / deployment.hardware.fabric.scale_out_bandwidth if shared else 0.0,
    )
