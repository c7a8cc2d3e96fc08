"""The time of an engine step in microseconds of computing: ops priced once on grids, routing added exactly.

A step's ops fall apart by what sets their size (``Op.driver``), so its time is a sum of lookups: one table over the
tokens of a rank, one over rows that reach the LM head, grids over prompt chunks and decode batches, and for the
routed experts a line per layer through the rank loads of the replayed window. The tables are evaluations of the same
ops by the same cost model as the closed form, so the two agree up to interpolation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, last_sum
from simulator.cost.grids import LogAxis, TimeGrid
from simulator.cost.model import CostModel, OpTime, expert_tile_changes, expert_times
from simulator.ops import Driver, Op, StepShape, build_experts, build_ops, draft_ops, moe_kinds
from simulator.parallelism import Parallelism
from simulator.placement.replay import RoutingReplay
from simulator.step.blocks import BlockTable, Inside, block_table, inside
from simulator.step.components import OP_COMPONENTS
from simulator.step.contention import stretched, units_taken
from simulator.step.row_table import RowTable, row_grid
from workloads.models.spec import ModelSpec, Phase

#: Kernels that the routed experts launch: sort, quantise, two grouped GEMMs, activation, finalise [1].
EXPERT_LAUNCHES = 6.0
#: Most expert lines that are kept, each for a number of tokens in a step.
_KNOWN_LINES = 4096
#: Doublings of a token at which experts can be priced: more tokens than any step has [1].
_MOST_OCTAVES = 40


class ExpertLines:
    """Time of the routed experts of all MoE layers against the load of the slowest rank, for one token order.

    At ``tokens[i]`` tokens over all ranks, layer ``l`` takes ``base[i, l] + slope[i, l] * load`` on a rank with
    ``load`` assignments; the line passes through the mean rank and the slowest rank of sampled windows.
    Points are priced when a step first lies beside them.

    Parameters
    ----------
    tokens : int array, shape (points,)
        Tokens over all ranks, ascending [tokens].
    price : callable
        Maps one of these numbers to its lines.
    priced : mapping of int to PricedLines
        Lines that were priced before, by the index of their point.
    shares : array, shape (layers,), or None
        Assignments of each layer over those of the mean layer, where they differ [1].

    Attributes
    ----------
    priced : dict of int to PricedLines
        Lines that are priced, likewise.
    """

    __slots__ = ("_known", "_logs", "_price", "_shares", "_tokens", "priced")

    def __init__(
        self,
        tokens: NDArray[np.int64],
        price: Callable[[int], PricedLines],
        priced: Mapping[int, PricedLines],
        shares: FloatArray | None = None,
    ) -> None:
        self._shares = 1.0 if shares is None else shares
        self._tokens: list[int] = tokens.tolist()
        self._logs: FloatArray = np.log(tokens)
        self._price = price
        self.priced: dict[int, PricedLines] = dict(priced)
        self._known: dict[int, ExpertLine] = {}

    def at(self, tokens: int) -> ExpertLine:
        """Return the lines of a step of so many tokens over all ranks, interpolated between the points."""
        line = self._known.get(tokens)
        if line is None:
            if len(self._known) >= _KNOWN_LINES:
                self._known.clear()
            line = self._known[tokens] = self._between(tokens)
        return line

    def times(
        self, tokens: NDArray[np.int64], loads: FloatArray, share: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what :meth:`ExpertLine.time` returns, of many steps at once; arrays of shape (steps,) [s], [s], [1].

        Parameters
        ----------
        tokens : int array, shape (steps,)
            Tokens of each step over all ranks [tokens].
        loads : array, shape (steps, layers)
            Assignments of the most loaded rank at each layer [1].
        share : float
            Assignments of the mean rank per token [1].
        """
        sizes, where = np.unique(tokens, return_inverse=True)
        lines = [self.at(size) for size in sizes.tolist()]
        base, slope = (np.array(each)[where] for each in zip(*((line.base, line.slope) for line in lines), strict=True))
        mean_loads = tokens * share
        even = slope * mean_loads
        hottest, load_means = np.einsum("spl,sl->ps", np.stack([line.weights for line in lines])[where], loads)
        return base + even, np.maximum(hottest - even, 0.0), load_means / mean_loads

    def touched(self, tokens: FloatArray) -> FloatArray:
        """Expert slots of the mean rank that steps of so many tokens over all ranks touch [1]."""
        logs, values = np.log(np.maximum(tokens, 1.0)), np.zeros_like(self._logs)
        above = np.clip(np.searchsorted(self._logs, logs, side="right"), 1, len(values) - 1)
        for index in np.unique([above - 1, above]).tolist():
            values[index] = self._at_point(index).touched
        return np.interp(logs, self._logs, values)

    def _between(self, tokens: int) -> ExpertLine:
        points = self._tokens
        low = min(max(bisect_right(points, tokens) - 1, 0), len(points) - 2)
        share = min(max((tokens - points[low]) / (points[low + 1] - points[low]), 0.0), 1.0)
        lower = self._at_point(low)
        upper = self._at_point(low + 1) if share else lower
        base = lower.base + share * (upper.base - lower.base)
        slope = lower.slope + share * (upper.slope - lower.slope)
        weights = np.stack([slope, np.full(len(slope), 1.0 / len(slope))])
        return ExpertLine(
            base=float(base.sum()),
            slope=float((slope * self._shares).sum()),
            weights=weights,
            bases=base,
            shares=self._shares,
        )

    def _at_point(self, index: int) -> PricedLines:
        lines = self.priced.get(index)
        if lines is None:
            lines = self.priced[index] = self._price(self._tokens[index])
        return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedLines:
    """The lines of all layers at one point, each ``base + slope * load``.

    Attributes
    ----------
    base, slope : array, shape (layers,)
        The lines [s], [s per assignment].
    touched : float
        Expert slots of the mean rank and layer that any of the tokens goes to [1].
    """

    base: FloatArray
    slope: FloatArray
    touched: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLine:
    """The lines of all layers at one number of tokens.

    ``base`` [s] and ``slope`` [s per assignment of the mean layer] are summed over layers, of which layer ``l`` has
    ``shares[l]`` times the assignments of the mean one. ``weights``, shape (2, layers), takes the
    load of the most loaded rank at each layer to the time that it adds [s] and to its mean over layers [1].
    ``bases``, shape (layers,), are the summands of ``base`` [s].
    """

    base: float
    slope: float
    weights: FloatArray
    bases: FloatArray
    shares: FloatArray | float = 1.0

    def time(self, load: FloatArray, mean_load: float) -> tuple[float, float, float]:
        """Return the time of the mean rank and what the slowest rank adds, over all layers [s], and the imbalance.

        Parameters
        ----------
        load : array, shape (layers,)
            Assignments of the most loaded rank at each layer [1].
        mean_load : float
            Assignments of the mean rank [1].
        """
        even = self.slope * mean_load
        hottest, load_mean = self.weights.dot(load).tolist()
        return self.base + even, max(hottest - even, 0.0), load_mean / mean_load

    def times(self, loads: FloatArray, mean_load: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what :meth:`time` returns, of steps of as many tokens that load the ranks in different ways.

        Parameters
        ----------
        loads : array, shape (steps, layers)
            Assignments of the most loaded rank of each step at each layer [1].
        mean_load : float
            Assignments of the mean rank [1].

        Returns
        -------
        experts, wait, imbalance : array, shape (steps,)
        """
        even = self.slope * mean_load
        hottest, load_mean = self.weights.dot(loads.T)
        return np.full(len(loads), self.base + even), np.maximum(hottest - even, 0.0), load_mean / mean_load

    def layers(self, loads: FloatArray, mean_loads: list[float]) -> tuple[FloatArray, list[float]]:
        """Return the time of the slowest rank at each layer [s], shape (parts, layers), and the imbalance of each part.

        A row adds up to the two times that :meth:`time` returns.

        Parameters
        ----------
        loads : array, shape (parts, layers)
            Assignments of the most loaded rank at each layer [1].
        mean_loads : list of float
            Assignments of the mean rank, by part [1].
        """
        hottest, load_means = self.weights.dot(loads.T).tolist()
        for part, mean in enumerate(mean_loads):
            if hottest[part] < self.slope * mean:
                loads[part] = mean * self.shares
        return self.bases + self.weights[0] * loads, [a / b for a, b in zip(load_means, mean_loads, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTables:
    """Everything that a step's time is looked up in.

    Attributes
    ----------
    tokens, prompts : RowTable
        Ops that all tokens drive, by tokens on the rank, all decoded or with prompt tokens among them, for which some
        stacks exchange tokens otherwise.
    logits : RowTable
        Ops that the rows reaching the LM head drive, by these.
    decode, drafting : RowTable
        Ops that decoded sequences drive outside attention, by these: absorbed projections, and the drafting of their
        next tokens.
    exchange, prompt_exchange : array, shape (most tokens + 1,)
        What dispatch and combine add per unit of (imbalance - 1), likewise [s].
    decode_attention, prompt_attention : TimeGrid
        Over (sequences, context) and (sequences, new tokens, prefix) [s].
    prompt_projections : TimeGrid or None
        Prompt-driven GEMMs, over the same axes [s].
    experts : mapping of order to ExpertLines, empty without MoE layers
    blocks : mapping of order to BlockTable, empty without MoE layers
        What a schedule moves as one, of steps that only decode and of steps with prompts.
    inside : Inside
        What lies between the first and the last MoE layer.
    launches : float
        Kernels of a step [1].
    kernels : frozenset of str
        Kernel tables that the times were taken from.
    """

    tokens: RowTable
    prompts: RowTable
    logits: RowTable
    decode: RowTable
    drafting: RowTable
    exchange: FloatArray
    prompt_exchange: FloatArray
    decode_attention: TimeGrid
    prompt_attention: TimeGrid
    prompt_projections: TimeGrid | None
    experts: dict[Phase, ExpertLines]
    blocks: dict[Phase, BlockTable]
    inside: Inside
    launches: float
    kernels: frozenset[str]

    @property
    def parts(self) -> tuple[RowTable | FloatArray, ...]:
        """What is large of them."""
        rows = self.tokens, self.prompts, self.logits, self.decode, self.drafting
        return (*rows, self.exchange, self.prompt_exchange)

    @property
    def exchanges(self) -> bool:
        """Whether tokens travel to their experts and back."""
        return bool(self.blocks) and self.blocks["decode"].at(1).dispatch > 0.0


def compile_tables(
    cost: CostModel,
    model: ModelSpec,
    split: Parallelism,
    routing: RoutingReplay | None,
    *,
    most_tokens: int,
    most_sequences: int,
    most_context: int,
    query_tokens: int = 1,
    drafts: int = 0,
) -> StepTables:
    """Price the ops of a model on grids.

    Parameters
    ----------
    cost, model, split
        What prices, what runs, how it is split.
    routing : RoutingReplay or None
        The routing trace on its placement; ``None`` without MoE layers.
    most_tokens, most_sequences, most_context : int
        Largest step of one rank, most sequences in it, longest sequence [1]. Tables reach at least so far; what they
        say of less does not depend on how far.
    query_tokens : int
        Tokens of a decoded sequence in a step; more than one where drafts are verified [1].
    drafts : int
        Tokens that a further layer of the model's own drafts per step, one after the other [1].
    """
    price = _Pricer(cost=cost, model=model, split=split, query_tokens=query_tokens, drafts=drafts)
    grid, sequences, where = row_grid(most_tokens), row_grid(most_sequences), inside(model)
    decoding = price.decoding(grid / query_tokens)
    decoded = _token_tables(price, decoding, grid, where)
    prompted = _token_tables(price, StepShape(prefill_tokens=np.maximum(grid, 1.0), prefill_sequences=1.0), grid, where)
    prompt_axes = _prompt_axes(most_tokens, most_sequences, most_context)
    return StepTables(
        tokens=decoded.seconds,
        prompts=prompted.seconds,
        logits=RowTable(grid=grid, seconds=_by_component(cost.times(price.ops(decoding, "logits")), len(grid))),
        decode=price.by_sequences(price.ops(price.decoding(sequences), "decode"), sequences),
        drafting=price.by_sequences(price.drafting(sequences), sequences),
        exchange=decoded.uneven,
        prompt_exchange=prompted.uneven,
        blocks={"decode": decoded.blocks, "prefill": prompted.blocks} if where.layers else {},
        inside=where,
        decode_attention=_decode_grid(price, most_sequences, most_context),
        prompt_attention=TimeGrid(prompt_axes, partial(price.prompt_seconds, "attention")),
        prompt_projections=TimeGrid(prompt_axes, partial(price.prompt_seconds, "gemm"))
        if price.projects_prompts
        else None,
        experts=ExpertTables(cost, model, split, routing) if routing else {},
        launches=sum(
            op.repeat * (EXPERT_LAUNCHES if op.kind == "moe" else 1.0)
            for op in build_ops(model, split, cost.stack, StepShape(decode_sequences=1.0, decode_context=1.0))
            if op.rows > 0
        ),
        kernels=_kernels(cost, model, split),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pricer:
    """Prices the ops of one deployment; fields as the parameters of :func:`compile_tables`."""

    cost: CostModel
    model: ModelSpec
    split: Parallelism
    query_tokens: int
    drafts: int

    def decoding(self, sequences: FloatArray, context: FloatArray | float = 1.0) -> StepShape:
        """Decode so many sequences on a rank."""
        return StepShape(
            decode_sequences=sequences, decode_context=context, decode_query_tokens=float(self.query_tokens)
        )

    def ops(self, shape: StepShape, driver: Driver) -> tuple[Op, ...]:
        """List the ops of a step that so much of it drives."""
        return tuple(op for op in build_ops(self.model, self.split, self.cost.stack, shape) if op.driver == driver)

    def drafting(self, sequences: FloatArray, context: FloatArray | float = 1.0) -> tuple[Op, ...]:
        """List the ops that draft the next tokens of so many sequences."""
        return draft_ops(self.model, self.split, self.cost.stack, sequences, context, self.drafts)

    def by_sequences(self, ops: tuple[Op, ...], sequences: FloatArray) -> RowTable:
        """Tabulate what ops take outside attention, whose time depends on the context too."""
        seconds = _by_component(self.cost.times(ops), len(sequences))
        seconds[:, OP_COMPONENTS.index("attention")] = 0.0
        return RowTable(grid=sequences, seconds=seconds)

    def attention(self, sequences: FloatArray, context: FloatArray) -> FloatArray:
        """Attention of decoded sequences, that of drafting included [s]."""
        ops = (*self.ops(self.decoding(sequences, context), "decode"), *self.drafting(sequences, context))
        return self._sum(ops, "attention", sequences)

    def prompt_seconds(self, component: str, sequences: FloatArray, new: FloatArray, prefix: FloatArray) -> FloatArray:
        """Ops of one component that prompt chunks drive, each of ``new`` tokens after a prefix [s]."""
        shape = StepShape(prefill_tokens=sequences * new, prefill_sequences=sequences, prefill_prefix=prefix)
        return self._sum(self.ops(shape, "prefill"), component, sequences)

    @property
    def projects_prompts(self) -> bool:
        """Whether prompts have GEMMs of their own, as those that expand latent keys and values."""
        return any(op.component == "gemm" for op in self.ops(StepShape(prefill_tokens=1.0), "prefill"))

    def _sum(self, ops: tuple[Op, ...], component: str, like: FloatArray) -> FloatArray:
        total = np.zeros_like(like)
        for op in ops:
            if op.component == component:
                total += self.cost.time(op).seconds
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class _TokenTables:
    """Ops that all tokens drive: seconds by component, what an uneven load adds [s], and their blocks."""

    seconds: RowTable
    uneven: FloatArray
    blocks: BlockTable


def _token_tables(price: _Pricer, shape: StepShape, grid: FloatArray, where: Inside) -> _TokenTables:
    even = price.cost.times(price.ops(shape, "tokens"))
    uneven = price.ops(replace(shape, max_rank_share=2.0), "tokens")
    # Nothing but the exchange knows which rank is the busiest.
    busiest = tuple(
        price.cost.time(op) if op.block in ("dispatch", "combine") else time
        for op, time in zip(uneven, even, strict=True)
    )
    seconds = _by_component(even, len(grid))
    extra = (_by_component(busiest, len(grid)) - seconds).sum(axis=1)
    units = [units_taken(time, price.cost.hardware.silicon) for time in even]
    return _TokenTables(
        seconds=RowTable(grid=grid, seconds=seconds),
        uneven=np.interp(np.arange(int(grid[-1]) + 1), grid, extra),
        blocks=block_table(grid, even, busiest, units, [stretched(time) for time in even], where),
    )


def sample_ops(cost: CostModel, model: ModelSpec, split: Parallelism) -> tuple[Op, ...]:
    """List the ops of a step that decodes and of one that computes a prompt, each of one token."""
    shapes = (
        StepShape(decode_sequences=1.0, decode_context=1.0),
        StepShape(prefill_tokens=1.0, prefill_sequences=1.0),
    )
    return tuple(op for shape in shapes for op in build_ops(model, split, cost.stack, shape))


def _kernels(cost: CostModel, model: ModelSpec, split: Parallelism) -> frozenset[str]:
    """Name the kernel tables behind steps with and without prompts; one that the device lacks is told here."""
    found = [lookup for op in sample_ops(cost, model, split) for lookup in cost.lookups(op)]
    return frozenset(lookup.table for lookup in found if lookup.quantities)


def _by_component(times: tuple[OpTime, ...], size: int) -> FloatArray:
    """Sum op times by component over a grid; shape (size, components with ops) [s]."""
    total = np.zeros((size, len(OP_COMPONENTS)))
    for time in times:
        total[:, OP_COMPONENTS.index(time.op.component)] += time.seconds
    return total


def _decode_grid(price: _Pricer, most_sequences: int, most_context: int) -> TimeGrid:
    axes = (
        LogAxis(low=1, high=max(most_sequences, 2), per_octave=4),
        LogAxis(low=16, high=max(most_context, 32), per_octave=3),
    )
    return TimeGrid(axes, price.attention)


def _prompt_axes(most_tokens: int, most_sequences: int, most_context: int) -> tuple[LogAxis, ...]:
    return (
        LogAxis(low=1, high=max(min(most_sequences, 512), 2), per_octave=1.5),
        LogAxis(low=1, high=max(most_tokens, 2), per_octave=2),
        LogAxis(low=0, high=max(most_context, 256), per_octave=2, offset=128),
    )


class ExpertTables(dict[Phase, ExpertLines]):
    """Expert lines by token order, each made when it is first asked for.

    Parameters
    ----------
    cost, model, split, routing
        As for :func:`compile_tables`.
    alike : dict of order to ExpertLines, optional
        Where to share the lines of prompt order with replays that differ in the order of decoded tokens alone.

    Attributes
    ----------
    remembered : mapping of order to mapping of int to PricedLines
        Lines that were priced before, by order and index of their point.
    fresh : int
        Lines that have been priced here [1].
    """

    def __init__(
        self,
        cost: CostModel,
        model: ModelSpec,
        split: Parallelism,
        routing: RoutingReplay,
        alike: dict[Phase, ExpertLines] | None = None,
    ) -> None:
        super().__init__()
        self._parts = cost, model, split, routing
        self._alike = {} if alike is None else alike
        self.remembered: Mapping[Phase, Mapping[int, PricedLines]] = {}
        self.fresh = 0

    def __missing__(self, order: Phase) -> ExpertLines:
        """Find out where the lines of an order have their points."""
        if order in self._alike:
            self[order] = self._alike[order]
            return self[order]
        cost, model, split, routing = self._parts
        shape = _experts_shape(split, 1.0, prompt=order == "prefill")
        changes = [
            expert_tile_changes(cost, build_experts(model, split, cost.stack, shape, moe, None))
            for moe in moe_kinds(model)
        ]
        points, known = _expert_points(np.concatenate(changes)), self.remembered.get(order, {})
        lines = self[order] = ExpertLines(points, partial(self._price, order), known, routing.layer_shares)
        if order == "prefill":
            self._alike[order] = lines
        return lines

    def priced(self) -> dict[Phase, dict[int, PricedLines]]:
        """Return all lines that are priced, by order and index of their point."""
        known = {order: dict(lines) for order, lines in self.remembered.items()}
        return known | {order: dict(lines.priced) for order, lines in list(self.items())}

    def _price(self, order: Phase, tokens: int) -> PricedLines:
        self.fresh += 1
        return _expert_lines(*self._parts, order, tokens)


def _expert_points(changes: FloatArray) -> NDArray[np.int64]:
    """Numbers of tokens at which experts are priced, on both sides of every change of a kernel's tiles."""
    dense, sparse = np.arange(0, 12, 1 / 3), np.arange(12, _MOST_OCTAVES, 2 / 3)
    # Kernels change their tiles just beyond powers of two.
    beyond = 2.0 ** np.arange(2, _MOST_OCTAVES) + 1.0
    edges = np.floor(changes[changes < 2.0**_MOST_OCTAVES])
    wanted = [np.rint(2.0 ** np.concatenate([dense, sparse])), beyond, edges, edges + 1.0]
    return np.unique(np.maximum(np.concatenate(wanted), 1.0).astype(np.int64))


def _expert_lines(
    cost: CostModel, model: ModelSpec, split: Parallelism, routing: RoutingReplay, order: Phase, tokens: int
) -> PricedLines:
    counts = routing.counts(order, tokens, int(np.clip(2048 // tokens, 1, 8)))
    seconds = expert_seconds(cost, model, split, counts, tokens, prompt=order == "prefill")
    load = last_sum(counts)
    rise = (load.max(axis=-1) - load.mean(axis=-1)).sum(axis=0)
    wait = (seconds.max(axis=-1) - seconds.mean(axis=-1)).sum(axis=0)
    slope = np.divide(wait, rise, out=np.zeros(routing.layers), where=rise > 0)
    return PricedLines(
        base=seconds.mean(axis=(0, 2)) - slope * load.mean(axis=(0, 2)),
        slope=slope,
        touched=float(np.count_nonzero(counts) / load.size),
    )


def expert_seconds(
    cost: CostModel, model: ModelSpec, split: Parallelism, counts: FloatArray, tokens: float, *, prompt: bool
) -> FloatArray:
    """Time the routed experts of every MoE layer for exact counts [s].

    Parameters
    ----------
    cost : CostModel
        What prices them.
    model : ModelSpec
        Whose MoE layers they are.
    split : Parallelism
        Over how many ranks they lie.
    counts : array, shape (windows, layers, ranks, slots per rank)
        Tokens per expert slot [tokens].
    tokens : float
        Tokens over all ranks [tokens].
    prompt : bool
        Whether the step holds prompt tokens, which some stacks run with another kernel.

    Returns
    -------
    array, shape (windows, layers, ranks)
    """
    shape = _experts_shape(split, tokens, prompt=prompt)
    seconds = np.empty(counts.shape[:3])
    for moe, layers in moe_kinds(model).items():
        own = counts[:, layers]
        op = build_experts(model, split, cost.stack, shape, moe, own.reshape(-1, *own.shape[2:]))
        seconds[:, layers] = expert_times(cost, op).seconds.reshape(own.shape[:3])
    return seconds


def _experts_shape(split: Parallelism, tokens: float, *, prompt: bool) -> StepShape:
    """The step in which routed experts get so many tokens over all ranks."""
    if prompt:
        return StepShape(prefill_tokens=tokens / split.dp, prefill_sequences=1.0, group_tokens=tokens)
    return StepShape(decode_sequences=tokens / split.dp, decode_context=1.0, group_tokens=tokens)
