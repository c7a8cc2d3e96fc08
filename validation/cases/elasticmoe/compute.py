"""Times, memory and throughput of changes of size, read from runs of the scenarios beside this case."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from simulator.api import simulate
from simulator.elastic.mechanisms import PARTS
from simulator.elastic.report import tokens_between
from simulator.results.values import Result, Scaling
from simulator.scenario import Scenario
from validation.papers.papers import Case, CaseError
from validation.papers.systems import scenario_file

#: A run with nothing to do, in which a change of size shows by itself.
IDLE = ("requests.kind=constant", "requests.rate=0.1", "requests.count=5", "requests.lengths.output=2")


def figures(case: Case) -> Mapping[str, float]:
    """Times [s], memory [bytes], throughputs [1/s] and ratios [1]."""
    given = case.inputs
    return {**_times(given), **_memory(), **_throughputs(given), **_attainment(given)}


def _played(file: str, *changes: str) -> Result:
    return simulate(Scenario.load(scenario_file("elasticmoe", file), changes))


def _scaling(file: str, *changes: str) -> Scaling:
    scaling = _played(file, *changes).scaling
    if scaling is None:
        raise CaseError(f"elasticmoe/{file}.toml: it asks for no change of size")
    return scaling


@cache
def _change(before: int, after: int, *changes: str) -> Scaling:
    """A change of size of an idle instance, from so many ranks of the split to so many."""
    ranks = (f"parallelism.dp={before}", f"parallelism.ep={2 * before}")
    return _scaling("scaling", *IDLE, *ranks, f"elastic.events=[{{at='20 s', size={after}}}]", *changes)


def _latency(before: int, after: int, *changes: str) -> float:
    return float(_change(before, after, *changes).changes["latency_s"].iloc[0])


def _ladder(before: int, after: int) -> list[Scaling]:
    """The elastic mechanism whole, and with one part after another switched off."""
    return [_change(before, after, f"elastic.without={list(PARTS[:n])}") for n in range(len(PARTS) + 1)]


def _times(given: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for way, sizes in (("up", (3, 4)), ("down", (4, 3))):
        for name, scaling in zip(("full", *PARTS), _ladder(*sizes), strict=True):
            found[f"{way}.{name}"] = float(scaling.changes["latency_s"].iloc[0])
    cold = "elastic.mechanism=cold_restart"
    other = _change(6, 8, f"model.name={given['other_model']}", "stack.memory_fraction=0.9").phases.to_dict("records")
    # The device has no FP8 arithmetic.
    large = (f"model.name={given['large_model']}", "model.weights=int8", "stack.memory_fraction=0.9")
    return {
        **found,
        "up.downtime": float(_ladder(3, 4)[-1].changes["downtime_s"].iloc[0]),
        "latency_ratio": found["up.full"] / _latency(3, 4, cold),
        "down_ratio": found["down.full"] / _latency(4, 3, cold),
        "large_down_ratio": _latency(32, 25, *large) / _latency(32, 25, cold, *large),
        "other.warmup": next(p["end_s"] - p["start_s"] for p in other if p["phase"] == "warm up"),
    }


def _memory() -> dict[str, float]:
    up, down, small = _ladder(3, 4), _ladder(4, 3), _change(2, 3)
    full, ablated, back, grown = (float(s.changes["memory_bytes"].iloc[0]) for s in (up[0], up[1], down[0], small))
    beside = float(_change(2, 3, "elastic.mechanism=vertical_new").changes["memory_bytes"].iloc[0])
    return {
        "up.memory": full,
        "up.memory_ablated": ablated,
        "down.memory": back,
        # What an instance of the new size holds, before a change of its own.
        "memory_over_steady": full / float(down[0].timeline["memory_bytes"].iloc[0]),
        "memory_saving": 1.0 - grown / beside,
    }


def _throughputs(given: Mapping[str, float]) -> dict[str, float]:
    """Requests' worth of output tokens per second before, during and after, as Table 2 divides the time."""
    command, margin = given["command"], given["margin"]
    longest = _latency(3, 4, "elastic.mechanism=cold_restart")
    windows = {
        "before": (command - 200.0, command),
        "during": (command - margin, command + longest + margin),
        "after": (command + longest + 50.0, command + longest + 150.0),
    }
    few = f"stack.max_running={given['colocated_running']}"
    found: dict[str, float] = {}
    for mechanism, more in (("elastic", ()), ("cold_restart", ()), ("colocated", (few,))):
        run = _played("scaling", f"elastic.mechanism={mechanism}", *more)
        steps, answer = run.steps, float(run.requests["output_tokens"].mean())
        emitted = {name: steps[name].to_numpy(np.float64) for name in ("start_s", "duration_s")}
        emitted["decode_total"] = steps["decode_tokens"].to_numpy(np.float64)
        for name, (begin, end) in windows.items():
            tokens = tokens_between(emitted, np.array([begin, end]))[0]
            found[f"{mechanism}.{name}"] = float(tokens) / (end - begin) / answer
    return {**found, "during_ratio": found["elastic.during"] / found["cold_restart.during"]}


def _attainment(given: Mapping[str, float]) -> dict[str, float]:
    """Share of requests with both latencies within 1 s, over a run with one change of size."""
    few = f"stack.max_running={given['colocated_running']}"
    low = ("requests.rate=1.0", "requests.count=600")
    elastic = _scaling("attainment").summary.attainment
    cold = _scaling("attainment", "elastic.mechanism=cold_restart").summary.attainment
    colocated = _scaling("attainment", "elastic.mechanism=colocated", few, *low).summary.attainment
    return {"slo.elastic": elastic, "slo.cold_over_elastic": cold / elastic, "slo.colocated": colocated}
