"""Arithmetic, memory traffic and a drawn sample of the steps that an engine recorded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.export.perfetto import Slice
from simulator.metrics.summary import Work
from simulator.ops import StepShape, build_ops
from simulator.results import COMPONENTS
from simulator.serving.deployment import Deployment
from workloads.model_work import flops_per_token

FloatArray = NDArray[np.float64]


def step_work(deployment: Deployment, steps: dict[str, FloatArray]) -> Work:
    """Total the arithmetic and the memory traffic of recorded steps over all devices.

    Arithmetic is that of the model, per token at the mean context of its phase, so padding and replication do not
    count as useful. Traffic is what the ops of every step read and write: weights that are touched, KV cache and
    activations.
    """
    model, split = deployment.model, deployment.split
    decoded, prompted = float(steps["decode_total"].sum()), float(steps["prompt_total"].sum())
    context = float(steps["context_total"].sum()) / max(decoded, 1.0)
    flops = decoded * sum(flops_per_token(model, phase="decode", context=max(context, 1.0)).values())
    if prompted:
        length = prompted / max(float(((steps["prompt_total"] > 0) * steps["logits"]).sum()), 1.0)
        flops += prompted * sum(flops_per_token(model, phase="prefill", context=max(length, 1.0)).values())
    totals = np.rint(steps["prompt_total"] + steps["decode_total"])
    sizes, repeats = np.unique(totals, return_counts=True)
    shape = StepShape(decode_sequences=sizes / split.dp, decode_context=1.0, group_tokens=sizes)
    traffic = sum(
        float((np.where(op.rows > 0, op.memory_bytes, 0.0) * op.repeat * repeats).sum())
        for op in build_ops(model, split, deployment.stack, shape)
    )
    cache = float(steps["context_total"].sum()) / split.dp * deployment.budget.kv_per_token
    return Work(flops=flops, memory_bytes=(traffic + cache) * split.group)


def step_slices(deployment: Deployment, steps: dict[str, FloatArray], count: int) -> tuple[Slice, ...]:
    """Draw a sample of steps: each a slice with its components inside, laid end to end.

    The sample is taken from the middle of the run, where it is busiest with ordinary work.
    """
    total = len(steps["start_s"])
    first = max((total - count) // 2, 0)
    timer = deployment.timer()
    drawn: list[Slice] = []
    for index in range(first, min(first + count, total)):
        row = {name: column[index : index + 1] for name, column in steps.items()}
        track, start = f"instance {int(row['instance'][0])}", float(row["start_s"][0])
        prompts, decodes = int(row["prompt_total"][0]), int(row["decode_total"][0])
        drawn.append(
            Slice(
                track=track,
                thread="engine",
                name="prefill step" if not decodes else ("mixed step" if prompts else "decode step"),
                start_s=start,
                duration_s=float(row["duration_s"][0]),
                arguments={
                    "prefill_tokens": prompts,
                    "decode_tokens": decodes,
                    "imbalance": float(row["imbalance"][0]),
                },
            )
        )
        end = start + float(row["duration_s"][0])
        parts = timer.breakdown(row)
        for component in COMPONENTS[:-1]:
            duration = min(parts[component], end - start)
            if duration > 0:
                drawn.append(Slice(track=track, thread="engine", name=component, start_s=start, duration_s=duration))
                start += duration
    return tuple(drawn)
