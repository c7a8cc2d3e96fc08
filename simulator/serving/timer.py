"""How long an engine step takes: the seam between the engine and the cost model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulator.cost.grids import TimeLine
from simulator.cost.step_time import PARTS, StepTables
from simulator.placement.replay import RoutingReplay
from simulator.results import COMPONENTS
from simulator.stack import StackProfile

FloatArray = NDArray[np.float64]


@dataclass(slots=True)
class StepWork:
    """What one step of an instance does; a single value that the scheduler fills anew for every step.

    ``rows`` are the tokens of the busiest data-parallel rank, ``decode_rows`` its decoded sequences with mean KV
    length ``decode_context``. Prompt chunks of the busiest rank: their tokens, number, and mean cached prefix.
    ``prompt_total`` and ``decode_total`` are tokens over all ranks; ``logits`` rows that reach the LM head there.
    """

    rows: int = 0
    decode_rows: int = 0
    decode_context: float = 0.0
    prompt_rows: int = 0
    prompt_sequences: int = 0
    prompt_prefix: float = 0.0
    prompt_total: int = 0
    decode_total: int = 0
    logits: int = 0
    running: int = 0


@dataclass(slots=True)
class StepTime:
    """Duration of a step and the parts that only the step itself knows [s]; ``imbalance`` is max/mean over ranks."""

    duration: float = 0.0
    attention: float = 0.0
    prompt_projections: float = 0.0
    experts: float = 0.0
    wait: float = 0.0
    gap: float = 0.0
    imbalance: float = 1.0


class StepTimer(Protocol):
    """Anything that tells how long a step takes."""

    def time(self, work: StepWork) -> StepTime:
        """Return the duration of a step; the value may be reused by the next call."""

    def breakdown(self, steps: dict[str, FloatArray]) -> dict[str, float]:
        """Split recorded steps into seconds by component, with keys of ``COMPONENTS`` other than ``idle``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTotals:
    """Step tables summed over parts, as lists that are quick to index; entry n is n rows [s].

    ``alone`` is a decode step of n sequences, padded as CUDA graphs are; ``tokens``, ``logits`` and ``absorbed`` are
    what all tokens, rows of the LM head and decoded sequences take in a step that also holds prompt tokens.
    ``exchange`` and ``prompt_exchange`` are what dispatch and combine add per unit of (imbalance - 1) in either.
    """

    padded: NDArray[np.int64]
    alone: list[float]
    tokens: list[float]
    logits: list[float]
    absorbed: list[float]
    exchange: list[float]
    prompt_exchange: list[float]


def row_totals(tables: StepTables, stack: StackProfile) -> RowTotals:
    """Sum step tables over parts, once per deployment."""
    padded = padded_rows(len(tables.tokens) - 1, stack)
    tokens, prompts, logits, absorbed = (
        table[:, : len(PARTS)].sum(axis=1) for table in (tables.tokens, tables.prompts, tables.logits, tables.decode)
    )
    return RowTotals(
        padded=padded,
        alone=(tokens[padded] + logits + absorbed).tolist(),
        tokens=prompts.tolist(),
        logits=logits.tolist(),
        absorbed=absorbed.tolist(),
        exchange=tables.exchange.tolist(),
        prompt_exchange=tables.prompt_exchange.tolist(),
    )


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
        self._step = StepTime()

    @property
    def places(self) -> tuple[int, int]:
        """Where in the routing trace the next prompt token and the next decoded token are."""
        return self._prompt_at, self._decode_at

    def go_to(self, places: tuple[int, int]) -> None:
        """Go on from where another timer is."""
        self._prompt_at, self._decode_at = places

    def time(self, work: StepWork) -> StepTime:
        """Return the duration of a step and its parts."""
        step, totals = self._step, self._totals
        rows = -(-work.rows // self._pp)
        step.attention = self._decode_attention(work.decode_rows, work.decode_context) if work.decode_rows else 0.0
        step.prompt_projections = 0.0
        fixed = self._prompts(work, step) if work.prompt_total else totals.alone[rows]
        if self._routing is not None:
            self._experts(self._routing, work, step)
            exchange = totals.prompt_exchange if work.prompt_total else totals.exchange
            fixed += exchange[rows] * (step.imbalance - 1.0)
        busy = fixed + step.attention + step.prompt_projections + step.experts + step.wait
        step.gap = self._gap + self._gap_each * work.running
        if work.prompt_total:
            step.gap += max(self._host - busy, 0.0) + self._prompt_gap
        elif work.rows > self._graph_max:
            step.gap += max(self._host - busy, 0.0)
        step.duration = busy + step.gap
        return step

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
        if not prompt:
            load = routing.decode.load(self._decode_at, decode)
        else:
            load = routing.prompt.load(self._prompt_at, prompt)
            self._prompt_at = (self._prompt_at + prompt) % self._trace_tokens
            if decode:
                load = load + routing.decode.load(self._decode_at, decode)
        self._decode_at = (self._decode_at + decode) % self._trace_tokens
        line = self._tables.experts["prompt" if prompt else "decode"].at(prompt + decode)
        hottest = np.maximum.reduce(load, axis=0).astype(np.float64)
        step.experts, step.wait, step.imbalance = line.time(hottest, (prompt + decode) * self._share)

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
        parts = parts + tables.decode[np.where(decoding, rows, decoded)]
        total = dict.fromkeys(COMPONENTS[:-1], 0.0)
        for index, part in enumerate(PARTS):
            total[part] = float(parts[:, index].sum())
        exchange = np.where(decoding, tables.exchange[rows], tables.prompt_exchange[rows])
        extra = exchange * (steps["imbalance"] - 1.0)
        total["dispatch"] += float(extra.sum()) / 2
        total["combine"] += float(extra.sum()) / 2
        total["attention"] += float(steps["attention"].sum())
        total["gemm"] += float(steps["prompt_projections"].sum())
        total["experts"] += float(steps["experts"].sum())
        total["imbalance_wait"] = float(steps["wait"].sum())
        total["cpu_gap"] = float(steps["gap"].sum())
        return total


def padded_rows(most: int, stack: StackProfile) -> NDArray[np.int64]:
    """Rows that a decode step of n sequences computes: CUDA graphs are captured at 1, 2, 4 and multiples beyond."""
    pad, top = int(stack.number("graph_pad")), int(stack.number("graph_max_batch"))
    rows = np.arange(most + 1)
    if pad <= 1:
        return rows
    small = np.where(rows <= 2, rows, np.where(rows <= 4, 4, pad))
    padded = np.where(rows <= pad, np.minimum(small, pad), -(-rows // pad) * pad)
    return np.where(rows <= top, np.minimum(padded, most), rows).astype(np.int64)
