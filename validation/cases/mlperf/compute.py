"""Offline throughput from the engine; the server scenario's from the largest rate that keeps its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.api import simulate
from simulator.scenario import Scenario
from validation.papers.papers import Case
from validation.papers.systems import scenario_file, system_figures


def figures(case: Case) -> Mapping[str, float]:
    """Output tokens per second of one device, and of as many as were submitted [tokens/s]."""
    given = case.inputs
    server = _served(given) * given["output_tokens"]
    found = system_figures(case) | {"server.rate": server}
    return found | {f"server.rate_per_{name}": factor * server for name, factor in given["per"].items()}


def _served(given: Mapping[str, Any]) -> float:
    """Largest rate of a Poisson process at which the 99th percentiles keep the limits [requests/s]."""
    base = Scenario.load(scenario_file("mlperf", "server"))
    low, high = given["rates"]
    for _ in range(given["halvings"]):
        rate = (low + high) / 2.0
        summary = simulate(base.override(f"requests.rate={rate}")).summary
        kept = summary.ttft_s.p99 <= given["limits"]["ttft"] and summary.tpot_s.p99 <= given["limits"]["tpot"]
        low, high = (rate, high) if kept else (low, rate)
    return float(low)
