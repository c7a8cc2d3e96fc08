"""What the server of a scenario says of it: the conditions of its stack, put to its instances and its load.

The cost model prices what no server runs as well: a what-if about an engine of one's own is a question. So nothing here
stops a run; checks call what a server refuses an error, and answers begin with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from simulator.conditions import Condition, load_conditions
from simulator.deployment.deployment import Deployment
from simulator.deployment.inputs import scenario_model
from simulator.deployment.prices import PRICES
from simulator.feasibility.asked import Asked, ServerFinding
from simulator.feasibility.rules import LOAD_RULES, server_findings
from simulator.hardware import Hardware
from simulator.parallelism import Parallelism
from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.scenario.sections import ParallelismChoice
from simulator.stack import StackProfile
from workloads.models.spec import ModelSpec, Phase
from workloads.requests.trace import RequestTrace


def findings_of_server(
    scenario: Scenario, model: ModelSpec, hardware: Hardware, stack: StackProfile, trace: RequestTrace | None
) -> tuple[ServerFinding, ...]:
    """List what the server of a scenario says of all its instances.

    Parameters
    ----------
    scenario : Scenario
        How its instances are split, and what they do.
    model : ModelSpec
        The model that it names.
    hardware : Hardware
        Where it runs.
    stack : StackProfile
        Its stack, with its own changes.
    trace : RequestTrace or None
        The load, where it is known.
    """
    return _found(scenario, model, hardware, stack, trace, load_conditions(scenario.stack.name).conditions)


def server_warnings(scenario: Scenario, deployment: Deployment, trace: RequestTrace) -> tuple[str, ...]:
    """Return the same as sentences, of a scenario that is deployed: what is refused first.

    What does not depend on the load is found once for all scenarios that share a deployment.
    """
    model, hardware, stack = scenario_model(scenario.model), deployment.hardware, deployment.stack
    pools, cached = scenario.disaggregation, scenario.prefix_cache.kind
    key = "server", deployment.fingerprint, scenario.stack, scenario.parallelism, pools, cached
    always = PRICES.kept("derived", key, lambda: findings_of_server(scenario, model, hardware, stack, None))
    conditions = load_conditions(scenario.stack.name).conditions
    of_load = tuple(condition for condition in conditions if condition.rule in LOAD_RULES)
    found = (*always, *_found(scenario, model, hardware, stack, trace, of_load))
    return tuple(finding.message for finding in _gravest_first(found))


def _gravest_first(found: Iterable[ServerFinding]) -> tuple[ServerFinding, ...]:
    return tuple(sorted(found, key=lambda finding: finding.effect != "refuses"))


def _found(
    scenario: Scenario,
    model: ModelSpec,
    hardware: Hardware,
    stack: StackProfile,
    trace: RequestTrace | None,
    conditions: tuple[Condition, ...],
) -> tuple[ServerFinding, ...]:
    """Put conditions to every kind of instance; what two kinds are told alike is told once."""
    found: dict[str, ServerFinding] = {}
    longest = 0 if trace is None else int((trace.input_tokens + trace.output_tokens).max())
    for key, choice, phases in _instances(scenario):
        asked = Asked(
            model=model,
            split=Parallelism.of(choice),
            stack=stack,
            device=hardware.device.id,
            architecture=hardware.device.architecture,
            phases=phases,
            drafts=scenario.speculation.draft_tokens,
            draft=scenario.speculation.draft,
            redundant_slots=scenario.placement.redundant_slots,
            prefix_cache=scenario.prefix_cache.kind != "none",
            decoding=_decoding(scenario, choice, stack, trace),
            longest=longest,
            exchange_chosen=scenario.stack.exchange is not None,
        )
        for finding in server_findings(asked, conditions):
            where = finding.where.replace("parallelism", key) if key else finding.where
            found.setdefault(finding.message, replace(finding, where=where))
    return _gravest_first(found.values())


def _instances(scenario: Scenario) -> Iterator[tuple[str, ParallelismChoice, tuple[Phase, ...]]]:
    """Name the kinds of instances: the key of their split where it is not the usual one, the split, what they run."""
    if not asks(scenario, "disaggregation"):
        yield "", scenario.parallelism, ("prefill", "decode")
        return
    yield "", scenario.parallelism, ("decode",)
    yield "disaggregation.prefill", scenario.disaggregation.prefill, ("prefill",)


def _decoding(scenario: Scenario, choice: ParallelismChoice, stack: StackProfile, trace: RequestTrace | None) -> int:
    """Requests that a rank decodes at once at most [1]; 0 where the load, or the number of ranks, is open."""
    if trace is None or trace.concurrency is None or asks(scenario, "elastic"):
        return 0
    ranks = choice.instances * choice.dp
    return min(-(-trace.concurrency // ranks), int(stack.number("max_running")))
