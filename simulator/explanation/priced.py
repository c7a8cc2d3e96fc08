"""One representative step of a deployment, priced op by op, with its uncertainty."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.cost.model import OpTime
from simulator.cost.uncertainty import family_of, op_spreads, step_interval
from simulator.deployment.deployment import Deployment
from simulator.deployment.prices import PRICES
from simulator.ops import Op, StepShape, build_ops, draft_ops
from simulator.step.host import HostRule
from simulator.step.work import StepWork, step_ops
from workloads.models.spec import Phase

_WINDOWS = 8
#: Points per octave at which decode steps are judged, and the batches and contexts that these are [1], [tokens].
_PER_OCTAVE = 4
_CONTEXTS = 2.0 ** (np.arange(24 * _PER_OCTAVE + 1) / _PER_OCTAVE)
_BATCHES: list[int] = np.unique(np.rint(2.0 ** (np.arange(20 * _PER_OCTAVE + 1) / _PER_OCTAVE)).astype(int)).tolist()
#: Batches that are judged together [1].
_AT_ONCE = 8
_BATCH_LOGS = [math.log2(batch) for batch in _BATCHES]


def asked_step(deployment: Deployment, phase: Phase, sequences: int, length: int) -> StepWork:
    """Describe a step of equal sequences, dealt out evenly over the ranks.

    Parameters
    ----------
    deployment : Deployment
        What runs.
    phase : {"prefill", "decode"}
        Whether the step computes prompts or decodes.
    sequences : int
        Sequences of the step over all data-parallel ranks [1].
    length : int
        Prompt length (prefill) or KV length (decode) [tokens].
    """
    if phase == "prefill":
        return StepWork.prefill(sequences, sequences * length, dp=deployment.split.dp)
    query_tokens = deployment.limits.query_tokens
    return StepWork.decode(sequences, float(length), dp=deployment.split.dp, query_tokens=query_tokens)


def priced_step(deployment: Deployment, work: StepWork, *, level: bool = False) -> tuple[OpTime, ...]:
    """Price the ops of one step on the busiest rank, routed experts by windows of the routing trace.

    With ``level`` messages are those of a rank that is as loaded as the mean; waits are told apart anyway.
    """
    routing, counts, share = deployment.routing, None, 1.0
    if routing is not None:
        sampled = routing.counts(work.phase, work.stage_tokens(deployment.split.pp), _WINDOWS)
        load = sampled.sum(axis=-1)
        share = 1.0 if level else float((load.max(axis=-1) / np.maximum(load.mean(axis=-1), 1e-12)).mean())
        counts = sampled
    ops = step_ops(
        work,
        deployment.model,
        deployment.split,
        deployment.stack,
        drafts=deployment.drafts,
        expert_counts=counts,
        max_rank_share=share,
    )
    return deployment.cost.times(ops)


def step_gap(deployment: Deployment, work: StepWork, busy: float) -> float:
    """Host time of a step that its kernels, busy for so long [s], do not hide [s]."""
    host = HostRule.of(deployment.stack, deployment.tables.launches, deployment.split.pp)
    return host.gap(work, busy, host.launching(work))


@dataclass(frozen=True, slots=True, kw_only=True)
class Certainty:
    """How much a step's time can be trusted.

    ``interval_80`` holds its ends as factors on the time [1]; ``evidence`` maps each grade to the share of the time
    that rests on it [1]; ``beyond`` names the kernel families that run outside the shapes they were measured on.
    """

    interval_80: tuple[float, float]
    evidence: Mapping[str, float]
    beyond: tuple[str, ...]


def decode_certainty(deployment: Deployment, sequences: float, length: float, folder: Path | None) -> Certainty:
    """Judge a decode step, which most of a run is made of.

    Kernels count with their residuals, errors of one family in full and what borrowing adds in full over all; the
    host gap with the spread of what nobody measured.

    Parameters
    ----------
    deployment : Deployment
        What runs the step.
    sequences : float
        Decoded sequences over all ranks [1].
    length : float
        KV length of each [tokens].
    folder : Path or None
        Folder of user profiles, which may hold residuals of its own.

    Notes
    -----
    Judged at four batches and four contexts per octave, so that neighbouring loads share the work, and linear in the
    logarithms of both between; kernels count as beyond their shapes where they are so at the nearest of these steps.
    """
    batch, context = math.log2(max(sequences, 1.0)), math.log2(max(length, 1.0)) * _PER_OCTAVE
    place = _place(sequences)
    judge_together(deployment, (sequences,), folder)
    known = _known(deployment)
    below, above = (known[each // _AT_ONCE][each % _AT_ONCE] for each in (place, place + 1))
    share = min((batch - _BATCH_LOGS[place]) / (_BATCH_LOGS[place + 1] - _BATCH_LOGS[place]), 1.0)
    first = min(int(context), len(_CONTEXTS) - 2)
    across = min(context - first, 1.0)
    grades = dict.fromkeys((*below.evidence, *above.evidence), 0.0)
    ends = [0.0, 0.0]
    for judged, weight in ((below, 1.0 - share), (above, share)):
        for at, part in ((first, weight * (1.0 - across)), (first + 1, weight * across)):
            ends = [end + part * log[at] for end, log in zip(ends, judged.interval_logs, strict=True)]
            for grade, shares in judged.evidence.items():
                grades[grade] += part * shares[at]
    return Certainty(
        interval_80=(math.exp(ends[0]), math.exp(ends[1])),
        evidence={grade: part for grade, part in grades.items() if part > 0.0},
        beyond=(below, above)[share > 0.5].beyond[first + (across > 0.5)],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """Steps of one batch at all contexts: of each, the fields of ``Certainty``, the ends as logarithms."""

    interval_logs: tuple[list[float], list[float]]
    evidence: Mapping[str, list[float]]
    beyond: list[tuple[str, ...]]


def judge_together(deployment: Deployment, batches: Iterable[float], folder: Path | None) -> None:
    """Judge what :func:`decode_certainty` will be asked of so many decoded sequences, all at once.

    Parameters
    ----------
    deployment : Deployment
        What runs the steps.
    batches : iterable of float
        Decoded sequences over all ranks [1].
    folder : Path or None
        Folder of user profiles.
    """
    known = _known(deployment)
    places = {_place(batch) for batch in batches}
    parts = sorted({each // _AT_ONCE for place in places for each in (place, place + 1)} - known.keys())
    if parts:
        rows = [_rows(part) for part in parts]
        judged = iter(_judge(deployment, [_BATCHES[place] for row in rows for place in row], folder))
        known |= {part: list(islice(judged, len(row))) for part, row in zip(parts, rows, strict=True)}


def _known(deployment: Deployment) -> dict[int, list[_Judged]]:
    return PRICES.kept("derived", ("certainty", deployment.fingerprint), dict)


def _place(batch: float) -> int:
    """Number of the last of :data:`_BATCHES` that is no larger, and that another follows."""
    return min(bisect_right(_BATCHES, max(batch, 1.0)) - 1, len(_BATCHES) - 2)


def _rows(part: int) -> range:
    """Places of the batches that are judged together."""
    return range(part * _AT_ONCE, min((part + 1) * _AT_ONCE, len(_BATCHES)))


def _judge(deployment: Deployment, batches: list[int], folder: Path | None) -> list[_Judged]:
    works = [asked_step(deployment, "decode", batch, 1) for batch in batches]
    times, size = _priced_decodes(deployment, works), (len(batches), len(_CONTEXTS))
    seconds = [time.seconds + time.imbalance_wait for time in times]
    spreads = op_spreads(times, deployment.hardware, folder)
    busy = np.broadcast_to(sum(seconds, np.zeros(())), size)
    host = HostRule.of(deployment.stack, deployment.tables.launches, deployment.split.pp)
    gap = np.array([[host.gap(work, 0.0, 0.0)] for work in works])
    gap = gap + np.maximum(np.array([[host.launching(work)] for work in works]) - busy, 0.0)
    ends = step_interval(times, spreads, host=gap, stack=deployment.stack.number("step_spread"))
    logs = [np.log(np.broadcast_to(end, size)).tolist() for end in ends]
    shares: dict[str, FloatArray] = {}
    grades = [*(str(spread.evidence) for spread in spreads), str(deployment.stack.numbers["cpu_gap"].status)]
    for grade, part in zip(grades, [*seconds, gap], strict=True):
        shares[grade] = shares.get(grade, 0.0) + part / (busy + gap)
    out: dict[str, NDArray[np.bool_]] = {}
    for time, spread in zip(times, spreads, strict=True):
        if np.any(spread.extrapolated):
            family = family_of(time.table)
            out[family] = out.get(family, np.zeros(size, dtype=bool)) | spread.extrapolated
    # Bit n says whether the step is beyond what family n was fitted to.
    families, codes = sorted(out), np.zeros(size, dtype=np.int64)
    for bit, family in enumerate(families):
        codes |= out[family].astype(np.int64) << bit
    named = {
        code: tuple(family for bit, family in enumerate(families) if code >> bit & 1)
        for code in np.unique(codes).tolist()
    }
    return [
        _Judged(
            interval_logs=(logs[0][row], logs[1][row]),
            evidence={grade: part[row].tolist() for grade, part in shares.items()},
            beyond=[named[code] for code in codes[row].tolist()],
        )
        for row in range(size[0])
    ]


def _priced_decodes(deployment: Deployment, works: Sequence[StepWork]) -> list[OpTime]:
    """Price decode steps op by op, each at all contexts; routed experts by their lines. Times broadcast to both."""
    split, stack, pp = deployment.split, deployment.stack, deployment.split.pp
    loads = [_rank_loads(deployment, work.stage_tokens(pp)) for work in works]
    shapes = [work.shape(split, stack, max_rank_share=share) for work, (share, _) in zip(works, loads, strict=True)]

    def column(name: str) -> FloatArray:
        return np.array([[getattr(shape, name)] for shape in shapes])

    shape = replace(
        shapes[0],
        decode_sequences=column("decode_sequences"),
        tokens=column("tokens"),
        group_tokens=column("group_tokens"),
        max_rank_share=column("max_rank_share"),
    )
    times = []
    for op in _decode_ops(deployment, shape):
        time = deployment.cost.time(op)
        if op.kind == "moe" and op.block == "experts" and deployment.routing is not None:
            experts = np.array([experts for _, experts in loads])
            # What the table of residuals calls skewed has counts; they are in the lines.
            time = replace(
                time,
                op=replace(op, shape=replace(op.shape, counts=np.zeros(0))),
                seconds=experts[:, :1],
                imbalance_wait=experts[:, 1:],
            )
        times.append(time)
    return [time for time in times if np.any(time.seconds > 0)]


def _decode_ops(deployment: Deployment, shape: StepShape) -> Iterator[Op]:
    """List the ops of decode steps, those of attention at all contexts; no others depend on these."""
    parts = deployment.model, deployment.split, deployment.stack
    for attention, context in ((False, np.ones(1)), (True, _CONTEXTS)):
        sequences = np.asarray(shape.decode_sequences)
        ops = build_ops(*parts, replace(shape, decode_context=context))
        for op in (*ops, *draft_ops(*parts, sequences, context, deployment.drafts)):
            if (op.component == "attention") == attention:
                yield op


def _rank_loads(deployment: Deployment, tokens: int) -> tuple[float, tuple[float, float]]:
    """Load of the busiest rank over the mean one with so many tokens [1], and the time of experts and their wait [s].

    Means over windows of the routing trace, those that :func:`priced_step` counts.
    """
    routing = deployment.routing
    if routing is None:
        return 1.0, (0.0, 0.0)
    starts = (np.arange(_WINDOWS) * routing.tokens // _WINDOWS).tolist()
    hottest = np.mean([routing.decode.load(start, tokens).max(axis=0) for start in starts], axis=0)
    experts, wait, imbalance = deployment.tables.experts["decode"].at(tokens).time(hottest, tokens * routing.mean_load)
    return imbalance, (experts, wait)
