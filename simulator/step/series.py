"""Many steps timed at once: the same lookups as those of :class:`simulator.step.timer.TableTimer`, over arrays.

A call on an array costs as much as a thousand additions in it, so steps that are known before their times are, are
timed ten times quicker in one go. What an array holds and what a single step gets differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.placement.replay import RoutingReplay
from simulator.step.attention import AttentionTimes
from simulator.step.host import HostRule
from simulator.step.tables import StepTables
from simulator.step.totals import RowTotals
from simulator.step.work import StepSeries
from workloads.models.spec import Phase

#: Rank loads that are held at once: few enough to stay in the cache of a core [1].
_LOADS = 1 << 18
#: Steps whose experts are timed at once [1].
_STEPS = 1 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesTimes:
    """How long steps take and what of it: fields of ``StepTime`` as arrays of shape (steps,)."""

    duration: FloatArray
    attention: FloatArray
    prompt_projections: FloatArray
    experts: FloatArray
    imbalance_wait: FloatArray
    gap: FloatArray
    imbalance: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Windows:
    """What steps replay of the routing trace: fields of ``Window`` as arrays of shape (steps,)."""

    prompt_at: IntArray
    prompt: IntArray
    decode_at: IntArray
    decode: IntArray

    def chosen(self, steps: IntArray) -> _Windows:
        """Take some of the steps."""
        return _Windows(
            prompt_at=self.prompt_at[steps],
            prompt=self.prompt[steps],
            decode_at=self.decode_at[steps],
            decode=self.decode[steps],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesTimer:
    """Times steps in which nothing overlaps; attributes as the parameters of ``TableTimer``."""

    tables: StepTables
    totals: RowTotals
    routing: RoutingReplay | None
    attention: AttentionTimes
    host: HostRule
    pp: int

    def times(self, work: StepSeries, places: tuple[int, int]) -> tuple[SeriesTimes, tuple[int, int]]:
        """Time steps that follow each other.

        Parameters
        ----------
        work : StepSeries
            What they do.
        places : (int, int)
            Where in the routing trace the next prompt token and the next decoded token are.

        Returns
        -------
        times : SeriesTimes
        places : (int, int)
            Where in the trace they are afterwards.
        """
        prompts = np.flatnonzero(work.prompt_total)
        attention, projections = self.attention.series(work, prompts)
        fixed, exchange = self._rows(work, prompts)
        experts, wait, imbalance = np.zeros(len(fixed)), np.zeros(len(fixed)), np.ones(len(fixed))
        if self.routing is not None:
            windows, places = self._windows(self.routing, work, places)
            experts, wait, imbalance = self._experts(self.routing, windows)
            fixed += exchange * (imbalance - 1.0)
        busy = fixed + attention + projections + experts + wait
        gap = self.host.gaps(work, busy)
        times = SeriesTimes(
            duration=busy + gap,
            attention=attention,
            prompt_projections=projections,
            experts=experts,
            imbalance_wait=wait,
            gap=gap,
            imbalance=imbalance,
        )
        return times, places

    def _rows(self, work: StepSeries, prompts: IntArray) -> tuple[FloatArray, FloatArray]:
        """Time of ops that only numbers of rows drive, and what an uneven load adds per unit of (imbalance - 1) [s]."""
        totals, rows = self.totals, -(-work.rows // self.pp)
        decodes = np.flatnonzero(work.prompt_total == 0)
        fixed, exchange = np.empty(len(rows)), np.empty(len(rows))
        fixed[decodes], exchange[decodes] = _each(totals.alone, rows[decodes]), _each(totals.exchange, rows[decodes])
        own, logits, decoded = (
            rows[prompts],
            -(-work.logits[prompts] // self.pp),
            -(-work.decode_rows[prompts] // self.pp),
        )
        fixed[prompts] = _each(totals.tokens, own) + _each(totals.logits, logits) + _each(totals.absorbed, decoded)
        fixed[prompts] += _each(totals.drafting, decoded)
        exchange[prompts] = _each(totals.prompt_exchange, own)
        return fixed, exchange

    def _windows(
        self, routing: RoutingReplay, work: StepSeries, places: tuple[int, int]
    ) -> tuple[_Windows, tuple[int, int]]:
        """Find the tokens of the trace that the steps replay, and where they end."""
        prompt, decode = -(-work.prompt_total // self.pp), -(-work.decode_total // self.pp)
        prompt_at, decode_at = (
            (at + np.concatenate(([0], np.cumsum(tokens)))) % routing.tokens
            for at, tokens in zip(places, (prompt, decode), strict=True)
        )
        windows = _Windows(prompt_at=prompt_at[:-1], prompt=prompt, decode_at=decode_at[:-1], decode=decode)
        return windows, (int(prompt_at[-1]), int(decode_at[-1]))

    def _experts(self, routing: RoutingReplay, windows: _Windows) -> FloatArray:
        """Time of the experts on the mean rank, what the slowest adds [s], and the imbalance; shape (3, steps)."""
        found, alike = np.empty((3, len(windows.decode))), routing.alike
        phases: tuple[tuple[Phase, IntArray], ...] = (
            ("prefill", np.flatnonzero(windows.prompt)),
            ("decode", np.flatnonzero(windows.prompt == 0)),
        )
        for phase, steps in phases:
            if alike:
                # One rank is loaded alike by any tokens, so its experts are timed once for each number of them.
                tokens = windows.prompt[steps] + windows.decode[steps]
                _, first, where = np.unique(tokens, return_index=True, return_inverse=True)
                found[:, steps] = self._replayed(routing, phase, windows.chosen(steps[first]))[:, where]
            else:
                found[:, steps] = self._replayed(routing, phase, windows.chosen(steps))
        return found

    def _replayed(self, routing: RoutingReplay, phase: Phase, windows: _Windows) -> FloatArray:
        """Replay the windows of steps of one phase; shape (3, steps)."""
        tokens, found = windows.prompt + windows.decode, np.empty((3, len(windows.decode)))
        lines, share, layers = self.tables.experts[phase], routing.mean_load, routing.layers
        block = max(_LOADS // (routing.placement.ranks * layers), 1)
        for start in range(0, len(tokens), _STEPS):
            hottest = np.empty((min(_STEPS, len(tokens) - start), layers))
            for first in range(0, len(hottest), block):
                part = slice(start + first, start + min(first + block, len(hottest)))
                load = routing.decode.loads(windows.decode_at[part], windows.decode[part])
                if phase == "prefill":
                    load = load + routing.prefill.loads(windows.prompt_at[part], windows.prompt[part])
                hottest[first : first + block] = load.max(axis=1)
            steps = slice(start, start + _STEPS)
            found[:, steps] = lines.times(tokens[steps], hottest, share)
        return found


def _each(table: Sequence[float], places: IntArray) -> FloatArray:
    """Look a table up at many places."""
    different, where = np.unique(places, return_inverse=True)
    return np.array([table[place] for place in different.tolist()])[where]
