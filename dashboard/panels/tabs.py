"""The tabs: what each is called, when it is there and what draws it. A new one is a function and a record here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from dashboard.panels import run, serving, share, step
from dashboard.panels.view import View
from simulator.scenario import Scenario
from simulator.scenario.features import asks


def _of(feature: str) -> Callable[[Scenario], bool]:
    return partial(asks, name=feature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """One tab.

    Attributes
    ----------
    name : str
        Its name in the link.
    label : str
        What is written on it.
    draw : callable
        Draws it.
    there : callable
        Whether it has something to say about a scenario.
    """

    name: str
    label: str
    draw: Callable[[View], None]
    there: Callable[[Scenario], bool] = lambda _: True


TABS = (
    Tab(name="breakdown", label="Where the time goes", draw=run.breakdown),
    Tab(name="latency", label="Latencies", draw=run.latency),
    Tab(name="steps", label="Over time", draw=run.steps),
    Tab(name="pools", label="Pools", draw=serving.pools, there=_of("disaggregation")),
    Tab(name="cache", label="Prefix cache", draw=serving.cache, there=_of("prefix_cache")),
    Tab(name="drafts", label="Drafts", draw=serving.drafts, there=_of("speculation")),
    Tab(name="faults", label="Faults", draw=serving.faults, there=_of("faults")),
    Tab(name="scaling", label="Scaling", draw=serving.scaling, there=_of("elastic")),
    Tab(
        name="placement",
        label="Expert placement",
        draw=step.placement,
        there=lambda scenario: scenario.parallelism.ep > 1,
    ),
    Tab(name="step", label="One step", draw=step.streams),
    Tab(name="numbers", label="All numbers", draw=run.numbers),
    Tab(name="why", label="Why", draw=step.why),
    Tab(name="share", label="Copy and download", draw=share.draw),
)


def open_tabs(scenario: Scenario) -> Mapping[str, Tab]:
    """Return the tabs that have something to say about a scenario, by name."""
    return {tab.name: tab for tab in TABS if tab.there(scenario)}
