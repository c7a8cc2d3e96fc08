"""Features that a scenario may ask for, and who knows what of them: one table for all that ask.

A feature is what changes how requests are served beyond a model, a split and a stack. Whether the closed form answers
with it, whether one step shows it and whether it can be played while the deployment changes its size is said here and
nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from simulator.scenario.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature.

    Attributes
    ----------
    name : str
        What it is called here.
    key : str
        The scenario key that asks for it; its first part is the section that describes it.
    asked : callable
        Whether a scenario asks for it.
    words : str
        What of it acts on a run, as part of a sentence.
    closed_form : {"included", "left out", "refused"}
        Whether the closed form answers with it, without it and says so, or not at all.
    in_one_step : bool
        Whether a single step shows all of it.
    while_scaling : bool
        Whether it can be played while the deployment changes its size.
    quickens : bool
        Whether a request that is alone may be quicker than the closed form says.
    """

    name: str
    key: str
    asked: Callable[[Scenario], bool]
    words: str
    closed_form: Literal["included", "left out", "refused"] = "included"
    in_one_step: bool = True
    while_scaling: bool = True
    quickens: bool = False

    @property
    def section(self) -> str:
        """Section of a scenario that describes it."""
        return self.key.partition(".")[0]


FEATURES = (
    Feature(
        name="disaggregation",
        key="disaggregation.enabled",
        asked=lambda scenario: scenario.disaggregation.enabled,
        words="the way of KV caches between pools (disaggregation)",
        closed_form="refused",
        in_one_step=False,
        while_scaling=False,
    ),
    Feature(
        name="prefix_cache",
        key="prefix_cache.kind",
        asked=lambda scenario: scenario.prefix_cache.kind != "none",
        words="prompts that are found in a cache (prefix_cache)",
        closed_form="refused",
        in_one_step=False,
        quickens=True,
    ),
    Feature(
        name="speculation",
        key="speculation.draft_tokens",
        asked=lambda scenario: scenario.speculation.draft_tokens > 0,
        words="drafted tokens (speculation)",
        closed_form="refused",
        quickens=True,
    ),
    Feature(
        name="faults",
        key="faults",
        asked=lambda scenario: bool(scenario.faults),
        words="faults",
        closed_form="refused",
        in_one_step=False,
        while_scaling=False,
    ),
    Feature(
        name="elastic",
        key="elastic.mechanism",
        asked=lambda scenario: scenario.elastic.mechanism != "none",
        words="changes of size (elastic)",
        closed_form="refused",
        in_one_step=False,
    ),
    Feature(
        name="rebalance",
        key="placement.rebalance",
        asked=lambda scenario: scenario.placement.rebalance.active,
        words="changes of placement (placement.rebalance)",
        closed_form="refused",
        in_one_step=False,
        while_scaling=False,
    ),
    Feature(
        name="priorities",
        key="requests.priorities",
        asked=lambda scenario: len(scenario.requests.priorities) > 1,
        words="the order of urgency (requests.priorities)",
        closed_form="left out",
    ),
    Feature(
        name="overlap",
        key="stack.overlap",
        asked=lambda scenario: scenario.stack.overlap not in (None, "none"),
        words="exchanges beside computing (stack.overlap)",
    ),
    Feature(
        name="expert_aware",
        key="stack.scheduler",
        asked=lambda scenario: scenario.stack.scheduler == "expert_aware",
        words="batching by expert (stack.scheduler)",
        closed_form="refused",
        in_one_step=False,
        while_scaling=False,
        quickens=True,
    ),
    Feature(
        name="swap",
        key="stack.preemption",
        asked=lambda scenario: scenario.stack.preemption == "swap",
        words="KV caches that move to the host and back (stack.preemption)",
    ),
)


def asks(scenario: Scenario, name: str) -> bool:
    """Tell whether a scenario asks for the feature of that name."""
    return next(feature for feature in FEATURES if feature.name == name).asked(scenario)


def asked_features(scenario: Scenario) -> tuple[Feature, ...]:
    """Return the features that a scenario asks for, in the order of the table."""
    return tuple(feature for feature in FEATURES if feature.asked(scenario))


def beyond_closed_form(scenario: Scenario) -> tuple[str, ...]:
    """Name the keys of a scenario that :func:`simulator.estimate` cannot answer and :func:`simulator.simulate` can.

    Examples
    --------
    >>> asked = Scenario.from_mapping({"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"},
    ...                                "faults": [{"at": "1 s"}], "requests": {"priorities": [0.5, 0.5]}})
    >>> beyond_closed_form(asked)
    ('faults',)
    """
    return tuple(feature.key for feature in asked_features(scenario) if feature.closed_form == "refused")


def left_out_of_closed_form(scenario: Scenario) -> tuple[str, ...]:
    """Say what the closed form answers without, because it changes who waits and not how long on average."""
    return tuple(
        f"{feature.key}: left out, the closed form knows the mean of all requests; use simulate"
        for feature in asked_features(scenario)
        if feature.closed_form == "left out"
    )


def left_out_of_one_step(scenario: Scenario) -> tuple[str, ...]:
    """Say what acts on a run and not on one step."""
    named = [feature.words for feature in asked_features(scenario) if not feature.in_one_step]
    return (f"this step leaves out {', '.join(named)}; simulate plays them",) if named else ()


def not_while_scaling(scenario: Scenario) -> tuple[str, ...]:
    """Name the keys of a scenario that ask for what cannot be played while the deployment changes its size."""
    return tuple(feature.key for feature in asked_features(scenario) if not feature.while_scaling)
