"""The columns of a recorded step, declared once; a row is read off the step by these names."""

from __future__ import annotations

from operator import attrgetter

from simulator.step.work import StepTime, StepWork

#: Columns that are attributes of the work and of the time of the step, by column.
_WORK = {name: name for name in ("rows", "decode_rows", "prompt_total", "decode_total", "logits", "running")}
_TIME = {
    "duration_s": "duration",
    **{
        name: name
        for name in ("attention", "prompt_projections", "experts", "imbalance_wait", "gap", "imbalance", "saved")
    },
}
#: Columns that only the engine knows.
_ENGINE = ("instance", "start_s", "queue_length", "kv_use", "context_total")

#: All columns, in the order of a row.
STEP_COLUMNS = (*_WORK, *_TIME, *_ENGINE)

# NOTE: attrgetter reads all attributes in one call, as fast as writing them out by hand.
_of_work, _of_time = attrgetter(*_WORK.values()), attrgetter(*_TIME.values())


def step_row(
    work: StepWork, time: StepTime, *, instance: int, start: float, queue_length: int, kv_use: float, context: float
) -> tuple[float, ...]:
    """One row of ``STEP_COLUMNS``.

    Parameters
    ----------
    work, time
        The step.
    instance : int
        Which instance runs it.
    start : float
        When it begins [s].
    queue_length : int
        Requests that wait on the instance [1].
    kv_use : float
        Share of the KV pool that is taken [1].
    context : float
        KV tokens of the requests that decode, over all ranks; counted where the step decodes [tokens].
    """
    row: tuple[float, ...] = _of_work(work) + _of_time(time)
    return (*row, instance, start, queue_length, kv_use, context if work.decode_total else 0.0)
