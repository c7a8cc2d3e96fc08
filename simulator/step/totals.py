"""Step tables summed over components, by the number of rows: what the timer of an engine looks up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.stack import StackProfile
from simulator.step.tables import StepTables
from simulator.step.work import graph_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTotals:
    """Step tables summed over components, as lists that are quick to index; entry n is n rows [s].

    ``alone`` is a decode step of n tokens, ``query_tokens`` of each sequence, padded as CUDA graphs are; ``tokens``,
    ``logits`` and ``absorbed`` are what all tokens, rows of the LM head and decoded sequences take in a step that also
    holds prompt tokens, ``drafting`` what drafting the next tokens of these sequences takes. ``exchange`` and
    ``prompt_exchange`` are what dispatch and combine add per unit of (imbalance - 1) in either.
    """

    padded: NDArray[np.int64]
    query_tokens: int
    alone: list[float]
    tokens: list[float]
    logits: list[float]
    absorbed: list[float]
    drafting: list[float]
    exchange: list[float]
    prompt_exchange: list[float]

    @property
    def nbytes(self) -> int:
        """Size of the lists, whose numbers are objects [bytes]."""
        return 32 * (5 * len(self.alone) + len(self.absorbed) + len(self.drafting))


def row_totals(tables: StepTables, stack: StackProfile, query_tokens: int = 1) -> RowTotals:
    """Sum step tables over components, once per deployment."""
    most = tables.tokens.most
    padded = np.minimum(graph_rows(np.arange(most + 1), stack), most)
    tokens, prompts, logits, absorbed, drafting = (
        table.every() for table in (tables.tokens, tables.prompts, tables.logits, tables.decode, tables.drafting)
    )
    sequences = -(-np.arange(len(tokens)) // query_tokens)
    return RowTotals(
        padded=padded,
        alone=(tokens[padded] + logits + (absorbed + drafting)[np.minimum(sequences, len(absorbed) - 1)]).tolist(),
        query_tokens=query_tokens,
        tokens=prompts.tolist(),
        logits=logits.tolist(),
        absorbed=absorbed.tolist(),
        drafting=drafting.tolist(),
        exchange=tables.exchange.tolist(),
        prompt_exchange=tables.prompt_exchange.tolist(),
    )
