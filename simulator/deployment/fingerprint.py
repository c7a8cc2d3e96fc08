"""What an answer depends on, as one short name: what a scenario says, and what the files say that it names.

:attr:`Scenario.hash` names a question as it is written; two equal ones may be about different files. A fingerprint
names it with the contents of all files in place of their names, so that it changes when one of them does, and is the
same where the same files lie elsewhere or have another name. Equal fingerprints and the same release of moesim give
the same answer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from hardware_profiles.files import contents
from simulator.conditions import load_conditions
from simulator.deployment.inputs import read_hardware, read_model, read_stack, read_startup, trace_path
from simulator.deployment.prices import digest
from simulator.feasibility.widened import widened
from simulator.scenario import Scenario
from simulator.scenario.sections import Model
from simulator.step.contention import FILE

#: Keys whose place the contents of what they name take; the name of a scenario changes nothing.
_NAMES: Any = {
    "name": True,
    "model": True,
    "hardware": True,
    "stack": {"name"},
    "routing": {"trace", "fit"},
    "requests": {"trace"},
    "elastic": {"startup"},
    "offload": {"router"},
}


def fingerprint(scenario: Scenario) -> str:
    """Name everything that the answers to a scenario depend on.

    Parameters
    ----------
    scenario : Scenario
        All of it; :meth:`Scenario.pricing` gives what the prices of one instance depend on alone.

    Returns
    -------
    str
        Sixteen hexadecimal digits.

    Raises
    ------
    MoesimError
        The model, hardware, stack or start-up profile cannot be loaded.

    Notes
    -----
    Profiles and models count with what was read from them, whatever else their file or its neighbours say; traces and
    fits with every byte, and so does the table of contention, which serves all scenarios. Profiles of kernels count
    with their residuals. A file is read again only if its time, size or inode have changed.
    """
    files = [FILE, *(trace_path(name) for name in _read_files(scenario))]
    said = (
        read_model(scenario.model)[1],
        read_hardware(scenario.hardware, _most_devices(scenario))[1],
        read_stack(scenario.stack.name)[1],
        *(contents(path) for path in files),
        *_widened(scenario),
        *([read_model(Model(name=scenario.offload.router))[1]] if scenario.offload.router else []),
        *([read_startup(scenario.elastic.startup)[1]] if scenario.elastic.mechanism != "none" else []),
    )
    return _combined(scenario, said)


def _read_files(scenario: Scenario) -> list[str]:
    """Name the trace and fit files that are read; those of another kind of routing or requests change nothing."""
    routing, requests = scenario.routing, scenario.requests
    read = (
        routing.trace if routing.kind == "trace" else None,
        routing.fit if routing.kind == "fitted" else None,
        requests.trace if requests.kind == "trace" else None,
    )
    return [name for name in read if name]


def _widened(scenario: Scenario) -> list[str]:
    """Name the model in the formats that it is priced in, where they are others than it is stored in."""
    model = read_model(scenario.model)[0]
    architecture = read_hardware(scenario.hardware, _most_devices(scenario))[0].device.architecture
    priced = widened(model, architecture, load_conditions(scenario.stack.name).conditions)
    return [] if priced is model else [digest(priced.dtypes)]


def _most_devices(scenario: Scenario) -> int:
    """Devices of the largest instance, whose hardware includes that of all others [1]."""
    pools = [scenario.parallelism]
    if scenario.disaggregation.enabled:
        pools.append(scenario.disaggregation.prefill)
    most = max(pool.tp * pool.dp * pool.pp for pool in pools)
    elastic = scenario.elastic
    sizes = [elastic.max_size or 0, *(event.size for event in elastic.events)]
    return max(most, scenario.parallelism.tp * scenario.parallelism.pp * max(sizes))


@lru_cache(maxsize=256)
def _combined(scenario: Scenario, said: tuple[str, ...]) -> str:
    return digest(scenario.model_dump(exclude=_NAMES), said)
