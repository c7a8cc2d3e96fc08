"""The sizes that a deployment may take: each priced once, with the memory that its mechanism leaves it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from hardware_profiles.units import format_bytes
from simulator.deployment.deployment import (
    Deployment,
    deploy,
    require_overlap,
)
from simulator.deployment.inputs import scenario_hardware, scenario_model
from simulator.deployment.layout import device_budget
from simulator.elastic.mechanisms import MECHANISMS, Mechanism, ScalingContext, ScalingPlan, Size, plan_scaling
from simulator.errors import InfeasibleScenario, ProfileError, ScenarioError
from simulator.hardware import load_hardware
from simulator.memory import MemoryBudget, require_fit
from simulator.parallelism import Parallelism, expert_slots, require_split
from simulator.scenario import Scenario
from simulator.scenario.features import not_while_scaling
from simulator.scenario.sections import ElasticChoice, HardwareChoice
from simulator.serving.plan import PoolPlan
from simulator.stack import StackProfile, customised
from simulator.startup import load_startup
from workloads.models.spec import ModelSpec
from workloads.requests.trace import RequestTrace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fleet:
    """What a scenario can scale to.

    Attributes
    ----------
    scenario : Scenario
        The scenario, whose ``parallelism`` is the size at the start.
    trace : RequestTrace
        The load, whose longest request must fit at every size.
    mechanism : str
        How sizes change.
    start, smallest, largest, step : int
        Attention ranks of all instances together, and by how many sizes differ [1].
    context : ScalingContext
        What plans depend on.
    stack : StackProfile
        What runs the instances.
    """

    scenario: Scenario
    trace: RequestTrace
    mechanism: Mechanism
    start: int
    smallest: int
    largest: int
    step: int
    context: ScalingContext
    stack: StackProfile
    _sizes: dict[int, Deployment] = field(default_factory=dict)

    @property
    def whole_instances(self) -> bool:
        """Whether whole instances come and go, rather than one that changes its size."""
        return self.mechanism == "horizontal"

    @property
    def base(self) -> Deployment:
        """One instance at the start."""
        return self.deployment(self.scenario.parallelism.dp)

    def instance(self, size: int) -> Scenario:
        """Return the scenario of one instance at a size [ranks]; that of the start where all instances are alike."""
        ranks = self.scenario.parallelism.dp if self.whole_instances else size
        return sized(self.scenario, ranks, self.context.model)

    def deployment(self, size: int) -> Deployment:
        """Return one instance at a size [ranks], priced when asked for; its KV pool is what the mechanism leaves."""
        asked = self.instance(size)
        ranks = asked.parallelism.dp
        if ranks not in self._sizes:
            deployment = deploy(asked, self.trace)
            self._sizes[ranks] = replace(deployment, limits=replace(deployment.limits, pool=self.pool(size)))
        return self._sizes[ranks]

    def split(self, size: int) -> Parallelism:
        """How one instance is split at a size [ranks]."""
        return Parallelism.of(self.instance(size).parallelism)

    def slots(self, size: int) -> int | None:
        """Expert slots per layer at a size [ranks], redundant ones included [1]; ``None`` for a dense model."""
        return expert_slots(self.context.model, self.instance(size).placement)

    @property
    def sizes(self) -> range:
        """All sizes that may be reached [ranks]."""
        first = self.smallest + (self.start - self.smallest) % self.step
        return range(first, self.largest + 1, self.step)

    def pool_at_start(self) -> PoolPlan:
        """Return the instances that a run begins with."""
        each = self.base.split.dp
        places = self.largest // each if self.whole_instances else 1
        return PoolPlan(role="both", deployment=self.base, instances=self.start // each, places=places)

    def pool(self, size: int) -> float:
        """KV pool of a device [bytes].

        ``elastic`` keeps the pool through all changes, so it is that of the smallest size, whose devices hold most
        weights. ``colocated`` must have room for a second instance at any time: two copies of the weights and two
        pools share what one instance may use.
        """
        budget = self.budget(size)
        if self.mechanism == "elastic":
            return min(budget.pool, self.budget(self.smallest).pool)
        if self.mechanism == "colocated" and self.smallest < self.largest:
            largest_weights = self.budget(self.smallest).weights
            return (budget.capacity - 2.0 * (budget.activations + largest_weights)) / 2.0
        return budget.pool

    def size(self, size: int) -> Size:
        """Describe an instance at a size for planning."""
        split = self.split(size)
        count = size // split.dp if self.whole_instances else 1
        return Size(split=split, budget=self.budget(size), pool=self.pool(size), count=count)

    def held(self, size: int) -> tuple[int, float]:
        """Devices [1] and device memory over all of them [bytes] that a size holds when nothing changes.

        The framework's own allocator keeps all it may use; that of ``elastic`` holds weights, KV pool and buffers.
        """
        this = self.size(size)
        if self.mechanism != "elastic" or {"ipc_alloc", "zero_copy"} & set(self.context.without):
            return this.devices, this.full
        weights = float(self.context.moves(this, this).held_after.sum())
        return this.devices, weights + this.devices * (this.pool + self.context.reserve)

    def plan(self, before: int, after: int) -> ScalingPlan:
        """Plan a change of size."""
        return plan_scaling(self.mechanism, self.size(before), self.size(after), self.context)

    def budget(self, size: int) -> MemoryBudget:
        """Memory of a device at a size."""
        return device_budget(self.context.model, self.split(size), self.stack, self.context.hardware, self.slots(size))


def sized(scenario: Scenario, ranks: int, model: ModelSpec) -> Scenario:
    """Return the scenario with another number of attention ranks, and experts spread over all of them as before.

    Tensor parallelism stays, and so does the number of devices that share an expert, unless all do (``ep`` = 1), which
    they go on to do. Where the experts do not divide over the ranks, redundant slots fill the last ones, as the fullest
    rank of an uneven spread decides anyway.
    """
    choice = scenario.parallelism
    moe = model.moe if choice.ep > 1 else None
    shards = max(choice.tp * choice.dp // choice.ep, 1)
    # Fewer ranks than shared an expert share all of them.
    ep = max(choice.tp * ranks // shards, 1) if moe is not None else choice.ep
    redundant = scenario.placement.redundant_slots
    if moe is not None:
        experts = moe.num_experts
        # What the file pads at the start is padding for its own size only.
        wanted = redundant if (experts + redundant) % ep == 0 and ranks == choice.dp else 0
        redundant = wanted + -(experts + wanted) % ep
    return scenario.model_copy(
        update={
            "elastic": ElasticChoice(),
            "parallelism": choice.model_copy(update={"dp": ranks, "ep": ep, "instances": 1}),
            "placement": scenario.placement.model_copy(update={"redundant_slots": redundant}),
        }
    )


def build_fleet(scenario: Scenario, trace: RequestTrace) -> Fleet:
    """Check the scaling of a scenario and make its first size ready.

    Raises
    ------
    ScenarioError
        Bounds, events or mechanism contradict each other.
    InfeasibleScenario
        The largest size exceeds the cluster, or a size does not fit its memory.
    """
    choice, parallelism = scenario.elastic, scenario.parallelism
    if choice.mechanism == "none":
        raise ScenarioError(
            f"{scenario.name}: elastic.mechanism: nothing scales; choose one of {', '.join(MECHANISMS)}, "
            f"as in --set elastic.mechanism=elastic"
        )
    whole_instances = choice.mechanism == "horizontal"
    _check_shape(scenario, whole_instances=whole_instances)
    start = parallelism.dp * parallelism.instances
    step = parallelism.dp * max(-(-choice.step // parallelism.dp), 1) if whole_instances else choice.step
    asked = [event.size for event in choice.events] if choice.policy == "schedule" else []
    smallest = choice.min_size or min([start, *asked])
    largest = choice.max_size or max([start, *asked])
    _check_bounds(choice, start, smallest, largest, step)
    _check_cluster(scenario, largest, step, smallest)
    model, stack = scenario_model(scenario.model), customised(scenario.stack, scenario.hardware.profiles)
    context = ScalingContext(
        model=model,
        hardware=scenario_hardware(scenario.hardware, parallelism.tp * parallelism.pp * largest),
        startup=load_startup(choice.startup),
        reserve=stack.number("activation_reserve"),
        without=choice.without,
        waits=choice.handover == "drained",
    )
    fleet = Fleet(
        scenario=scenario,
        trace=trace,
        mechanism=choice.mechanism,
        start=start,
        smallest=smallest,
        largest=largest,
        step=step,
        context=context,
        stack=stack,
    )
    _check_splits(fleet)
    _check_memory(fleet)
    return fleet


def _check_shape(scenario: Scenario, *, whole_instances: bool) -> None:
    choice, parallelism = scenario.elastic, scenario.parallelism
    if asked := not_while_scaling(scenario):
        raise InfeasibleScenario(
            f"{scenario.name}: elastic.mechanism: scaling does not go with {', '.join(asked)} in one run; leave one out"
        )
    if parallelism.pp > 1 and not whole_instances:
        raise InfeasibleScenario(
            f"{scenario.name}: elastic.mechanism: {choice.mechanism} changes dp and ep of one pipeline stage, "
            f"and parallelism.pp is {parallelism.pp}; use pp = 1 or the mechanism horizontal"
        )
    if parallelism.instances > 1 and not whole_instances:
        raise ScenarioError(
            f"{scenario.name}: elastic.mechanism: {choice.mechanism} resizes one instance, "
            f"and parallelism.instances is {parallelism.instances}; use 1, or the mechanism horizontal"
        )
    if choice.without and choice.mechanism != "elastic":
        raise ScenarioError(
            f"{scenario.name}: elastic.without: only the mechanism elastic has parts to switch off, "
            f"got {choice.mechanism}"
        )
    if choice.policy == "schedule" and not choice.events:
        raise ScenarioError(
            f"{scenario.name}: elastic.events: policy schedule needs at least one, "
            'as in [[elastic.events]] with at = "60 s" and size = 4'
        )
    if choice.events and choice.policy != "schedule":
        raise ScenarioError(
            f"{scenario.name}: elastic.events: only the policy schedule reads them, got {choice.policy}"
        )
    slo = scenario.slo
    if choice.policy == "slo" and slo.ttft is None and slo.tpot is None and slo.e2el is None:
        raise ScenarioError(
            f"{scenario.name}: elastic.policy: slo needs an objective; set slo.ttft, slo.tpot or slo.e2el"
        )


def _check_bounds(choice: ElasticChoice, start: int, smallest: int, largest: int, step: int) -> None:
    if smallest > largest:
        raise ScenarioError(f"elastic.min_size: got {smallest}, more than elastic.max_size = {largest}")
    for name, size in (("parallelism.dp", start), *((f"elastic.events at {e.at:g} s", e.size) for e in choice.events)):
        if not smallest <= size <= largest:
            raise ScenarioError(
                f"{name}: {size} ranks lie outside elastic.min_size = {smallest} and elastic.max_size = {largest}"
            )
        if (size - start) % step:
            raise ScenarioError(
                f"{name}: {size} ranks cannot be reached from {start} in steps of {step} ({choice.mechanism}); "
                f"the next that can is {start + math.ceil((size - start) / step) * step}"
            )


def cluster_devices(choice: HardwareChoice) -> int:
    """Devices that the scenario's cluster has, or its node where no cluster joins such nodes [1]."""
    folder = Path(choice.profiles) if choice.profiles else None
    hardware = load_hardware(choice.device, choice.node, choice.cluster, folder, offer=choice.price)
    if hardware.cluster is not None:
        return hardware.devices
    try:
        joined = scenario_hardware(choice, hardware.node.devices + 1)
    except ProfileError:
        return hardware.node.devices
    return joined.cluster.nodes * joined.node.devices if joined.cluster else hardware.node.devices


def _check_cluster(scenario: Scenario, largest: int, step: int, smallest: int) -> None:
    """The devices of the largest size, and of the old one beside it where both are needed, must exist."""
    per_rank = scenario.parallelism.tp * scenario.parallelism.pp
    beside = max(largest - step, 0) if scenario.elastic.mechanism == "vertical_new" and largest > smallest else 0
    have = cluster_devices(scenario.hardware)
    if (largest + beside) * per_rank <= have:
        return
    both = f" beside the old instance's {beside * per_rank}" if beside else ""
    place = scenario.hardware.cluster or scenario.hardware.node or scenario.hardware.device
    most = (have // per_rank + step) // 2 if beside else have // per_rank
    raise InfeasibleScenario(
        f"elastic.max_size: {largest} ranks of {per_rank} devices need {largest * per_rank} devices{both}, "
        f"and {place} has {have}: at most {most} ranks"
    )


def _check_splits(fleet: Fleet) -> None:
    """Every size that may be reached must be a valid split, with something to overlap where that is asked."""
    model = fleet.context.model
    for size in fleet.sizes:
        require_split(model, fleet.split(size), fleet.slots(size))
        require_overlap(fleet.scenario.stack, model, fleet.split(size))


def _check_memory(fleet: Fleet) -> None:
    longest = int((fleet.trace.input_tokens + fleet.trace.output_tokens).max())
    for size in (fleet.smallest, fleet.largest):
        budget = fleet.budget(size)
        require_fit(budget, fleet.context.model, fleet.split(size), longest)
        pool = fleet.pool(size)
        if pool < budget.sequence_bytes(longest):
            raise InfeasibleScenario(
                f"elastic.mechanism: {fleet.mechanism} leaves {format_bytes(max(pool, 0.0))} of KV pool per device at "
                f"{size} ranks, and the longest request takes {format_bytes(budget.sequence_bytes(longest))}: two "
                f"copies of the weights take the rest; use elastic or cold_restart, or weights of fewer bits"
            )
