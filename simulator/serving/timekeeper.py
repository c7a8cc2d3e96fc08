"""Times the steps of an instance and records them: one by one, or several that do the same at once."""

from __future__ import annotations

import numpy as np

from simulator.arrays import FloatArray
from simulator.deployment.limits import Limits
from simulator.serving.batch import Batch
from simulator.serving.recorder import ColumnRecorder
from simulator.serving.step_plan import StepPlan
from simulator.serving.step_rows import disturb, fill
from simulator.step.columns import STEP_COLUMNS, step_row
from simulator.step.timer import StepTimer, TableTimer
from simulator.step.work import StepTime, StepWork

#: Steps in a row below which timing them at once takes longer than timing one after the other, and the most [1].
FEW, _MOST = 6, 256
_PLACE = {name: place for place, name in enumerate(STEP_COLUMNS)}


class Timekeeper:
    """Times and records the steps of one instance.

    Parameters
    ----------
    index : int
        Which instance this is.
    limits : Limits
        Its KV pools, and tokens of a decoded sequence.
    batch : Batch
        Who runs.
    steps : ColumnRecorder
        Where steps are recorded.
    """

    __slots__ = ("_batch", "_index", "_latest", "_per_sequence", "_per_token", "_steps", "_work")

    def __init__(self, index: int, limits: Limits, batch: Batch, steps: ColumnRecorder) -> None:
        self._index, self._batch, self._steps = index, batch, steps
        self._work = StepWork(query_tokens=limits.query_tokens)
        # Share of the pools of all ranks that a token, and a sequence, takes.
        pools = limits.pool * limits.dp
        self._per_token, self._per_sequence = limits.kv_per_token / pools, limits.kv_per_sequence / pools
        # How long the step before took [s].
        self._latest = float("inf")

    def one(self, timer: StepTimer, plan: StepPlan, now: float, waiting: int, *, slow: float, stall: float) -> float:
        """Time a step and record it.

        Parameters
        ----------
        timer : StepTimer
            How long steps take.
        plan : StepPlan
            What it holds.
        now : float
            When it begins [s].
        waiting : int
            Requests that wait meanwhile [1].
        slow, stall : float
            What it is lengthened by: a factor [1], and a time [s].

        Returns
        -------
        float
            How long it takes [s].
        """
        batch, work = self._batch, self._work
        fill(work, batch, plan)
        step = timer.time(work)
        if stall or slow != 1.0:
            disturb(step, slow, stall)
        context = batch.context
        use = (context + batch.prompts) * self._per_token + batch.held * self._per_sequence
        self._steps.add(step_row(work, step, self._index, now, waiting, use, context))
        self._latest = step.duration
        return step.duration

    @property
    def several_take(self) -> float:
        """How long several steps may take, the fewest that are timed at once: as long as the one before, each [s]."""
        return FEW * self._latest

    def several(self, timer: StepTimer, steps: int, now: float, due: float, waiting: int) -> FloatArray | None:
        """Time and record decode steps in which nobody comes or goes, as far as they end before something else is due.

        Parameters
        ----------
        timer : StepTimer
            How long steps take.
        steps : int
            How many there may be [1].
        now : float
            When the first begins [s].
        due : float
            When something else may happen [s].
        waiting : int
            Requests that wait meanwhile [1].

        Returns
        -------
        array or None
            When each of them ends [s]; ``None`` where they are better timed one by one.
        """
        steps = int(min(steps, _MOST, (due - now) / self._latest + 1.0))
        if steps < FEW or not isinstance(timer, TableTimer) or not timer.takes_series:
            return None
        batch, work = self._batch, self._work
        sequences, contexts = batch.longest_ahead(steps)
        work.set_decode(batch.running, batch.most_rows, sequences, 0.0)
        times = timer.repeated(work, contexts / sequences + work.query_tokens)
        ends = np.add.accumulate(np.concatenate(([now], times.duration)))
        passed = int(ends[1:].searchsorted(due))
        if not passed:
            return None
        timer.go_on(passed, work)
        table = np.empty((passed, len(STEP_COLUMNS)))
        table[:] = step_row(work, StepTime(), self._index, now, waiting, 0.0, 0.0)
        context = batch.context + np.arange(passed) * (batch.running * batch.gain)
        table[:, _PLACE["start_s"]] = ends[:passed]
        table[:, _PLACE["duration_s"]] = times.duration[:passed]
        table[:, _PLACE["attention"]] = times.attention[:passed]
        table[:, _PLACE["experts"]] = times.experts[:passed]
        table[:, _PLACE["imbalance_wait"]] = times.imbalance_wait[:passed]
        table[:, _PLACE["gap"]] = times.gap[:passed]
        table[:, _PLACE["imbalance"]] = times.imbalance[:passed]
        table[:, _PLACE["context_total"]] = context
        table[:, _PLACE["kv_use"]] = (context + batch.prompts) * self._per_token + batch.held * self._per_sequence
        self._steps.extend(table)
        self._latest = float(times.duration[passed - 1])
        return ends[1 : passed + 1]
