"""Times of calls: CUDA events and graph replays on a GPU, the host's clock on a CPU; medians with their spread."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from validation.measure.machine import Kind, import_torch

Call = Callable[[], object]

#: Calls before the clock starts [1].
WARM_UP = 3
#: Fewest and most repeats of a measurement [1].
LEAST_REPEATS, MOST_REPEATS = 5, 300
#: Calls longer than this are warmed up once and repeated three times at least, since others want their time too [s].
LONG_CALL, LEAST_LONG_REPEATS = 5e-2, 3
#: Calls shorter than this are timed several at once on the host [s].
SHORTEST_SAMPLE = 5e-5
#: Kernels shorter than this are replayed as a CUDA graph, so that the host's launches do not count [s].
GRAPH_BELOW = 1e-3
#: Longest graph [s].
LONGEST_GRAPH = 2e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Time of one call: median, 10th and 90th percentile [s], repeats [1], and how it was timed."""

    median: float
    p10: float
    p90: float
    repeats: int
    timing: Literal["host", "events", "graph"]


def measure(calls: Sequence[Call], *, kind: Kind, seconds: float, graph: bool = True) -> Sample:
    """Time calls that do the same work on different data.

    Parameters
    ----------
    calls : sequence of callable
        One per set of operands; they take turns.
    kind : {"cuda", "cpu"}
        Where they run.
    seconds : float
        About how long to measure [s]; the fewest repeats are made in any case.
    graph : bool
        Whether the calls can be captured: they neither wait for the device nor decide by its results.
    """
    if kind == "cpu":
        return _on_host(calls, seconds)
    return _on_gpu(calls, seconds, graph)


def _on_host(calls: Sequence[Call], seconds: float) -> Sample:
    turn = itertools.cycle(calls)
    estimate = float("inf")
    for _ in range(WARM_UP):
        estimate = min(estimate, _host_time(turn, 1))
        if estimate > LONG_CALL:
            break
    inner = max(1, round(SHORTEST_SAMPLE / max(estimate, 1e-9)))
    least = LEAST_LONG_REPEATS if estimate > LONG_CALL else LEAST_REPEATS
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (len(times) < MOST_REPEATS and time.perf_counter() < end):
        times.append(_host_time(turn, inner))
    return _sample(times, "host")


def _host_time(turn: itertools.cycle[Call], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        next(turn)()
    return (time.perf_counter() - start) / calls


def _on_gpu(calls: Sequence[Call], seconds: float, graph: bool) -> Sample:
    torch = import_torch()
    turn = itertools.cycle(calls)
    # Operands were drawn on another stream.
    torch.cuda.synchronize()
    # Libraries set themselves up on the first call of a stream, which a capture would not allow.
    stream = _stream()
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            next(turn)()
        stream.synchronize()
        estimate = _event_times(torch, [lambda: next(turn)()] * WARM_UP, 1)[-1]
        repeats = _repeats(estimate, seconds)
        if graph and estimate < GRAPH_BELOW:
            few = calls[: max(1, int(LONGEST_GRAPH / max(estimate, 1e-6)))]
            captured = _capture(torch, few, stream)
            replays = max(LEAST_REPEATS, -(-repeats // len(few)))
            _event_times(torch, [captured.replay] * 2, 1)
            return _sample(_event_times(torch, [captured.replay] * replays, len(few)), "graph")
        return _sample(_event_times(torch, [lambda: next(turn)()] * repeats, 1), "events")


@functools.lru_cache(maxsize=1)
def _stream() -> Any:
    """One stream for all measurements: memory that one stream freed is not at hand for another."""
    return import_torch().cuda.Stream()


def _repeats(estimate: float, seconds: float) -> int:
    return int(np.clip(seconds / max(estimate, 1e-6), LEAST_REPEATS, MOST_REPEATS))


def _capture(torch: Any, calls: Sequence[Call], stream: Any) -> Any:
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, stream=stream):
        for call in calls:
            call()
    return captured


def _event_times(torch: Any, calls: Sequence[Call], inner: int) -> list[float]:
    """Device time between events around each call, over the ``inner`` parts that it consists of [s]."""
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in calls]
    for call, (start, stop) in zip(calls, pairs, strict=True):
        start.record()
        call()
        stop.record()
    torch.cuda.current_stream().synchronize()
    return [start.elapsed_time(stop) * 1e-3 / inner for start, stop in pairs]


def _sample(times: Sequence[float], timing: Literal["host", "events", "graph"]) -> Sample:
    p10, median, p90 = np.quantile(times, [0.1, 0.5, 0.9]).tolist()
    return Sample(median=median, p10=p10, p90=p90, repeats=len(times), timing=timing)
