"""The verbs of the façade: simulate, estimate, explain, check, save."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests
from simulator.errors import InfeasibleScenario
from simulator.explanation.explanation import explain
from simulator.results.values import Estimate, Result
from simulator.run.assemble import assemble, assemble_estimate
from simulator.run.check import check
from simulator.run.plan import plan_run
from simulator.scenario import Scenario
from simulator.scenario.features import beyond_closed_form

__all__ = ["beyond_closed_form", "check", "estimate", "explain", "save", "simulate"]


def simulate(scenario: Scenario, *, progress: Callable[[float], None] | None = None) -> Result:
    """Play the scenario's requests through its deployment, one event per engine step.

    Parameters
    ----------
    scenario : Scenario
        What to run.
    progress : callable, optional
        Told the share of requests that are done; may raise to cancel.

    Returns
    -------
    Result
        Frames, summary, breakdown and warnings; the same for the same scenario.

    Raises
    ------
    MoesimError
        Something cannot be loaded, does not match or does not fit.
    """
    began = time.perf_counter()
    plan = plan_run(scenario, scenario_requests(scenario.requests, scenario.seed))
    run = plan.play(progress)
    return assemble(plan, run, wall=time.perf_counter() - began)


def estimate(scenario: Scenario) -> Estimate:
    """Solve the steady state in closed form, without events.

    Raises
    ------
    MoesimError
        As for :func:`simulate`.
    """
    trace = scenario_requests(scenario.requests, scenario.seed)
    if beyond := beyond_closed_form(scenario):
        raise InfeasibleScenario(f"estimate: the closed form knows nothing of {', '.join(beyond)}; use simulate")
    return assemble_estimate(scenario, trace, deploy(scenario, trace))


def save(result: Result, folder: Path) -> Path:
    """Write a result as a folder: Parquet frames, summary, scenario, vLLM-shaped JSON and a Perfetto trace.

    Raises
    ------
    OutputError
        The folder cannot be written, or holds something else; nothing is left half-written.
    """
    from simulator.export.result import write_result

    return write_result(result, folder)
