"""Schedulers: which prompt tokens the next step of an instance computes, and whether its running requests decode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from simulator.deployment.limits import Limits
from simulator.scenario.sections import Scheduler as SchedulerName
from simulator.serving.batch import Batch
from simulator.serving.expert_aware import expert_aware
from simulator.serving.prompt_queues import PromptQueues
from simulator.serving.state import RunState
from simulator.serving.step_plan import DECODE, NOTHING, StepPlan
from simulator.step.timer import StepTimer


class Scheduler(Protocol):
    """Decides step after step what one instance does next; one that the closed form answers has a twin there."""

    def next_step(self, queues: PromptQueues, batch: Batch, limits: Limits) -> StepPlan:
        """Plan a step, admitting waiting requests as it goes; ``NOTHING`` where all that is here has to wait."""


class Mixed:
    """Decoding and prompt chunks share a step, and decoded tokens count against its budget."""

    def next_step(self, queues: PromptQueues, batch: Batch, limits: Limits) -> StepPlan:
        """Let all that run decode, and give prompts what is left of the budget."""
        if queues.open:
            chunks = queues.chunks(batch.rows, limits.query_tokens)
            if chunks:
                return StepPlan(chunks, decodes=batch.running > 0)
        return DECODE if batch.running else NOTHING


class PrefillFirst:
    """Prompts that wait and fit are computed in steps of their own, during which nobody decodes."""

    def next_step(self, queues: PromptQueues, batch: Batch, limits: Limits) -> StepPlan:  # noqa: ARG002
        """Give prompts the whole budget; decode only where there are none."""
        if queues.open:
            chunks = queues.chunks()
            if chunks:
                return StepPlan(chunks, decodes=False)
        return DECODE if batch.running else NOTHING


#: What makes the scheduler of an instance from what its run shares, what bounds it and its timer.
SCHEDULERS: Mapping[SchedulerName, Callable[[RunState, Limits, StepTimer], Scheduler]] = {
    "mixed": lambda *_: Mixed(),
    "prefill_first": lambda *_: PrefillFirst(),
    "expert_aware": expert_aware,
}
