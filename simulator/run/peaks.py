"""Loads whose rate varies: what of their period is played, and whether its peak is held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simulator.deployment.deployment import Deployment
from simulator.deployment.inputs import daily_rates
from simulator.results.summary import Records, share_served
from simulator.results.values import Overload
from simulator.results.window import Window, mean_number
from simulator.run.overloads import overload, pool_overload, pool_overloads
from simulator.scenario import Scenario
from simulator.scenario.sections import Requests
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import mean_rate, own_times

if TYPE_CHECKING:
    from simulator.serving.plan import PoolPlan

#: Share of a period from which all of it counts as played, as arrivals come by chance [1].
_WHOLE = 0.95
#: Parts of a run in which the requests without a first token are averaged; fewest of them that are a queue, and their
#: share of those that came while it grew [1].
_PARTS, _FEWEST, _GROWTH = 200, 10, 0.05
#: Coefficient of variation of the gaps of a trace from which it has bursts, beyond those of independent arrivals [1].
_BURSTY = 1.2


def varies(choice: Requests) -> bool:
    """Tell whether a generator's rate follows a profile."""
    return choice.kind == "diurnal" and choice.rate is not None


def played_peak(choice: Requests, trace: RequestTrace) -> float:
    """Return the highest rate of the parts of a period that are played [1/s].

    Parameters
    ----------
    choice : Requests
        A generator whose rate varies.
    trace : RequestTrace
        What it generated.
    """
    rates, period = daily_rates(choice)
    begins = np.arange(len(rates)) * period / len(rates)
    return float(rates[begins <= trace.arrival.max()].max())


def part_played(choice: Requests, trace: RequestTrace) -> str:
    """Say which part of a period is played, and how many requests play all of it; empty where all of it is."""
    if not varies(choice) or choice.rate is None:
        return ""
    _, period = daily_rates(choice)
    span = float(trace.arrival.max())
    if span >= _WHOLE * period:
        return ""
    return (
        f"requests.count: {len(trace):,} requests play {span:.3g} s of a period of {period:.6g} s, in which "
        f"{mean_rate(trace):.3g} requests/s come where the period has {choice.rate:.3g}/s on average; requests.count = "
        f"{math.ceil(choice.rate * period)} plays all of it"
    )


def left_out_of_means(choice: Requests, trace: RequestTrace) -> str:
    """Say what of the arrivals a closed form leaves out that knows their mean rate alone; empty where nothing."""
    alone = "the closed form knows the mean rate alone"
    if varies(choice):
        return (
            f"requests.kind: {alone}, {mean_rate(trace):.3g} requests/s, and leaves out how it varies, up to "
            f"{played_peak(choice, trace):.3g}/s; use simulate"
        )
    if choice.kind == "gamma" and choice.cv > 1.0:
        return f"requests.cv: bursts of gaps with a cv of {choice.cv:g} are left out, {alone}; use simulate"
    if choice.kind == "trace" and trace.concurrency is None:
        gaps = np.diff(trace.arrival[own_times(trace)])
        if len(gaps) and gaps.sum() > 0 and (cv := float(gaps.std() / gaps.mean())) > _BURSTY:
            return f"requests.trace: bursts of gaps with a cv of {cv:.2g} are left out, {alone}; use simulate"
    return ""


def peak_by_means(scenario: Scenario, trace: RequestTrace, deployment: Deployment) -> Overload | None:
    """Compare the peak of a rate that varies with what instances can serve by the closed form.

    Parameters
    ----------
    scenario : Scenario
        What is asked.
    trace : RequestTrace
        The load.
    deployment : Deployment
        One instance.
    """
    if not varies(scenario.requests):
        return None
    peak = played_peak(scenario.requests, trace)
    return pool_overload(deployment, trace, scenario.parallelism.instances, "both", peak)


def pool_peaks(scenario: Scenario, trace: RequestTrace, pools: Sequence[PoolPlan]) -> tuple[Overload, ...]:
    """Say which pools cannot serve the peak of a rate that varies, as ``pool_overloads`` does of its mean."""
    if not varies(scenario.requests):
        return ()
    return pool_overloads(scenario, trace, pools, played_peak(scenario.requests, trace))


def peak_of_run(scenario: Scenario, trace: RequestTrace, records: Records) -> Overload | None:
    """Find out whether a queue grew in a run while its rate was high; ``None`` where it did not.

    Parameters
    ----------
    scenario : Scenario
        What is asked.
    trace : RequestTrace
        The load.
    records : Records
        What was recorded.

    Notes
    -----
    The capacity is what is served while more than half as many requests wait as at most, as devices are busy then.
    """
    if not varies(scenario.requests):
        return None
    edges = np.linspace(records.arrival.min(), records.first_token.max(), _PARTS + 1)
    waiting = mean_number(records.arrival, records.first_token, edges)
    top = int(waiting.argmax())
    few = np.flatnonzero(waiting[: top + 1] <= _GROWTH * waiting[top])
    begin = edges[few[-1] + 1] if len(few) else edges[0]
    came = np.count_nonzero((records.arrival > begin) & (records.arrival <= edges[top + 1]))
    if waiting[top] < max(_FEWEST, _GROWTH * came):
        return None
    low = waiting <= waiting[top] / 2.0
    before, after = np.flatnonzero(low[:top]), np.flatnonzero(low[top:])
    busy = Window(
        requests=np.ones(len(trace), np.bool_),
        begin=float(edges[before[-1] + 1] if len(before) else edges[0]),
        end=float(edges[top + after[0]] if len(after) else edges[-1]),
    )
    return overload(
        offered=played_peak(scenario.requests, trace),
        capacity=float(share_served(records, busy).sum()) / busy.duration,
        instances=scenario.parallelism.instances,
    )
