"""Arithmetic, memory traffic and a drawn sample of the steps that an engine recorded."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from simulator.arrays import FloatArray
from simulator.deployment.deployment import Deployment
from simulator.ops import StepShape, build_ops
from simulator.results.summary import Work
from simulator.results.trace import Slice
from simulator.step.components import STEP_PARTS
from workloads.models.spec import ModelSpec, Phase
from workloads.models.work import flops_per_token

_PHASES: tuple[Phase, ...] = ("prefill", "decode")


def step_work(deployment: Deployment, steps: dict[str, FloatArray], weights: FloatArray | None = None) -> Work:
    """Total the arithmetic and the memory traffic of recorded steps over the devices of their instance.

    Each step counts ``weights`` times, once where absent.

    Arithmetic is that of the model, per token at the mean context of its phase, so padding and replication do not
    count as useful. Traffic is what the ops of every step read and write: weights, those of the experts that the
    routing trace touches among them, KV cache and activations.
    """
    model, limits = deployment.model, deployment.limits
    counted = np.ones(len(steps["duration_s"])) if weights is None else weights
    decoded, prompted = float(counted @ steps["decode_total"]), float(counted @ steps["prompt_total"])
    attended = float(counted @ steps["context_total"])
    # Drafts that are thrown away are no use.
    sequences = decoded / limits.query_tokens
    flops = sequences * limits.accepted_per_step * _flops(model, "decode", attended / max(sequences, 1e-9))
    if prompted:
        logits = steps["logits"] - steps["decode_rows"] * limits.query_tokens
        prompts = float(counted @ ((steps["prompt_total"] > 0) * logits))
        flops += prompted * _flops(model, "prefill", prompted / max(prompts, 1e-9))
    return Work(flops=flops, memory_bytes=sum(_traffic(deployment, steps, counted, phase) for phase in _PHASES))


def _traffic(deployment: Deployment, steps: dict[str, FloatArray], counted: FloatArray, phase: Phase) -> float:
    """Memory traffic of the steps of one phase, over the devices of the instance [bytes].

    Steps of as many tokens are priced together, at the mean of what they decode and of how far it looks back.
    """
    split, query_tokens = deployment.split, deployment.limits.query_tokens
    chosen = ((steps["prompt_total"] > 0) == (phase == "prefill")) & (counted > 0)
    if not chosen.any():
        return 0.0
    weights, decoded, attended = (each[chosen] for each in (counted, steps["decode_total"], steps["context_total"]))
    sizes, where = np.unique(np.rint(steps["prompt_total"][chosen] + decoded), return_inverse=True)
    repeats = np.bincount(where, weights)
    decode = np.bincount(where, weights * decoded) / repeats
    context = np.bincount(where, weights * attended) / repeats / np.maximum(decode / query_tokens, 1e-9)
    # Every stage of a pipeline runs its part of the batch in flight as often as there are stages.
    ranks, stage = split.dp * split.pp, sizes / split.pp
    shape = StepShape(
        prefill_tokens=np.maximum(sizes - decode, 0.0) / ranks,
        prefill_sequences=1.0,
        decode_sequences=decode / query_tokens / ranks,
        decode_context=context,
        decode_query_tokens=float(query_tokens),
        group_tokens=stage,
        touched_slots=deployment.tables.experts[phase].touched(stage) if deployment.routing is not None else None,
    )
    each = sum(
        np.where(op.rows > 0, op.memory_bytes, 0.0) * op.repeat
        for op in build_ops(deployment.model, split, deployment.stack, shape)
    )
    return float(repeats @ np.broadcast_to(each, sizes.shape)) * split.pp * split.group


@lru_cache(maxsize=64)
def _flops(model: ModelSpec, phase: Phase, context: float) -> float:
    """FLOPs of one token at a mean context [FLOP]."""
    return sum(flops_per_token(model, phase=phase, context=max(context, 1.0)).values())


def step_slices(deployment: Deployment, steps: dict[str, FloatArray], count: int) -> tuple[Slice, ...]:
    """Draw a sample of steps: each a slice with its components inside, laid end to end.

    The sample is taken from the middle of the run, where it is busiest with ordinary work.
    """
    total = len(steps["start_s"])
    first = max((total - count) // 2, 0)
    timer = deployment.engine_timer()
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
        for component in STEP_PARTS:
            duration = min(parts[component], end - start)
            if duration > 0:
                drawn.append(Slice(track=track, thread="engine", name=component, start_s=start, duration_s=duration))
                start += duration
    return tuple(drawn)
