"""What a step does, as the timer wants it and as it is recorded."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.serving.batch import Batch
from simulator.serving.prompt_queues import Chunk
from simulator.step.work import StepTime, StepWork


def fill(work: StepWork, batch: Batch, chunks: Sequence[Chunk], query_tokens: int, *, decodes: bool) -> None:
    """Describe the step by its busiest rank and its totals; a decoded sequence has ``query_tokens`` tokens in it."""
    work.running = batch.running
    if decodes:
        work.decode_total = batch.running * query_tokens
        rows, context = batch.longest()
        work.decode_rows, work.decode_context = rows, context / rows + query_tokens
    else:
        work.decode_total = work.decode_rows = 0
    if not chunks:
        work.prompt_rows = work.prompt_sequences = work.prompt_total = 0
        work.rows = work.logits = batch.most_rows * query_tokens if decodes else 0
        return
    tokens: dict[int, int] = {}
    for chunk in chunks:
        tokens[chunk.rank] = tokens.get(chunk.rank, 0) + chunk.tokens
    busiest = max(tokens, key=tokens.__getitem__)
    own = [chunk for chunk in chunks if chunk.rank == busiest]
    work.rows = max(tokens.values())
    if decodes:
        both = max(count + batch.rows[rank] * query_tokens for rank, count in tokens.items())
        work.rows = max(batch.most_rows * query_tokens, both)
    work.prompt_rows = tokens[busiest]
    work.prompt_sequences = len(own)
    work.prompt_prefix = sum(chunk.prefix * chunk.tokens for chunk in own) / work.prompt_rows
    work.prompt_total = sum(tokens.values())
    work.logits = len(own) + work.decode_rows * query_tokens


def disturb(step: StepTime, slow: float, stall: float) -> None:
    """Lengthen a step by what slows its instance, a factor, and by a stall [s]."""
    extra = step.duration * (slow - 1.0) + stall
    step.duration += extra
    step.gap += extra
