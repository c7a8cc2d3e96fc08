"""The verbs of the façade: simulate, estimate, explain, check, save."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.closed_form.steady import mean_load, steady_state, unreachable
from simulator.deployment.deployment import Deployment, deploy
from simulator.deployment.inputs import scenario_requests
from simulator.elastic.report import scaling_report
from simulator.elastic.simulate import run_scaling
from simulator.errors import InfeasibleScenario
from simulator.explanation.explanation import explain
from simulator.explanation.priced import Certainty, decode_certainty
from simulator.placement.replay import expert_spread
from simulator.results.summary import Capacity, Work, measured_window, summarise
from simulator.results.trace import TokenGaps
from simulator.results.values import Estimate, Result
from simulator.results.work import step_slices, step_work
from simulator.run.check import check
from simulator.scenario import Scenario
from simulator.scenario.features import asked_features, asks, beyond_closed_form, left_out_of_closed_form
from simulator.scenario.unread import unread_keys
from simulator.serving.controls.faults import fault_controls
from simulator.serving.controls.rebalance import Rebalance, account_text, rebalance_controls
from simulator.serving.engine import EngineRun, run_engine
from simulator.serving.plan import PoolPlan, kv_link, plan_pools, prefix_caching
from simulator.serving.recorder import column
from simulator.step.components import COMPONENTS
from simulator.step.speculation import answer_steps

if TYPE_CHECKING:
    import pandas as pd

    from workloads.requests.trace import RequestTrace

__all__ = ["beyond_closed_form", "check", "estimate", "explain", "save", "simulate"]


def simulate(scenario: Scenario, *, progress: Callable[[float], None] | None = None) -> Result:
    """Play the scenario's requests through its deployment, one event per engine step.

    Parameters
    ----------
    scenario : Scenario
        What to run.
    progress : callable, optional
        Told the share of requests that are done; may raise to cancel.

    Returns
    -------
    Result
        Frames, summary, breakdown and warnings; the same for the same scenario.

    Raises
    ------
    MoesimError
        Something cannot be loaded, does not match or does not fit.
    """
    began = time.perf_counter()
    trace = scenario_requests(scenario.requests, scenario.seed)
    if asks(scenario, "elastic"):
        return _scaled(scenario, trace, began, progress)
    plans = plan_pools(scenario, trace)
    moves: list[Rebalance] = []
    run = run_engine(
        trace,
        [plan.pool() for plan in plans],
        balance=scenario.stack.balancer,
        frontend=plans[0].deployment.stack.number("frontend"),
        link=kv_link(scenario, plans),
        caching=prefix_caching(scenario, trace, plans),
        answer_steps=answer_steps(scenario.speculation, trace.output_tokens, scenario.seed),
        controls=(*fault_controls(scenario, plans), *rebalance_controls(scenario, plans, moves)),
        seed=scenario.seed,
        progress=progress,
    )
    result = _result(scenario, plans, trace, run, began)
    if not moves:
        return result
    rows = tuple(move.document() for move in moves)
    return replace(result, rebalances=rows, warnings=(*result.warnings, account_text(moves)))


def _scaled(scenario: Scenario, trace: RequestTrace, began: float, progress: Callable[[float], None] | None) -> Result:
    """Play the requests while the deployment changes its size; rates per device are over the devices that were held."""
    run = run_scaling(scenario, trace, progress=progress)
    report = scaling_report(run)
    up = report.instances[report.instances["state"] != "starting"]
    span, devices = float((up["end_s"] - up["start_s"]).sum()), report.summary.devices_mean
    result = _result(scenario, run.pools(), trace, run.engine, began, span=span, devices=devices)
    return replace(result, scaling=report, warnings=(*result.warnings, *run.warnings))


def _result(
    scenario: Scenario,
    plans: Sequence[PoolPlan],
    trace: RequestTrace,
    run: EngineRun,
    began: float,
    *,
    span: float | None = None,
    devices: float | None = None,
) -> Result:
    """Condense a run; ``span`` is the time of all instances together [s] and ``devices`` their devices, where known."""
    deployment = plans[0].deployment
    records, steps = run.requests, run.steps
    arrival, first_token, finish = column(records.arrival), column(records.first_token), column(records.finish)
    window = measured_window(
        arrival,
        finish,
        warmup=scenario.run.warmup_requests,
        drain=scenario.run.drain,
        closed_loop=trace.concurrency is not None,
    )
    parts = [(plan.deployment, _rows(steps, plan.ran(steps["instance"]))) for plan in plans]
    breakdown = _breakdown(parts, run.end * sum(plan.instances for plan in plans) if span is None else span)
    work = [step_work(each, own) for each, own in parts]
    summary = summarise(
        window=window,
        arrival=arrival,
        first_token=first_token,
        finish=finish,
        input_tokens=trace.input_tokens,
        output_tokens=trace.output_tokens,
        preemptions=column(records.preemptions),
        steps=steps,
        gaps=run.gaps,
        slo=scenario.slo,
        work=Work(flops=sum(each.flops for each in work), memory_bytes=sum(each.memory_bytes for each in work)),
        capacity=_capacity(deployment, sum(plan.devices for plan in plans) if devices is None else devices),
        spread=expert_spread(deployment.routing, _mean_batch(steps)),
        simulated=run.end,
        wall=time.perf_counter() - began,
    )
    decoded = float(steps["decode_total"].sum())
    context = round(float(steps["context_total"].sum()) / max(decoded / deployment.limits.query_tokens, 1.0))
    certainty = _certainty(scenario, deployment, _mean_batch(steps), context)
    return Result(
        scenario=scenario,
        summary=replace(
            summary,
            interval_80=certainty.interval_80,
            prefix_hits=_prefix_hits(scenario, trace, column(records.cached)),
            retries=int(column(records.retries).sum()),
        ),
        breakdown=breakdown,
        requests=_request_frame(trace, run, window.requests, moved=scenario.disaggregation.enabled),
        steps=_step_frame(steps),
        slices=tuple(
            drawn for each, own in parts for drawn in step_slices(each, own, scenario.run.traced_steps // len(parts))
        ),
        token_gaps=TokenGaps(values_s=run.gaps["gap_s"], counts=run.gaps["tokens"].astype(np.int64)),
        warnings=(
            *_warnings(trace, deployment, certainty),
            *_unused(scenario, trace, run.end),
            *_repeated(scenario, deployment, steps),
            *_objectives(scenario, plans, trace),
        ),
        provenance=_provenance(scenario, deployment, certainty),
    )


def _prefix_hits(scenario: Scenario, trace: RequestTrace, cached: NDArray[np.int64]) -> float:
    """Share of prompt tokens that were found in a cache [1]; NaN without one."""
    if not asks(scenario, "prefix_cache"):
        return float("nan")
    return float(cached.sum() / trace.input_tokens.sum())


def _rows(steps: dict[str, NDArray[np.float64]], chosen: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    return steps if chosen.all() else {name: values[chosen] for name, values in steps.items()}


def _breakdown(parts: Sequence[tuple[Deployment, dict[str, NDArray[np.float64]]]], span: float) -> dict[str, float]:
    """Seconds by component over all pools; what is left of the span of all instances is idle."""
    total = dict.fromkeys(COMPONENTS, 0.0)
    for deployment, steps in parts:
        for name, seconds in deployment.timer().breakdown(steps).items():
            total[name] += seconds
    total["idle"] = max(span - sum(total.values()), 0.0)
    return total


def _unused(scenario: Scenario, trace: RequestTrace, end: float) -> tuple[str, ...]:
    """Say what of the scenario and its trace had no effect on a run that ended at a time [s]."""
    found = list(unread_keys(scenario))
    if trace.block_hashes is not None and scenario.prefix_cache.kind == "none":
        found.append("the trace says which prompts begin alike, but prefix_cache.kind = 'none' computes all of them")
    for index, fault in enumerate(scenario.faults):
        if fault.at >= end:
            found.append(f"faults.{index} never happens: due at {fault.at:g} s, and all is answered at {end:.3g} s")
    return tuple(found)


def _repeated(scenario: Scenario, deployment: Deployment, steps: dict[str, NDArray[np.float64]]) -> tuple[str, ...]:
    """Say where a recorded routing trace is shorter than the run."""
    routing, served = deployment.routing, float(steps["prompt_total"].sum() + steps["decode_total"].sum())
    if scenario.routing.kind != "trace" or routing is None or served <= routing.tokens:
        return ()
    return (f"the routing trace has {routing.tokens} tokens and repeats: {served:.0f} were routed",)


def _objectives(scenario: Scenario, plans: Sequence[PoolPlan], trace: RequestTrace) -> tuple[str, ...]:
    """Say which objectives nobody can meet; drafts, cached prompts and other sizes are not known to the closed form."""
    beyond = asks(scenario, "elastic") or any(feature.quickens for feature in asked_features(scenario))
    return () if beyond else unreachable(plans[-1].deployment, plans[0].deployment, trace, scenario.slo)


def estimate(scenario: Scenario) -> Estimate:
    """Solve the steady state in closed form, without events.

    Raises
    ------
    MoesimError
        As for :func:`simulate`.
    """
    trace = scenario_requests(scenario.requests, scenario.seed)
    if beyond := beyond_closed_form(scenario):
        raise InfeasibleScenario(f"estimate: the closed form knows nothing of {', '.join(beyond)}; use simulate")
    deployment = deploy(scenario, trace)
    instances = scenario.parallelism.instances
    summary, breakdown = steady_state(
        deployment, trace, instances, scenario.slo, _capacity(deployment, instances * deployment.split.devices)
    )
    context = round(mean_load(trace, instances).context)
    certainty = _certainty(scenario, deployment, round(summary.batch_size_mean), context)
    return Estimate(
        scenario=scenario,
        summary=replace(summary, interval_80=certainty.interval_80),
        breakdown=breakdown,
        warnings=(
            *_warnings(trace, deployment, certainty),
            *unread_keys(scenario),
            *_objectives(scenario, [PoolPlan(role="both", deployment=deployment, instances=instances)], trace),
            *left_out_of_closed_form(scenario),
        ),
        provenance=_provenance(scenario, deployment, certainty),
    )


def save(result: Result, folder: Path) -> Path:
    """Write a result as a folder: Parquet frames, summary, scenario, vLLM-shaped JSON and a Perfetto trace.

    Raises
    ------
    OutputError
        The folder cannot be written, or holds something else; nothing is left half-written.
    """
    from simulator.export import write_result

    return write_result(result, folder)


def _certainty(scenario: Scenario, deployment: Deployment, batch: int, context: int) -> Certainty:
    folder = Path(scenario.hardware.profiles) if scenario.hardware.profiles else None
    return decode_certainty(deployment, batch, context, folder)


def _warnings(trace: RequestTrace, deployment: Deployment, certainty: Certainty) -> tuple[str, ...]:
    beyond = [f"extrapolated: {family} runs beyond the shapes it was measured on" for family in certainty.beyond]
    return (*trace.notes, *deployment.warnings, *beyond)


def _mean_batch(steps: dict[str, NDArray[np.float64]]) -> int:
    """Tokens of the mean decode step."""
    decoding = steps["decode_total"][steps["decode_total"] > 0]
    return round(float(decoding.mean())) if len(decoding) else 0


def _capacity(deployment: Deployment, devices: float) -> Capacity:
    hardware = deployment.hardware
    silicon = hardware.silicon
    return Capacity(
        devices=devices,
        peak=silicon.peak.get("bfloat16", max(silicon.peak.values())),
        memory_bandwidth=silicon.memory_bandwidth,
        price=hardware.price.value if hardware.price else float("nan"),
    )


def _request_frame(trace: RequestTrace, run: EngineRun, measured: NDArray[np.bool_], *, moved: bool) -> pd.DataFrame:
    """Put records into a frame; ``moved`` tells whether KV caches go from one instance to another."""
    import pandas as pd

    records = run.requests
    handed = {"computed_s": column(records.computed), "sent_s": column(records.sent)} if moved else {}
    return pd.DataFrame(
        {
            "request_id": np.arange(len(trace)),
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


def _step_frame(steps: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "instance": steps["instance"].astype(np.int32),
            "start_s": steps["start_s"],
            "duration_s": steps["duration_s"],
            "prefill_tokens": steps["prompt_total"].astype(np.int64),
            "decode_tokens": steps["decode_total"].astype(np.int64),
            "running": steps["running"].astype(np.int64),
            "queue_length": steps["queue_length"].astype(np.int64),
            "kv_use": steps["kv_use"],
            "imbalance": steps["imbalance"],
        }
    )


def _provenance(scenario: Scenario, deployment: Deployment, certainty: Certainty) -> dict[str, str]:
    try:
        moesim = version("moesim")
    except PackageNotFoundError:
        moesim = "unknown"
    hardware = deployment.hardware
    return {
        "moesim": moesim,
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
