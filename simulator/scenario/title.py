"""What a scenario is called: the name in its file, until something changes that such a name may state."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.scenario.scenario import Scenario
    from simulator.scenario.sections import ParallelismChoice


def title(scenario: Scenario) -> str:
    """Return the name of a scenario; one that has none is called by its content."""
    return made_title(scenario) if _unnamed(scenario) else scenario.name


def _unnamed(scenario: Scenario) -> bool:
    return scenario.name.strip() in ("", type(scenario).model_fields["name"].default)


def made_title(scenario: Scenario) -> str:
    """Say what runs where, in the names of the scenario alone.

    Examples
    --------
    >>> from simulator.scenario import Scenario
    >>> made_title(Scenario.from_mapping({"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"},
    ...                                   "parallelism": {"tp": 2}, "requests": {"concurrency": 8}}))
    'mixtral-8x7b on 2x a100-sxm'
    """
    model = scenario.model
    path = PurePath(model.name)
    # Of a checkpoint's config.json the folder says what it is.
    named = path.parent.name if path.name == "config.json" and path.parent.name else path.stem
    name = named if path.suffix in (".json", ".toml") else model.name
    formats = [f"{model.weights} weights"] if model.weights is not None else []
    formats += [f"{model.kv_cache} KV cache"] if model.kv_cache is not None else []
    name += f" ({', '.join(formats)})" if formats else ""
    return f"{name} on {devices(scenario)}x {scenario.hardware.device}"


def devices(scenario: Scenario) -> int:
    """Devices of all instances of all pools, as many as the scenario begins with [1]."""
    pools = [scenario.parallelism]
    if scenario.disaggregation.enabled:
        pools.append(scenario.disaggregation.prefill)
    return sum(_devices(pool) for pool in pools)


def _devices(split: ParallelismChoice) -> int:
    return split.tp * split.dp * split.pp * split.instances


def retitled(before: Scenario, after: Scenario) -> Scenario:
    """Return a changed scenario under a title that is true of it.

    A name is free text, so that nobody knows what it states. Where a change touches what names do state (model, device,
    split, pools, stack, kind of load or of scaling) and leaves the name, the title is made from the content.
    """
    if after.name != before.name or _unnamed(after) or _stated(before) == _stated(after):
        return after
    return after.model_copy(update={"name": made_title(after)})


def titled_from(origin: Scenario, before: Scenario, after: Scenario) -> Scenario:
    """Return a scenario, edited once more, under the title that it would have had its changes been made at once.

    Parameters
    ----------
    origin : Scenario
        What all edits began from.
    before, after : Scenario
        Before and after the last of them.
    """
    if before.name != origin.name and not has_made_title(origin, before):
        return retitled(before, after)
    return retitled(origin, after.model_copy(update={"name": origin.name}))


def has_made_title(origin: Scenario, scenario: Scenario) -> bool:
    """Whether the title follows from what was changed of the origin, so that nobody need say it."""
    return scenario.name == retitled(origin, scenario.model_copy(update={"name": origin.name})).name


def _stated(scenario: Scenario) -> tuple[object, ...]:
    hardware, pools = scenario.hardware, scenario.disaggregation
    return (
        scenario.model,
        hardware.device,
        hardware.node,
        hardware.cluster,
        scenario.parallelism,
        pools.enabled and pools.prefill,
        scenario.stack.name,
        scenario.requests.kind,
        scenario.elastic.mechanism,
    )
