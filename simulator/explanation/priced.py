"""One representative step of a deployment, priced op by op, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulator.cost.model import OpTime
from simulator.cost.uncertainty import family_of, op_spread, step_interval
from simulator.deployment.deployment import Deployment
from simulator.deployment.prices import PRICES
from simulator.step.host import HostRule
from simulator.step.work import StepWork, step_ops
from workloads.models.spec import Phase

_WINDOWS = 8


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


def priced_step(deployment: Deployment, work: StepWork) -> tuple[OpTime, ...]:
    """Price the ops of one step on the busiest rank, routed experts by windows of the routing trace."""
    routing, counts, share = deployment.routing, None, 1.0
    if routing is not None:
        sampled = routing.counts(work.phase, work.stage_tokens(deployment.split.pp), _WINDOWS)
        load = sampled.sum(axis=-1)
        share = float((load.max(axis=-1) / np.maximum(load.mean(axis=-1), 1e-12)).mean())
        counts = sampled.reshape(-1, *sampled.shape[2:])
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


def decode_certainty(deployment: Deployment, sequences: int, length: int, folder: Path | None) -> Certainty:
    """Judge a decode step, which most of a run is made of.

    Kernels count with their residuals, errors of one family in full and what borrowing adds in full over all; the
    host gap with the spread of what nobody measured.

    Parameters
    ----------
    deployment : Deployment
        What runs the step.
    sequences : int
        Decoded sequences over all ranks [1].
    length : int
        KV length of each [tokens].
    folder : Path or None
        Folder of user profiles, which may hold residuals of its own.
    """
    key = (deployment.fingerprint, sequences, length)
    return PRICES.kept("certainty", key, lambda: _decode_certainty(deployment, sequences, length, folder))


def _decode_certainty(deployment: Deployment, sequences: int, length: int, folder: Path | None) -> Certainty:
    work = asked_step(deployment, "decode", max(sequences, 1), max(length, 1))
    times = [time for time in priced_step(deployment, work) if time.seconds > 0]
    seconds = [float(time.seconds + time.imbalance_wait) for time in times]
    spreads = [op_spread(time, deployment.hardware, folder) for time in times]
    families = [family_of(time.table) for time in times]
    gap = step_gap(deployment, work, sum(seconds))
    low, high = step_interval(
        times, deployment.hardware, folder, host=gap, stack=deployment.stack.number("step_spread")
    )
    shares: dict[str, float] = {}
    grades = [*(str(spread.evidence) for spread in spreads), str(deployment.stack.numbers["cpu_gap"].status)]
    for grade, part in zip(grades, [*seconds, gap], strict=True):
        shares[grade] = shares.get(grade, 0.0) + part / (sum(seconds) + gap)
    beyond = {family for family, spread in zip(families, spreads, strict=True) if np.any(spread.extrapolated)}
    return Certainty(interval_80=(float(low), float(high)), evidence=shares, beyond=tuple(sorted(beyond)))
