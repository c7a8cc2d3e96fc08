"""What a step does, as the timer wants it and as it is recorded."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.serving.batch import Batch
from simulator.serving.step_plan import Chunk, StepPlan
from simulator.step.work import StepTime, StepWork


def fill(work: StepWork, batch: Batch, plan: StepPlan) -> None:
    """Describe the step by its busiest rank and its totals.

    Parameters
    ----------
    work : StepWork
        Filled anew.
    batch : Batch
        The sequences that decode or may.
    plan : StepPlan
        Which of them do, and the prompt tokens of the step.
    """
    if plan.experts is not None:
        _fill_known(work, batch, plan)
        return
    if plan.decodes:
        sequences, context = batch.longest()
        # NOTE: by place, because names cost a tenth of a microsecond in every step of a run.
        work.set_decode(batch.running, batch.most_rows, sequences, context / sequences + work.query_tokens)
    else:
        work.clear(running=batch.running)
    if plan.chunks:
        add_prompts(work, batch, plan.chunks, decodes=plan.decodes)


def _fill_known(work: StepWork, batch: Batch, plan: StepPlan) -> None:
    """Describe a step of one rank whose experts are known, and in which not all that run need go."""
    work.known_experts = plan.experts
    going = batch.running - len(plan.held) if plan.decodes else 0
    if going:
        context = (batch.context - plan.held_tokens) / going + work.query_tokens
        work.set_decode(running=going, most=going, sequences=going, context=context)
        work.running = batch.running
    else:
        work.clear(running=batch.running)
    if plan.chunks:
        prompts = sum(chunk.tokens for chunk in plan.chunks)
        work.add_prompts(
            rows=work.rows + prompts,
            prompt_rows=prompts,
            sequences=len(plan.chunks),
            prefix=sum(chunk.prefix * chunk.tokens for chunk in plan.chunks) / prompts,
            total=prompts,
        )


def add_prompts(work: StepWork, batch: Batch, chunks: Sequence[Chunk], *, decodes: bool) -> None:
    """Add prompt chunks to a step.

    Parameters
    ----------
    work : StepWork
        The step, described as far as it decodes.
    batch : Batch
        The sequences that decode or may.
    chunks : sequence of Chunk
        At least one.
    decodes : bool
        Whether they do.
    """
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
