"""Objectives that nobody can meet, and what is the best that can be had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hardware_profiles.units import format_seconds
from simulator.closed_form.load import mean_load
from simulator.closed_form.steady import solve
from simulator.deployment.deployment import Deployment
from simulator.deployment.prices import PRICES
from simulator.results.values import Summary
from simulator.scenario.features import asked_features
from simulator.scenario.sections import Slo
from workloads.requests.trace import RequestTrace

if TYPE_CHECKING:
    from simulator.run.plan import RunPlan

#: Requests that are alone of which a deployment remembers the times [1].
_KNOWN = 4096
#: Room above the times of a longer request in which an objective is met for certain [1].
_ROOM = 1.1


def unreachable_in_run(plan: RunPlan) -> tuple[str, ...]:
    """Say which objectives of a run nobody can meet; nothing where the closed form does not know the best."""
    scenario = plan.scenario
    if any(feature.quickens for feature in asked_features(scenario)):
        return ()
    if plan.scaler is None:
        return unreachable([(plan.pools[-1].deployment, plan.pools[0].deployment)], plan.trace, scenario.slo)
    fleet = plan.scaler.fleet
    sizes = sorted({fleet.sizes[0], fleet.sizes[-1]})
    deployments = [fleet.deployment(size) for size in sizes]
    where = f" at {' or '.join(map(str, sizes))} ranks"
    return unreachable([(each, each) for each in deployments], plan.trace, scenario.slo, where)


def missed(slo: Slo, summary: Summary) -> Slo:
    """Keep the objectives that the mean request of a load misses: those that it meets are within reach.

    Parameters
    ----------
    slo : Slo
        The objectives.
    summary : Summary
        What the load is given; a mean that it does not have (NaN) meets nothing.
    """
    means = {"ttft": summary.ttft_s.mean, "tpot": summary.tpot_s.mean, "e2el": summary.e2el_s.mean}
    met = {name: None for name, mean in means.items() if (limit := getattr(slo, name)) is not None and mean <= limit}
    return slo.model_copy(update=met)


def unreachable(
    sites: Sequence[tuple[Deployment, Deployment]], trace: RequestTrace, slo: Slo, where: str = ""
) -> tuple[str, ...]:
    """Say which objectives not even the shortest request meets where it is alone, and what is the best that can be had.

    Parameters
    ----------
    sites : sequence of pairs of Deployment
        Where a request may go: what computes its prompt, and what decodes.
    trace : RequestTrace
        The load.
    slo : Slo
        The objectives.
    where : str
        Which sites these are, as the message says it.
    """
    if slo.ttft is None and slo.tpot is None and slo.e2el is None:
        return ()
    inputs, outputs = int(trace.input_tokens.min()), int(trace.output_tokens.min())
    # A longer request that meets them with room to spare shows that they can be met, and many loads share it.
    longer = _best(sites, *(_rounded_up(length) for length in (inputs, outputs)))
    if all(limit is None or _ROOM * best <= limit for limit, best in zip(_limits(slo), longer, strict=True)):
        return ()
    best = zip(("ttft", "tpot", "e2el"), _limits(slo), _best(sites, inputs, outputs), strict=True)
    return tuple(
        f"slo.{name} = {format_seconds(limit)} cannot be met{where}: the best reachable is "
        f"{format_seconds(reachable)}, for a request of {inputs} + {outputs} tokens that is alone"
        for name, limit, reachable in best
        if limit is not None and limit < reachable
    )


def _limits(slo: Slo) -> tuple[float | None, float | None, float | None]:
    return slo.ttft, slo.tpot, slo.e2el


def _best(sites: Sequence[tuple[Deployment, Deployment]], inputs: int, outputs: int) -> tuple[float, float, float]:
    """Times to first token, between tokens and to the last of a request that is alone, each at its best site [s]."""
    found = []
    for prompts, decodes in sites:
        ttft, gap = _alone(prompts, inputs, outputs)
        if decodes is not prompts:
            _, gap = _alone(decodes, inputs, outputs)
        found.append((ttft, gap, ttft + (outputs - 1.0) * gap))
    first, between, last = map(min, zip(*found, strict=True))
    return first, between, last


def _rounded_up(length: int) -> int:
    """Return the next of two lengths per octave [tokens]."""
    octave = 1 << (length - 1).bit_length()
    return octave if 4 * length > 3 * octave else max(3 * octave // 4, 1)


def _alone(deployment: Deployment, inputs: int, outputs: int) -> tuple[float, float]:
    """Time to first token and between tokens of a request that is alone [s]; remembered, as loads share their shortest.

    A request of one token has no time per token; it is given a second one to find out what it would be.
    """
    known: dict[tuple[int, int], tuple[float, float]] = PRICES.kept("derived", ("alone", deployment.fingerprint), dict)
    key = inputs, max(outputs, 2)
    if key not in known:
        if len(known) >= _KNOWN:
            known.clear()
        request = RequestTrace(
            arrival=np.zeros(1), input_tokens=np.array(key[:1]), output_tokens=np.array(key[1:]), concurrency=1
        )
        state = solve(deployment, mean_load(request, 1))
        known[key] = state.ttft_s, state.gap_s
    return known[key]
