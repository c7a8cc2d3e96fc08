"""Many scenarios at once: grouped by what prices them, and solved together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from hardware_profiles.files import still
from simulator.closed_form.load import asked_rate
from simulator.deployment.deployment import Deployment, deploy
from simulator.deployment.inputs import scenario_requests
from simulator.errors import InfeasibleScenario, MoesimError
from simulator.results.sweep import Outcome, Sweep
from simulator.results.values import Estimate
from simulator.run.assemble import assemble_estimates
from simulator.scenario import Scenario
from simulator.scenario.features import beyond_closed_form
from workloads.requests.trace import RequestTrace

#: Scenarios that are solved together: enough to share what is worked out over arrays, few enough to hold little [1].
_TOGETHER = 256


def solved(scenario: Scenario) -> Estimate:
    """Solve the steady state of one scenario."""
    return assemble_estimates([_prepared(scenario)])[0]


def outcomes(
    scenarios: Iterable[Scenario], *, play: bool = False, progress: Callable[[float], None] | None = None
) -> Sweep:
    """Answer many scenarios; parameters as for :func:`simulator.estimate_many`."""
    asked = list(scenarios)
    found: dict[int, Outcome] = {}
    with still():
        for part in _parts(asked):
            found |= zip(part, _answered([asked[index] for index in part], play=play), strict=True)
            if progress is not None:
                progress(len(found) / len(asked))
    return Sweep([found[index] for index in range(len(asked))])


def _parts(scenarios: Sequence[Scenario]) -> Iterator[list[int]]:
    """Take scenarios apart by what prices them, so that one deployment after another is needed, and by their load.

    Decode batches of other sizes take tokens of the routing trace in another order, which is priced by itself; loads in
    the order of their size have few such orders in each part.
    """
    groups: dict[Scenario, list[int]] = {}
    for index, scenario in enumerate(scenarios):
        groups.setdefault(scenario.pricing(), []).append(index)
    for group in groups.values():
        group.sort(key=lambda index: scenarios[index].requests.concurrency or 0)
        for first in range(0, len(group), _TOGETHER):
            yield group[first : first + _TOGETHER]


def _answered(scenarios: Sequence[Scenario], *, play: bool) -> list[Outcome]:
    """Answer scenarios that are priced alike."""
    found: dict[int, Outcome] = {}
    ready: dict[str, list[tuple[int, tuple[Scenario, RequestTrace, Deployment]]]] = {}
    for index, scenario in enumerate(scenarios):
        try:
            if play and beyond_closed_form(scenario):
                found[index] = Outcome(scenario=scenario, how="played", estimate=_played(scenario))
            else:
                prepared = _prepared(scenario)
                ready.setdefault(prepared[2].fingerprint, []).append((index, prepared))
        except MoesimError as error:
            found[index] = Outcome(scenario=scenario, how="refused", error=error)
    for together in ready.values():
        estimates = assemble_estimates([prepared for _, prepared in together])
        for (index, _), estimate in zip(together, estimates, strict=True):
            found[index] = Outcome(scenario=scenarios[index], how="solved", estimate=estimate)
    return [found[index] for index in range(len(scenarios))]


def _prepared(scenario: Scenario) -> tuple[Scenario, RequestTrace, Deployment]:
    """Find the load of a scenario and what serves it.

    Raises
    ------
    MoesimError
        Something cannot be loaded, does not match or does not fit, or is beyond the closed form.
    """
    trace = scenario_requests(scenario.requests, scenario.seed)
    if beyond := beyond_closed_form(scenario):
        raise InfeasibleScenario(f"estimate: the closed form knows nothing of {', '.join(beyond)}; use simulate")
    if len(trace) == 1 and not trace.concurrency and not asked_rate(scenario.requests, trace):
        raise InfeasibleScenario(
            "estimate: one request has no rate of arrivals, and the closed form is of a steady state; use simulate"
        )
    return scenario, trace, deploy(scenario, trace)


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
        setup=result.setup,
        overload=result.overload,
    )
