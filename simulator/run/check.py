"""Everything that is wrong or worth knowing about a scenario, all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from hardware_profiles.units import format_bytes
from simulator.cost.origins import MIXED
from simulator.deployment.deployment import require_overlap
from simulator.deployment.inputs import (
    scenario_hardware,
    scenario_model,
    scenario_requests,
    scenario_routing,
)
from simulator.deployment.layout import device_budget, held_slots
from simulator.deployment.servers import findings_of_server
from simulator.elastic.fleet import build_fleet, sized
from simulator.errors import MoesimError
from simulator.hardware import Hardware, evidence_words, unused_processors
from simulator.memory import require_fit
from simulator.parallelism import Parallelism, expert_slots, parallelism_problems
from simulator.results.values import Finding
from simulator.run.extent import extent_notes, require_extent, warmup_notes
from simulator.run.overloads import pool_overloads
from simulator.run.peaks import part_played, pool_peaks
from simulator.run.plan import plan_start
from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.scenario.sections import PlacementChoice
from simulator.scenario.unread import unread_keys
from simulator.serving.controls.faults import fault_controls
from simulator.serving.controls.rebalance import rebalance_controls
from simulator.serving.plan import PoolPlan, known_experts, prefix_caching
from simulator.stack import StackProfile, customised
from simulator.step.speculation import accepted_chances
from workloads.models.spec import ModelSpec
from workloads.requests.trace import RequestTrace

_T = TypeVar("_T")


def check(scenario: Scenario) -> tuple[Finding, ...]:
    """Look for everything that would stop or taint a run, without running it.

    Returns
    -------
    tuple of Finding
        Errors first, then warnings and notes; no error means that :func:`simulator.simulate` will run, unless faults
        leave nobody to answer. It also runs what the server refuses, which is an error with a ``source``.
    """
    findings: list[Finding] = []
    split = Parallelism.of(scenario.parallelism)
    model = _try(findings, "model", lambda: scenario_model(scenario.model))
    hardware = _try(findings, "hardware", lambda: scenario_hardware(scenario.hardware, split.devices))
    stack = _try(findings, "stack", lambda: customised(scenario.stack, scenario.hardware.profiles))
    requests = _try(findings, "requests", lambda: scenario_requests(scenario.requests, scenario.seed))
    if model is not None:
        findings.extend(Finding(level="warning", where="model", message=note) for note in model.notes)
        _try(findings, "routing", lambda: scenario_routing(scenario.routing, model, scenario.seed))
        scales = asks(scenario, "elastic")
        slots = _try(findings, "model", lambda: expert_slots(model, _placed(scenario, model)))
        if scales and requests is not None:
            _try(findings, "elastic", lambda: build_fleet(scenario, requests))
        findings.extend(
            Finding(level="error", where="parallelism", message=problem)
            for problem in parallelism_problems(model, split, slots)
        )
        _try(findings, "stack.overlap", lambda: require_overlap(scenario.stack, model, split))
        if hardware is not None and stack is not None:
            held = held_slots(scenario, model, slots)
            pools = asks(scenario, "disaggregation")
            findings.extend(_memory(model, split, stack, hardware, held, requests, "decode pool: " if pools else ""))
    if hardware is not None:
        findings.extend(_evidence(hardware, split))
    if model is not None and requests is not None and all(finding.level != "error" for finding in findings):
        findings.extend(_run(scenario, requests))
    if model is not None and hardware is not None and stack is not None:
        # Last, as what a server refuses is no reason to leave out what can be found by preparing a run.
        said = _try(findings, "stack", lambda: tuple(_server(scenario, model, hardware, stack, requests)))
        findings.extend(said or ())
    if requests is not None:
        findings.extend(Finding(level="note", where="requests", message=note) for note in requests.notes)
        findings.extend(
            Finding(level="warning", where="run.warmup_requests", message=text, remedy="leave out fewer")
            for text in warmup_notes(scenario, requests)
        )
    if model is not None and requests is not None:
        findings.extend(own for own in _lengths(model, requests) if all(own.message not in f.message for f in findings))
    for text in _unread(scenario):
        key, _, rest = text.partition(" ")
        findings.append(Finding(level="warning", where=key, message=rest, remedy="leave it out, or set what reads it"))
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(findings, key=lambda finding: order[finding.level]))


def _unread(scenario: Scenario) -> tuple[str, ...]:
    """List the keys that nothing reads; none where a file that decides it cannot be loaded, which was found before."""
    try:
        return tuple(unread_keys(scenario))
    except MoesimError:
        return ()


def _placed(scenario: Scenario, model: ModelSpec) -> PlacementChoice:
    """Return the slots that the scenario begins with, padded where it scales."""
    start = sized(scenario, scenario.parallelism.dp, model) if asks(scenario, "elastic") else scenario
    return start.placement


def _run(scenario: Scenario, requests: RequestTrace) -> list[Finding]:
    """Prepare a run as :func:`simulator.run.plan.plan_run` does, part by part, each of which says what is wrong."""
    findings: list[Finding] = []
    if _try(findings, "speculation", lambda: accepted_chances(scenario.speculation)) is None:
        return findings
    start = _try(findings, "deployment", lambda: plan_start(scenario, requests))
    if start is not None:
        pools, _ = start
        mixed = dict.fromkeys(text for pool in pools for text in pool.deployment.warnings if text.startswith(MIXED))
        findings.extend(Finding(level="warning", where="model", message=text) for text in mixed)
        _try(findings, "routing", lambda: known_experts(scenario, requests))
        _try(findings, "prefix_cache", lambda: prefix_caching(scenario, requests, pools))
        _try(findings, "faults", lambda: fault_controls(scenario, pools))
        _try(findings, "requests", lambda: require_extent(pools, requests))
        findings.extend(Finding(level="note", where="requests", message=text) for text in extent_notes(pools, requests))
        _try(findings, "placement.rebalance", lambda: rebalance_controls(scenario, pools, []))
        if all(finding.level != "error" for finding in findings):
            findings.extend(_overloads(scenario, requests, pools))
    return findings


def _overloads(scenario: Scenario, requests: RequestTrace, pools: tuple[PoolPlan, ...]) -> Iterator[Finding]:
    exceeded = pool_overloads(scenario, requests, pools)
    said = [(found, found.text()) for found in exceeded]
    said += [] if exceeded else [(found, found.peak_text()) for found in pool_peaks(scenario, requests, pools)]
    for found, text in said:
        remedy = f"{found.key} = {found.needed}, or a lower rate"
        yield Finding(level="warning", where="requests.rate", message=text, remedy=remedy)
    if text := part_played(scenario.requests, requests):
        yield Finding(level="warning", where="requests.count", message=text.partition(": ")[2])


def _try(findings: list[Finding], where: str, load: Callable[[], _T]) -> _T | None:
    try:
        return load()
    except MoesimError as error:
        findings.extend(Finding(level="error", where=where, message=line) for line in str(error).splitlines())
        return None


def _memory(
    model: ModelSpec,
    split: Parallelism,
    stack: StackProfile,
    hardware: Hardware,
    slots: int | None,
    requests: RequestTrace | None,
    pool: str,
) -> Iterator[Finding]:
    budget = device_budget(model, split, stack, hardware, slots)
    longest = int((requests.input_tokens + requests.output_tokens).max()) if requests is not None else 1
    try:
        require_fit(budget, model, split, longest, max(slots - model.moe.num_experts, 0) if slots and model.moe else 0)
    except MoesimError as error:
        yield Finding(level="error", where="memory", message=f"{pool}{error}")
        return
    room = int(budget.pool / budget.sequence_bytes(longest))
    yield Finding(
        level="note",
        where="memory",
        message=(
            f"{pool}each device holds {format_bytes(budget.weights)} of weights and leaves {format_bytes(budget.pool)} "
            f"for the KV cache: {room * split.dp:,} of the longest requests ({longest:,} tokens) at once"
        ),
    )


def _server(
    scenario: Scenario, model: ModelSpec, hardware: Hardware, stack: StackProfile, requests: RequestTrace | None
) -> Iterator[Finding]:
    for said in findings_of_server(scenario, model, hardware, stack, requests):
        yield Finding(
            level="error" if said.effect == "refuses" else "warning",
            where=said.where,
            message=said.message,
            remedy=said.remedy,
            source=said.source,
        )


def _evidence(hardware: Hardware, split: Parallelism) -> Iterator[Finding]:
    if not hardware.device.main.kernels:
        yield Finding(
            level="warning",
            where="hardware.device",
            message=f"{hardware.device.id} was never measured here: it runs on {evidence_words(hardware.evidence)}",
            remedy="moesim calibrate on such a device; without one, trust the 80 % interval, which is the wider for it",
        )
    for message in unused_processors(hardware.device):
        yield Finding(level="warning", where="hardware.device", message=message)
    if hardware.price is None:
        yield Finding(level="note", where="hardware.price", message=f"no price is known for {hardware.device.id}")
    if split.group > hardware.fabric.domain:
        yield Finding(
            level="note",
            where="parallelism",
            message=f"a stage of {split.group} devices spans scale-up domains of {hardware.fabric.domain}",
        )


def _lengths(model: ModelSpec, requests: RequestTrace) -> Iterator[Finding]:
    longest = int((requests.input_tokens + requests.output_tokens).max())
    if longest > model.max_context:
        yield Finding(
            level="warning",
            where="requests",
            message=f"the longest request has {longest} tokens, beyond the model's context of {model.max_context}",
            remedy="shorten requests.lengths or choose a model with a longer context",
        )
