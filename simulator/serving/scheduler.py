"""Schedulers: which prompt tokens the next step of an instance computes, and whether its running requests decode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from simulator.deployment.limits import Limits
from simulator.scenario.sections import Scheduler as SchedulerName
from simulator.serving.batch import Batch
from simulator.serving.prompt_queues import Chunk, PromptQueues


@dataclass(slots=True)
class StepPlan:
    """What the next step holds: chunks of prompts, and whether every running request decodes."""

    chunks: Sequence[Chunk]
    decodes: bool


#: Plans that most steps share, so that none is made anew where only decoding goes on.
DECODE = StepPlan((), decodes=True)
NOTHING = StepPlan((), decodes=False)


class Scheduler(Protocol):
    """Decides step after step what one instance does next; a closed form of its own belongs to every one."""

    def next_step(self, queues: PromptQueues, batch: Batch, limits: Limits) -> StepPlan:
        """Plan a step, admitting waiting requests as it goes; ``NOTHING`` where all that is here has to wait."""


class Mixed:
    """Decoding and prompt chunks share a step, and decoded tokens count against its budget."""

    def next_step(self, queues: PromptQueues, batch: Batch, limits: Limits) -> StepPlan:
        """Let all that run decode, and give prompts what is left of the budget."""
        if queues.open:
            chunks = queues.chunks([rows * limits.query_tokens for rows in batch.rows])
            if chunks:
                return StepPlan(chunks, decodes=batch.running > 0)
        return DECODE if batch.running else NOTHING


class PrefillFirst:
    """Prompts that wait and fit are computed in steps of their own, during which nobody decodes."""

    def next_step(self, queues: PromptQueues, batch: Batch, limits: Limits) -> StepPlan:
        """Give prompts the whole budget; decode only where there are none."""
        if queues.open:
            chunks = queues.chunks([0] * limits.dp)
            if chunks:
                return StepPlan(chunks, decodes=False)
        return DECODE if batch.running else NOTHING


SCHEDULERS: Mapping[SchedulerName, Callable[[], Scheduler]] = {"mixed": Mixed, "prefill_first": PrefillFirst}
