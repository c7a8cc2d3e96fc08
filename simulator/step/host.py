"""The host's share of a step: the only rule of what it takes and what kernels hide of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray
from simulator.stack import StackProfile
from simulator.step.work import StepSeries, StepWork


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """How long the host takes for the steps of one instance.

    Attributes
    ----------
    fixed, each_request, prefill : float
        Gap of every step, of every request in it, and of a step with prompts [s].
    launch : float
        Time to launch all kernels of a step one by one [s].
    graph_rows : int
        Largest step of a rank for which a CUDA graph was captured [tokens].
    stages : int
        Pipeline stages, each of which has its part of the batch in flight [1].
    """

    fixed: float
    each_request: float
    prefill: float
    launch: float
    graph_rows: int
    stages: int = 1

    @classmethod
    def of(cls, stack: StackProfile, launches: float, stages: int = 1) -> HostRule:
        """Read the rule of a stack, for a model whose step launches so many kernels [1]."""
        return cls(
            fixed=stack.number("cpu_gap"),
            each_request=stack.number("cpu_gap_per_request"),
            prefill=stack.number("prefill_gap"),
            launch=launches * stack.number("launch_eager"),
            graph_rows=int(stack.number("graph_max_batch")),
            stages=stages,
        )

    def launching(self, work: StepWork, batches: int = 1) -> float:
        """Time in which the host launches the kernels of a step one by one; 0 where it replays a graph [s].

        No graph is captured of steps with prompts, nor of those with more rows than the largest. Each of the batches
        that a step runs as launches its own kernels.
        """
        if work.prompt_total or -(-work.rows // self.stages) > self.graph_rows:
            return batches * self.launch
        return 0.0

    def gap(self, work: StepWork, busy: float, launching: float) -> float:
        """Host time of a step that its kernels do not hide [s].

        Parameters
        ----------
        work : StepWork
            The step. Every rank has a scheduler of its own, which handles the requests that it runs in the step.
        busy : float
            How long kernels run, beside which the host launches the next [s].
        launching : float
            How long it launches [s].
        """
        gap = self.fixed + self.each_request * (work.decode_rows + work.prompt_sequences)
        if work.prompt_total:
            gap += self.prefill
        return gap + launching - busy if launching > busy else gap

    def gaps(self, work: StepSeries, busy: FloatArray) -> FloatArray:
        """Host time of many steps, each run as one batch, that their kernels do not hide, shape (steps,) [s].

        Parameters
        ----------
        work : StepSeries
            The steps.
        busy : array, shape (steps,)
            How long the kernels of each run [s].
        """
        prompting = work.prompt_total > 0
        gap = self.fixed + self.each_request * (work.decode_rows + work.prompt_sequences) + self.prefill * prompting
        eager = prompting | (-(-work.rows // self.stages) > self.graph_rows)
        return np.asarray(gap + np.maximum(self.launch * eager - busy, 0.0))
