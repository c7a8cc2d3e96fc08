"""The verbs of the façade: simulate, estimate, one or many, explain, check, save."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.deployment.prepared import keep_experts
from simulator.results.sweep import Sweep
from simulator.results.values import Estimate, Result
from simulator.run.many import outcomes, solved
from simulator.scenario import Scenario
from simulator.scenario.features import beyond_closed_form

if TYPE_CHECKING:
    from simulator.explanation.explanation import explain
    from simulator.run.check import check

__all__ = ["beyond_closed_form", "check", "estimate", "estimate_many", "explain", "save", "simulate"]

#: Verbs with a home of their own; loaded when first used, as an estimate needs neither the engine nor what explains it.
_HOMES = {"check": "simulator.run.check", "explain": "simulator.explanation.explanation"}


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
    from simulator.run.play import play

    result = play(scenario, progress)
    keep_experts()
    return result


def estimate(scenario: Scenario) -> Estimate:
    """Solve the steady state in closed form, without events.

    Raises
    ------
    MoesimError
        As for :func:`simulate`.
    """
    answer = solved(scenario)
    keep_experts()
    return answer


def estimate_many(
    scenarios: Iterable[Scenario], *, play: bool = False, progress: Callable[[float], None] | None = None
) -> Sweep:
    """Answer many scenarios, in a fraction of the time that :func:`estimate` takes for one after another.

    Parameters
    ----------
    scenarios : iterable of Scenario
        The questions, in any order. Those that differ in their load alone share a deployment, and are solved together.
    play : bool
        Whether to simulate what the closed form knows nothing of (pools, caches, drafts, faults); refused otherwise.
    progress : callable, optional
        Told the share of scenarios that are done; may raise to cancel.

    Returns
    -------
    Sweep
        One outcome per scenario, in their order: the same :class:`Estimate` as alone, or why there is none. Its
        ``frame()`` is a table of them. A scenario that cannot run is an outcome too and raises nothing.

    Examples
    --------
    >>> base = Scenario.from_mapping({"model": {"name": "llama-3.1-8b"}, "hardware": {"device": "h100-sxm"},
    ...                               "requests": {"concurrency": 1, "count": 64}})
    >>> sweep = estimate_many(base.override(f"requests.concurrency={n}") for n in (1, 8, 64))
    >>> sweep
    <Sweep of 3 scenarios: 3 solved>
    >>> list(sweep.frame()["requests.concurrency"])
    [1, 8, 64]
    """
    sweep = outcomes(scenarios, play=play, progress=progress)
    keep_experts()
    return sweep


def save(result: Result, folder: Path) -> Path:
    """Write a result as a folder: Parquet frames, summary, scenario, vLLM-shaped JSON and a Perfetto trace.

    Raises
    ------
    OutputError
        The folder cannot be written, or holds something else; nothing is left half-written.
    """
    from simulator.export.result import write_result

    return write_result(result, folder)


def __getattr__(name: str) -> Any:
    """Load a verb from its home on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    msg = f"module 'simulator.api' has no attribute {name!r}"
    raise AttributeError(msg)
