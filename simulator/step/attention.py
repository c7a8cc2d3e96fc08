"""Attention of a step, looked up: that of decoded sequences, of prompt chunks, and the projections of the latter."""

from __future__ import annotations

from simulator.cost.grids import TimeLine
from simulator.step.tables import StepTables


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
