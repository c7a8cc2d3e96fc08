"""moesim: simulate Mixture-of-Experts systems.

>>> from simulator import Scenario, simulate
>>> result = simulate(Scenario.load("examples/gpt-oss-20b-h100.toml"))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simulator.compiled import choose_engine

if TYPE_CHECKING:
    from simulator.api import check, estimate, estimate_many, explain, simulate
    from simulator.errors import InfeasibleScenario, MoesimError, ProfileError, ScenarioError, WorkloadError
    from simulator.results.sweep import Sweep
    from simulator.results.values import Distribution, Estimate, Explanation, Finding, Result, Summary
    from simulator.scenario import Scenario

#: Where each public name lives; loaded when first used, so that importing the package stays light.
_HOMES = {
    "Distribution": "simulator.results.values",
    "Estimate": "simulator.results.values",
    "Explanation": "simulator.results.values",
    "Finding": "simulator.results.values",
    "InfeasibleScenario": "simulator.errors",
    "MoesimError": "simulator.errors",
    "ProfileError": "simulator.errors",
    "Result": "simulator.results.values",
    "Scenario": "simulator.scenario",
    "ScenarioError": "simulator.errors",
    "Summary": "simulator.results.values",
    "Sweep": "simulator.results.sweep",
    "WorkloadError": "simulator.errors",
    "check": "simulator.api",
    "estimate": "simulator.api",
    "estimate_many": "simulator.api",
    "explain": "simulator.api",
    "simulate": "simulator.api",
}

# Before anything that may be compiled is imported.
choose_engine()

__all__ = [
    "Distribution",
    "Estimate",
    "Explanation",
    "Finding",
    "InfeasibleScenario",
    "MoesimError",
    "ProfileError",
    "Result",
    "Scenario",
    "ScenarioError",
    "Summary",
    "Sweep",
    "WorkloadError",
    "check",
    "estimate",
    "estimate_many",
    "explain",
    "simulate",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    msg = f"module 'simulator' has no attribute {name!r}"
    raise AttributeError(msg)
