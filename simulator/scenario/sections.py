"""The sections of a scenario: every key, what it allows, what it is where absent, and what it means.

Durations carry their unit (``"50 ms"``), amounts of memory too; everything else is a count, a share or a name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from hardware_profiles.units import parse_quantity_text
from simulator.errors import MoesimError
from workloads.models.dtypes import dtype_name

#: Thirty years: beyond that sums of times lose what a step takes [s].
_LONGEST = 1e9


def _seconds(value: object, *, zero_allowed: bool = False) -> float:
    """Read a duration with its unit; a bare number is refused because nobody knows what it means."""
    if isinstance(value, str):
        try:
            found = parse_quantity_text(value, "time", "duration", zero_allowed=zero_allowed)
        except MoesimError as error:
            raise ValueError(str(error)) from None
        if found > _LONGEST:
            raise ValueError(f"a duration is at most {_LONGEST:g} s")
        return found
    msg = "a duration needs its unit, as in '50 ms' or '2 s'"
    raise ValueError(msg)


def _bytes(value: object) -> float:
    """Read an amount of memory with its unit."""
    if isinstance(value, str):
        try:
            return parse_quantity_text(value, "bytes", "memory")
        except MoesimError as error:
            raise ValueError(str(error)) from None
    msg = "an amount of memory needs its unit, as in '512 GiB' or '1 TB'"
    raise ValueError(msg)


def _dtype(value: object) -> object:
    """Read a storage format by any of its names; nothing, or what a server calls automatic, is the model's own."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() in ("", "auto"):
        return None
    try:
        return dtype_name(value)
    except MoesimError as error:
        raise ValueError(str(error)) from None


Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, allow_inf_nan=False, json_schema_extra={"quantity": "duration"}),
    PlainSerializer(lambda value: f"{value!r} s", return_type=str),
]
Delay = Annotated[
    float,
    BeforeValidator(partial(_seconds, zero_allowed=True)),
    Field(ge=0, allow_inf_nan=False, json_schema_extra={"quantity": "duration"}),
    PlainSerializer(lambda value: f"{value!r} s", return_type=str),
]
Bytes = Annotated[
    float,
    BeforeValidator(_bytes),
    Field(gt=0, allow_inf_nan=False, json_schema_extra={"quantity": "size"}),
    PlainSerializer(lambda value: f"{value!r} B", return_type=str),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server takes of a key from whoever sends it a link, so that none exhausts it; the command line takes more.

    Attributes
    ----------
    most, least : float
        Largest and smallest value, in SI units.
    """

    most: float = math.inf
    least: float = 0.0


Count = Annotated[int, Field(ge=1, strict=True)]
#: Ranks and instances are held one by one: far more than anybody has would fill the memory instead of being answered.
Ranks = Annotated[int, Field(ge=1, le=16_384, strict=True)]
Instances = Annotated[int, Field(ge=1, le=10_000, strict=True)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]
Chance = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
Number = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
#: What names a file or an entry of a catalogue.
Name = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]

Scheduler = Literal["mixed", "prefill_first", "expert_aware"]
#: Those that a stack may have by itself; the others need a model made for them.
StackScheduler = Literal["mixed", "prefill_first"]
Opening = Literal["one", "worthwhile", "all"]
Exchange = Literal[
    "all_to_all",
    "all_to_all_2d",
    "coordinated",
    "all_gather",
    "deepep",
    "deepep_normal",
    "deepep_low_latency",
    "deepep_low_latency_rdma",
    "one_sided",
    "fused",
]
Overlap = Literal["none", "shared_expert", "two_batch", "auto"]
Balancer = Literal["round_robin", "least_loaded", "power_of_two", "cache_aware"]


class Section(BaseModel):
    """A table of a scenario: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class Model(Section):
    """Which model: a built-in name, a Hugging Face ``config.json`` or a model TOML."""

    name: Name = Field(description="built-in model, or path of a config.json or model TOML")
    weights: Annotated[str | None, BeforeValidator(_dtype)] = Field(
        None, description="dtype of all linear weights; the model's own where absent"
    )
    kv_cache: Annotated[str | None, BeforeValidator(_dtype)] = Field(
        None, description="dtype of the KV cache; the model's own where absent"
    )


class HardwareChoice(Section):
    """Where: a device, and optionally the node and cluster that it sits in."""

    device: Name = Field(description="device profile")
    node: Name | None = Field(None, description="node profile; the device's usual node where absent")
    cluster: Name | None = Field(None, description="cluster profile; needed where an instance spans nodes")
    profiles: Name | None = Field(None, description="folder of user profiles")
    price: Name | None = Field(None, description="price offer; the device's default where absent")


class ParallelismChoice(Section):
    """How an instance is split. It has tp x dp x pp devices; experts are split ep ways, and tp*dp/ep ways inside."""

    tp: Ranks = Field(1, description="tensor parallelism of attention")
    dp: Ranks = Field(1, description="data parallelism of attention inside the instance")
    pp: Ranks = Field(1, description="pipeline stages")
    ep: Ranks = Field(1, description="expert parallelism; tp*dp/ep ranks share each expert")
    instances: Instances = Field(1, description="identical instances behind the load balancer")


PlacementPolicy = Literal["linear", "random", "balanced", "lpt", "eplb", "eplb_global", "refined", "affinity"]


class Rebalance(Section):
    """Placing experts anew while serving: how often, from what, and what moving them disturbs."""

    every: Annotated[Seconds | None, Served(least=0.1)] = Field(
        None, description="time between two rebalances; none without a time or steps"
    )
    every_steps: Count | None = Field(None, description="engine steps between two rebalances, instead of a time")
    window: Annotated[Count, Served(most=1e7)] = Field(32_768, description="last tokens served whose load decides")
    policy: PlacementPolicy | None = Field(None, description="policy of new placements; placement.policy if absent")
    least_gain: Number = Field(
        0.0, ge=0, lt=1, allow_inf_nan=False, description="least by which the heaviest ranks must get lighter"
    )
    mode: Literal["stall", "overlap"] = Field("stall", description="whether serving waits for the experts that move")
    bandwidth_share: Number = Field(
        0.2, gt=0, lt=1, allow_inf_nan=False, description="overlap: share of the links that moving experts takes"
    )

    @property
    def active(self) -> bool:
        """Whether the placement changes at all."""
        return self.every is not None or self.every_steps is not None


class PlacementChoice(Section):
    """Which expert sits on which rank."""

    policy: PlacementPolicy = Field("linear", description="expert placement policy")
    redundant_slots: Annotated[int, Served(most=100_000)] = Field(
        0, ge=0, strict=True, description="extra expert slots per layer over all ranks"
    )
    replica_routing: Literal["round_robin", "local", "least_loaded"] = Field(
        "round_robin", description="which replica of an expert serves a token"
    )
    rebalance: Rebalance = Field(default_factory=Rebalance, description="placing experts anew while serving")


class Stack(Section):
    """The serving stack and what of its defaults to change."""

    name: Name = Field("sglang", description="serving-stack profile, or path of a TOML file of one's own")
    scheduler: Scheduler | None = Field(None, description="batching policy")
    token_budget: Count | None = Field(None, description="tokens a rank may take in one step")
    max_running: Count | None = Field(None, description="requests that a rank may run at once")
    memory_fraction: Share | None = Field(None, description="share of device memory that the stack may use")
    cpu_gap: Seconds | None = Field(None, description="host time between two steps")
    exchange: Exchange | None = Field(None, description="how tokens travel to experts when attention is data parallel")
    overlap: Overlap | None = Field(
        None, description="what hides the exchange of tokens: shared experts, the other half of the batch, or the best"
    )
    balancer: Balancer = Field("least_loaded", description="which instance takes a request")
    preemption: Literal["recompute", "swap"] = Field(
        "recompute", description="what becomes of the KV cache of a request that gives way"
    )


class Disaggregation(Section):
    """Prompts computed by instances of their own; ``[parallelism]`` then describes those that decode."""

    enabled: Flag = Field(False, description="whether prompts have instances of their own")
    prefill: ParallelismChoice = Field(default_factory=ParallelismChoice, description="instances that compute prompts")
    token_budget: Count | None = Field(None, description="tokens of one step of their ranks; the stack's where absent")
    overlap: bool = Field(
        True, strict=True, description="KV caches travel layer by layer while the next layers are computed"
    )


class Offload(Section):
    """Experts of a model whose router runs before the step, and how it batches by them (scheduler expert_aware)."""

    router: Name | None = Field(
        None, description="model that routes before the step, as model.name; its time is left out where absent"
    )
    first: Literal["expert", "decode", "prompt"] = Field(
        "expert", description="who fills a step first: tokens of one expert, requests that decode, or prompts"
    )
    opening: Opening = Field(
        "worthwhile", description="when a step goes on to a further expert: never, where it saves time, or always"
    )
    patience: Count = Field(8, description="steps that a request waits before it goes first whatever its expert")
    resident: Count | None = Field(None, description="experts that the device holds; all where absent")
    lookahead: Flag = Field(True, description="missing experts are fetched while the step before runs")


class PrefixCache(Section):
    """Which prompts' beginnings need not be computed again; needs a trace with hash blocks."""

    kind: Literal["none", "instance", "shared"] = Field(
        "none", description="nothing, each rank's own KV memory, or besides it a pool for all instances"
    )
    store: Bytes = Field(1e12, description="shared: size of the pool")


class Speculation(Section):
    """Drafted tokens that a step verifies at once."""

    draft_tokens: int = Field(0, ge=0, le=64, strict=True, description="tokens drafted per step; 0 = none")
    acceptance: tuple[Chance, ...] = Field(
        (), description="chance that a drafted token is accepted if those before it are, by position; the last repeats"
    )
    draft: Literal["mtp", "none"] = Field(
        "mtp", description="what drafts: one further layer per token, as in multi-token prediction, or something free"
    )


class Fault(Section):
    """Something that breaks, or slows down, at a given time."""

    at: Delay = Field(description="when")
    kind: Literal["rank", "node", "instance", "nic"] = Field(
        "rank", description="a rank, all ranks of a node, a whole instance, or the link of a rank to other nodes"
    )
    instance: int = Field(0, ge=0, strict=True, description="which instance; those that compute prompts come last")
    rank: int = Field(0, ge=0, strict=True, description="which rank of it; for a node any rank in it")
    slowdown: Number | None = Field(
        None, gt=1, allow_inf_nan=False, description="factor on its time; absent = it fails altogether"
    )
    lasts: Seconds | None = Field(None, description="time until it is as before; absent = for good")
    detection: Delay = Field(5.0, description="time until a failure is noticed")
    restart: Seconds | None = Field(None, description="time in which an instance starts anew; absent = it does not")
    retry: Literal["resume", "restart"] = Field(
        "resume", description="whether requests go on after the tokens that they emitted or answer all over again"
    )


class Lengths(Section):
    """Prompt and answer lengths of generated requests."""

    kind: Literal["fixed", "uniform", "lognormal"] = Field("fixed", description="distribution")
    input: Annotated[Count, Served(most=1e7)] = Field(
        1024, description="prompt tokens: the value, the largest (uniform) or the mean (lognormal)"
    )
    output: Annotated[Count, Served(most=1e7)] = Field(1024, description="answer tokens, likewise")
    range_ratio: Share = Field(1.0, description="uniform: the smallest length over the largest")
    cv: Positive = Field(1.0, description="lognormal: standard deviation over mean")


class Sessions(Section):
    """Generated requests as turns of conversations: each comes after the answer before it and contains all before."""

    turns: Annotated[Number, Served(most=1e4)] = Field(
        1.0, ge=1, allow_inf_nan=False, description="requests of a session on average; 1 = each stands alone"
    )
    spread: Literal["fixed", "geometric"] = Field(
        "fixed", description="whether all sessions have as many turns, or each turn is the last with the same chance"
    )
    think_time: Delay = Field(0.0, description="mean time between an answer and the next turn: a user's, or a tool's")
    think_kind: Literal["fixed", "exponential"] = Field("fixed", description="distribution of that time")
    input: Annotated[Count | None, Served(most=1e7)] = Field(
        None, description="prompt tokens that a later turn adds, spread as requests.lengths; as many where absent"
    )

    @property
    def active(self) -> bool:
        """Whether any request follows another."""
        return self.turns > 1.0


class Requests(Section):
    """What is asked: a recorded trace, or generated arrivals and lengths."""

    kind: Literal["closed_loop", "poisson", "gamma", "diurnal", "constant", "trace"] = Field(
        "closed_loop", description="how requests arrive"
    )
    trace: Name | None = Field(None, description="trace file (kind = trace), or 'sample:NAME' of those that ship")
    concurrency: Annotated[Count | None, Served(most=1e6)] = Field(
        None, description="closed loop: requests in flight, or sessions; also of a trace without times"
    )
    rate: Positive | None = Field(None, description="open loop: requests per second; a trace is rescaled to it")
    cv: Positive = Field(1.0, description="gamma: coefficient of variation of the gaps")
    period: Annotated[Seconds | None, Served(least=0.1)] = Field(None, description="diurnal: length of a day")
    amplitude: Number = Field(0.5, ge=0, lt=1, description="diurnal: swing of the rate over its mean")
    profile: tuple[Number, ...] = Field((), description="diurnal: relative rates of equal parts of the day instead")
    count: Annotated[Count | None, Served(most=1e6)] = Field(None, description="requests; all of a trace where absent")
    repeat: Annotated[Count, Served(most=1000)] = Field(1, description="times a trace is played")
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="trace: unit of its times; told by its format and its data where absent"
    )
    block_tokens: Count | None = Field(
        None, description="trace: tokens of its hash blocks; told by its format and its data where absent"
    )
    turn_prompts: Literal["whole", "new"] | None = Field(
        None,
        description="trace: whether a later turn's prompt length counts all that was said before it or what is new; "
        "told by the data where absent",
    )
    lengths: Lengths = Field(default_factory=Lengths, description="lengths of generated requests")
    sessions: Sessions = Field(default_factory=Sessions, description="generated requests as turns of conversations")
    priorities: tuple[Positive, ...] = Field(
        (), description="shares of the requests by priority, the most urgent first; all alike where absent"
    )


class Routing(Section):
    """Which experts the tokens choose: a recorded trace, or a generator."""

    kind: Literal[
        "balanced", "uniform", "zipf", "dirichlet", "power_law", "domain", "sticky", "drifting", "fitted", "trace"
    ] = Field("zipf", description="recorded trace or generator; balanced = every expert the same")
    trace: Name | None = Field(None, description="routing trace file (kind = trace), or 'sample:NAME'")
    fit: Name | None = Field(None, description="fit that 'moesim routing fit' wrote (kind = fitted), or 'sample:NAME'")
    tokens: Annotated[Count, Served(most=1e6)] = Field(8192, description="tokens to generate; replay repeats them")
    skew: Number = Field(0.5, ge=0, allow_inf_nan=False, description="zipf and power law: exponent")
    alpha: Positive = Field(1.0, description="dirichlet: concentration")
    router: Literal["softmax_top_k", "sigmoid_with_bias", "group_limited", "top_p"] | None = Field(
        None, description="fitted: what turns logits into choices; the largest top_k where absent"
    )
    groups: Count = Field(8, description="group_limited: groups of experts")
    top_k_groups: Count = Field(4, description="group_limited: groups that a token may use")
    top_p: Share = Field(0.5, description="top_p: probability to cover with as few experts as it takes")
    capacity_factor: Positive | None = Field(
        None, description="drop what an expert gets above so many times the mean; dropless where absent"
    )
    capacity_batch: Annotated[Count, Served(most=1e6)] = Field(4096, description="tokens that share a capacity")


class Slo(Section):
    """The service-level objective that goodput counts."""

    ttft: Seconds | None = Field(None, description="time to first token")
    tpot: Seconds | None = Field(None, description="time per output token")
    e2el: Seconds | None = Field(None, description="end-to-end latency")


class ScalingEvent(Section):
    """A change of size at a time."""

    at: Delay = Field(description="when, after the start of the run")
    size: Count = Field(description="attention ranks of all instances together from then on")


class ElasticChoice(Section):
    """How the deployment changes its size while it serves. Sizes count attention ranks (dp) over all instances."""

    mechanism: Literal["none", "cold_restart", "horizontal", "vertical_new", "colocated", "elastic", "ideal"] = Field(
        "none", description="how a change is carried out"
    )
    without: tuple[Literal["ipc_alloc", "p2p", "preinit", "zero_copy"], ...] = Field(
        (), description="elastic: what of the mechanism is switched off"
    )
    handover: Literal["drained", "ready"] = Field(
        "drained",
        description="elastic: the new instance takes requests when the old one is empty, or at once, in turns with it",
    )
    startup: Name = Field("vllm-ascend", description="start-up profile, or path of a TOML file of one's own")
    policy: Literal["schedule", "queue", "slo", "utilisation", "predictive"] = Field(
        "schedule", description="when to change"
    )
    events: Annotated[tuple[ScalingEvent, ...], Served(most=100_000)] = Field(
        (), description="schedule: what to change when"
    )
    min_size: Annotated[Count | None, Served(most=100_000)] = Field(
        None, description="smallest size; that of the start where absent"
    )
    max_size: Annotated[Count | None, Served(most=100_000)] = Field(
        None, description="largest size; that of the start where absent"
    )
    step: Count = Field(1, description="ranks by which a size may differ from another; horizontal: whole instances")
    interval: Annotated[Seconds, Served(least=0.1)] = Field(5.0, description="between two looks at the load")
    window: Seconds = Field(30.0, description="span over which attainment and load are judged")
    up: Positive | None = Field(
        None, description="grow above this many waiting per rank (queue, 4), below this attainment (slo, 0.9)"
    )
    target: Share = Field(0.7, description="load per capacity to aim at, and not to exceed by shrinking")
    band: float = Field(
        0.1, ge=0, lt=1, strict=True, description="utilisation, predictive: deviation from the target to tolerate"
    )
    patience: Count = Field(1, description="looks in a row that must agree")
    cooldown_up: Seconds = Field(10.0, description="after a change, until the next growth")
    cooldown_down: Seconds = Field(60.0, description="after a change, until the next shrinking")
    lookahead: Seconds = Field(30.0, description="predictive: how far ahead the trace is read")


class Run(Section):
    """What of the run is measured."""

    warmup_requests: int | None = Field(
        None, ge=0, strict=True, description="first requests left out; all before the steady state where absent"
    )
    drain: Flag | None = Field(
        None, description="count what ends after the last arrival; false = nothing of it; absent = not its time"
    )
    traced_steps: Annotated[int, Served(most=10_000)] = Field(
        50, ge=0, strict=True, description="steps drawn in the Perfetto trace"
    )
