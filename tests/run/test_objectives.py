"""Which objectives are held against a request that is alone."""

from __future__ import annotations

from dataclasses import replace

from simulator import Scenario, estimate
from simulator.results.values import Distribution
from simulator.run.objectives import missed
from simulator.scenario.sections import Slo

ASKED = {"model": {"name": "gpt-oss-20b"}, "hardware": {"device": "h100-sxm"}, "requests": {"concurrency": 4}}


def objectives(**seconds: float) -> Slo:
    return Slo.model_validate({name: f"{limit!r} s" for name, limit in seconds.items()})


def test_only_objectives_that_the_mean_request_misses_are_asked_about() -> None:
    summary = estimate(Scenario.from_mapping(ASKED)).summary
    ttft, tpot = summary.ttft_s.mean, summary.tpot_s.mean
    assert missed(objectives(ttft=ttft, tpot=0.9 * tpot), summary) == objectives(tpot=0.9 * tpot)
    assert missed(objectives(), summary) == objectives()
    unknown = replace(summary, ttft_s=Distribution(mean=float("nan"), p50=0.0, p90=0.0, p99=0.0))
    assert missed(objectives(ttft=2.0 * ttft), unknown) == objectives(ttft=2.0 * ttft), "saturated: meets nothing"
