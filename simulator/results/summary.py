"""From recorded columns to the numbers that people ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, IntArray
from simulator.results.packed import parts_of
from simulator.results.percentiles import Counted, weighted_percentiles
from simulator.results.values import Distribution, Summary
from simulator.scenario.sections import Slo

_NOTHING = Distribution(mean=float("nan"), p50=float("nan"), p90=float("nan"), p99=float("nan"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The measured part of a run: requests in it, and its begin and end [s]."""

    requests: NDArray[np.bool_]
    begin: float
    end: float

    @property
    def duration(self) -> float:
        """Length of the window [s]."""
        return max(self.end - self.begin, 1e-12)


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


def measured_window(arrival: FloatArray, finish: FloatArray, *, warmup: int, drain: bool, closed_loop: bool) -> Window:
    """Choose which requests and which time count.

    Parameters
    ----------
    arrival, finish : array, shape (requests,)
        Times [s].
    warmup : int
        First requests left out [1].
    drain : bool
        Whether the tail counts in which no new requests arrive.
    closed_loop : bool
        Whether a warm-up request ends the warm-up by finishing (closed loop) or by arriving (open loop).
    """
    total = len(arrival)
    chosen = np.arange(total) >= min(warmup, total - 1)
    begin = float(arrival[chosen].min())
    if closed_loop and warmup:
        begin = max(begin, float(np.sort(finish)[min(warmup, total) - 1]))
        chosen &= arrival >= begin if (arrival >= begin).any() else chosen
        begin = float(arrival[chosen].min())
    last = float(arrival.max())
    if not drain and last > begin:
        kept = chosen & (finish <= last)
        if kept.any():
            return Window(requests=kept, begin=begin, end=last)
    return Window(requests=chosen, begin=begin, end=float(finish[chosen].max()))


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


def _means_over_time(steps: Mapping[str, FloatArray]) -> dict[str, float]:
    """Mean of what steps hold, each counted by its time."""
    sums = dict.fromkeys(("duration_s", "running", "queue_length", "kv_use", "imbalance"), 0.0)
    for part in parts_of(steps):
        time = part["duration_s"]
        for name in sums:
            sums[name] += float((time if name == "duration_s" else time * part[name]).sum())
    return {name: value / sums["duration_s"] for name, value in sums.items()}


def summarise(
    records: Records,
    window: Window,
    *,
    slo: Slo,
    work: Work,
    capacity: Capacity,
    spread: tuple[float, float],
    wall: float,
) -> Summary:
    """Condense a run: latencies over the window's requests, rates over what ends in its time, the rest over all steps.

    Rates count every request that ends in the window, also one that began before it: to count only those that lie
    inside whole would lose about one latency's worth of work at either end.

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
    """
    chosen = window.requests
    served = (records.finish > window.begin) & (records.finish <= window.end)
    everyone = request_latencies(records.arrival, records.first_token, records.finish, records.output_tokens)
    latencies = {name: values[chosen] for name, values in everyone.items()}
    tpot = latencies["tpot"][~np.isnan(latencies["tpot"])]
    device_seconds = window.duration * capacity.devices
    tokens_in, tokens_out = (float(each[served].sum()) for each in (records.input_tokens, records.output_tokens))
    output_rate = tokens_out / device_seconds
    means = _means_over_time(records.steps)
    return Summary(
        ttft_s=distribution(latencies["ttft"]),
        tpot_s=distribution(tpot),
        itl_s=gap_distribution(records.gaps, window.begin, window.end),
        e2el_s=distribution(latencies["e2el"]),
        input_tokens_per_s_per_gpu=tokens_in / device_seconds,
        output_tokens_per_s_per_gpu=output_rate,
        total_tokens_per_s_per_gpu=(tokens_in + tokens_out) / device_seconds,
        requests_completed=int(served.sum()),
        engine_steps=sum(len(part["start_s"]) for part in parts_of(records.steps)),
        simulated_s=window.duration,
        wall_s=wall,
        goodput_rps=float((meets(everyone, slo) & served).sum()) / window.duration,
        usd_per_million_output_tokens=capacity.price / output_rate * 1e6 if output_rate > 0 else float("nan"),
        request_throughput_rps=float(served.sum()) / window.duration,
        batch_size_mean=means["running"],
        queue_length_mean=means["queue_length"],
        kv_use_mean=means["kv_use"],
        kv_use_max=max(float(part["kv_use"].max()) for part in parts_of(records.steps)),
        preemptions=int(records.preemptions.sum()),
        mfu=work.flops / (device_seconds * capacity.peak),
        mbu=work.memory_bytes / (device_seconds * capacity.memory_bandwidth),
        rank_imbalance_mean=means["imbalance"],
        rank_imbalance_p99=float(np.percentile(records.steps["imbalance"], 99)),
        expert_imbalance_mean=spread[0],
        active_experts_mean=spread[1],
        retries=int(records.retries.sum()),
    )
