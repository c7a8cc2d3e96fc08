"""Keys that a scenario sets and nothing reads: each with where it would be read, so that nobody waits for an effect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.scenario.sections import Requests

_SKEWED = ("zipf", "power_law", "domain", "sticky", "drifting")
_GENERATED = (*_SKEWED, "uniform", "dirichlet", "fitted")


def unread_keys(scenario: Scenario) -> tuple[str, ...]:
    """List the keys that differ from their default and have no effect in this scenario.

    Returns
    -------
    tuple of str
        A sentence for each, which begins with the key.

    Examples
    --------
    >>> asked = Scenario.from_mapping({"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"},
    ...                                "requests": {"kind": "closed_loop", "concurrency": 8, "rate": 2.0}})
    >>> unread_keys(asked)
    ("requests.rate has no effect: requests.kind = 'closed_loop' does not read it",)
    """
    # Scenarios of a sweep differ in their load, and what of it is read depends on nothing else.
    load = scenario.requests.model_dump(exclude_none=True, exclude_defaults=True)
    of_load = _found(_leaves(load, "requests."), tuple(_of_load(scenario)))
    return (*sorted((*of_load, *_beside_load(scenario.model_copy(update=_NO_LOAD)))), *_of_entries(scenario))


#: The values of a scenario that nothing but :func:`_of_load` asks for.
_NO_LOAD: dict[str, Any] = {"name": "", "requests": Requests()}


@lru_cache(maxsize=64)
def _beside_load(scenario: Scenario) -> tuple[str, ...]:
    """Find the keys that have no effect in sections other than that of the load."""
    rules = (*_of_routing(scenario), *_of_serving(scenario), *_of_offload(scenario), *_of_elastic(scenario))
    return _found(_leaves(scenario.to_mapping()), rules)


def _found(given: Iterable[str], rules: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Say of keys that are given which have no effect, and why."""
    found = []
    for key in sorted(given):
        why = next((why for rule, why in rules if key == rule or key.startswith(f"{rule}.")), None)
        if why is not None:
            found.append(f"{key} has no effect: {why}")
    return tuple(found)


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
        else:
            yield key


def _of_load(scenario: Scenario) -> Iterator[tuple[str, str]]:
    load = scenario.requests
    readers: dict[str, tuple[str, ...]] = {
        "concurrency": ("closed_loop", "trace"),
        "rate": ("poisson", "gamma", "diurnal", "constant", "trace"),
        "cv": ("gamma",),
        "period": ("diurnal",),
        "amplitude": ("diurnal",),
        "profile": ("diurnal",),
        "trace": ("trace",),
        "repeat": ("trace",),
        "time_unit": ("trace",),
        "block_tokens": ("trace",),
        "turn_prompts": ("trace",),
        "sessions": ("closed_loop", "poisson", "gamma", "diurnal", "constant"),
        "lengths": ("closed_loop", "poisson", "gamma", "diurnal", "constant"),
    }
    for key, kinds in readers.items():
        if load.kind not in kinds:
            yield f"requests.{key}", f"requests.kind = {load.kind!r} does not read it"
    if load.profile:
        yield "requests.amplitude", "requests.profile is given instead"
    if len(load.priorities) == 1:
        yield "requests.priorities", "one class is no order; give the shares of two or more"
    if not load.sessions.active:
        yield "requests.sessions", "requests.sessions.turns is 1, so that no request follows another"
    elif load.sessions.think_time <= 0:
        yield "requests.sessions.think_kind", "requests.sessions.think_time is 0"
    for key, kind in (("range_ratio", "uniform"), ("cv", "lognormal")):
        if load.lengths.kind != kind:
            yield f"requests.lengths.{key}", f"only requests.lengths.kind = {kind!r} reads it"


def _of_routing(scenario: Scenario) -> Iterator[tuple[str, str]]:
    routing = scenario.routing
    readers: dict[str, tuple[str, ...]] = {
        "trace": ("trace",),
        "fit": ("fitted",),
        "router": ("fitted",),
        "skew": _SKEWED,
        "alpha": ("dirichlet",),
        "tokens": _GENERATED,
    }
    for key, kinds in readers.items():
        if routing.kind not in kinds:
            yield f"routing.{key}", f"routing.kind = {routing.kind!r} does not read it"
    for keys, router in ((("groups", "top_k_groups"), "group_limited"), (("top_p",), "top_p")):
        if routing.router != router or routing.kind != "fitted":
            yield from ((f"routing.{key}", f"only routing.router = {router!r} reads it") for key in keys)
    if routing.capacity_factor is None:
        yield "routing.capacity_batch", "routing.capacity_factor is absent, so that nothing is dropped"


def _of_serving(scenario: Scenario) -> Iterator[tuple[str, str]]:
    split, placement, apart = scenario.parallelism, scenario.placement, scenario.disaggregation
    if not asks(scenario, "disaggregation"):
        yield "disaggregation", "disaggregation.enabled is false"
    if scenario.prefix_cache.kind != "shared":
        yield "prefix_cache.store", "only prefix_cache.kind = 'shared' has a pool"
    if not asks(scenario, "speculation"):
        yield "speculation", "speculation.draft_tokens is 0"
    entries = apart.prefill.instances if apart.enabled else split.instances
    if not asks(scenario, "elastic"):
        if max(split.dp, apart.prefill.dp if apart.enabled else 1) == 1:
            yield "stack.exchange", "no tokens travel to experts with parallelism.dp = 1"
        if entries == 1:
            yield "stack.balancer", "there is one instance to choose from"
        if not placement.redundant_slots:
            yield "placement.replica_routing", "no expert has a replica (placement.redundant_slots)"
        if max(split.ep, apart.prefill.ep if apart.enabled else 1) == 1:
            yield "placement.policy", "every rank holds all experts (parallelism.ep = 1)"
    if not asks(scenario, "prefix_cache") and scenario.stack.balancer == "cache_aware":
        yield "stack.balancer", "without a prefix cache, cache_aware is least_loaded"
    rebalance = placement.rebalance
    if not asks(scenario, "rebalance"):
        yield "placement.rebalance", "without a time or steps between two (every, every_steps) nothing moves"
    elif rebalance.policy is not None:
        yield "placement.policy", "placement.rebalance begins with linear and goes on with a policy of its own"
    if rebalance.mode == "stall":
        yield "placement.rebalance.bandwidth_share", "only placement.rebalance.mode = 'overlap' reads it"


def _of_offload(scenario: Scenario) -> Iterator[tuple[str, str]]:
    choice = scenario.offload
    if not asks(scenario, "expert_aware"):
        yield "offload", "only stack.scheduler = 'expert_aware' knows experts before the step"
    if choice.first != "expert":
        for key in ("opening", "patience"):
            yield f"offload.{key}", f"offload.first = {choice.first!r} does not read it"
    if choice.resident is None:
        yield "offload.lookahead", "all experts are resident (offload.resident)"


def _of_elastic(scenario: Scenario) -> Iterator[tuple[str, str]]:
    elastic = scenario.elastic
    if not asks(scenario, "elastic"):
        yield "elastic", "elastic.mechanism is 'none'; 'moesim scale --compare' plays all of them"
        return
    if elastic.mechanism != "elastic":
        yield "elastic.handover", "only elastic.mechanism = 'elastic' reads it"
    looking = ("queue", "slo", "utilisation", "predictive")
    readers: dict[str, tuple[str, ...]] = {
        "interval": looking,
        "window": looking,
        "patience": looking,
        "cooldown_up": looking,
        "cooldown_down": looking,
        "target": looking,
        "up": ("queue", "slo"),
        "band": ("utilisation", "predictive"),
        "lookahead": ("predictive",),
    }
    for key, policies in readers.items():
        if elastic.policy not in policies:
            yield f"elastic.{key}", f"elastic.policy = {elastic.policy!r} does not read it"


def _of_entries(scenario: Scenario) -> Iterator[str]:
    """Entries of lists: accepted drafts, and keys of single faults."""
    drafted, chances = scenario.speculation.draft_tokens, len(scenario.speculation.acceptance)
    if 0 < drafted < chances:
        yield (
            f"speculation.acceptance has {chances} values for {drafted} drafted tokens: "
            f"the last {chances - drafted} have no effect"
        )
    for index, fault in enumerate(scenario.faults):
        given = set(_leaves(fault.model_dump(exclude_none=True, exclude_defaults=True)))
        if fault.slowdown is not None:
            for key in sorted(given & {"detection", "restart", "retry"}):
                yield f"faults.{index}.{key} has no effect: what slows down loses nothing (faults.{index}.slowdown)"
        if fault.kind == "instance" and "rank" in given:
            yield f"faults.{index}.rank has no effect: kind = 'instance' takes all of them"
