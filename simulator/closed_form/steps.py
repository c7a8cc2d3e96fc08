"""Steps as the closed form sees them: priced by the timer of the engine, averaged over windows of the routing trace."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray
from simulator.closed_form.load import Load
from simulator.deployment.limits import Limits
from simulator.step.columns import STEP_COLUMNS, step_row
from simulator.step.timer import StepTimer
from simulator.step.work import StepTime, StepWork


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanStep:
    """The mean of some steps: its duration [s], and its row in ``STEP_COLUMNS``."""

    duration: float
    row: dict[str, float]


def mean_of(timer: StepTimer, works: Iterable[tuple[StepWork, float]]) -> MeanStep:
    """Time steps one after another, and average them with their weights, which add up to 1 [1]."""
    row = dict.fromkeys(STEP_COLUMNS, 0.0)
    for work, weight in works:
        _accumulate(row, work, timer.time(work), weight)
    return MeanStep(duration=row["duration_s"], row=row)


def columns(steps: Iterable[MeanStep]) -> dict[str, FloatArray]:
    """Return mean steps as arrays of ``STEP_COLUMNS``, one row each."""
    rows = [step.row for step in steps]
    return {name: np.array([row[name] for row in rows]) for name in STEP_COLUMNS}


def mean_step(
    timer: StepTimer,
    limits: Limits,
    running: float,
    load: Load,
    *,
    tokens: float = 0.0,
    own: float = 0.0,
    windows: int = 1,
) -> MeanStep:
    """Average a step over windows of the routing trace, between the whole batch sizes around ``running``.

    Parameters
    ----------
    timer : StepTimer
        What prices it.
    limits : Limits
        Ranks, what they may run, and the tokens of a decoded sequence.
    running : float
        Requests that decode in it, over all ranks [1].
    load : Load
        Lengths and contexts.
    tokens, own : float
        Prompt tokens in it over all ranks, and on the busiest [tokens].
    windows : int
        Parts of the routing trace [1].
    """
    # Fewer requests than ranks: the busiest rank holds one as soon as there is one.
    dp = limits.dp
    each = min(running / dp, limits.max_running) if running >= dp else min(running, 1.0)
    low = math.floor(each)
    works: list[tuple[StepWork, float]] = []
    for size, weight in ((low, 1.0 - (each - low)), (low + 1, each - low)):
        total = max(round(running), size) if dp > 1 else size
        if weight > 0.0 and (size or tokens > 0.0):
            work = _work(size, total, load, tokens, own, limits.query_tokens)
            works += [(work, weight / windows)] * windows
    return mean_of(timer, works)


def _work(size: int, total: int, load: Load, tokens: float, own: float, query_tokens: int) -> StepWork:
    """One step: ``size`` decoding and ``own`` prompt tokens on the busiest rank."""
    work = StepWork(query_tokens=query_tokens)
    if size:
        work.set_decode(running=total, most=size, sequences=size, context=load.context)
    if tokens:
        work.add_prompts(
            rows=work.rows + round(own),
            prompt_rows=round(own),
            sequences=max(round(own / load.inputs), 1),
            # Chunks of a prompt follow half of the rest of it on average.
            prefix=max(load.inputs - own, 0.0) / 2,
            total=round(tokens),
        )
    return work


def _accumulate(row: dict[str, float], work: StepWork, step: StepTime, weight: float) -> None:
    context = work.decode_total * work.decode_context
    values = step_row(work, step, instance=0, start=0.0, queue_length=0, kv_use=0.0, context=context)
    for name, value in zip(STEP_COLUMNS, values, strict=True):
        row[name] += weight * value
