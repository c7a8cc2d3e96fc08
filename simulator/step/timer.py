"""How long an engine step takes: the seam between the engine and the cost model."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from simulator.arrays import FloatArray, weighted_sum
from simulator.placement.replay import RoutingReplay
from simulator.stack import StackProfile
from simulator.step.attention import AttentionTimes
from simulator.step.components import OP_COMPONENTS, STEP_COMPONENTS, STEP_PARTS
from simulator.step.host import HostRule
from simulator.step.overlap import Overlapper
from simulator.step.series import SeriesTimer, SeriesTimes
from simulator.step.tables import StepTables
from simulator.step.totals import RowTotals
from simulator.step.work import LoadArray, StepSeries, StepTime, StepWork, Window


class StepTimer(Protocol):
    """Anything that tells how long a step takes."""

    def time(self, work: StepWork) -> StepTime:
        """Return the duration of a step; the value may be reused by the next call."""

    def breakdown(self, steps: dict[str, FloatArray], weights: FloatArray | None = None) -> dict[str, float]:
        """Split recorded steps, each counted ``weights`` times, into seconds by component of ``STEP_PARTS``."""


class TableTimer:
    """Times steps from compiled tables, walking the routing trace as it goes.

    Parameters
    ----------
    tables, totals : StepTables, RowTotals
        Priced ops of the model on its hardware, and their sums.
    routing : RoutingReplay or None
        The routing trace on its placement.
    stack : StackProfile
        Host gaps, graph padding and overlap.
    pp : int
        Pipeline stages, each of which has a pp-th of the batch in flight [1].
    start : float
        Where in the trace to begin, as a share of it; instances begin apart.

    Attributes
    ----------
    host : HostRule
        What the host takes.
    overlapper : Overlapper
        What overlaps, and the schedule of a timed step.
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
        self._attention = AttentionTimes(tables, pp)
        self.host = HostRule.of(stack, tables.launches, pp)
        self.overlapper = Overlapper(tables, totals, routing, self._attention, self.host, stack)
        self._overlaps = stack.overlap != "none" and tables.exchanges
        self._trace_tokens = routing.tokens if routing else 0
        self._prompt_at = self._decode_at = int(start * self._trace_tokens)
        # Assignments of the mean rank per token of the step.
        self._share = routing.mean_load if routing else 0.0
        # One rank is loaded alike by any tokens, so its experts are timed once for each number of them.
        self._everywhere = routing is not None and routing.alike
        self._known: dict[tuple[int, bool], tuple[tuple[float, float, float], LoadArray]] = {}
        self._step = StepTime()
        # What overlaps is chosen step by step.
        self._series = (
            None
            if self._overlaps
            else SeriesTimer(
                tables=tables, totals=totals, routing=routing, attention=self._attention, host=self.host, pp=pp
            )
        )

    @property
    def takes_series(self) -> bool:
        """Whether many steps can be timed at once."""
        return self._series is not None

    def series(self, work: StepSeries) -> SeriesTimes:
        """Return the durations of many steps that follow each other, and their parts.

        Raises
        ------
        ValueError
            Kernels overlap, which is decided step by step.
        """
        if self._series is None:
            raise ValueError("series: what overlaps in a step is decided step by step")
        times, (self._prompt_at, self._decode_at) = self._series.times(work, self.places)
        return times

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
        step.attention = self._attention.decode(work.decode_rows, work.decode_context) if work.decode_rows else 0.0
        step.prompt_projections = 0.0
        fixed = self._prompts(work, step) if prompts else totals.alone[rows]
        if self._routing is not None:
            self._experts(self._routing, work, step)
            fixed += (totals.prompt_exchange if prompts else totals.exchange)[rows] * (step.imbalance - 1.0)
        busy = fixed + step.attention + step.prompt_projections + step.experts + step.imbalance_wait
        launching = self.host.launching(work)
        if self._overlaps:
            step.overlap, step.saved = self.overlapper.choose(work, step, busy)
            busy -= step.saved
            if step.overlap == "two_batch":
                launching = self.host.launching(work, batches=2)
        step.gap = self.host.gap(work, busy, launching)
        step.duration = busy + step.gap
        return step

    def repeated(self, work: StepWork, contexts: FloatArray) -> SeriesTimes:
        """Return the durations of decode steps that follow each other and differ in their contexts alone.

        :meth:`go_on` goes past those that are played.
        """
        rows, routing, host, count = -(-work.rows // self._pp), self._routing, self.host, len(contexts)
        experts, wait, imbalance = np.zeros(count), np.zeros(count), np.ones(count)
        if routing is not None:
            tokens = -(-work.decode_total // self._pp)
            load = routing.decode.next_loads(self._decode_at, tokens, 1 if self._everywhere else count)
            line, hottest = self._tables.experts["decode"].at(tokens), load.max(axis=1).astype(np.float64)
            experts, wait, imbalance = line.times(hottest, tokens * self._share)
        attention = np.array([self._attention.decode(work.decode_rows, each) for each in contexts.tolist()])
        fixed = self._totals.alone[rows] + self._totals.exchange[rows] * (imbalance - 1.0)
        busy = fixed + attention + experts + wait
        gap = host.gap(work, 0.0, 0.0) + np.maximum(host.launching(work) - busy, 0.0)
        return SeriesTimes(
            duration=busy + gap,
            attention=attention,
            prompt_projections=np.zeros(count),
            experts=experts + np.zeros(count),
            imbalance_wait=wait + np.zeros(count),
            gap=gap,
            imbalance=imbalance + np.zeros(count),
        )

    def go_on(self, steps: int, work: StepWork) -> None:
        """Go past the tokens of decode steps that do the same."""
        if self._trace_tokens:
            self._decode_at = (self._decode_at - steps * (-work.decode_total // self._pp)) % self._trace_tokens

    def _prompts(self, work: StepWork, step: StepTime) -> float:
        """Add the attention of prompt chunks; return the time of ops that only numbers of rows drive [s]."""
        totals, pp = self._totals, self._pp
        attention, step.prompt_projections = self._attention.prompts(
            work.prompt_rows, work.prompt_sequences, work.prompt_prefix
        )
        step.attention += attention
        rows, logits, decoded = -(-work.rows // pp), -(-work.logits // pp), -(-work.decode_rows // pp)
        return totals.tokens[rows] + totals.logits[logits] + totals.absorbed[decoded] + totals.drafting[decoded]

    def _experts(self, routing: RoutingReplay, work: StepWork, step: StepTime) -> None:
        """Time the experts on the next tokens of the trace, and go past them."""
        window, trace, pp = step.window, self._trace_tokens, self._pp
        prompt, decode = -(-work.prompt_total // pp), -(-work.decode_total // pp)
        window.prompt_at, window.prompt = self._prompt_at, prompt
        window.decode_at, window.decode = self._decode_at, decode
        if prompt:
            self._prompt_at = (self._prompt_at + prompt) % trace
        self._decode_at = (self._decode_at + decode) % trace
        found = self._known.get((prompt + decode, prompt > 0)) if self._everywhere else None
        if found is None:
            found = self._replayed(routing, window)
            if self._everywhere:
                self._known[prompt + decode, prompt > 0] = found
        (step.experts, step.imbalance_wait, step.imbalance), window.load = found

    def _replayed(self, routing: RoutingReplay, window: Window) -> tuple[tuple[float, float, float], LoadArray]:
        """Replay tokens of the trace, prompt chunks in order, decoded tokens across sequences; return times and load.

        The times are those of the experts on the mean rank, and what the slowest adds [s]; with them is the imbalance.
        """
        prompt, decode = window.prompt, window.decode
        if not prompt:
            load = routing.decode.load(window.decode_at, decode)
        else:
            load = routing.prefill.load(window.prompt_at, prompt)
            if decode:
                load = load + routing.decode.load(window.decode_at, decode)
        line = self._tables.experts["prefill" if prompt else "decode"].at(prompt + decode)
        hottest = np.maximum.reduce(load, axis=0).astype(np.float64)
        return line.time(hottest, (prompt + decode) * self._share), load

    def breakdown(self, steps: dict[str, FloatArray], weights: FloatArray | None = None) -> dict[str, float]:
        """Split recorded steps, each counted ``weights`` times, into seconds by component."""
        counted = np.ones(len(steps["saved"])) if weights is None else weights
        total = dict(zip(STEP_PARTS, weighted_sum(counted, self.parts(steps)).tolist(), strict=True))
        saved, exchanged = float(weighted_sum(counted, steps["saved"])), total["dispatch"] + total["combine"]
        for name in ("dispatch", "combine"):
            total[name] -= saved * total[name] / max(exchanged, 1e-30)
        return total

    def parts(self, steps: dict[str, FloatArray]) -> FloatArray:
        """Seconds of recorded steps by component, as if nothing overlapped; shape (steps, ``STEP_PARTS``) [s]."""
        tables, pp = self._tables, self._pp
        rows = np.ceil(steps["rows"] / pp).astype(np.int64)
        decoding = steps["prompt_total"] == 0
        logits = np.ceil(steps["logits"] / pp).astype(np.int64)
        decoded = np.ceil(steps["decode_rows"] / pp).astype(np.int64)
        parts = np.empty((len(rows), len(OP_COMPONENTS)))
        parts[decoding] = tables.tokens.at(self._totals.padded[rows[decoding]])
        parts[~decoding] = tables.prompts.at(rows[~decoding])
        parts += tables.logits.at(np.where(decoding, rows, logits))
        sequences = np.where(decoding, -(-rows // self._totals.query_tokens), decoded)
        parts += tables.decode.at(sequences) + tables.drafting.at(sequences)
        found = np.zeros((len(rows), len(STEP_PARTS)))
        for index, name in enumerate(OP_COMPONENTS):
            found[:, STEP_PARTS.index(name)] = parts[:, index]
        extra = np.where(decoding, tables.exchange[rows], tables.prompt_exchange[rows]) * (steps["imbalance"] - 1.0)
        for name in ("dispatch", "combine"):
            found[:, STEP_PARTS.index(name)] += extra / 2
        for component in STEP_COMPONENTS:
            if component.recorded:
                found[:, STEP_PARTS.index(component.name)] += steps[component.recorded]
        return found
