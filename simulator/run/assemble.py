"""Answers from what was played or solved: summary, breakdown, frames, warnings and where the numbers come from."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, weighted_sum
from simulator.closed_form.load import asked_rate, mean_load
from simulator.closed_form.steady import Asked, approximations, steady_states
from simulator.compiled import engine
from simulator.deployment.deployment import Deployment
from simulator.deployment.fingerprint import fingerprint
from simulator.deployment.layout import layer_slots
from simulator.deployment.servers import server_warnings
from simulator.explanation.imbalance import imbalance_cost
from simulator.explanation.priced import Certainty, asked_step, decode_certainty, judge_together
from simulator.placement.replay import expert_spread
from simulator.results.columns import Columns
from simulator.results.packed import PackedColumns, total
from simulator.results.sessions import late_turns, session_summary
from simulator.results.setup import setup_of
from simulator.results.summary import Capacity, Records, Work, parts_inside, share_inside, summarise, whole_figures
from simulator.results.trace import TokenGaps
from simulator.results.values import Estimate, ImbalanceCost, Overload, PoolTime, Result, Summary, WholeRun
from simulator.results.window import Window, whole_run
from simulator.results.work import step_slices, step_work
from simulator.run.extent import warmup_notes
from simulator.run.objectives import missed, unreachable, unreachable_in_run
from simulator.run.overloads import at_capacity, exceeded_capacity
from simulator.run.peaks import left_out_of_means, part_played, peak_by_means
from simulator.run.sustained import judged
from simulator.scenario import Scenario
from simulator.scenario.features import asks, left_out_of_closed_form
from simulator.scenario.unread import unread_keys
from simulator.serving.recorder import column
from simulator.step.components import COMPONENTS
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import follows, session_columns

if TYPE_CHECKING:
    from simulator.run.plan import RunPlan
    from simulator.serving.engine import EngineRun

#: The steps that one pool ran.
_Part = tuple[Deployment, PackedColumns]


def assemble(plan: RunPlan, run: EngineRun, *, wall: float) -> Result:
    """Condense a run that was played.

    Parameters
    ----------
    plan : RunPlan
        What was played.
    run : EngineRun
        What the engine recorded.
    wall : float
        What it took [s].
    """
    # Here, as an estimate is assembled without the engine.
    from simulator.elastic.report import scaling_report
    from simulator.serving.controls.rebalance import account_text

    scenario, trace, deployment = plan.scenario, plan.trace, plan.played[0].deployment
    records = _records(trace, run)
    found = judged(scenario, trace, records, plan.pools, _waited(scenario, run))
    window = found.window
    parts = [(pool.deployment, _rows(run.steps, pool.ran(run.steps["instance"]))) for pool in plan.played]
    work = [step_work(each, steps, lambda part: share_inside(part, window)) for each, steps in parts]
    batch, context = _mean_decode(deployment, run.steps, window)
    devices = plan.devices(window.begin, window.end)
    summary = summarise(
        records,
        window,
        slo=scenario.slo,
        work=Work(flops=sum(each.flops for each in work), memory_bytes=sum(each.memory_bytes for each in work)),
        capacity=_capacity(deployment, devices),
        spread=expert_spread(deployment.routing, batch, slots=layer_slots(deployment.model, deployment.routing)),
        wall=wall,
        offered=found.offered,
    )
    certainty = _certainty(scenario, deployment, batch, context)
    scaler = plan.scaler
    return Result(
        scenario=scenario,
        summary=replace(
            summary,
            interval_80=certainty.interval_80,
            devices_mean=devices,
            prefix_hits=_prefix_hits(scenario, trace, column(run.requests.cached)),
        ),
        breakdown=_breakdown(parts, window, plan.instance_seconds(window.begin, window.end)),
        pool_times=_pool_times(plan, parts, window) if asks(scenario, "disaggregation") else {},
        request_columns=_request_columns(trace, run, window.requests, moved=asks(scenario, "disaggregation")),
        step_columns=_step_columns(run.steps),
        slices=tuple(
            drawn for each, own in parts for drawn in step_slices(each, own, scenario.run.traced_steps // len(parts))
        ),
        token_gaps=TokenGaps(columns=run.gaps),
        scaling=None if scaler is None else scaling_report(scaler.fleet, scaler.log, run),
        sessions=session_summary(trace, records, window),
        warnings=(
            *server_warnings(scenario, deployment, trace),
            *found.warnings,
            *_warnings(trace, deployment, certainty),
            *_late(trace, records.arrival),
            *_unused(scenario, trace, run.end),
            *_repeated(scenario, deployment, run.steps),
            *unreachable_in_run(plan),
            *((account_text(plan.rebalances),) if plan.rebalances else ()),
        ),
        provenance=_provenance(scenario, deployment, certainty),
        rebalances=tuple(move.document() for move in plan.rebalances),
        setup=setup_of(scenario, deployment.hardware, trace),
        imbalance_cost=_imbalance_cost(_deployed(plan), deployment, batch, context),
        measured=found.measured,
        whole_run=_whole(plan, records),
        overload=found.overload,
    )


def assemble_estimates(asked: Sequence[tuple[Scenario, RequestTrace, Deployment]]) -> list[Estimate]:
    """Solve the steady states of loads of one deployment, and say where the answers come from.

    Parameters
    ----------
    asked : sequence of (Scenario, RequestTrace, Deployment)
        Scenarios with their loads, on deployments that differ in their limits alone; the last one's tables reach as far
        as those of all others.
    """
    loads = [
        mean_load(trace, scenario.parallelism.instances, asked_rate(scenario.requests, trace))
        for scenario, trace, _ in asked
    ]
    states = steady_states(
        [
            Asked(
                deployment=deployment,
                load=load,
                instances=scenario.parallelism.instances,
                slo=scenario.slo,
                capacity=_capacity(deployment, scenario.parallelism.instances * deployment.split.devices),
            )
            for (scenario, _, deployment), load in zip(asked, loads, strict=True)
        ]
    )
    if asked:
        scenario, _, deployment = asked[-1]
        judge_together(deployment, [round(summary.batch_size_mean) for summary, _ in states], _folder(scenario))
    estimates = []
    for (scenario, trace, deployment), load, (summary, breakdown) in zip(asked, loads, states, strict=True):
        certainty = _certainty(scenario, deployment, round(summary.batch_size_mean), round(load.context))
        exceeded = exceeded_capacity(summary, scenario.parallelism.instances)
        estimates.append(
            Estimate(
                scenario=scenario,
                summary=replace(
                    summary,
                    interval_80=certainty.interval_80,
                    devices_mean=float(scenario.parallelism.instances * deployment.split.devices),
                ),
                breakdown=breakdown,
                overload=exceeded,
                warnings=(
                    *_load_warnings(scenario, trace, deployment, summary, exceeded),
                    *server_warnings(scenario, deployment, trace),
                    *_warnings(trace, deployment, certainty),
                    *unread_keys(scenario),
                    *unreachable([(deployment, deployment)], trace, missed(scenario.slo, summary)),
                    *left_out_of_closed_form(scenario),
                    *approximations(deployment, load),
                ),
                provenance=_provenance(scenario, deployment, certainty),
                setup=setup_of(scenario, deployment.hardware, trace),
            )
        )
    return estimates


def _load_warnings(
    scenario: Scenario, trace: RequestTrace, deployment: Deployment, summary: Summary, exceeded: Overload | None
) -> tuple[str, ...]:
    """Say of an estimate what of its load is more than can be served, or left out."""
    peak = peak_by_means(scenario, trace, deployment) if exceeded is None else None
    said = (
        "" if exceeded is None else exceeded.text(),
        at_capacity(summary) if exceeded is None else "",
        "" if peak is None else peak.peak_text(),
        left_out_of_means(scenario.requests, trace),
        part_played(scenario.requests, trace),
    )
    return tuple(text for text in said if text)


def _records(trace: RequestTrace, run: EngineRun) -> Records:
    requests = run.requests
    return Records(
        arrival=column(requests.arrival),
        first_token=column(requests.first_token),
        finish=column(requests.finish),
        input_tokens=trace.input_tokens,
        output_tokens=trace.output_tokens,
        preemptions=column(requests.preemptions),
        retries=column(requests.retries),
        steps=run.steps,
        gaps=run.gaps,
    )


def _rows(steps: PackedColumns, chosen: NDArray[np.bool_]) -> PackedColumns:
    return steps if chosen.all() else steps.chosen(chosen)


def _whole(plan: RunPlan, records: Records) -> WholeRun:
    window = whole_run(records.arrival, records.finish)
    held = _capacity(plan.played[0].deployment, plan.devices(window.begin, window.end))
    return whole_figures(records, window, held)


def _waited(scenario: Scenario, run: EngineRun) -> FloatArray | None:
    """How long requests waited for a place where they decode; ``None`` where they stay where they came."""
    if not asks(scenario, "disaggregation"):
        return None
    return np.asarray(column(run.requests.sent) - column(run.requests.computed))


def _breakdown(parts: Sequence[_Part], window: Window, span: float) -> dict[str, float]:
    """Seconds of a window by component, over all pools; what is left of the span of all instances [s] is idle."""
    total = dict.fromkeys(COMPONENTS, 0.0)
    for deployment, steps in parts:
        timer = deployment.engine_timer()
        for part in steps.parts():
            for name, seconds in timer.breakdown(part, share_inside(part, window)).items():
                total[name] += seconds
    total["idle"] = max(span - sum(total.values()), 0.0)
    return total


def _pool_times(plan: RunPlan, parts: Sequence[_Part], window: Window) -> dict[str, PoolTime]:
    """Steps and seconds by component of each pool in a window, the pool of prompts first."""
    times = {
        pool.role: PoolTime(
            steps=sum(float(inside.sum()) for _, inside in parts_inside(part[1], window)),
            breakdown=_breakdown([part], window, (window.end - window.begin) * pool.instances),
        )
        for pool, part in zip(plan.played, parts, strict=True)
    }
    return dict(sorted(times.items(), reverse=True))


def _prefix_hits(scenario: Scenario, trace: RequestTrace, cached: NDArray[np.int64]) -> float:
    """Share of prompt tokens that were found in a cache [1]; NaN without one."""
    if not asks(scenario, "prefix_cache"):
        return float("nan")
    return float(cached.sum() / trace.input_tokens.sum())


def _mean_decode(deployment: Deployment, steps: PackedColumns, window: Window) -> tuple[int, int]:
    """Tokens of the mean decode step of a window, and the KV length that a decoded token sees on average [tokens]."""
    decoding = decoded = attended = 0.0
    for part, inside in parts_inside(steps, window):
        decoding += float(weighted_sum(inside, part["decode_total"] > 0))
        decoded += float(weighted_sum(inside, part["decode_total"]))
        attended += float(weighted_sum(inside, part["context_total"]))
    sequences = max(decoded / deployment.limits.query_tokens, 1.0)
    return round(decoded / decoding) if decoding else 0, round(attended / sequences)


def _capacity(deployment: Deployment, devices: float) -> Capacity:
    hardware = deployment.hardware
    silicon = hardware.silicon
    return Capacity(
        devices=devices,
        peak=silicon.peak.get("bfloat16", max(silicon.peak.values())),
        memory_bandwidth=silicon.memory_bandwidth,
        price=hardware.price.value if hardware.price else float("nan"),
    )


def _certainty(scenario: Scenario, deployment: Deployment, batch: int, context: int) -> Certainty:
    return decode_certainty(deployment, batch, context, _folder(scenario))


def _deployed(plan: RunPlan) -> Scenario:
    """Return the scenario as it was deployed: one that changes its size pads its experts at each of them."""
    if plan.scaler is None:
        return plan.scenario
    from simulator.elastic.fleet import sized

    first = plan.played[0].deployment
    return sized(plan.scenario, first.split.dp, first.model)


def _imbalance_cost(scenario: Scenario, deployment: Deployment, batch: int, context: int) -> ImbalanceCost | None:
    """Compare the mean decode step with a balanced one; nothing where none decoded."""
    sequences = round(batch / deployment.limits.query_tokens)
    if sequences < 1:
        return None
    return imbalance_cost(scenario, deployment, asked_step(deployment, "decode", sequences, context))


def _folder(scenario: Scenario) -> Path | None:
    """Return the folder of the user's profiles."""
    return Path(scenario.hardware.profiles) if scenario.hardware.profiles else None


def _warnings(trace: RequestTrace, deployment: Deployment, certainty: Certainty) -> tuple[str, ...]:
    beyond = [f"extrapolated: {family} runs beyond the shapes it was measured on" for family in certainty.beyond]
    return (*deployment.model.notes, *trace.notes, *deployment.warnings, *beyond)


def _late(trace: RequestTrace, sent: FloatArray) -> tuple[str, ...]:
    """Say how many turns came later than their trace has them."""
    late = late_turns(trace, sent)
    if not late:
        return ()
    return (f"{late} turns were sent later than their trace says: the answer before them had not ended",)


def _unused(scenario: Scenario, trace: RequestTrace, end: float) -> tuple[str, ...]:
    """Say what of the scenario and its trace had no effect on a run that ended at a time [s]."""
    found = [*unread_keys(scenario), *warmup_notes(scenario, trace)]
    if (trace.block_hashes is not None or follows(trace)) and not asks(scenario, "prefix_cache"):
        whose = "the trace says which prompts begin alike" if trace.block_hashes else "turns begin with those before"
        found.append(f"{whose}, but prefix_cache.kind = 'none' computes all of them")
    for index, fault in enumerate(scenario.faults):
        if fault.at >= end:
            found.append(f"faults.{index} never happens: due at {fault.at:g} s, and all is answered at {end:.3g} s")
    return tuple(found)


def _repeated(scenario: Scenario, deployment: Deployment, steps: PackedColumns) -> tuple[str, ...]:
    """Say where a recorded routing trace is shorter than the run."""
    routing, served = deployment.routing, total(steps, "prompt_total") + total(steps, "decode_total")
    if scenario.routing.kind != "trace" or routing is None or served <= routing.tokens:
        return ()
    return (f"the routing trace has {routing.tokens} tokens and repeats: {served:.0f} were routed",)


def _request_columns(trace: RequestTrace, run: EngineRun, measured: NDArray[np.bool_], *, moved: bool) -> Columns:
    """Name the columns of records; ``moved`` tells whether KV caches go from one instance to another."""
    records = run.requests
    turns = dict(zip(("session", "turn"), session_columns(trace), strict=True)) if follows(trace) else {}
    handed = {"computed_s": column(records.computed), "sent_s": column(records.sent)} if moved else {}
    return Columns(
        {
            "request_id": np.arange(len(trace)),
            **turns,
            "instance": column(records.instance),
            "rank": column(records.rank),
            "arrival_s": column(records.arrival),
            "admitted_s": column(records.admitted),
            **handed,
            "first_token_s": column(records.first_token),
            "finish_s": column(records.finish),
            "input_tokens": trace.input_tokens,
            "output_tokens": trace.output_tokens,
            "preemptions": column(records.preemptions),
            "cached_tokens": column(records.cached),
            "retries": column(records.retries),
            "measured": measured,
        }
    )


def _step_columns(steps: PackedColumns) -> Columns:
    return Columns(steps, _named_step)


def _named_step(steps: Mapping[str, FloatArray]) -> dict[str, NDArray[Any]]:
    """Name the columns of steps as readers know them."""
    return {
        "instance": steps["instance"].astype(np.int32),
        "start_s": steps["start_s"],
        "duration_s": steps["duration_s"],
        "prefill_tokens": steps["prompt_total"].astype(np.int64),
        "decode_tokens": steps["decode_total"].astype(np.int64),
        "running": steps["running"].astype(np.int64),
        "queue_length": steps["queue_length"].astype(np.int64),
        "kv_use": steps["kv_use"],
        "rank_imbalance": steps["imbalance"],
    }


def _provenance(scenario: Scenario, deployment: Deployment, certainty: Certainty) -> dict[str, str]:
    hardware = deployment.hardware
    return {
        "moesim": _release(),
        "engine": engine(),
        "fingerprint": fingerprint(scenario),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seed": str(scenario.seed),
        "device": hardware.device.id,
        "node": hardware.node.id,
        "cluster": hardware.cluster.id if hardware.cluster else "",
        "kernels": hardware.evidence,
        "evidence": ", ".join(f"{grade} {share:.0%}" for grade, share in sorted(certainty.evidence.items())),
        "stack": deployment.stack.id,
        "routing_tokens": str(deployment.routing.tokens if deployment.routing else 0),
    }


@cache
def _release() -> str:
    """Version of moesim that is installed; looked up once, as a search of all packages takes a millisecond."""
    try:
        return version("moesim")
    except PackageNotFoundError:
        return "unknown"
