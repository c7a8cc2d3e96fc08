"""Arithmetic, memory traffic and a drawn sample of the steps that an engine recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.deployment.deployment import Deployment
from simulator.deployment.prices import PRICES
from simulator.ops import StepShape, build_ops
from simulator.results.packed import PackedColumns, parts_of
from simulator.results.summary import Work
from simulator.results.trace import Slice
from simulator.step.components import STEP_PARTS
from workloads.models.mixers import Mixer
from workloads.models.spec import Phase
from workloads.models.work import flops_per_token

#: Steps, how often each counts [1], and whose it is.
_Weighed = tuple[Mapping[str, FloatArray], FloatArray, NDArray[np.int64]]
#: Keys of kinds of steps; and in all of a kind: how many there are [1], what they decode and look back on [tokens].
_Kinds = tuple[NDArray[np.int64], FloatArray, FloatArray, FloatArray]
#: Bits of a key that count the tokens of a step [1].
_TOKEN_BITS = 40


def step_work(
    deployment: Deployment, steps: Mapping[str, FloatArray], weigh: Callable[[Mapping[str, FloatArray]], FloatArray]
) -> Work:
    """Total the arithmetic and the memory traffic of recorded steps over the devices of their instance.

    ``weigh`` says of a part of the steps how often each counts.

    Arithmetic is that of the model, per token at the mean context of its phase, so padding and replication do not
    count as useful. Traffic is what the ops of every step read and write: weights, those of the experts that the
    routing trace touches among them, KV cache and activations.
    """
    weighed = ((part, weigh(part)) for part in parts_of(steps))
    return _works(deployment, ((part, each, np.zeros(len(each), dtype=np.int64)) for part, each in weighed), 1)[0]


def step_works(
    deployment: Deployment, steps: Mapping[str, FloatArray], weights: FloatArray, owner: NDArray[np.int64], owners: int
) -> list[Work]:
    """Total the work of the steps of many owners, as :func:`step_work` does of one.

    Parameters
    ----------
    deployment : Deployment
        What ran all of them.
    steps : dict of str to array
        The steps, in ``STEP_COLUMNS``.
    weights : array, shape (steps,)
        How often each counts [1].
    owner : int64 array, shape (steps,)
        Whose each is.
    owners : int
        How many there are [1].
    """
    return _works(deployment, [(steps, weights, owner)], owners)


def _works(deployment: Deployment, parts: Iterable[_Weighed], owners: int) -> list[Work]:
    """Total the work of steps that come in parts."""
    limits, arithmetic = deployment.limits, _arithmetic(deployment)
    sums = np.zeros((4, owners))
    found: list[_Kinds] = []
    for steps, weights, owner in parts:
        logits = (steps["prompt_total"] > 0) * (steps["logits"] - steps["decode_rows"] * limits.query_tokens)
        for index, values in enumerate((steps["decode_total"], steps["context_total"], steps["prompt_total"], logits)):
            sums[index] += np.bincount(owner, weights * values, minlength=owners)
        found.append(_kinds(steps, weights, owner))
    traffics = _traffic(deployment, found, owners)
    works = []
    for (decoded, attended, prompted, prompts), traffic in zip(sums.T.tolist(), traffics.tolist(), strict=True):
        # Drafts that are thrown away are no use.
        sequences = decoded / limits.query_tokens
        useful = sequences * limits.accepted_per_step
        flops = useful * arithmetic.flops("decode", attended / max(sequences, 1e-9))
        if prompted:
            flops += prompted * arithmetic.flops("prefill", prompted / max(prompts, 1e-9))
        works.append(Work(flops=flops, memory_bytes=traffic))
    return works


def _kinds(steps: Mapping[str, FloatArray], weights: FloatArray, owner: NDArray[np.int64]) -> _Kinds:
    """Sum up steps of one owner and phase with as many tokens."""
    chosen = weights > 0
    weights, decoded, attended = (each[chosen] for each in (weights, steps["decode_total"], steps["context_total"]))
    prompting = steps["prompt_total"][chosen] > 0
    tokens = np.rint(steps["prompt_total"][chosen] + decoded).astype(np.int64)
    kinds, where = np.unique(((2 * owner[chosen] + prompting) << _TOKEN_BITS) + tokens, return_inverse=True)
    return kinds, *(np.bincount(where, each) for each in (weights, weights * decoded, weights * attended))


def _traffic(deployment: Deployment, found: Sequence[_Kinds], owners: int) -> FloatArray:
    """Memory traffic of the steps of each owner, over the devices of the instance [bytes].

    Steps of one owner and phase with as many tokens are priced together, at the mean of what they decode and of how far
    it looks back.
    """
    split, query_tokens = deployment.split, deployment.limits.query_tokens
    kinds, where = np.unique(np.concatenate([kinds for kinds, *_ in found]), return_inverse=True)
    repeats, decoded, attended = (
        np.bincount(where, np.concatenate(each), len(kinds)) for each in list(zip(*found, strict=True))[1:]
    )
    decode = decoded / repeats
    context = attended / repeats / np.maximum(decode / query_tokens, 1e-9)
    # Every stage of a pipeline runs its part of the batch in flight as often as there are stages.
    sizes, kinds = (kinds & ((1 << _TOKEN_BITS) - 1)).astype(np.float64), kinds >> _TOKEN_BITS
    ranks, stage = split.dp * split.pp, sizes / split.pp
    shape = StepShape(
        prefill_tokens=np.maximum(sizes - decode, 0.0) / ranks,
        prefill_sequences=1.0,
        decode_sequences=decode / query_tokens / ranks,
        decode_context=context,
        decode_query_tokens=float(query_tokens),
        group_tokens=stage,
        touched_slots=_touched(deployment, kinds % 2, stage),
    )
    each = sum(
        np.where(op.rows > 0, op.memory_bytes, 0.0) * op.repeat
        for op in build_ops(deployment.model, split, deployment.stack, shape)
    )
    sums = np.bincount(kinds // 2, repeats * np.broadcast_to(each, sizes.shape), minlength=owners)
    return np.asarray(sums * split.pp * split.group)


def _touched(deployment: Deployment, prompting: NDArray[np.int64], tokens: FloatArray) -> FloatArray | None:
    """Expert slots of the mean rank that steps with or without prompts touch [1]; ``None`` for a dense model."""
    if deployment.routing is None:
        return None
    touched = np.zeros(len(tokens))
    kinds: tuple[tuple[Phase, NDArray[np.bool_]], ...] = (("prefill", prompting > 0), ("decode", prompting == 0))
    for phase, chosen in kinds:
        # Lines of a phase that nobody asks for are not made.
        if chosen.any():
            touched[chosen] = deployment.tables.experts[phase].touched(tokens[chosen])
    return touched


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arithmetic:
    """What a token costs: what does not depend on the context [FLOP], and the attention of so many layers each."""

    fixed: float
    attention: tuple[tuple[Mixer, int], ...]

    def flops(self, phase: Phase, context: float) -> float:
        """FLOPs of one token at a mean context [FLOP]."""
        seen = max(context, 1.0)
        return self.fixed + sum(count * each.score_flops(phase, seen) for each, count in self.attention)


def _arithmetic(deployment: Deployment) -> _Arithmetic:
    def count() -> _Arithmetic:
        model = deployment.model
        parts = flops_per_token(model, phase="decode", context=1.0)
        attention = Counter(layer.attention for layer in model.layers if layer.attention is not None)
        return _Arithmetic(
            fixed=sum(flops for part, flops in parts.items() if part != "attention_scores"),
            attention=tuple(attention.items()),
        )

    return PRICES.kept("derived", ("arithmetic", deployment.fingerprint), count)


def step_slices(deployment: Deployment, steps: PackedColumns, count: int) -> tuple[Slice, ...]:
    """Draw a sample of steps: each a slice with its components inside, laid end to end.

    The sample is taken from the middle of the run, where it is busiest with ordinary work.
    """
    first = max((steps.rows - count) // 2, 0)
    sample = steps.between(first, first + count)
    timer = deployment.engine_timer()
    drawn: list[Slice] = []
    for index in range(len(sample["start_s"])):
        row = {name: column[index : index + 1] for name, column in sample.items()}
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
                    "rank_imbalance": float(row["imbalance"][0]),
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
