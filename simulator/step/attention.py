"""Attention of a step, looked up: that of decoded sequences, of prompt chunks, and the projections of the latter."""

from __future__ import annotations

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.cost.grids import TimeLine
from simulator.step.tables import StepTables
from simulator.step.work import StepSeries


class AttentionTimes:
    """Looks attention up for the batch of one pipeline stage.

    Parameters
    ----------
    tables : StepTables
        Priced ops.
    stages : int
        Pipeline stages, each of which has its part of the batch in flight [1].
    """

    __slots__ = ("_decode", "_lines", "_projections", "_prompts", "_stages")

    def __init__(self, tables: StepTables, stages: int) -> None:
        self._decode, self._prompts, self._projections = (
            tables.decode_attention,
            tables.prompt_attention,
            tables.prompt_projections,
        )
        self._stages = stages
        self._lines: dict[int, TimeLine] = {}

    def decode(self, sequences: int, context: float) -> float:
        """Attention of so many decoded sequences in flight, each of a mean KV length [s]."""
        line = self._lines.get(sequences)
        if line is None:
            line = self._lines[sequences] = self._decode.line(sequences / self._stages)
        return line.at(context)

    def prompts(self, tokens: float, sequences: float, prefix: float) -> tuple[float, float]:
        """Attention and projections of prompt chunks in flight: their tokens, number and mean cached prefix [s]."""
        sequences = max(sequences / self._stages, 1.0)
        places = self._prompts.places(sequences, tokens / self._stages / sequences, prefix)
        projections = self._projections.at_places(places) if self._projections is not None else 0.0
        return self._prompts.at_places(places), projections

    def series(self, work: StepSeries, prompts: IntArray) -> tuple[FloatArray, FloatArray]:
        """Attention of many steps, and projections of their prompt chunks, shape (steps,) [s].

        Parameters
        ----------
        work : StepSeries
            The steps.
        prompts : int array
            Which of them hold prompt chunks.
        """
        attention, projections = np.zeros(len(work.rows)), np.zeros(len(work.rows))
        decodes = np.flatnonzero(work.decode_rows)
        attention[decodes] = self._decode.at_all(work.decode_rows[decodes] / self._stages, work.decode_context[decodes])
        if len(prompts):
            sequences = np.maximum(work.prompt_sequences[prompts] / self._stages, 1.0)
            chunks = sequences, work.prompt_rows[prompts] / self._stages / sequences, work.prompt_prefix[prompts]
            attention[prompts] += self._prompts.at_all(*chunks)
            if self._projections is not None:
                projections[prompts] = self._projections.at_all(*chunks)
        return attention, projections
