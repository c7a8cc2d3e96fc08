"""What a placement is worth: the time of a step on routing that the placement has not seen.

A routing trace is cut in two between sequences. Every policy places by the load of the first part; steps are then
priced on windows of the second: the routed experts by the exact counts of every slot, the exchange by who sends what
to whom, everything else as in any other step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.cost.model import CostModel
from simulator.deployment.deployment import expert_nodes
from simulator.deployment.inputs import scenario_routing
from simulator.deployment.layout import lay_out
from simulator.errors import InfeasibleScenario, ScenarioError
from simulator.hardware import Hardware
from simulator.kernels.all_to_all import exchange_time
from simulator.kernels.expert_exchange import ExchangeKernel, ExchangeShape
from simulator.kernels.traffic import Traffic, contiguous_homes, sharded_destinations, traffic_of
from simulator.ops import Op
from simulator.parallelism import Parallelism
from simulator.placement import Placement, imbalance, lower_bound, place_experts, placed_load
from simulator.placement.replay import ServedTokens, serve_tokens
from simulator.placement.replica_routing import home_ranks
from simulator.scenario import Scenario
from simulator.stack import StackProfile
from simulator.step.tables import expert_seconds
from simulator.step.work import StepWork, step_ops
from workloads.models.spec import ModelSpec, Phase
from workloads.routing.trace import RoutingTrace, check_routing, with_experts

#: The placement that has seen the very tokens it is judged on: what no forecast can be sure to reach.
ORACLE = "oracle"
#: Layers whose exchange is priced message by message; others are taken to be like them [1].
_EXCHANGE_LAYERS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """How placements are judged.

    Attributes
    ----------
    policies : tuple of str
        Policies to compare; keys of ``POLICIES``.
    phase : {"decode", "prefill"}
        Which kind of step.
    batch : int
        Tokens of a step on each rank [tokens].
    context : int
        KV length of a decoded token, or tokens of a prompt [tokens].
    seen : float
        Share of the trace that placements are computed from [1].
    mixed : bool
        Whether the sequences that are seen are spread over the trace, rather than its first.
    windows : int
        Steps that are priced, spread over the rest of the trace [1].
    """

    policies: tuple[str, ...]
    phase: str = "decode"
    batch: int = 64
    context: int = 1024
    seen: float = 0.5
    mixed: bool = False
    windows: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementScore:
    """One placement judged.

    Attributes
    ----------
    policy : str
        Its policy.
    imbalance_seen, imbalance_later : float
        Heaviest rank over the mean rank, mean over layers, of all tokens that it was computed from and of all later
        ones [1].
    imbalance_step : float
        The same within single steps on later tokens, where chance adds to it [1].
    bound : float
        Least that ``imbalance_later`` can be with so many slots [1].
    active : float
        Share of slots that a step touches on later tokens [1].
    far_copies : float
        Domains other than its own that a token reaches, mean [1].
    parts : mapping of str to float
        Time of a step [s]: ``experts`` of the mean rank, ``imbalance_wait`` for the slowest, ``exchange`` and ``rest``.
    heat : float array, shape (layers, ranks)
        Load of every rank on later tokens over the mean rank [1].
    """

    policy: str
    imbalance_seen: float
    imbalance_later: float
    imbalance_step: float
    bound: float
    active: float
    far_copies: float
    parts: Mapping[str, float]
    heat: FloatArray

    @property
    def step(self) -> float:
        """Time of a step [s]."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementStudy:
    """All placements of one split; ``scores`` has the policies in the order asked for, the oracle last."""

    ranks: int
    nodes: int
    redundant_slots: int
    seen_tokens: int
    later_tokens: int
    scores: tuple[PlacementScore, ...]

    @property
    def best(self) -> PlacementScore:
        """The placement with the shortest step, the first of equals; the oracle does not count."""
        return min((score for score in self.scores if score.policy != ORACLE), key=lambda score: score.step)

    def gain(self, score: PlacementScore) -> float:
        """Share of the first placement's step time that another saves [1]."""
        return 1.0 - score.step / self.scores[0].step


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What all placements of a study share."""

    model: ModelSpec
    num_experts: int
    hardware: Hardware
    stack: StackProfile
    split: Parallelism
    scenario: Scenario
    trace: RoutingTrace
    options: StudyOptions

    @cached_property
    def cost(self) -> CostModel:
        return CostModel(hardware=self.hardware, stack=self.stack)

    @cached_property
    def parts(self) -> tuple[RoutingTrace, RoutingTrace]:
        return split_trace(self.trace, self.options.seen, mixed=self.options.mixed)

    @property
    def order(self) -> Phase:
        return "prefill" if self.options.phase == "prefill" else "decode"

    @property
    def nodes(self) -> int:
        return expert_nodes(self.split, self.hardware)

    @property
    def tokens(self) -> int:
        """Tokens over all ranks that a pipeline stage has in flight."""
        return self.work.stage_tokens(self.split.pp)

    @property
    def work(self) -> StepWork:
        """The step, with as many tokens on every rank."""
        own, context, dp = self.options.batch, self.options.context, self.split.dp
        if self.options.phase == "prefill":
            return StepWork.prefill(max(round(own / context), 1) * dp, own * dp, dp=dp)
        return StepWork.decode(own * dp, float(context), dp=dp)


def study_placements(
    scenario: Scenario,
    options: StudyOptions,
    progress: Callable[[float], None] | None = None,
    trace: RoutingTrace | None = None,
) -> PlacementStudy:
    """Place by every policy on the first part of the routing, and price steps on the rest.

    Parameters
    ----------
    scenario : Scenario
        Model, hardware, split, stack, routing, redundant slots and replica routing.
    options : StudyOptions
        Policies, and how they are judged; the first policy is what gains are measured against.
    progress : callable, optional
        Told the share of placements that are done.
    trace : RoutingTrace, optional
        The routing; the scenario's where absent.

    Raises
    ------
    MoesimError
        Something cannot be loaded, does not match or does not fit.
    """
    bench = _bench(scenario, options, trace)
    past, later = bench.parts
    experts = bench.num_experts
    load, load_later = (placed_load(part, experts) for part in (past, later))
    redundant, ranks = scenario.placement.redundant_slots, bench.split.ep
    bound = lower_bound(load_later, ranks, redundant) / np.maximum(load_later.mean(axis=1) * experts / ranks, 1e-300)
    scores = []
    wanted = [*((policy, policy, past) for policy in options.policies), (ORACLE, "refined", later)]
    for done, (name, policy, known) in enumerate(wanted):
        placement = place_experts(policy, known, bench.model, ranks, redundant, nodes=bench.nodes, seed=scenario.seed)
        scores.append(_judge(bench, name, placement, load, load_later, float(bound.mean())))
        if progress is not None:
            progress((done + 1) / len(wanted))
    return PlacementStudy(
        ranks=ranks,
        nodes=bench.nodes,
        redundant_slots=redundant,
        seen_tokens=past.tokens,
        later_tokens=later.tokens,
        scores=tuple(scores),
    )


def split_trace(trace: RoutingTrace, share: float, *, mixed: bool = False) -> tuple[RoutingTrace, RoutingTrace]:
    """Part the sequences of a trace so that the first part has about this share of the tokens.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    share : float
        Share of the first part [1].
    mixed : bool
        Whether to take sequences from all over the trace, evenly, rather than from its beginning.

    Raises
    ------
    ScenarioError
        The trace has one sequence only.
    """
    starts, sequences = trace.sequence_start, len(trace.sequence_start)
    if sequences < 2:
        raise ScenarioError(f"routing trace {trace.source}: its one sequence cannot be parted; two or more could")
    if mixed:
        turn = np.arange(sequences)
        first = np.floor((turn + 1) * share) > np.floor(turn * share)
    else:
        first = starts < starts[1 + np.abs(starts[1:] - share * trace.tokens).argmin()]
    if first.all() or not first.any():
        raise ScenarioError(
            f"routing trace {trace.source}: {share:g} of its {sequences} sequences leave nothing to hold out or to see"
        )
    return _sequences(trace, first, "seen"), _sequences(trace, ~first, "held out")


def _sequences(trace: RoutingTrace, chosen: NDArray[np.bool_], which: str) -> RoutingTrace:
    lengths = np.diff(trace.sequence_start, append=trace.tokens)
    ends = np.cumsum(lengths[chosen])
    return replace(
        trace,
        expert_ids=trace.expert_ids[np.repeat(chosen, lengths)],
        sequence_start=ends - lengths[chosen],
        source=f"{trace.source} ({which})",
    )


def _bench(scenario: Scenario, options: StudyOptions, trace: RoutingTrace | None) -> _Bench:
    laid = lay_out(scenario)
    if laid.model.moe is None:
        raise InfeasibleScenario(f"{laid.model.name} has no experts to place")
    if laid.split.ep < 2:
        raise InfeasibleScenario("parallelism.ep: placing experts needs at least 2 expert-parallel ranks, got 1")
    moe = laid.model.moe
    if trace is None:
        trace = scenario_routing(scenario.routing, laid.model, scenario.seed)
    else:
        experts = moe.num_experts + moe.null_experts
        check_routing(trace, num_experts=experts, layers=len(laid.model.moe_layers), top_k=moe.top_k)
        trace = with_experts(trace, experts)
    if trace is None:
        raise InfeasibleScenario(f"{laid.model.name} has no experts to place")
    return _Bench(
        model=laid.model,
        num_experts=laid.model.moe.num_experts,
        hardware=laid.hardware,
        stack=laid.stack,
        split=laid.split,
        scenario=scenario,
        trace=trace,
        options=options,
    )


def _judge(
    bench: _Bench, name: str, placement: Placement, load: FloatArray, load_later: FloatArray, bound: float
) -> PlacementScore:
    later, options = bench.parts[1], bench.options
    routing = serve_tokens(
        later,
        placement,
        bench.tokens,
        replica_routing=bench.scenario.placement.replica_routing,
        nodes=bench.nodes,
    )
    counts = routing.counts(bench.order, bench.tokens, options.windows)
    served = counts.sum(axis=-1)
    total = routing.counts(bench.order, routing.tokens, 1)[0].sum(axis=-1)
    parts, far = _step_parts(bench, routing, counts)
    return PlacementScore(
        policy=name,
        imbalance_seen=float(imbalance(placement.rank_load(load)).mean()),
        imbalance_later=float(imbalance(placement.rank_load(load_later)).mean()),
        imbalance_step=float(imbalance(served).mean()),
        bound=bound,
        active=float((counts > 0).mean()),
        far_copies=far,
        parts=parts,
        heat=total / np.maximum(total.mean(axis=1, keepdims=True), 1e-300),
    )


def _step_parts(bench: _Bench, routing: ServedTokens, counts: FloatArray) -> tuple[dict[str, float], float]:
    """Time the parts of a step [s], and count the other domains that a token reaches."""
    cost, model, split, stack = bench.cost, bench.model, bench.split, bench.stack
    prompt = bench.options.phase == "prefill"
    seconds = expert_seconds(cost, model, split, counts, bench.tokens, prompt=prompt)
    experts = float(seconds.mean(axis=(0, 2)).sum())
    hottest = float(seconds.max(axis=2).mean(axis=0).sum())
    ops = step_ops(bench.work, model, split, stack)
    exchanged = [op for op in ops if op.kind in ("dispatch", "combine")]
    rest = [op for op in ops if op.kind not in ("moe", "dispatch", "combine")]
    exchange, far = _exchange(bench, routing, exchanged)
    return {
        "experts": experts,
        "imbalance_wait": max(hottest - experts, 0.0),
        "exchange": exchange,
        "rest": float(sum(time.seconds + time.imbalance_wait for time in cost.times(rest))),
    }, far


def _exchange(bench: _Bench, routing: ServedTokens, ops: Sequence[Op]) -> tuple[float, float]:
    """Time dispatch and combine of a step by their real traffic, over sampled layers [s]."""
    split, fabric = bench.split, bench.hardware.fabric
    homes = home_ranks(routing.decode_order, split.group)
    windows = routing.window_tokens(bench.order, bench.tokens, bench.options.windows)
    layers = np.unique(np.linspace(0, routing.layers - 1, min(_EXCHANGE_LAYERS, routing.layers)).astype(np.int64))
    kernels = [(op, bench.cost.lookups(op)[0].kernel) for op in ops]
    found, reached = [], []
    for tokens in windows:
        home = homes[tokens] if bench.order == "decode" else contiguous_homes(len(tokens), split.group)
        for layer in layers.tolist():
            traffic = _traffic(routing, tokens, layer, home, split, fabric.domain)
            reached.append(_far(traffic) / max(len(tokens), 1))
            found.append(sum(_exchange_seconds(bench, op, kernel, traffic) for op, kernel in kernels))
    return float(np.mean(found)), float(np.mean(reached))


def _traffic(
    routing: ServedTokens,
    tokens: NDArray[np.int64],
    layer: int,
    home: NDArray[np.int64],
    split: Parallelism,
    domain: int,
) -> Traffic:
    slots = routing.slot_ids[tokens, layer].astype(np.int64)
    rank = np.where(slots < routing.placement.slots, slots // routing.placement.slots_per_rank, -1)
    if split.etp > 1:
        rank = sharded_destinations(rank, home, expert_shards=split.etp, coordinated=False)
    return traffic_of(rank, home, ranks=split.group, domain=domain)


def _far(traffic: Traffic) -> float:
    """Copies to other domains than the sender's, one per domain [1]."""
    size = min(traffic.domain, traffic.size)
    away = traffic.domains.copy()
    away[np.arange(traffic.size), np.arange(traffic.size) // size] = 0.0
    return float(away.sum())


def _exchange_seconds(bench: _Bench, op: Op, kernel: ExchangeKernel, traffic: Traffic) -> float:
    shape: ExchangeShape = op.shape
    time = exchange_time(
        traffic,
        hidden=shape.hidden,
        element_bytes=shape.element_bytes,
        fabric=bench.hardware.fabric,
        kernel=kernel,
        num_experts=shape.num_experts,
    )
    return float(np.max(time.seconds)) * op.repeat
