"""A run as the output folder that the command line and the dashboard hand out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.export.bundle import Manifest, library_versions, write_bundle
from simulator.export.files import encode_json
from simulator.export.perfetto import encode_trace
from simulator.export.vllm_bench import vllm_bench_result
from simulator.results.columns import Columns

if TYPE_CHECKING:
    import pandas as pd

    from simulator.results.values import Result


def write_result(result: Result, folder: str | Path) -> Path:
    """Write frames, summary, scenario, vLLM-shaped JSON, a Perfetto trace and a manifest; whole or not at all.

    Parameters
    ----------
    result : Result
        What :func:`simulator.simulate` returned.
    folder : str or Path
        Replaced where an earlier run wrote it, refused where it holds anything else.

    Returns
    -------
    Path
        The folder, resolved.

    Raises
    ------
    OutputError
        If the folder cannot be written or replaced.
    """
    scenario = result.scenario
    benchmark = vllm_bench_result(
        result.requests,
        model_id=scenario.model.name,
        date=datetime.now(UTC),
        token_gaps=result.token_gaps,
        **_load(result),
    )
    return write_bundle(
        folder,
        frames={"requests": result.request_columns, "steps": result.step_columns, **_scaling_frames(result)},
        summary=result.document(),
        scenario_toml=scenario.to_toml(),
        manifest=Manifest(scenario_hash=scenario.hash, seed=scenario.seed, versions=library_versions()),
        documents={
            "vllm_bench.json": encode_json(benchmark, indent=None),
            "trace.json": encode_trace(result.slices),
        },
    )


def _scaling_frames(result: Result) -> dict[str, Columns]:
    """Frames of a run that changed its size."""
    scaling = result.scaling
    if scaling is None:
        return {}
    return {
        f"scaling_{name}": Columns(getattr(scaling, name)) for name in ("changes", "phases", "instances", "timeline")
    }


def _load(result: Result) -> dict[str, Any]:
    """Say the load in the terms of ``vllm bench serve``."""
    requests, slo, frame = result.scenario.requests, result.scenario.slo, result.requests
    # Those in flight of a trace are its own, or those of the scenario where it has no times.
    concurrency = requests.concurrency if result.setup is None else result.setup.load.concurrency
    closed = requests.kind == "closed_loop" or (requests.kind == "trace" and concurrency is not None)
    limits = {"ttft": slo.ttft, "tpot": slo.tpot, "e2el": slo.e2el}
    return {
        "request_rate": float("inf") if closed else requests.rate or _arrival_rate(frame),
        # The shape of gamma-distributed gaps is 1 / cv^2.
        "burstiness": requests.cv**-2 if requests.kind == "gamma" else 1.0,
        "max_concurrency": concurrency,
        "goodput_targets_s": {name: limit for name, limit in limits.items() if limit is not None},
    }


def _arrival_rate(frame: pd.DataFrame) -> float:
    """Return the mean rate of a recorded trace [1/s]; infinite where all requests came at once."""
    arrival = frame["arrival_s"].to_numpy()
    span = float(np.ptp(arrival)) if arrival.size else 0.0
    return (arrival.size - 1) / span if span > 0 else float("inf")
