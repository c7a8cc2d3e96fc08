"""Whether a load is held, and whether a run is long enough to say so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from simulator.arrays import FloatArray
from simulator.closed_form.load import EVEN, asked_rate, mean_load
from simulator.closed_form.steady import solve
from simulator.deployment.inputs import daily_rates
from simulator.results.summary import Records, share_served
from simulator.results.values import Measured, Overload
from simulator.results.window import Asked, Window, measured_window, queue_grows, steady_begin
from simulator.run.overloads import overload, pool_overloads
from simulator.run.peaks import part_played, peak_of_run, varies
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
#: Periods of a rate that varies which a run must last for its queue to show that it grows from each to the next [1].
_LEAST_PERIODS = 4.0
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
    exceeded = find_overload(scenario, trace, records, window, waited)
    short = "" if exceeded else too_short(trace, records, measured, transient=asked.transient)
    if short:
        short += _suspected(scenario, trace, records, pools, window) or _remedy(
            scenario, trace, records, measured, offered, pools
        )
    texts = ("" if exceeded is None else exceeded.text(), short)
    return Judged(
        window=window,
        offered=offered,
        measured=measured,
        overload=exceeded,
        warnings=(*(text for text in texts if text), *_varying(scenario, trace, records, exceeded)),
    )


def asked_window(scenario: Scenario, trace: RequestTrace) -> Asked:
    """Say what a scenario asks to be measured.

    Recorded arrivals, rates that follow the day, faults, changes of size and changes of placement are there to be seen:
    such a run has no steady state, and none of it is taken for a warm-up.
    """
    uneven = trace.concurrency is None and scenario.requests.kind not in EVEN
    due = [fault.at for fault in scenario.faults]
    if asks(scenario, "elastic"):
        due += [event.at for event in scenario.elastic.events]
    return Asked(
        warmup=scenario.run.warmup_requests,
        drain=scenario.run.drain,
        transient=_steered(scenario) or uneven,
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
    Requests that wait must become more, and what comes must be more than what is served and the uncertainty of that.
    The capacity is what is served from where the run is steady, but for its queue, until the last request has its first
    token, as devices are busy till then. Instances do not disturb one another, so that the capacity grows as their
    number.
    """
    if trace.concurrency is not None or _steered(scenario):
        return None
    arrival, first, last = records.arrival, records.first_token, load_end(trace, records.arrival)
    begin = window.begin if window.kind == "overloaded" else steady_begin(arrival, records.finish, None, last)
    if not begin < last or (window.kind != "overloaded" and not queue_grows(arrival, first, begin, last)):
        return None
    if varies(scenario.requests) and last - begin < _LEAST_PERIODS * daily_rates(scenario.requests)[1]:
        # A day's morning, in which more and more must wait, is no queue that grows for ever.
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
    served = max(float(share_served(records, part).sum()) / part.duration for part in (busy, window))
    error = _error(records.finish, busy)
    if math.isfinite(error) and not offered > (1.0 + error) * served:
        return None
    return overload(
        offered=offered,
        capacity=served,
        instances=prompts if pool == "prefill" else scenario.parallelism.instances,
        pool=pool,
    )


def _steered(scenario: Scenario) -> bool:
    """Whether something changes what can be served."""
    return any(asks(scenario, name) for name in ("faults", "elastic", "rebalance"))


def _varying(scenario: Scenario, trace: RequestTrace, records: Records, exceeded: Overload | None) -> tuple[str, ...]:
    """Say which part of a load that varies was played, and whether its peak was held."""
    peak = None if exceeded is not None or _steered(scenario) else peak_of_run(scenario, trace, records)
    said = ("" if peak is None else peak.peak_text(), part_played(scenario.requests, trace))
    return tuple(text for text in said if text)


def _suspected(
    scenario: Scenario, trace: RequestTrace, records: Records, pools: Sequence[PoolPlan], window: Window
) -> str:
    """Say what may be more than can be served though it has not queued yet; empty where nothing is known of it."""
    if _steered(scenario):
        return ""
    served = float(share_served(records, window).sum()) / window.duration
    found = [each for each in pool_overloads(scenario, trace, pools) if each.capacity_rps > served]
    return found[0].suspicion() if found else ""


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
    if measured.kind not in ("steady", "whole", "overloaded") or transient:
        return ""
    uncertain = measured.served_error > _MOST_ERROR
    enough = measured.latencies >= _LEAST_LATENCIES and not uncertain
    if measured.kind == "steady" and enough:
        return ""
    arrival = records.arrival
    span, e2el = load_end(trace, arrival) - float(arrival.min()), float((records.finish - arrival).mean())
    count = f"{len(trace):,} request{'s' * (len(trace) != 1)}"
    took = f"in {span / e2el:.2g} times the mean E2EL of {e2el:.3g} s" if span > 0.0 else "at once"
    took = "alone" if len(trace) == 1 else took
    what = f"too short to judge: {count} {took}"
    known = f"; the rate of requests is known to {100 * measured.served_error:.0f} %" if uncertain else ""
    if measured.kind == "whole":
        return what + ", so that all of the run is shown, filling and emptying included"
    if measured.kind == "overloaded":
        known = f"; the rate of requests is known to {100 * measured.served_error:.0f} % alone"
        return f"{what}, in which more and more waited, but not so many more than chance could explain{known}"
    return f"{what}, of which {100 * measured.filling:.0f} % pass before its steady state{known}"


def _remedy(
    scenario: Scenario,
    trace: RequestTrace,
    records: Records,
    measured: Measured,
    offered: float,
    pools: Sequence[PoolPlan],
) -> str:
    """Name the key and the value that give enough requests, rounded up to two digits; empty where nobody knows."""
    e2el = max(float((records.finish - records.arrival).mean()), _expected_latency(scenario, trace, pools))
    lasting = _ADVISED_LATENCIES * e2el
    wanted = _ADVISED_ERROR
    if measured.kind == "overloaded":
        # So well that what is served and what is offered can be told apart.
        wanted = min(wanted, _ADVISED_ERROR / _MOST_ERROR * measured.served_error)
    if measured.served_error > wanted and (measured.served_error > _MOST_ERROR or measured.kind == "overloaded"):
        lasting = max(lasting, (measured.end_s - measured.begin_s) * (measured.served_error / wanted) ** 2)
    rate = trace.concurrency / e2el if trace.concurrency is not None else offered
    if not math.isfinite(rate):
        return ""
    if trace.concurrency is None:
        lasting = max(lasting, _ADVISED_ANSWERS / rate)
    needed = max(rate * (_FILLING * e2el + lasting), len(trace) + 1.0)
    if scenario.requests.kind == "trace":
        return f"; it takes at least requests.repeat = {math.ceil(scenario.requests.repeat * needed / len(trace))}"
    unit = 10 ** max(math.floor(math.log10(needed)) - 1, 0)
    return f"; it takes at least requests.count = {math.ceil(needed / unit) * unit}"


def _expected_latency(scenario: Scenario, trace: RequestTrace, pools: Sequence[PoolPlan]) -> float:
    """Mean E2EL of a long run by the closed form [s], as in a short one batches are small; 0 where nobody knows."""
    if len(pools) != 1 or trace.concurrency is not None or beyond_closed_form(scenario):
        return 0.0
    load = mean_load(trace, pools[0].instances, asked_rate(scenario.requests, trace))
    state = solve(pools[0].deployment, load)
    return 0.0 if state.saturated else state.ttft_s + load.decodes * state.gap_s
