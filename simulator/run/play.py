"""A scenario played from its requests to its result."""

from __future__ import annotations

import time
from collections.abc import Callable

from simulator.deployment.inputs import scenario_requests
from simulator.results.values import Result
from simulator.run.assemble import assemble
from simulator.run.plan import plan_run
from simulator.scenario import Scenario


def play(scenario: Scenario, progress: Callable[[float], None] | None = None) -> Result:
    """Plan a run, play it and condense it; parameters as for :func:`simulator.simulate`."""
    began = time.perf_counter()
    plan = plan_run(scenario, scenario_requests(scenario.requests, scenario.seed))
    run = plan.play(progress)
    return assemble(plan, run, wall=time.perf_counter() - began)
