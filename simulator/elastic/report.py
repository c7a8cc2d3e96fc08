"""Frames and numbers of a run that changed its size: instances, phases, and a timeline of what was held and served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.elastic.fleet import Fleet
from simulator.elastic.scaler import Change, ScalingLog
from simulator.results.summary import meets, request_latencies
from simulator.results.values import Scaling, ScalingSummary
from simulator.serving.engine import EngineRun
from simulator.serving.recorder import column

if TYPE_CHECKING:
    import pandas as pd

#: Bins of the timeline at most.
_BINS = 240
#: What is told of a change of size, by the column of its frame.
_CHANGE_COLUMNS: Mapping[str, Callable[[Change], float]] = {
    "before": lambda change: change.before,
    "after": lambda change: change.after,
    "command_s": lambda change: change.command,
    "ready_s": lambda change: change.ready,
    "switched_s": lambda change: change.switched,
    "released_s": lambda change: change.released,
    "latency_s": lambda change: change.plan.ready,
    "downtime_s": lambda change: change.downtime,
    "devices": lambda change: change.plan.devices,
    "memory_bytes": lambda change: change.plan.memory,
    "moved_bytes": lambda change: change.plan.moved,
}


def scaling_report(fleet: Fleet, log: ScalingLog, run: EngineRun) -> Scaling:
    """Condense a run and what its scaler wrote down into frames and headline numbers."""
    import pandas as pd

    records, end = run.requests, run.end
    arrival, first, finish = (column(each) for each in (records.arrival, records.first_token, records.finish))
    met = meets(request_latencies(arrival, first, finish, fleet.trace.output_tokens), fleet.scenario.slo)
    rows = [[read(change) for read in _CHANGE_COLUMNS.values()] for change in log.changes]
    changes = pd.DataFrame(rows, columns=list(_CHANGE_COLUMNS))
    phases = pd.DataFrame(
        [
            (
                index,
                phase.name,
                change.command + phase.start,
                change.command + phase.start + phase.duration,
                phase.memory,
            )
            for index, change in enumerate(log.changes)
            for phase in change.plan.phases
        ],
        columns=["change", "phase", "start_s", "end_s", "memory_bytes"],
    )
    instances = pd.DataFrame(
        [(span.instance, span.size, span.state, span.start, span.end) for span in log.spans],
        columns=["instance", "size", "state", "start_s", "end_s"],
    )
    return Scaling(
        summary=_summary(fleet, log, end, changes, float(met.mean()) if len(met) else 1.0),
        changes=changes,
        phases=phases,
        instances=instances,
        timeline=_timeline(fleet, log, run, met),
    )


def _summary(fleet: Fleet, log: ScalingLog, end: float, changes: pd.DataFrame, attainment: float) -> ScalingSummary:
    end = max(end, 1e-12)
    held_at, devices, memory = (np.array(values, dtype=np.float64) for values in zip(*log.held, strict=True))
    device_seconds = _integral(held_at, devices, end)
    sizes_at, sizes = (np.array(values, dtype=np.float64) for values in zip(*log.sizes, strict=True))
    price = fleet.base.hardware.price
    choice = fleet.scenario.elastic
    latencies = changes["latency_s"].to_numpy(np.float64)
    return ScalingSummary(
        mechanism=choice.mechanism,
        policy=choice.policy,
        changes=len(changes),
        latency_mean_s=float(latencies.mean()) if len(latencies) else float("nan"),
        latency_max_s=float(latencies.max()) if len(latencies) else float("nan"),
        downtime_s=float(changes["downtime_s"].sum()),
        attainment=attainment,
        requests_per_s=len(fleet.trace) / end,
        size_mean=_integral(sizes_at, sizes, end) / end,
        devices_mean=device_seconds / end,
        devices_peak=int(devices.max()),
        memory_peak_bytes=float(memory.max()),
        moved_bytes=float(changes["moved_bytes"].sum()),
        device_hours=device_seconds / 3600.0,
        cost_usd=device_seconds * price.value if price else float("nan"),
    )


def _integral(times: FloatArray, values: FloatArray, end: float) -> float:
    """Area under a step function from its first time to the end."""
    return float((values * np.diff(np.append(times, end))).sum())


def step_means(times: FloatArray, values: FloatArray, edges: FloatArray) -> FloatArray:
    """Mean of a step function between every two edges.

    Parameters
    ----------
    times : array, shape (n,)
        When each value begins, sorted; of several at one time the last counts.
    values : array, shape (n,)
        The values.
    edges : array, shape (bins + 1,)
        Begin at ``times[0]`` or later.

    Examples
    --------
    >>> step_means(np.array([0.0, 3.0]), np.array([1.0, 2.0]), np.array([0.0, 2.0, 4.0]))
    array([1. , 1.5])
    """
    area = np.concatenate([[0.0], np.cumsum(values[:-1] * np.diff(times))])
    place = np.maximum(np.searchsorted(times, edges, side="right") - 1, 0)
    upto = area[place] + values[place] * (edges - times[place])
    return np.asarray(np.diff(upto) / np.diff(edges))


def tokens_between(steps: Mapping[str, FloatArray], edges: FloatArray) -> FloatArray:
    """Output tokens that steps emitted between every two edges, a step's tokens spread over its time [tokens]."""
    begin, last = steps["start_s"], steps["start_s"] + steps["duration_s"]
    # A prompt that is computed emits a token as well, but how many end in a step is not recorded.
    tokens = steps["decode_total"]
    counts = np.zeros(len(edges) - 1)
    for low, high, index in zip(edges[:-1], edges[1:], range(len(counts)), strict=True):
        inside = (last > low) & (begin < high)
        length = np.minimum(last[inside], high) - np.maximum(begin[inside], low)
        counts[index] = float((tokens[inside] * length / np.maximum(last[inside] - begin[inside], 1e-12)).sum())
    return counts


def _timeline(fleet: Fleet, log: ScalingLog, run: EngineRun, met: NDArray[np.bool_]) -> pd.DataFrame:
    import pandas as pd

    records, end = run.requests, run.end
    bins = int(np.clip(round(end / fleet.scenario.elastic.interval), 1, _BINS))
    edges = np.linspace(0.0, max(end, 1e-9), bins + 1)
    width = np.diff(edges)
    arrival, finish = column(records.arrival), column(records.finish)
    arrived = np.histogram(arrival, edges)[0]
    good = np.histogram(arrival[met], edges)[0]
    held_at, devices, memory = (np.array(values, dtype=np.float64) for values in zip(*log.held, strict=True))
    sizes_at, sizes = (np.array(values, dtype=np.float64) for values in zip(*log.sizes, strict=True))
    return pd.DataFrame(
        {
            "start_s": edges[:-1],
            "end_s": edges[1:],
            "size": step_means(sizes_at, sizes, edges),
            "devices": step_means(held_at, devices, edges),
            "memory_bytes": step_means(held_at, memory, edges),
            "arrivals_per_s": arrived / width,
            "requests_per_s": np.histogram(finish, edges)[0] / width,
            "tokens_per_s": tokens_between(run.steps, edges) / width,
            "attainment": np.divide(good, arrived, out=np.full(bins, np.nan), where=arrived > 0),
        }
    )
