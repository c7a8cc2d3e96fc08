"""The verbs of the façade: simulate, estimate, explain, check, save."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.explanation import explain
from simulator.export.vllm_bench import TokenGaps
from simulator.findings import check
from simulator.metrics.recorder import column
from simulator.metrics.summary import Capacity, measured_window, summarise
from simulator.placement.replay import expert_spread
from simulator.results import Estimate, Result
from simulator.scenario import Scenario
from simulator.serving.deployment import Deployment, deploy, scenario_requests
from simulator.serving.engine import EngineRun, Pool, run_engine
from simulator.serving.steady import mean_load, steady_state
from simulator.serving.step_ops import Certainty, decode_certainty
from simulator.serving.work import step_slices, step_work

if TYPE_CHECKING:
    import pandas as pd

    from workloads.request_trace import RequestTrace

__all__ = ["check", "estimate", "explain", "save", "simulate"]


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
    deployment = deploy(scenario, trace)
    instances = scenario.parallelism.instances
    timers = [deployment.timer(index, instances) for index in range(instances)]
    run = run_engine(
        trace,
        [Pool(timers=timers, limits=deployment.limits)],
        balance=scenario.stack.balancer,
        frontend=deployment.stack.number("frontend"),
        progress=progress,
    )
    return _result(scenario, deployment, trace, run, began)


def _result(scenario: Scenario, deployment: Deployment, trace: RequestTrace, run: EngineRun, began: float) -> Result:
    records, steps = run.requests, run.steps
    arrival, first_token, finish = column(records.arrival), column(records.first_token), column(records.finish)
    window = measured_window(
        arrival,
        finish,
        warmup=scenario.run.warmup_requests,
        drain=scenario.run.drain,
        closed_loop=trace.concurrency is not None,
    )
    timer = deployment.timer()
    breakdown = timer.breakdown(steps)
    instances = scenario.parallelism.instances
    breakdown["idle"] = max(run.end * instances - sum(breakdown.values()), 0.0)
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
        work=step_work(deployment, steps),
        capacity=_capacity(deployment, instances),
        spread=expert_spread(deployment.routing, _mean_batch(steps)),
        simulated=run.end,
        wall=time.perf_counter() - began,
    )
    decoded = float(steps["decode_total"].sum())
    context = round(float(steps["context_total"].sum()) / max(decoded, 1.0))
    certainty = _certainty(scenario, deployment, _mean_batch(steps), context)
    return Result(
        scenario=scenario,
        summary=replace(summary, interval_80=certainty.interval_80),
        breakdown=breakdown,
        requests=_request_frame(trace, run, window.requests),
        steps=_step_frame(steps),
        slices=step_slices(deployment, steps, scenario.run.traced_steps),
        token_gaps=TokenGaps(values_s=run.gaps["gap_s"], counts=run.gaps["tokens"].astype(np.int64)),
        warnings=_warnings(trace, deployment, certainty),
        provenance=_provenance(scenario, deployment, certainty),
    )


def estimate(scenario: Scenario) -> Estimate:
    """Solve the steady state in closed form, without events.

    Raises
    ------
    MoesimError
        As for :func:`simulate`.
    """
    trace = scenario_requests(scenario.requests, scenario.seed)
    deployment = deploy(scenario, trace)
    instances = scenario.parallelism.instances
    summary, breakdown = steady_state(deployment, trace, instances, scenario.slo, _capacity(deployment, instances))
    context = round(mean_load(trace, instances).context)
    certainty = _certainty(scenario, deployment, round(summary.batch_size_mean), context)
    return Estimate(
        scenario=scenario,
        summary=replace(summary, interval_80=certainty.interval_80),
        breakdown=breakdown,
        warnings=_warnings(trace, deployment, certainty),
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


def _capacity(deployment: Deployment, instances: int) -> Capacity:
    hardware = deployment.hardware
    silicon = hardware.silicon
    return Capacity(
        devices=deployment.split.devices * instances,
        peak=silicon.peak.get("bfloat16", max(silicon.peak.values())),
        memory_bandwidth=silicon.memory_bandwidth,
        price=hardware.price.value if hardware.price else float("nan"),
    )


def _request_frame(trace: RequestTrace, run: EngineRun, measured: NDArray[np.bool_]) -> pd.DataFrame:
    import pandas as pd

    records = run.requests
    return pd.DataFrame(
        {
            "request_id": np.arange(len(trace)),
            "instance": column(records.instance),
            "rank": column(records.rank),
            "arrival_s": column(records.arrival),
            "admitted_s": column(records.admitted),
            "first_token_s": column(records.first_token),
            "finish_s": column(records.finish),
            "input_tokens": trace.input_tokens,
            "output_tokens": trace.output_tokens,
            "preemptions": column(records.preemptions),
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
