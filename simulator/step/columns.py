"""The columns of a recorded step, declared once, with what fills them beside their names."""

from __future__ import annotations

from simulator.step.work import StepTime, StepWork

#: Columns of a recorded step, in the order in which :func:`step_row` fills them.
STEP_COLUMNS = (
    "instance",
    "start_s",
    "duration_s",
    "rows",
    "decode_rows",
    "prompt_total",
    "decode_total",
    "logits",
    "attention",
    "prompt_projections",
    "experts",
    "imbalance_wait",
    "gap",
    "imbalance",
    "saved",
    "offload_stall",
    "queue_length",
    "running",
    "kv_use",
    "context_total",
)


def step_row(
    work: StepWork, time: StepTime, instance: int, start: float, queue_length: int, kv_use: float, context: float
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
    # NOTE: written out, because every step of a run passes here; a test holds names and values together.
    return (
        instance,
        start,
        time.duration,
        work.rows,
        work.decode_rows,
        work.prompt_total,
        work.decode_total,
        work.logits,
        time.attention,
        time.prompt_projections,
        time.experts,
        time.imbalance_wait,
        time.gap,
        time.imbalance,
        time.saved,
        time.offload_stall,
        queue_length,
        work.running,
        kv_use,
        context if work.decode_total else 0.0,
    )
