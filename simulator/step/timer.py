"""How long an engine step takes: the seam between the engine and the cost model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.cost.grids import TimeLine
from simulator.placement.replay import RoutingReplay
from simulator.schedule import LayerTimes, beside, two_batch_floor, two_batch_makespan
from simulator.stack import StackProfile
from simulator.step.blocks import BlockTimes
from simulator.step.components import OP_COMPONENTS, STEP_COMPONENTS, STEP_PARTS
from simulator.step.tables import StepTables
from simulator.step.totals import RowTotals
from simulator.step.work import StepTime, StepWork
from workloads.models.spec import Phase

LoadArray = NDArray[np.uint32]


@dataclass(slots=True, kw_only=True)
class StepLayers:
    """One step as a schedule sees it.

    Attributes
    ----------
    times : LayerTimes
        Blocks of the MoE layers, of the whole batch or of its halves.
    outside : float
        What runs before and after these layers [s].
    loads : array, shape (parts, ranks, layers)
        Assignments of every rank, of the batch or of each half [1].
    tokens : tuple of int
        Tokens over all ranks, likewise [tokens].
    order : {"prefill", "decode"}
        Which kernels run.
    """

    times: LayerTimes
    outside: float
    loads: LoadArray
    tokens: tuple[int, ...]
    order: Phase


@dataclass(slots=True)
class _Window:
    """The tokens of the routing trace that a step replays: where they start, how many, and the load that they make."""

    prompt_at: int
    prompt: int
    decode_at: int
    decode: int
    load: LoadArray


class StepTimer(Protocol):
    """Anything that tells how long a step takes."""

    def time(self, work: StepWork) -> StepTime:
        """Return the duration of a step; the value may be reused by the next call."""

    def breakdown(self, steps: dict[str, FloatArray]) -> dict[str, float]:
        """Split recorded steps into seconds by component, with keys of ``STEP_PARTS``."""


class TableTimer:
    """Times steps from compiled tables, walking the routing trace as it goes.

    Parameters
    ----------
    tables, totals : StepTables, RowTotals
        Priced ops of the model on its hardware, and their sums.
    routing : RoutingReplay or None
        The routing trace on its placement.
    stack : StackProfile
        Host gaps and graph padding.
    pp : int
        Pipeline stages, each of which has a pp-th of the batch in flight [1].
    start : float
        Where in the trace to begin, as a share of it; instances begin apart.
    """

    def __init__(
        self,
        tables: StepTables,
        totals: RowTotals,
        routing: RoutingReplay | None,
        stack: StackProfile,
        pp: int = 1,
        start: float = 0.0,
    ) -> None:
        self._tables, self._totals, self._routing, self._pp = tables, totals, routing, pp
        self._gap, self._gap_each = stack.number("cpu_gap"), stack.number("cpu_gap_per_request")
        self._prompt_gap = stack.number("prefill_gap")
        self._host = tables.launches * stack.number("launch_eager")
        self._graph_max = int(stack.number("graph_max_batch"))
        self._decode_lines: dict[int, TimeLine] = {}
        self._trace_tokens = routing.tokens if routing else 0
        self._prompt_at = self._decode_at = int(start * self._trace_tokens)
        # Assignments of the mean rank per token of the step.
        self._share = routing.mean_load if routing else 0.0
        # One rank is loaded alike by any tokens, so its experts are timed once for each number of them.
        self._everywhere = routing is not None and routing.alike
        self._whole = routing is not None and routing.whole
        self._known: dict[tuple[int, bool], tuple[tuple[float, float, float], LoadArray]] = {}
        self._step = StepTime()
        self._overlap = stack.overlap if tables.exchanges else "none"
        self._least = {order: stack.two_batch_tokens(order) for order in ("prefill", "decode")}
        self._window = _Window(0, 0, 0, 0, np.zeros((0, 0), dtype=np.uint32))

    @property
    def places(self) -> tuple[int, int]:
        """Where in the routing trace the next prompt token and the next decoded token are."""
        return self._prompt_at, self._decode_at

    def go_to(self, places: tuple[int, int]) -> None:
        """Go on from where another timer is."""
        self._prompt_at, self._decode_at = places

    def time(self, work: StepWork) -> StepTime:
        """Return the duration of a step and its parts."""
        step, totals, prompts = self._step, self._totals, work.prompt_total
        rows = -(-work.rows // self._pp)
        step.attention = self._decode_attention(work.decode_rows, work.decode_context) if work.decode_rows else 0.0
        step.prompt_projections = 0.0
        fixed = self._prompts(work, step) if prompts else totals.alone[rows]
        if self._routing is not None:
            if not (self._everywhere and self._experts_again(work, step)):
                self._experts(self._routing, work, step)
            fixed += (totals.prompt_exchange if prompts else totals.exchange)[rows] * (step.imbalance - 1.0)
        busy = fixed + step.attention + step.prompt_projections + step.experts + step.imbalance_wait
        host = self._host if prompts or work.rows > self._graph_max else 0.0
        if self._overlap != "none":
            host = self._choose(work, step, busy, host)
            busy -= step.saved
        # Every rank has a scheduler of its own, which handles the requests that it runs in the step.
        handled = work.decode_rows + work.prompt_sequences
        step.gap = self._gap + self._gap_each * handled + max(host - busy, 0.0)
        if prompts:
            step.gap += self._prompt_gap
        step.duration = busy + step.gap
        return step

    def _choose(self, work: StepWork, step: StepTime, busy: float, host: float) -> float:
        """Set what overlap saves; return the time in which the host launches the kernels [s].

        Each half of a batch launches its own kernels. ``auto`` takes whatever ends first, host included.
        """
        step.saved, step.overlap = 0.0, "none"
        if self._overlap != "two_batch":
            saved = self._shared_expert(work, step)
            if self._overlap == "shared_expert" or saved > 0.0:
                step.saved, step.overlap = saved, "shared_expert"
        if self._overlap == "shared_expert" or not self._splits(work):
            return host
        # Most steps that two batches do not suit are told from what halves take at the least, without replaying them.
        if self._overlap == "auto" and self._floor(work, step) - 1e-9 * busy >= max(busy - step.saved, host):
            return host
        halves = self.halves(work, step)
        saved = busy - halves.outside - two_batch_makespan(halves.times)
        if self._overlap == "auto" and max(busy - saved, 2.0 * host) >= max(busy - step.saved, host):
            return host
        step.saved, step.overlap = saved, "two_batch"
        return 2.0 * host

    def _floor(self, work: StepWork, step: StepTime) -> float:
        """Least time that a step takes as two batches whose tokens load all ranks alike, the host's work left out [s].

        No halves are quicker: a hottest rank has at least the mean load, with which the time of experts and exchanges
        grows. Where some assignments go to no rank the mean is not known beforehand, and any time is possible.
        """
        if not self._whole:
            return 0.0
        window, layers = self._window, self._tables.inside.layers
        order: Phase = "prefill" if work.prompt_total else "decode"
        own, _, outside, attention = self._part(work, step, 2, order)
        tokens = window.prompt + window.decode
        line = self._tables.experts[order].at(-(-window.prompt // 2) - (-window.decode // 2))
        experts = 2.0 * line.base + line.slope * tokens * self._share
        times = LayerTimes(
            layers=layers,
            compute=(own.compute + self._tables.inside.attention * attention) / layers,
            shared=own.shared / layers,
            dispatch=(own.dispatch / layers,),
            combine=(own.combine / layers,),
            experts=np.zeros((0, 0)),
            dispatch_units=own.dispatch_units,
            combine_units=own.combine_units,
            dispatch_stretch=own.dispatch_stretch,
            combine_stretch=own.combine_stretch,
        )
        return outside + experts + two_batch_floor(times)

    def _splits(self, work: StepWork) -> bool:
        """Whether a step is large enough to be cut in two, by the stack's own threshold."""
        rows = -(-work.rows // self._pp)
        return rows >= self._least["prefill" if work.prompt_total else "decode"]

    def _shared_expert(self, work: StepWork, step: StepTime) -> float:
        """What the shared experts beside the dispatch save [s]."""
        rows = -(-work.rows // self._pp)
        blocks, uneven = self._blocks(work, rows), self._tables.blocks["prefill" if work.prompt_total else "decode"]
        layers = self._tables.inside.layers
        message = (blocks.dispatch + uneven.at(rows).uneven * (step.imbalance - 1.0)) / layers
        shared = blocks.shared / layers
        return layers * (shared + message - beside(shared, message, blocks.dispatch_units, blocks.dispatch_stretch))

    def _blocks(self, work: StepWork, rows: int) -> BlockTimes:
        if work.prompt_total:
            return self._tables.blocks["prefill"].at(rows)
        return self._tables.blocks["decode"].at(int(self._totals.padded[rows]))

    def whole(self, work: StepWork, step: StepTime) -> StepLayers:
        """Take the step that :meth:`time` was asked for last apart, as one batch."""
        window = self._window
        if self._routing is None:
            return StepLayers(
                times=LayerTimes.none(),
                outside=step.duration - step.gap,
                loads=np.zeros((1, 0, 0), dtype=np.uint32),
                tokens=(work.rows,),
                order="prefill" if work.prompt_total else "decode",
            )
        return self._layers(work, step, window.load[None], (window.prompt + window.decode,))

    def expert_layers(self, layers: StepLayers, loads: LoadArray) -> FloatArray:
        """Time of the routed experts at each layer on ranks with other loads, shape as theirs: (parts, layers) [s]."""
        line = self._tables.experts[layers.order].at(layers.tokens[0])
        return np.asarray(line.bases + line.weights[0] * loads)

    def halves(self, work: StepWork, step: StepTime) -> StepLayers:
        """Take the step that :meth:`time` was asked for last apart, as two batches of half its rows each."""
        window, routing = self._window, self._routing
        if routing is None:
            raise ValueError("halves: a model without routed experts has none")
        prompt, decode = -(-window.prompt // 2), -(-window.decode // 2)
        if not prompt:
            first = routing.decode.load(window.decode_at, decode)
        else:
            first = routing.prefill.load(window.prompt_at, prompt)
            if decode:
                first = first + routing.decode.load(window.decode_at, decode)
        # NOTE: one array for both, because every call on an array costs a microsecond.
        loads = np.empty((2, *first.shape), dtype=first.dtype)
        loads[0] = first
        np.subtract(window.load, first, out=loads[1])
        return self._layers(work, step, loads, (prompt + decode, window.prompt + window.decode - prompt - decode))

    def _layers(self, work: StepWork, step: StepTime, loads: LoadArray, tokens: tuple[int, ...]) -> StepLayers:
        tables, inside = self._tables, self._tables.inside
        order: Phase = "prefill" if work.prompt_total else "decode"
        blocks, uneven, outside, attention = self._part(work, step, len(tokens), order)
        layers = inside.layers
        hottest = np.maximum.reduce(loads, axis=1).astype(np.float64)
        # The second half may be a token shorter; the kernels' line is that of the first.
        line = tables.experts[order].at(tokens[0])
        experts, imbalance = line.layers(hottest, [max(count * self._share, 1e-12) for count in tokens])
        times = LayerTimes(
            layers=layers,
            compute=(blocks.compute + inside.attention * attention) / layers,
            shared=blocks.shared / layers,
            dispatch=tuple([(blocks.dispatch + uneven.uneven * (each - 1.0)) / layers for each in imbalance]),
            combine=tuple([(blocks.combine + uneven.uneven_back * (each - 1.0)) / layers for each in imbalance]),
            experts=experts,
            dispatch_units=blocks.dispatch_units,
            combine_units=blocks.combine_units,
            dispatch_stretch=blocks.dispatch_stretch,
            combine_stretch=blocks.combine_stretch,
        )
        return StepLayers(times=times, outside=outside, loads=loads, tokens=tokens, order=order)

    def _part(
        self, work: StepWork, step: StepTime, parts: int, order: Phase
    ) -> tuple[BlockTimes, BlockTimes, float, float]:
        """Return the blocks of one of so many parts of a step, those that say what uneven loads add, and two times.

        They are what runs outside the MoE layers in the whole step, and the part's attention [s].
        """
        tables, totals, inside, pp = self._tables, self._totals, self._tables.inside, self._pp
        rows = -(-work.rows // pp)
        decoded, logits = (
            (-(-work.decode_rows // pp), -(-work.logits // pp))
            if work.prompt_total
            else (-(-rows // totals.query_tokens), rows)
        )
        own = -(-rows // parts)
        whole, blocks = self._blocks(work, rows), self._blocks(work, own)
        # Padding is computed but not sent unevenly.
        uneven = tables.blocks[order].at(own)
        attention = step.attention + step.prompt_projections
        outside = whole.outside + totals.logits[logits]
        outside += (1.0 - inside.attention) * (attention + totals.absorbed[decoded])
        if parts > 1:
            attention = self._split_attention(work, parts)
        return blocks, uneven, outside, attention + totals.absorbed[-(-decoded // parts)]

    def _split_attention(self, work: StepWork, parts: int) -> float:
        """Attention and prompt projections of one part of the batch [s].

        Sequences are dealt out; a prompt that is alone is cut, and its second half then follows the first.
        """
        tables, total = self._tables, 0.0
        if work.decode_rows:
            total = self._decode_attention(-(-work.decode_rows // parts), work.decode_context)
        if work.prompt_total:
            pp = self._pp
            rows, sequences = work.prompt_rows / pp / parts, max(work.prompt_sequences / pp / parts, 1.0)
            alone = work.prompt_sequences / pp < parts
            prefix = work.prompt_prefix + (rows * (parts - 1) / 2 if alone else 0.0)
            places = tables.prompt_attention.places(sequences, rows / sequences, prefix)
            total += tables.prompt_attention.at_places(places)
            if tables.prompt_projections is not None:
                total += tables.prompt_projections.at_places(places)
        return total

    def _decode_attention(self, rows: int, context: float) -> float:
        line = self._decode_lines.get(rows)
        if line is None:
            line = self._decode_lines[rows] = self._tables.decode_attention.line(rows / self._pp)
        return line.at(context)

    def _prompts(self, work: StepWork, step: StepTime) -> float:
        """Add the attention of prompt chunks; return the time of ops that only numbers of rows drive [s]."""
        tables, totals, pp = self._tables, self._totals, self._pp
        sequences = max(work.prompt_sequences / pp, 1.0)
        places = tables.prompt_attention.places(sequences, work.prompt_rows / pp / sequences, work.prompt_prefix)
        step.attention += tables.prompt_attention.at_places(places)
        if tables.prompt_projections is not None:
            step.prompt_projections = tables.prompt_projections.at_places(places)
        rows, logits, decoded = (-(-count // pp) for count in (work.rows, work.logits, work.decode_rows))
        return totals.tokens[rows] + totals.logits[logits] + totals.absorbed[decoded]

    def _experts(self, routing: RoutingReplay, work: StepWork, step: StepTime) -> None:
        """Replay the next tokens of the trace: prompt chunks in order, decoded tokens across sequences."""
        prompt, decode = -(-work.prompt_total // self._pp), -(-work.decode_total // self._pp)
        prompt_at, decode_at = self._prompt_at, self._decode_at
        if not prompt:
            load = routing.decode.load(self._decode_at, decode)
        else:
            load = routing.prefill.load(self._prompt_at, prompt)
            self._prompt_at = (self._prompt_at + prompt) % self._trace_tokens
            if decode:
                load = load + routing.decode.load(self._decode_at, decode)
        self._decode_at = (self._decode_at + decode) % self._trace_tokens
        line = self._tables.experts["prefill" if prompt else "decode"].at(prompt + decode)
        hottest = np.maximum.reduce(load, axis=0).astype(np.float64)
        found = line.time(hottest, (prompt + decode) * self._share)
        step.experts, step.imbalance_wait, step.imbalance = found
        window = self._window
        window.prompt_at, window.prompt, window.decode_at, window.decode = prompt_at, prompt, decode_at, decode
        window.load = load
        if self._everywhere:
            self._known[prompt + decode, prompt > 0] = (found, load)

    def _experts_again(self, work: StepWork, step: StepTime) -> bool:
        """Look the experts up where any other tokens loaded the ranks as much; return whether that could be."""
        prompt, decode = -(-work.prompt_total // self._pp), -(-work.decode_total // self._pp)
        known = self._known.get((prompt + decode, prompt > 0))
        if known is None:
            return False
        window = self._window
        (step.experts, step.imbalance_wait, step.imbalance), window.load = known
        window.prompt_at, window.prompt, window.decode_at, window.decode = (
            self._prompt_at,
            prompt,
            self._decode_at,
            decode,
        )
        self._prompt_at = (self._prompt_at + prompt) % self._trace_tokens
        self._decode_at = (self._decode_at + decode) % self._trace_tokens
        return True

    def breakdown(self, steps: dict[str, FloatArray]) -> dict[str, float]:
        """Split recorded steps into seconds by component."""
        tables, pp = self._tables, self._pp
        rows = np.ceil(steps["rows"] / pp).astype(np.int64)
        decoding = steps["prompt_total"] == 0
        logits = np.ceil(steps["logits"] / pp).astype(np.int64)
        decoded = np.ceil(steps["decode_rows"] / pp).astype(np.int64)
        both = np.concatenate([tables.tokens, tables.prompts])
        parts = both[np.where(decoding, self._totals.padded[rows], rows + len(tables.tokens))]
        parts = parts + tables.logits[np.where(decoding, rows, logits)]
        parts = parts + tables.decode[np.where(decoding, -(-rows // self._totals.query_tokens), decoded)]
        total = dict.fromkeys(STEP_PARTS, 0.0)
        for index, name in enumerate(OP_COMPONENTS):
            total[name] = float(parts[:, index].sum())
        exchange = np.where(decoding, tables.exchange[rows], tables.prompt_exchange[rows])
        extra = exchange * (steps["imbalance"] - 1.0)
        total["dispatch"] += float(extra.sum()) / 2
        total["combine"] += float(extra.sum()) / 2
        saved, exchanged = float(steps["saved"].sum()), total["dispatch"] + total["combine"]
        for name in ("dispatch", "combine"):
            total[name] -= saved * total[name] / max(exchanged, 1e-30)
        for component in STEP_COMPONENTS:
            if component.recorded:
                total[component.name] += float(steps[component.recorded].sum())
        return total
