"""Whether a load is held, and whether a run is long enough to say so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from simulator.arrays import FloatArray
from simulator.closed_form.capacity import capacity
from simulator.closed_form.load import EVEN, asked_rate, mean_load
from simulator.results.summary import Records, share_served
from simulator.results.values import Measured, Overload, Summary
from simulator.results.window import Asked, Window, measured_window, queue_grows, steady_begin
from simulator.scenario import Scenario
from simulator.scenario.features import asks, beyond_closed_form
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import follows

if TYPE_CHECKING:
    from simulator.serving.plan import PoolPlan

#: Batches over which the rate of a window is averaged to find its error [1], and the factor on their standard error
#: that gives half of a 95 % interval, of Student's t with one degree of freedom less.
_BATCHES, _STUDENT = 10, 2.262
#: Mean E2EL that a window must last, and largest error of its rate, for it to say what a longer one would [1].
_LEAST_LATENCIES, _MOST_ERROR = 3.0, 0.2
#: What is advised: mean E2EL before the window and in it, and error of the rate [1]. With room, as latencies of a
#: longer run are longer.
_FILLING, _ADVISED_LATENCIES, _ADVISED_ERROR = 3.0, 5.0, 0.15
#: Ratio of what is offered to what a closed form says can be served from which it is too much, beyond its rounding [1].
_OVER = 1.001
#: Fewest answers in the window that are advised in an open loop, whose arrivals come by chance [1].
_ADVISED_ANSWERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What of a run is measured, and what that says.

    ``offered`` is in requests per second, NaN in a closed loop; ``warnings`` say what is too much and what too short.
    """

    window: Window
    offered: float
    measured: Measured
    overload: Overload | None
    warnings: tuple[str, ...]


def judged(
    scenario: Scenario,
    trace: RequestTrace,
    records: Records,
    pools: Sequence[PoolPlan],
    waited: FloatArray | None,
) -> Judged:
    """Find what of a run is measured, and whether it holds its load and is long enough to say so.

    Parameters
    ----------
    scenario : Scenario
        What is asked.
    trace : RequestTrace
        The load.
    records : Records
        What was recorded.
    pools : sequence of PoolPlan
        The instances at the start.
    waited : array, shape (requests,), or None
        How long each waited for a place where it decodes once its prompt was computed elsewhere [s].
    """
    arrival, asked = records.arrival, asked_window(scenario, trace)
    last = load_end(trace, arrival)
    window = measured_window(arrival, records.first_token, records.finish, asked, trace.concurrency, last)
    offered, measured = offered_rate(scenario, trace, arrival, window), measured_part(trace, records, window)
    short = too_short(trace, records, measured, transient=asked.transient)
    exceeded = find_overload(scenario, trace, records, window, waited)
    if short and exceeded is None:
        # What has not queued yet may still be more than can be served.
        exceeded = next(iter(pool_overloads(scenario, trace, pools)), None)
    if short and exceeded is None:
        short += _remedy(scenario, trace, records, measured, offered)
    return Judged(
        window=window,
        offered=offered,
        measured=measured,
        overload=exceeded,
        warnings=tuple(text for text in ("" if exceeded is None else exceeded.text(), short) if text),
    )


def asked_window(scenario: Scenario, trace: RequestTrace) -> Asked:
    """Say what a scenario asks to be measured.

    Recorded arrivals, rates that follow the day, faults, changes of size and changes of placement are there to be seen:
    such a run has no steady state, and none of it is taken for a warm-up.
    """
    changes = any(asks(scenario, name) for name in ("faults", "elastic", "rebalance"))
    uneven = trace.concurrency is None and scenario.requests.kind not in EVEN
    due = [fault.at for fault in scenario.faults]
    if asks(scenario, "elastic"):
        due += [event.at for event in scenario.elastic.events]
    return Asked(
        warmup=scenario.run.warmup_requests,
        drain=scenario.run.drain,
        transient=changes or uneven,
        until=max(due, default=0.0),
    )


def load_end(trace: RequestTrace, arrival: FloatArray) -> float:
    """Return when the last request comes that follows no answer [s]: later turns alone come less and less often.

    Parameters
    ----------
    trace : RequestTrace
        The load.
    arrival : array, shape (requests,)
        When requests came [s].
    """
    return float((arrival if trace.after is None else arrival[trace.after < 0]).max())


def offered_rate(scenario: Scenario, trace: RequestTrace, arrival: FloatArray, window: Window) -> float:
    """Requests that come [1/s]: what a generator is asked for, else what arrives in the window; NaN in a closed loop.

    Later turns of sessions come when answers let them, so that they are counted.

    Parameters
    ----------
    scenario : Scenario
        What is asked.
    trace : RequestTrace
        The load.
    arrival : array, shape (requests,)
        When requests came [s].
    window : Window
        What is measured.
    """
    if trace.concurrency is not None:
        return math.nan
    if rate := asked_rate(scenario.requests, trace):
        return rate
    last = min(window.end, load_end(trace, arrival))
    came = np.count_nonzero((arrival > window.begin) & (arrival <= last))
    return came / (last - window.begin) if last > window.begin else math.nan


def find_overload(
    scenario: Scenario,
    trace: RequestTrace,
    records: Records,
    window: Window,
    waited: FloatArray | None,
) -> Overload | None:
    """Find out whether requests came faster than they were served all through a run.

    Parameters
    ----------
    scenario : Scenario
        What is asked.
    trace : RequestTrace
        The load.
    records : Records
        What was recorded.
    window : Window
        What is measured.
    waited : array, shape (requests,), or None
        How long each waited for a place where it decodes once its prompt was computed elsewhere [s].

    Notes
    -----
    The capacity is what is served from where the run is steady, but for its queue, until the last request has its first
    token, as devices are busy till then. Instances do not disturb one another, so that the capacity grows as their
    number.
    """
    steered = any(asks(scenario, name) for name in ("faults", "elastic", "rebalance"))
    if trace.concurrency is not None or steered or scenario.requests.kind == "diurnal":
        return None
    arrival, first, last = records.arrival, records.first_token, load_end(trace, records.arrival)
    begin = window.begin if window.kind == "overloaded" else steady_begin(arrival, records.finish, None, last)
    if not begin < last or (window.kind != "overloaded" and not queue_grows(arrival, first, begin, last)):
        return None
    busy = Window(requests=window.requests, begin=begin, end=float(first[arrival <= last].max()))
    pool: Literal["", "prefill", "decode"] = ""
    if waited is not None:
        pool = "decode" if np.median(waited[arrival >= begin]) > 0.0 else "prefill"
    prompts = scenario.disaggregation.prefill.instances
    offered = offered_rate(scenario, trace, arrival, Window(requests=window.requests, begin=begin, end=last))
    if follows(trace):
        # What sessions ask for grows until those that began first are over.
        offered = min(offered, np.count_nonzero((arrival > begin) & (arrival <= last)) / (last - begin))
    return overload(
        offered=offered,
        capacity=float(share_served(records, busy).sum()) / busy.duration,
        instances=prompts if pool == "prefill" else scenario.parallelism.instances,
        pool=pool,
    )


def overload(
    *, offered: float, capacity: float, instances: int, pool: Literal["", "prefill", "decode"] = ""
) -> Overload | None:
    """Compare a load with what so many instances can serve; ``None`` where they hold it.

    Parameters
    ----------
    offered, capacity : float
        Requests that come, and that all instances can serve [1/s].
    instances : int
        How many there are [1].
    pool : {"", "prefill", "decode"}
        Which pool they make up.
    """
    if not offered > capacity > 0.0:
        return None
    return Overload(
        offered_rps=offered,
        capacity_rps=capacity,
        pool=pool,
        instances=instances,
        needed=math.floor(instances * offered / capacity) + 1,
    )


def exceeded_capacity(summary: Summary, instances: int) -> Overload | None:
    """Say by how much the load of an estimate exceeds what so many instances can serve; ``None`` where they hold it.

    Parameters
    ----------
    summary : Summary
        A steady state, which serves what is offered or what it can.
    instances : int
        How many there are [1].
    """
    offered, served = summary.offered_rps, summary.request_throughput_rps
    return overload(offered=offered, capacity=served, instances=instances) if offered > _OVER * served else None


def pool_overloads(scenario: Scenario, trace: RequestTrace, pools: Sequence[PoolPlan]) -> tuple[Overload, ...]:
    """Say which pools of a scenario cannot serve its open loop, by the closed form; nothing where it does not know.

    Parameters
    ----------
    scenario : Scenario
        What is asked.
    trace : RequestTrace
        The load.
    pools : sequence of PoolPlan
        The instances at the start.
    """
    unknown = [key for key in beyond_closed_form(scenario) if key != "disaggregation.enabled"]
    # Requests that come all at once, or one alone, have no rate.
    if trace.concurrency is not None or unknown or not trace.arrival.max() > trace.arrival.min():
        return ()
    found = []
    for pool in pools:
        load = mean_load(trace, pool.instances, asked_rate(scenario.requests, trace))
        served = pool.instances * capacity(pool.deployment, load, pool.role)
        if load.rate * pool.instances > _OVER * served:
            name = "" if pool.role == "both" else pool.role
            found.append(
                overload(offered=load.rate * pool.instances, capacity=served, instances=pool.instances, pool=name)
            )
    return tuple(each for each in found if each is not None)


def measured_part(trace: RequestTrace, records: Records, window: Window) -> Measured:
    """Say which part of a run was measured, and how well that says what a longer one would.

    Parameters
    ----------
    trace : RequestTrace
        The load.
    records : Records
        What was recorded.
    window : Window
        What is measured.
    """
    arrival, chosen = records.arrival, window.requests
    first, last = float(arrival.min()), load_end(trace, arrival)
    e2el = float((records.finish - arrival)[chosen].mean())
    return Measured(
        kind=window.kind,
        begin_s=window.begin,
        end_s=window.end,
        latencies=window.duration / e2el if e2el > 0.0 else math.inf,
        filling=(window.begin - first) / (last - first) if last > first else 0.0,
        served_error=math.nan if trace.concurrency or window.kind == "whole" else _error(records.finish, window),
    )


def _error(finish: FloatArray, window: Window) -> float:
    """Half of the 95 % interval of the rate of ends over that rate, from means over batches of the window [1]."""
    counts, _ = np.histogram(finish, np.linspace(window.begin, window.end, _BATCHES + 1))
    mean = float(counts.mean())
    return _STUDENT * float(counts.std(ddof=1)) / math.sqrt(_BATCHES) / mean if mean >= 1.0 else math.nan


def too_short(trace: RequestTrace, records: Records, measured: Measured, *, transient: bool) -> str:
    """Say that a run is too short to judge a steady state by; empty where it is not.

    Parameters
    ----------
    trace : RequestTrace
        The load.
    records : Records
        What was recorded.
    measured : Measured
        Which part of it was measured.
    transient : bool
        Whether it should have no steady state.
    """
    if measured.kind not in ("steady", "whole") or transient:
        return ""
    uncertain = measured.served_error > _MOST_ERROR
    if measured.kind == "steady" and measured.latencies >= _LEAST_LATENCIES and not uncertain:
        return ""
    arrival = records.arrival
    span, e2el = load_end(trace, arrival) - float(arrival.min()), float((records.finish - arrival).mean())
    count = f"{len(trace):,} request{'s' * (len(trace) != 1)}"
    what = f"too short to judge: {count} in {span / e2el:.2g} times the mean E2EL of {e2el:.3g} s"
    if measured.kind == "whole":
        return what + ", so that all of the run is shown, filling and emptying included"
    known = f"; the rate of requests is known to {measured.served_error:.0%}" if uncertain else ""
    return f"{what}, of which {measured.filling:.0%} pass until the server is full{known}"


def _remedy(scenario: Scenario, trace: RequestTrace, records: Records, measured: Measured, offered: float) -> str:
    """Name the key and the value that give enough requests, rounded up to two digits; empty where nobody knows."""
    e2el = float((records.finish - records.arrival).mean())
    lasting = _ADVISED_LATENCIES * e2el
    if measured.served_error > _MOST_ERROR:
        lasting = max(lasting, (measured.end_s - measured.begin_s) * (measured.served_error / _ADVISED_ERROR) ** 2)
    rate = trace.concurrency / e2el if trace.concurrency is not None else offered
    if not math.isfinite(rate):
        return ""
    if trace.concurrency is None:
        lasting = max(lasting, _ADVISED_ANSWERS / rate)
    needed = max(rate * (_FILLING * e2el + lasting), len(trace) + 1.0)
    if scenario.requests.kind == "trace":
        return f"; requests.repeat = {math.ceil(scenario.requests.repeat * needed / len(trace))} would do"
    unit = 10 ** max(math.floor(math.log10(needed)) - 1, 0)
    return f"; requests.count = {math.ceil(needed / unit) * unit} would do"
