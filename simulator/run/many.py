"""Many scenarios at once: grouped by what prices them, and solved together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests
from simulator.errors import InfeasibleScenario, MoesimError
from simulator.results.sweep import Outcome, Sweep
from simulator.results.values import Estimate
from simulator.run.assemble import assemble_estimate
from simulator.scenario import Scenario
from simulator.scenario.features import beyond_closed_form


def solved(scenario: Scenario) -> Estimate:
    """Solve the steady state of one scenario."""
    trace = scenario_requests(scenario.requests, scenario.seed)
    if beyond := beyond_closed_form(scenario):
        raise InfeasibleScenario(f"estimate: the closed form knows nothing of {', '.join(beyond)}; use simulate")
    return assemble_estimate(scenario, trace, deploy(scenario, trace))


def outcomes(
    scenarios: Iterable[Scenario], *, play: bool = False, progress: Callable[[float], None] | None = None
) -> Sweep:
    """Answer many scenarios; parameters as for :func:`simulator.estimate_many`."""
    asked = list(scenarios)
    found: list[Outcome] = []
    for scenario in asked:
        found.append(_outcome(scenario, play=play))
        if progress is not None:
            progress(len(found) / len(asked))
    return Sweep(found)


def _outcome(scenario: Scenario, *, play: bool) -> Outcome:
    try:
        if play and beyond_closed_form(scenario):
            return Outcome(scenario=scenario, how="played", estimate=_played(scenario))
        return Outcome(scenario=scenario, how="solved", estimate=solved(scenario))
    except MoesimError as error:
        return Outcome(scenario=scenario, how="refused", error=error)


def _played(scenario: Scenario) -> Estimate:
    """Play a scenario, and keep what an estimate has; many runs would fill the memory with their frames."""
    from simulator.run.play import play

    result = play(scenario)
    return Estimate(
        scenario=scenario,
        summary=result.summary,
        breakdown=dict(result.breakdown),
        warnings=result.warnings,
        provenance=dict(result.provenance),
    )
