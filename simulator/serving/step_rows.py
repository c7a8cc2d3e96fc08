"""What a step does, as the timer wants it and as it is recorded."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.serving.batch import Batch
from simulator.serving.prompt_queues import Chunk
from simulator.step.work import StepTime, StepWork


def fill(work: StepWork, batch: Batch, chunks: Sequence[Chunk], *, decodes: bool) -> None:
    """Describe the step by its busiest rank and its totals.

    Parameters
    ----------
    work : StepWork
        Filled anew.
    batch : Batch
        The sequences that decode or may.
    chunks : sequence of Chunk
        Prompt tokens of the step.
    decodes : bool
        Whether the batch decodes in it.
    """
    if decodes:
        sequences, context = batch.longest()
        # NOTE: by place, because names cost a tenth of a microsecond in every step of a run.
        work.set_decode(batch.running, batch.most_rows, sequences, context / sequences + work.query_tokens)
    else:
        work.clear(running=batch.running)
    if chunks:
        _add_prompts(work, batch, chunks, decodes=decodes)


def _add_prompts(work: StepWork, batch: Batch, chunks: Sequence[Chunk], *, decodes: bool) -> None:
    tokens: dict[int, int] = {}
    for chunk in chunks:
        tokens[chunk.rank] = tokens.get(chunk.rank, 0) + chunk.tokens
    busiest = max(tokens, key=tokens.__getitem__)
    own = [chunk for chunk in chunks if chunk.rank == busiest]
    rows = max(tokens.values())
    if decodes:
        both = max(count + batch.rows[rank] * work.query_tokens for rank, count in tokens.items())
        rows = max(work.rows, both)
    work.add_prompts(
        rows=rows,
        prompt_rows=tokens[busiest],
        sequences=len(own),
        prefix=sum(chunk.prefix * chunk.tokens for chunk in own) / tokens[busiest],
        total=sum(tokens.values()),
    )


def disturb(step: StepTime, slow: float, stall: float) -> None:
    """Lengthen a step by what slows its instance, a factor, and by a stall [s]."""
    extra = step.duration * (slow - 1.0) + stall
    step.duration += extra
    step.gap += extra
