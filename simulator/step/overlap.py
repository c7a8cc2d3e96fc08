"""What overlap makes of a step: shared experts beside the dispatch, the batch as two halves, or neither."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray
from simulator.placement.replay import RoutingReplay
from simulator.schedule.makespan import LayerTimes, beside, two_batch_floor, two_batch_makespan
from simulator.schedule.mechanisms import Overlap
from simulator.stack import StackProfile
from simulator.step.attention import AttentionTimes
from simulator.step.blocks import BlockTimes
from simulator.step.host import HostRule
from simulator.step.tables import StepTables
from simulator.step.totals import RowTotals
from simulator.step.work import LoadArray, StepTime, StepWork
from workloads.models.spec import Phase


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
    phase : {"prefill", "decode"}
        Which kernels run.
    """

    times: LayerTimes
    outside: float
    loads: LoadArray
    tokens: tuple[int, ...]
    phase: Phase


class Overlapper:
    """Chooses how the ops of a step overlap, and takes steps apart for that.

    Parameters
    ----------
    tables, totals : StepTables, RowTotals
        Priced ops of the model on its hardware, and their sums.
    routing : RoutingReplay or None
        The routing trace on its placement.
    attention : AttentionTimes
        Attention of batches and of their halves.
    host : HostRule
        What launching takes, and the pipeline stages, each of which has its part of the batch in flight.
    stack : StackProfile
        What overlaps, and from how many tokens on.
    """

    __slots__ = (
        "_attention",
        "_host",
        "_least",
        "_overlap",
        "_routing",
        "_share",
        "_stages",
        "_tables",
        "_totals",
        "_whole",
    )

    def __init__(
        self,
        tables: StepTables,
        totals: RowTotals,
        routing: RoutingReplay | None,
        attention: AttentionTimes,
        host: HostRule,
        stack: StackProfile,
    ) -> None:
        self._tables, self._totals, self._routing, self._attention = tables, totals, routing, attention
        self._host, self._stages = host, host.stages
        self._overlap = stack.overlap
        self._least = {phase: stack.two_batch_tokens(phase) for phase in ("prefill", "decode")}
        # Assignments of the mean rank per token of the step.
        self._share = routing.mean_load if routing else 0.0
        self._whole = routing is not None and routing.whole

    def choose(self, work: StepWork, step: StepTime, busy: float) -> tuple[Overlap, float]:
        """Return what overlaps in a step, and what that saves [s]; ``auto`` takes whatever ends first, host included.

        Parameters
        ----------
        work, step : StepWork, StepTime
            The step, its parts timed as those of one batch.
        busy : float
            How long kernels run where nothing overlaps [s].
        """
        chosen: Overlap = "none"
        saved = 0.0
        if self._overlap != "two_batch":
            beside_dispatch = self._shared_expert(work, step)
            if self._overlap == "shared_expert" or beside_dispatch > 0.0:
                chosen, saved = "shared_expert", beside_dispatch
        if self._overlap == "shared_expert" or not self._splits(work):
            return chosen, saved
        auto, ends = self._overlap == "auto", max(busy - saved, self._host.launching(work))
        # Most steps that two batches do not suit are told from what halves take at the least, without replaying them.
        if auto and self._floor(work, step) - 1e-9 * busy >= ends:
            return chosen, saved
        halves = self.halves(work, step)
        split = busy - halves.outside - two_batch_makespan(halves.times)
        if auto and max(busy - split, self._host.launching(work, batches=2)) >= ends:
            return chosen, saved
        return "two_batch", split

    def whole(self, work: StepWork, step: StepTime) -> StepLayers:
        """Take a timed step apart, as one batch."""
        if self._routing is None:
            return StepLayers(
                times=LayerTimes.none(),
                outside=step.duration - step.gap,
                loads=np.zeros((1, 0, 0), dtype=np.uint32),
                tokens=(work.rows,),
                phase=work.phase,
            )
        window = step.window
        return self._layers(work, step, window.load[None], (window.prompt + window.decode,))

    def halves(self, work: StepWork, step: StepTime) -> StepLayers:
        """Take a timed step apart, as two batches of half its rows each."""
        window, routing = step.window, self._routing
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
        loads = np.empty((2, *first.shape), dtype=window.load.dtype)
        loads[0] = first
        np.subtract(window.load, first, out=loads[1])
        return self._layers(work, step, loads, (prompt + decode, window.prompt + window.decode - prompt - decode))

    def expert_layers(self, layers: StepLayers, loads: LoadArray) -> FloatArray:
        """Time of the routed experts at each layer on ranks with other loads, shape as theirs: (parts, layers) [s]."""
        line = self._tables.experts[layers.phase].at(layers.tokens[0])
        return np.asarray(line.bases + line.weights[0] * loads)

    def _floor(self, work: StepWork, step: StepTime) -> float:
        """Least time that a step takes as two batches whose tokens load all ranks alike, the host's work left out [s].

        No halves are quicker: a hottest rank has at least the mean load, with which the time of experts and exchanges
        grows. Where some assignments go to no rank the mean is not known beforehand, and any time is possible.
        """
        if not self._whole:
            return 0.0
        window, layers, phase = step.window, self._tables.inside.layers, work.phase
        own, _, outside, attention = self._part(work, step, 2, phase)
        tokens = window.prompt + window.decode
        line = self._tables.experts[phase].at(-(-window.prompt // 2) - (-window.decode // 2))
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
        return -(-work.rows // self._stages) >= self._least[work.phase]

    def _shared_expert(self, work: StepWork, step: StepTime) -> float:
        """What the shared experts beside the dispatch save [s]."""
        rows = -(-work.rows // self._stages)
        blocks, uneven = self._blocks(work, rows), self._tables.blocks[work.phase]
        layers = self._tables.inside.layers
        message = (blocks.dispatch + uneven.at(rows).uneven_dispatch * (step.imbalance - 1.0)) / layers
        shared = blocks.shared / layers
        return layers * (shared + message - beside(shared, message, blocks.dispatch_units, blocks.dispatch_stretch))

    def _blocks(self, work: StepWork, rows: int) -> BlockTimes:
        if work.prompt_total:
            return self._tables.blocks["prefill"].at(rows)
        return self._tables.blocks["decode"].at(int(self._totals.padded[rows]))

    def _layers(self, work: StepWork, step: StepTime, loads: LoadArray, tokens: tuple[int, ...]) -> StepLayers:
        tables, inside, phase = self._tables, self._tables.inside, work.phase
        blocks, uneven, outside, attention = self._part(work, step, len(tokens), phase)
        layers = inside.layers
        hottest = np.maximum.reduce(loads, axis=1).astype(np.float64)
        # The second half may be a token shorter; the kernels' line is that of the first.
        line = tables.experts[phase].at(tokens[0])
        experts, imbalance = line.layers(hottest, [max(count * self._share, 1e-12) for count in tokens])
        times = LayerTimes(
            layers=layers,
            compute=(blocks.compute + inside.attention * attention) / layers,
            shared=blocks.shared / layers,
            dispatch=tuple([(blocks.dispatch + uneven.uneven_dispatch * (each - 1.0)) / layers for each in imbalance]),
            combine=tuple([(blocks.combine + uneven.uneven_combine * (each - 1.0)) / layers for each in imbalance]),
            experts=experts,
            dispatch_units=blocks.dispatch_units,
            combine_units=blocks.combine_units,
            dispatch_stretch=blocks.dispatch_stretch,
            combine_stretch=blocks.combine_stretch,
        )
        return StepLayers(times=times, outside=outside, loads=loads, tokens=tokens, phase=phase)

    def _part(
        self, work: StepWork, step: StepTime, parts: int, phase: Phase
    ) -> tuple[BlockTimes, BlockTimes, float, float]:
        """Return the blocks of one of so many parts of a step, those that say what uneven loads add, and two times.

        They are what runs outside the MoE layers in the whole step, and the part's attention [s].
        """
        tables, totals, inside, stages = self._tables, self._totals, self._tables.inside, self._stages
        rows = -(-work.rows // stages)
        decoded, logits = (
            (-(-work.decode_rows // stages), -(-work.logits // stages))
            if work.prompt_total
            else (-(-rows // totals.query_tokens), rows)
        )
        own = -(-rows // parts)
        whole, blocks = self._blocks(work, rows), self._blocks(work, own)
        # Padding is computed but not sent unevenly.
        uneven = tables.blocks[phase].at(own)
        attention = step.attention + step.prompt_projections
        outside = whole.outside + totals.logits[logits] + totals.drafting[decoded]
        outside += (1.0 - inside.attention) * (attention + totals.absorbed[decoded])
        if parts > 1:
            attention = self._split_attention(work, parts)
        return blocks, uneven, outside, attention + totals.absorbed[-(-decoded // parts)]

    def _split_attention(self, work: StepWork, parts: int) -> float:
        """Attention and prompt projections of one part of the batch [s].

        Sequences are dealt out; a prompt that is alone is cut, and its second half then follows the first.
        """
        total = 0.0
        if work.decode_rows:
            total = self._attention.decode(-(-work.decode_rows // parts), work.decode_context)
        if work.prompt_total:
            rows, sequences = work.prompt_rows / parts, work.prompt_sequences / parts
            alone = work.prompt_sequences / self._stages < parts
            prefix = work.prompt_prefix + (rows / self._stages * (parts - 1) / 2 if alone else 0.0)
            total += sum(self._attention.prompts(rows, sequences, prefix))
        return total
