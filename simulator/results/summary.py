"""From recorded columns to the numbers that people ask for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, IntArray, weighted_sum
from simulator.results.packed import parts_of
from simulator.results.percentiles import Counted, weighted_percentiles
from simulator.results.values import Distribution, Summary, WholeRun
from simulator.results.window import Window
from simulator.scenario.sections import Slo

_NOTHING = Distribution(mean=float("nan"), p50=float("nan"), p90=float("nan"), p99=float("nan"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the devices did in all: arithmetic [FLOP] and memory traffic [bytes], over all devices."""

    flops: float
    memory_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the devices could do: count [1], peak of one [FLOP/s], bandwidth of one [bytes/s], price of one [USD/s].

    The peak is the dense one of BF16 whatever the work computes in, as MFU is quoted; that of the fastest dtype where
    the device has no BF16.
    """

    devices: float
    peak: float
    memory_bandwidth: float
    price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What a run recorded.

    Attributes
    ----------
    arrival, first_token, finish : float array, shape (requests,)
        Times [s].
    input_tokens, output_tokens : int64 array, shape (requests,)
        Lengths [tokens].
    preemptions, retries : int64 array, shape (requests,)
        How often each was put back, and sent in again [1].
    steps : Mapping of str to float array, shape (steps,)
        Columns of the engine steps.
    gaps : Mapping of str to float array, shape (gaps,)
        ``gap_s`` between two tokens [s], how many requests saw it (``tokens``) [1], and when (``at_s``) [s].
    """

    arrival: FloatArray
    first_token: FloatArray
    finish: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    preemptions: IntArray
    retries: IntArray
    steps: Mapping[str, FloatArray]
    gaps: Mapping[str, FloatArray]


def distribution(values: FloatArray) -> Distribution:
    """Mean and percentiles of latencies [s]."""
    if not len(values):
        return _NOTHING
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    return Distribution(mean=float(values.mean()), p50=p50, p90=p90, p99=p99)


def gap_distribution(gaps: Mapping[str, FloatArray], begin: float, end: float) -> Distribution:
    """Mean and percentiles of the gaps between tokens [s] that end between two times [s]; as for ``Records.gaps``."""

    def inside() -> Iterator[Counted]:
        for part in parts_of(gaps):
            chosen = (part["at_s"] >= begin) & (part["at_s"] <= end)
            yield part["gap_s"][chosen], part["tokens"][chosen].astype(np.int64)

    seen = [(float((values * counts).sum()), int(counts.sum())) for values, counts in inside()]
    tokens = sum(count for _, count in seen)
    if not tokens:
        return _NOTHING
    p50, p90, p99 = weighted_percentiles(inside, (50.0, 90.0, 99.0))
    return Distribution(mean=sum(seconds for seconds, _ in seen) / tokens, p50=p50, p90=p90, p99=p99)


def request_latencies(
    arrival: FloatArray, first_token: FloatArray, finish: FloatArray, output_tokens: NDArray[np.int64]
) -> dict[str, FloatArray]:
    """Return TTFT, TPOT and E2EL of requests [s]; TPOT is NaN for answers of one token.

    Parameters
    ----------
    arrival, first_token, finish : FloatArray, shape (requests,)
        When each request came, answered first and ended [s].
    output_tokens : int array, shape (requests,)
        Length of each answer [tokens].

    Returns
    -------
    dict of str to FloatArray, shape (requests,)
        ``ttft``, ``tpot`` and ``e2el`` [s].
    """
    ttft, e2el = first_token - arrival, finish - arrival
    more = output_tokens - 1
    tpot = np.divide(e2el - ttft, more, out=np.full(len(ttft), np.nan), where=more > 0)
    return {"ttft": ttft, "tpot": tpot, "e2el": e2el}


def has_objective(slo: Slo) -> bool:
    """Whether any objective is set."""
    return any(limit is not None for limit in (slo.ttft, slo.tpot, slo.e2el))


def meets(latencies: dict[str, FloatArray], slo: Slo) -> NDArray[np.bool_]:
    """Tell which requests meet every objective that is set; all do where none is."""
    good = np.ones(len(latencies["ttft"]), dtype=bool)
    for name, limit in (("ttft", slo.ttft), ("tpot", slo.tpot), ("e2el", slo.e2el)):
        if limit is not None:
            good &= ~(latencies[name] > limit)
    return good


def share_inside(steps: Mapping[str, FloatArray], window: Window) -> FloatArray:
    """Share of each step that lies in the measured time [1]; shape (steps,)."""
    begin, duration = steps["start_s"], steps["duration_s"]
    inside = np.minimum(begin + duration, window.end) - np.maximum(begin, window.begin)
    return np.asarray(np.clip(np.divide(inside, duration, out=np.zeros(len(begin)), where=duration > 0), 0.0, 1.0))


def parts_inside(
    steps: Mapping[str, FloatArray], window: Window
) -> Iterator[tuple[Mapping[str, FloatArray], FloatArray]]:
    """Yield steps part by part, each with the share of its steps that lies in the measured time [1]."""
    return ((part, share_inside(part, window)) for part in parts_of(steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """What steps come to: how many in all and in the window [1], means by name, each step counted by its time there.

    ``kv_most`` is the largest share of the KV pool in use [1], ``imbalance_p99`` a percentile of the imbalance [1].
    """

    count: int
    measured: float
    means: Mapping[str, float]
    kv_most: float
    imbalance_p99: float


def _steps_inside(steps: Mapping[str, FloatArray], window: Window) -> _Steps:
    count, measured, kv_most, imbalance = 0, 0.0, 0.0, []
    sums = dict.fromkeys(("duration_s", "running", "queue_length", "kv_use", "imbalance"), 0.0)
    for part, inside in parts_inside(steps, window):
        time, running = inside * part["duration_s"], inside > 0
        count, measured = count + len(time), measured + float(inside.sum())
        for name in sums:
            sums[name] += float((time if name == "duration_s" else time * part[name]).sum())
        kv_most = max(kv_most, float(part["kv_use"].max(where=running, initial=0.0)))
        imbalance.append(part["imbalance"][running])
    if not sums["duration_s"] and math.isfinite(window.duration):
        # Where none runs in the window, all say as much of it as any.
        return _steps_inside(steps, replace(window, begin=-math.inf, end=math.inf))
    return _Steps(
        count=count,
        measured=measured,
        means={name: value / sums["duration_s"] if sums["duration_s"] else math.nan for name, value in sums.items()},
        kv_most=kv_most,
        imbalance_p99=float(np.percentile(np.concatenate(imbalance), 99)) if measured else math.nan,
    )


def share_served(records: Records, window: Window) -> FloatArray:
    """Share of each answer that is given in the measured time [1]; shape (requests,).

    An answer gives its first token at one moment and the others evenly from then to its end. Answers that begin in the
    window and end after it count for what of them lies in it, as do those that began before: to count whole answers by
    their ends would miss the long ones, which are still under way where the window ends.
    """
    first, finish = records.first_token, records.finish
    later, lasting = records.output_tokens - 1, finish - first
    overlap = np.minimum(finish, window.end) - np.maximum(first, window.begin)
    begun = (first > window.begin) & (first <= window.end)
    given = np.divide(np.maximum(overlap, 0.0), lasting, out=begun.astype(np.float64), where=lasting > 0)
    return np.asarray((begun + later * given) / records.output_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """What is served per second: requests, and tokens per device [1/s]; and what a million answer tokens cost [USD]."""

    requests: float
    input_tokens: float
    output_tokens: float
    usd_per_million: float


def _rates(records: Records, served: FloatArray, window: Window, capacity: Capacity) -> _Rates:
    device_seconds = window.duration * capacity.devices
    output_rate = float(weighted_sum(served, records.output_tokens)) / device_seconds
    return _Rates(
        requests=float(served.sum()) / window.duration,
        input_tokens=float(weighted_sum(served, records.input_tokens)) / device_seconds,
        output_tokens=output_rate,
        usd_per_million=capacity.price / output_rate * 1e6 if output_rate > 0 else float("nan"),
    )


def whole_figures(records: Records, window: Window, capacity: Capacity) -> WholeRun:
    """Condense a run as the client of a benchmark does: from the first request to the last answer.

    Parameters
    ----------
    records : Records
        What was recorded.
    window : Window
        All of it.
    capacity : Capacity
        The devices that were held all along.
    """
    latencies = request_latencies(records.arrival, records.first_token, records.finish, records.output_tokens)
    rates = _rates(records, np.ones(len(records.arrival)), window, capacity)
    return WholeRun(
        duration_s=window.duration,
        requests_completed=int(np.count_nonzero(np.isfinite(records.finish))),
        request_throughput_rps=rates.requests,
        input_tokens_per_s_per_gpu=rates.input_tokens,
        output_tokens_per_s_per_gpu=rates.output_tokens,
        total_tokens_per_s_per_gpu=rates.input_tokens + rates.output_tokens,
        usd_per_million_output_tokens=rates.usd_per_million,
        ttft_s=distribution(latencies["ttft"]),
        tpot_s=distribution(latencies["tpot"][~np.isnan(latencies["tpot"])]),
        e2el_s=distribution(latencies["e2el"]),
    )


def summarise(
    records: Records,
    window: Window,
    *,
    slo: Slo,
    work: Work,
    capacity: Capacity,
    spread: tuple[float, float],
    wall: float,
    offered: float = float("nan"),
) -> Summary:
    """Condense a run: latencies over the window's requests, all else over what lies in its time.

    Parameters
    ----------
    records : Records
        What was recorded.
    window : Window
        What of it counts.
    slo : Slo
        The objective that goodput counts.
    work : Work
        What the devices did within the window's time.
    capacity : Capacity
        What they could have done.
    spread : tuple of float
        Load of the most loaded expert over the mean, and share of experts touched, in a mean decode step [1].
    wall : float
        What the simulation itself took [s].
    offered : float
        Requests that come [1/s]; NaN in a closed loop.
    """
    chosen = window.requests
    served = share_served(records, window)
    everyone = request_latencies(records.arrival, records.first_token, records.finish, records.output_tokens)
    latencies = {name: values[chosen] for name, values in everyone.items()}
    tpot = latencies["tpot"][~np.isnan(latencies["tpot"])]
    device_seconds, rates = window.duration * capacity.devices, _rates(records, served, window, capacity)
    met = meets(everyone, slo) if has_objective(slo) else None
    steps = _steps_inside(records.steps, window)
    return Summary(
        ttft_s=distribution(latencies["ttft"]),
        tpot_s=distribution(tpot),
        itl_s=gap_distribution(records.gaps, window.begin, window.end),
        e2el_s=distribution(latencies["e2el"]),
        input_tokens_per_s_per_gpu=rates.input_tokens,
        output_tokens_per_s_per_gpu=rates.output_tokens,
        total_tokens_per_s_per_gpu=rates.input_tokens + rates.output_tokens,
        requests_completed=int(((records.finish > window.begin) & (records.finish <= window.end)).sum()),
        engine_steps=steps.count,
        measured_steps=steps.measured,
        simulated_s=window.duration,
        wall_s=wall,
        goodput_rps=rates.requests if met is None else float(weighted_sum(served, met)) / window.duration,
        slo_share=float("nan") if met is None else float(met[chosen].mean()),
        usd_per_million_output_tokens=rates.usd_per_million,
        request_throughput_rps=rates.requests,
        offered_rps=offered,
        batch_size_mean=steps.means["running"],
        queue_length_mean=steps.means["queue_length"],
        kv_use_mean=steps.means["kv_use"],
        kv_use_max=steps.kv_most,
        preemptions=int(records.preemptions.sum()),
        mfu=work.flops / (device_seconds * capacity.peak),
        mbu=work.memory_bytes / (device_seconds * capacity.memory_bandwidth),
        rank_imbalance_mean=steps.means["imbalance"],
        rank_imbalance_p99=steps.imbalance_p99,
        expert_imbalance_mean=spread[0],
        active_experts_mean=spread[1],
        retries=int(records.retries.sum()),
    )
