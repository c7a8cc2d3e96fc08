"""What would make a scenario run: its routing drawn for its model, its model split further or stored in fewer bits.

Each proposal is checked before it is made, so that one click is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from dashboard.edge import attempt
from dashboard.state import apply, change_words, differences
from simulator.deployment.inputs import scenario_model, scenario_routing
from simulator.results.values import Finding
from simulator.scenario import Scenario
from simulator.scenario.title import retitled

#: What a routing of the scenario's own is replaced by: the default, drawn for the model.
_DRAWN = {"routing.kind": "", "routing.trace": "", "routing.fit": "", "routing.router": ""}
#: What weights are stored in where no split of a node is enough.
_SMALLER = "fp8"
#: Most nodes over which an instance is spread.
_MOST_NODES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mend:
    """A change after which a scenario runs.

    Attributes
    ----------
    label : str
        What it sets and takes away.
    scenario : Scenario
        What comes of it.
    """

    label: str
    scenario: Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where an instance may be spread.

    Attributes
    ----------
    devices : int
        Devices of a node [1].
    cluster : str
        A cluster of such nodes; empty where there is none.
    """

    devices: int
    cluster: str = ""


def with_routing_that_fits(scenario: Scenario) -> Scenario:
    """Draw the routing where the recorded one is of another model."""
    if scenario.routing.kind != "trace":
        return scenario
    _, wrong = attempt(lambda: scenario_routing(scenario.routing, scenario_model(scenario.model), scenario.seed))
    return retitled(scenario, apply(scenario, _DRAWN)) if wrong else scenario


def mend(scenario: Scenario, room: Room, check: Callable[[Scenario], tuple[Finding, ...]]) -> Mend | None:
    """Find a change after which a scenario runs; None where none of those that are tried does.

    Parameters
    ----------
    scenario : Scenario
        What does not run.
    room : Room
        Where an instance may be spread.
    check : callable
        Says what is wrong with a scenario.
    """
    for candidate in _candidates(scenario, room):
        if candidate != scenario and all(finding.level != "error" for finding in check(candidate)):
            return Mend(label=", ".join(change_words(differences(scenario, candidate))), scenario=candidate)
    return None


def _candidates(scenario: Scenario, room: Room) -> Iterator[Scenario]:
    """List scenarios that may run, those that change least first."""
    for begin in dict.fromkeys((scenario, with_routing_that_fits(scenario))):
        yield begin
        for changes in _splits(begin, room):
            candidate, _ = attempt(partial(apply, begin, changes))
            if candidate is not None:
                yield retitled(scenario, candidate)


def _splits(scenario: Scenario, room: Room) -> Iterator[dict[str, str]]:
    """List changes that leave less on each device: over a node, in fewer bits, over nodes."""
    split = scenario.parallelism
    # Experts that were spread over all devices still are.
    spread = split.ep > 1 and split.ep == split.tp * split.dp
    for weights in ({}, {"model.weights": _SMALLER}):
        tp = split.tp
        while tp * split.dp * split.pp <= room.devices:
            yield {"parallelism.tp": str(tp), **weights} | ({"parallelism.ep": str(tp * split.dp)} if spread else {})
            tp *= 2
    nodes = 2
    while room.cluster and nodes <= _MOST_NODES:
        ranks = {"parallelism.tp": str(room.devices), "parallelism.dp": str(nodes), "parallelism.pp": "1"}
        yield {**ranks, "parallelism.ep": str(room.devices * nodes), "hardware.cluster": room.cluster}
        nodes *= 2
