"""Phases, memory and throughput of changes of size, from the simulator."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from simulator.api import simulate
from simulator.deployment.inputs import scenario_requests
from simulator.elastic.fleet import Fleet, build_fleet
from simulator.elastic.mechanisms import PARTS, ScalingPlan
from simulator.elastic.report import tokens_between
from simulator.run.plan import plan_run
from simulator.scenario import Scenario
from validation.papers.papers import Case

Inputs = Mapping[str, Any]


def figures(case: Case) -> Mapping[str, float]:
    """Times [s], memory [bytes], throughputs [1/s] and ratios [1]."""
    return _figures(json.dumps(case.inputs))


@lru_cache(maxsize=1)
def _figures(inputs: str) -> Mapping[str, float]:
    # Kept, because the runs take seconds and a report asks more than once.
    given = json.loads(inputs)
    return {**_times(given), **_memory(given), **_throughputs(given), **_attainment(given)}


def _scenario(given: Inputs, mechanism: str, **changes: Any) -> Scenario:
    """DeepSeek-V2-Lite between two sizes; ``changes`` replaces inputs."""
    use = {**given, **changes}
    dp = use["before"]
    return Scenario.from_mapping(
        {
            "model": {"name": use["model"], **use.get("dtypes", {})},
            "hardware": {"device": use["device"], "node": use["node"]},
            "parallelism": {"tp": use["tp"], "dp": dp, "ep": use["tp"] * dp},
            "stack": {
                "name": "vllm",
                "max_running": use["max_running"],
                "memory_fraction": use["memory_fraction"],
                "cpu_gap": use["cpu_gap"],
            },
            "routing": {"kind": "uniform"},
            "requests": use.get("requests", {"kind": "constant", "rate": 1.0, "count": 1}),
            "slo": use.get("slo", {}),
            "elastic": {
                "mechanism": mechanism,
                "without": use.get("without", []),
                "events": [{"at": f"{use['command']} s", "size": use["after"]}],
            },
        }
    )


def _fleet(given: Inputs, mechanism: str, **changes: Any) -> Fleet:
    scenario = _scenario(given, mechanism, **changes)
    return build_fleet(scenario, scenario_requests(scenario.requests, scenario.seed))


def _ladder(given: Inputs) -> tuple[list[ScalingPlan], Fleet]:
    """The elastic mechanism whole, and with one part after another switched off."""
    fleets = [_fleet(given, "elastic", without=list(PARTS[:count])) for count in range(len(PARTS) + 1)]
    return [fleet.plan(given["before"], given["after"]) for fleet in fleets], fleets[0]


def _times(given: Inputs) -> dict[str, float]:
    names = ("full", *PARTS)
    up, _ = _ladder(given)
    down, _ = _ladder({**given, "before": given["after"], "after": given["before"]})
    cold_up, cold_down = (
        _fleet(given, "cold_restart", before=a, after=b).plan(a, b).ready
        for a, b in ((given["before"], given["after"]), (given["after"], given["before"]))
    )
    other = _fleet(given, "elastic", model=given["other_model"], before=6, after=8, memory_fraction=0.9).plan(6, 8)
    # The device has no FP8 arithmetic.
    dtypes = {"weights": "int8"}
    large = {"model": given["large_model"], "dtypes": dtypes, "before": 32, "after": 25, "memory_fraction": 0.9}
    large_down, large_cold = (_fleet(given, name, **large).plan(32, 25).ready for name in ("elastic", "cold_restart"))
    return {
        **{f"up.{name}": plan.ready for name, plan in zip(names, up, strict=True)},
        **{f"down.{name}": plan.ready for name, plan in zip(names, down, strict=True)},
        "up.downtime": up[-1].ready if up[-1].old == "stops" else 0.0,
        "latency_ratio": up[0].ready / cold_up,
        "down_ratio": down[0].ready / cold_down,
        "large_down_ratio": large_down / large_cold,
        "other.warmup": next(phase.duration for phase in other.phases if phase.name == "warm up"),
    }


def _memory(given: Inputs) -> dict[str, float]:
    up, fleet = _ladder(given)
    down, _ = _ladder({**given, "before": given["after"], "after": given["before"]})
    small = _fleet(given, "elastic", before=2, after=3)
    # Old and new side by side, counted as the elastic one is: weights, KV pools and buffers.
    beside = small.held(2)[1] + small.held(3)[1]
    return {
        "up.memory": up[0].memory,
        "up.memory_ablated": up[1].memory,
        "down.memory": down[0].memory,
        "memory_over_steady": up[0].memory / fleet.held(given["after"])[1],
        "memory_saving": 1.0 - small.plan(2, 3).memory / beside,
    }


def _throughputs(given: Inputs) -> dict[str, float]:
    """Requests' worth of output tokens per second before, during and after, as Table 2 divides the time."""
    lengths = {
        "kind": "uniform",
        "input": given["prompt"],
        "output": given["answer"],
        "range_ratio": given["shortest_answer"],
    }
    # A batch that is given at once: all requests arrive in the first seconds.
    requests = {"kind": "poisson", "rate": 1000.0, "count": 4400, "lengths": lengths}
    found: dict[str, float] = {}
    command, margin = given["command"], given["margin"]
    longest = _fleet(given, "cold_restart").plan(given["before"], given["after"]).ready
    windows = {
        "before": (command - 200.0, float(command)),
        "during": (command - margin, command + longest + margin),
        "after": (command + longest + 50.0, command + longest + 150.0),
    }
    for mechanism, running in (
        ("elastic", given["max_running"]),
        ("cold_restart", given["max_running"]),
        ("colocated", given["colocated_running"]),
    ):
        scenario = _scenario(given, mechanism, requests=requests, max_running=running)
        trace = scenario_requests(scenario.requests, scenario.seed)
        run, answer = plan_run(scenario, trace).play(), float(trace.output_tokens.mean())
        for name, (begin, end) in windows.items():
            tokens = tokens_between(run.steps, np.array([begin, end]))[0]
            found[f"{mechanism}.{name}"] = float(tokens) / (end - begin) / answer
    return {**found, "during_ratio": found["elastic.during"] / found["cold_restart.during"]}


def _attainment(given: Inputs) -> dict[str, float]:
    """Share of requests with both latencies within 1 s, over a run with one change of size."""
    lengths = {
        "kind": "uniform",
        "input": given["slo_prompt"],
        "output": given["slo_answer"],
        "range_ratio": given["slo_shortest"],
    }

    def share(mechanism: str, rate: float, running: int) -> float:
        scenario = _scenario(
            given,
            mechanism,
            requests={
                "kind": "poisson",
                "rate": rate,
                "count": round(rate * given["slo_seconds"]),
                "lengths": lengths,
            },
            slo={"ttft": "1 s", "tpot": "1 s"},
            max_running=running,
            command=given["slo_command"],
        )
        scaling = simulate(scenario).scaling
        return math.nan if scaling is None else scaling.summary.attainment

    elastic = share("elastic", given["slo_rate"], given["slo_running"])
    return {
        "slo.elastic": elastic,
        "slo.cold_over_elastic": share("cold_restart", given["slo_rate"], given["slo_running"]) / elastic,
        "slo.colocated": share("colocated", given["slo_low_rate"], given["colocated_running"]),
    }
