"""Where each millisecond of a step goes: every op with its bound, equation, inputs and their sources."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.edge import shown
from hardware_profiles.units import format_bytes
from simulator.closed_form.steady import occupancy
from simulator.cost.model import OpTime
from simulator.cost.origins import table_origin
from simulator.cost.uncertainty import UNMEASURED, op_spread
from simulator.deployment.deployment import Deployment, deploy
from simulator.deployment.inputs import scenario_requests
from simulator.deployment.servers import server_warnings
from simulator.errors import ScenarioError
from simulator.explanation.imbalance import imbalance_cost
from simulator.explanation.priced import asked_step, priced_step, step_gap
from simulator.explanation.timeline import StepTimeline, draw_step
from simulator.kernels.families import FAMILIES
from simulator.kernels.kernel import matrix_peak
from simulator.results.setup import setup_of
from simulator.results.values import Explanation
from simulator.scenario import Scenario
from simulator.scenario.features import left_out_of_one_step
from simulator.serving.plan import deploy_prompts, prompt_scenario
from workloads.models.spec import Phase
from workloads.requests.trace import RequestTrace

#: Largest batch and context that a step is asked for [1].
_MOST = 10_000_000
#: Coefficients that say which share of the peak a kernel's arithmetic reaches.
_EFFICIENCIES = ("compute", "compute_efficiency")
#: Least share of the way of its tiles that arithmetic must take for a kernel to be bound by it [1].
_ARITHMETIC = 0.5


def explain(
    scenario: Scenario,
    *,
    phase: Phase = "decode",
    batch: int | None = None,
    context: int | None = None,
) -> Explanation:
    """Take one step apart, op by op.

    Parameters
    ----------
    scenario : Scenario
        What runs.
    phase : {"prefill", "decode"}
        Whether the step computes prompts or decodes.
    batch : int, optional
        Sequences in the step over all data-parallel ranks; the steady state's where absent (prefill: 1) [1].
    context : int, optional
        KV length (decode) or prompt length (prefill); the load's mean where absent, of a prompt no more than a step may
        hold [tokens].

    Raises
    ------
    MoesimError
        As for :func:`simulator.simulate`.
    """
    trace = scenario_requests(scenario.requests, scenario.seed)
    asked, scenario = scenario, _pool(scenario, phase)
    deployment = deploy(scenario, trace) if scenario is asked else deploy_prompts(asked, trace)
    sequences, length = _defaults(deployment, trace, phase, batch, context, scenario.parallelism.instances)
    work = asked_step(deployment, phase, sequences, length)
    times = priced_step(deployment, work)
    gap = step_gap(deployment, work, sum(float(time.seconds + time.imbalance_wait) for time in times))
    folder = Path(scenario.hardware.profiles) if scenario.hardware.profiles else None
    rows = [_op_row(deployment, time, folder) for time in times if float(time.seconds) > 0.0]
    rows += [_wait_row(time) for time in times if float(time.imbalance_wait) > 0.0]
    drawn = None
    if deployment.stack.overlap != "none" and deployment.tables.exchanges:
        drawn = _drawn(scenario, deployment, trace, phase, sequences, length)
    if drawn is not None and drawn.overlap != "none":
        rows.append(_overlap_row(drawn))
        gap = drawn.host_s
    rows.append(_gap_row(deployment, gap))
    total = sum(row["time_s"] for row in rows)
    for row in rows:
        row["share"] = row["time_s"] / total
    import pandas as pd

    return Explanation(
        scenario=asked,
        phase=phase,
        batch=sequences,
        context=length,
        step_s=total,
        ops=pd.DataFrame(rows),
        warnings=_step_warnings(asked, trace, deployment, phase, sequences, length),
        hidden=None if drawn is None else pd.DataFrame(hidden_rows(drawn)),
        setup=setup_of(asked, deployment.hardware, trace),
        imbalance_cost=imbalance_cost(scenario, deployment, work),
    )


def timeline(
    scenario: Scenario,
    *,
    phase: Phase = "decode",
    batch: int | None = None,
    context: int | None = None,
) -> StepTimeline:
    """Draw one step op by op on the streams of its ranks.

    Parameters
    ----------
    scenario, phase, batch, context
        As for :func:`explain`.

    Raises
    ------
    MoesimError
        As for :func:`simulator.simulate`.
    """
    trace = scenario_requests(scenario.requests, scenario.seed)
    asked, scenario = scenario, _pool(scenario, phase)
    deployment = deploy(scenario, trace) if scenario is asked else deploy_prompts(asked, trace)
    sequences, length = _defaults(deployment, trace, phase, batch, context, scenario.parallelism.instances)
    drawn = _drawn(scenario, deployment, trace, phase, sequences, length)
    return replace(drawn, warnings=_step_warnings(asked, trace, deployment, phase, sequences, length))


def _pool(scenario: Scenario, phase: str) -> Scenario:
    """Return the scenario of the instances that run such a step: prompts may have instances of their own."""
    return prompt_scenario(scenario) if scenario.disaggregation.enabled and phase == "prefill" else scenario


def _step_warnings(
    asked: Scenario, trace: RequestTrace, deployment: Deployment, phase: Phase, sequences: int, length: int
) -> tuple[str, ...]:
    """What the server says of it, what a step rests on and leaves out, and what the deployment would never run."""
    served = server_warnings(asked, deployment, trace)
    return (
        *served,
        *deployment.warnings,
        *left_out_of_one_step(asked),
        *_too_much(deployment, phase, sequences, length),
    )


def _too_much(deployment: Deployment, phase: Phase, sequences: int, length: int) -> tuple[str, ...]:
    """Say where a step is larger than the deployment would ever run."""
    limits, found = deployment.limits, []
    most = max(int(deployment.stack.number("max_running")), limits.max_running)
    ranks = "the rank" if limits.dp == 1 else f"each of {limits.dp} ranks"
    tokens = -(-sequences // limits.dp) * length
    if phase == "decode" and sequences > most * limits.dp:
        found.append(f"batch: {sequences} is more than the {most} requests that {ranks} may run at once")
    if phase == "prefill" and tokens > limits.token_budget:
        found.append(f"batch, context: {tokens} tokens are more than the {limits.token_budget} of a step on {ranks}")
    held = -(-sequences // limits.dp) * deployment.budget.sequence_bytes(length)
    if held > deployment.budget.pool:
        found.append(
            f"batch, context: {sequences} sequences of {length} tokens hold {format_bytes(held)} of KV cache on each "
            f"device, which has {format_bytes(deployment.budget.pool)} for it"
        )
    if length > deployment.model.max_context:
        found.append(f"context: {length} is more than the {deployment.model.max_context} tokens that the model knows")
    return tuple(found)


def _drawn(
    scenario: Scenario,
    deployment: Deployment,
    trace: RequestTrace,
    phase: Phase,
    sequences: int,
    length: int,
) -> StepTimeline:
    """Draw a step, with tables that reach as far as its batch where the load alone does not ask for so much."""
    if phase == "decode" and sequences > deployment.limits.max_running * deployment.split.dp:
        deployment = deploy(scenario, replace(trace, concurrency=sequences))
    return draw_step(deployment, phase, sequences, length)


def hidden_rows(drawn: StepTimeline) -> list[dict[str, Any]]:
    """Return one row per kind of communication and of computing beside it: message, beside, time_s [s]."""
    return [
        {"message": message, "beside": beside, "time_s": seconds}
        for (message, beside), seconds in sorted(drawn.beside.items())
        if seconds > 0.0
    ]


def _overlap_row(drawn: StepTimeline) -> dict[str, Any]:
    hidden = drawn.exchanged_s - drawn.exposed_s
    return {
        **_blank(drawn.overlap, "overlap", -drawn.saved_s),
        "bound": "hidden" if drawn.saved_s > 0.0 else "lost",
        "equation": "(time of one batch whose ops follow each other) - (end of the schedule)",
        "inputs": f"communication {drawn.exchanged_s * 1e3:.3g} ms, {hidden * 1e3:.3g} ms of them beside computing",
        "source": "docs/theory/overlap.md",
    }


def _defaults(
    deployment: Deployment,
    trace: RequestTrace,
    phase: str,
    batch: int | None,
    context: int | None,
    instances: int,
) -> tuple[int, int]:
    for name, given in (("batch", batch), ("context", context)):
        if given is not None and not 1 <= given <= _MOST:
            raise ScenarioError(f"{name}: got {shown(given)}, expected 1 to {_MOST:,}, more than any device holds")
    if phase == "prefill":
        mean = round(float(trace.input_tokens.mean()))
        return batch or 1, context or min(mean, deployment.limits.token_budget)
    running, length = occupancy(deployment, trace, instances)
    # Stages of a pipeline run several batches at once, of which a step is one.
    most = deployment.limits.max_running * deployment.split.dp
    return batch or min(max(round(running), 1), most), context or round(length)


def _op_row(deployment: Deployment, time: OpTime, folder: Path | None) -> dict[str, Any]:
    op = time.op
    spread = op_spread(time, deployment.hardware, folder)
    bound = _bound(deployment, time)
    sources = sorted({quantity.source for quantity in time.coefficients.values()})
    return {
        "name": op.name,
        "kind": op.kind,
        "component": op.component,
        "repeat": op.repeat,
        "time_s": float(time.seconds),
        "share": 0.0,
        "bound": bound,
        "flops": float(op.flops) * op.repeat,
        "bytes": float(op.memory_bytes) * op.repeat,
        "message_bytes": float(op.message_bytes) * op.repeat,
        "kernel": time.table,
        "kernel_of": table_origin(deployment.hardware, time.table, op.resource, folder).device,
        "equation": FAMILIES[op.kind].equation,
        "inputs": _inputs(op.shape),
        "source": "; ".join(sources),
        "evidence": spread.evidence + (", extrapolated" if bool(np.any(spread.extrapolated)) else ""),
        "error": float(spread.sigma),
    }


def _bound(deployment: Deployment, time: OpTime) -> str:
    """Name what a kernel waits for most.

    What a kernel calls compute is the way of its tiles, with rows that are padding and the pace of the loop over k:
    with few rows both are far longer than the arithmetic, and more FLOP/s would not help.
    """
    bound = max(time.terms, key=lambda term: float(np.mean(time.terms[term])), default="latency")
    efficiency = next((time.coefficients[key] for key in _EFFICIENCIES if key in time.coefficients), None)
    if bound != "compute" or efficiency is None or time.op.kind not in ("gemm", "moe"):
        return bound
    rate = matrix_peak(str(time.op.shape.dtype), deployment.cost.machine(time.op).silicon) * efficiency.value
    arithmetic = float(np.mean(time.op.flops)) / rate
    return bound if arithmetic >= _ARITHMETIC * float(np.mean(time.terms[bound])) else "latency"


def _wait_row(time: OpTime) -> dict[str, Any]:
    return {
        **_blank("imbalance_wait", "imbalance_wait", float(time.imbalance_wait)),
        "bound": "imbalance",
        "repeat": time.op.repeat,
        "kernel": time.table,
        "equation": "slowest rank - mean rank, averaged over windows of the routing trace",
    }


def _gap_row(deployment: Deployment, gap: float) -> dict[str, Any]:
    quantity = deployment.stack.numbers["cpu_gap"]
    return {
        **_blank("cpu_gap", "cpu_gap", gap),
        "bound": "host",
        "kernel": f"stack {deployment.stack.id}",
        "equation": "cpu_gap + cpu_gap_per_request * requests (+ prefill_gap and launches that the host cannot hide)",
        "source": quantity.source,
        "evidence": quantity.status,
        "error": UNMEASURED,
    }


def _blank(name: str, component: str, seconds: float) -> dict[str, Any]:
    return {
        "name": name,
        "kind": name,
        "component": component,
        "repeat": 1.0,
        "time_s": seconds,
        "share": 0.0,
        "bound": "",
        "flops": 0.0,
        "bytes": 0.0,
        "message_bytes": 0.0,
        "kernel": "",
        "kernel_of": "",
        "equation": "",
        "inputs": "",
        "source": "",
        "evidence": "",
        "error": float("nan"),
    }


def _inputs(shape: Any) -> str:
    """Shorten an op's shape to ``name=value`` pairs; arrays of counts to their sum and maximum."""
    parts = []
    for field in fields(shape):
        value = getattr(shape, field.name)
        array = np.asarray(value) if isinstance(value, (int, float, np.ndarray, np.generic)) else None
        if array is None:
            if isinstance(value, str):
                parts.append(f"{field.name}={value}")
        elif array.size == 1:
            parts.append(f"{field.name}={float(array.reshape(-1)[0]):g}")
        else:
            ranks = array.sum(axis=-1)
            parts.append(f"{field.name}: {ranks.mean():.3g} per rank, hottest {ranks.max(axis=-1).mean():.3g}")
    return ", ".join(parts)
