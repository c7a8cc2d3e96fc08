"""Play a measured serving run as its benchmark did, and keep what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from hardware_profiles.loader import cluster_names, load_cluster
from simulator import api
from simulator.deployment.inputs import scenario_hardware, scenario_model
from simulator.errors import MoesimError
from simulator.hardware import Hardware, load_hardware
from simulator.ops import Op, StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.scenario import Scenario
from simulator.stack import customised
from validation.serving.points import Point, Pool
from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.library import load_model
from workloads.models.spec import ModelSpec

#: Dtypes by the names that measurement tables use for them.
DTYPE_NAMES: Mapping[str, str] = {
    "float16": "bfloat16",
    "half": "bfloat16",
    "bf16": "bfloat16",
    "int8_wo": "int8",
    "int4_wo": "int4",
    "fp8_static": "fp8",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",
    "w4afp8": "int4",
}

#: How tokens choose experts where nobody recorded it. Popularity of experts that is Dirichlet with a concentration of
#: 1.5 touches as many experts, and loads the busiest rank as much, as the recorded routing of gpt-oss-20b does at
#: batches of 4 to 128. The random prompts of benchmarks are more alike; 0.8 fits them best.
ROUTING: Mapping[str, Any] = {"kind": "dirichlet", "alpha": 0.8, "tokens": 4096}

#: Share of the experts' traffic of an even router that the most uneven recorded router still causes [1].
ROUTED_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the simulated run says: the metrics of the point [s], [tokens/s], the 80 % interval as factors on times."""

    predicted: Mapping[str, float]
    interval_80: tuple[float, float]
    warnings: tuple[str, ...]


def point_scenario(point: Point, profiles: Path | None = None, routing: Mapping[str, Any] = ROUTING) -> Scenario:
    """Build the scenario of a measured run: a closed loop from an empty server, its lengths, nothing left out.

    Raises
    ------
    MoesimError
        The model is unknown, or the run needs what scenarios cannot say.
    """
    pool = point.pools[-1]
    model: dict[str, Any] = {"name": point.model, **asked_dtypes(load_model(point.model), point.dtypes)}
    data: dict[str, Any] = {
        "model": model,
        "hardware": _hardware(point, profiles),
        "parallelism": _split(pool),
        "stack": {"name": point.stack},
        "requests": _requests(point),
        "routing": dict(routing),
        # Its client counted from the first request to the last answer.
        "run": {"warmup_requests": 0, "drain": True},
    }
    if len(point.pools) > 1:
        data["disaggregation"] = {"enabled": True, "prefill": _split(point.pools[0])}
    return Scenario.from_mapping(data, point.id)


def _requests(point: Point) -> dict[str, Any]:
    """Requests as the file has them one by one, else a closed loop of its lengths."""
    if point.trace is not None:
        return {"kind": "trace", "trace": str(point.trace)}
    lengths = {"kind": "uniform", "input": point.isl, "output": point.osl, "range_ratio": point.range_ratio}
    return {
        "kind": "closed_loop",
        "concurrency": point.concurrency,
        "count": point.requests,
        "lengths": lengths,
    }


def _split(pool: Pool) -> dict[str, int]:
    return {"tp": pool.tp, "dp": pool.dp, "pp": pool.pp, "ep": pool.ep, "instances": pool.workers}


def _hardware(point: Point, profiles: Path | None) -> dict[str, str]:
    """Name the device and, where a run leaves one node, the first cluster of its usual nodes."""
    chosen = {"device": point.device} | ({"profiles": str(profiles)} if profiles else {})
    node = load_hardware(point.device, folder=profiles).node
    if point.devices > node.devices:
        clusters = (name for name in cluster_names(profiles) if load_cluster(name, profiles).node == node.id)
        if (cluster := next(clusters, None)) is not None:
            chosen["cluster"] = cluster
    return chosen


def asked_dtypes(model: ModelSpec, asked: Mapping[str, str]) -> dict[str, str]:
    """Say which weights to quantise so that a model runs as a table asks.

    A checkpoint that is quantised already, to no more bytes than asked for, runs as it is published: engines do not
    widen weights, nor quantise the parts that the publisher left in 16 bits.
    """
    cache = asked.get("kv_cache")
    kv_cache = {"kv_cache": DTYPE_NAMES.get(cache, cache)} if cache else {}
    wanted = asked.get("experts" if model.moe_layers else "dense")
    if wanted is None:
        return kv_cache
    wanted = DTYPE_NAMES.get(wanted, wanted)
    own = model.dtypes.experts if model.moe_layers else model.dtypes.dense_ffn
    if wanted in DTYPE_BYTES and _bits(own) <= _bits(wanted):
        return kv_cache
    return {"weights": wanted, **kv_cache}


def _bits(dtype: str) -> int:
    """Bits of an element without its scales."""
    return int(8 * DTYPE_BYTES[cast("Any", dtype)])


def play(point: Point, profiles: Path | None = None, routing: Mapping[str, Any] = ROUTING) -> Played | str:
    """Simulate a run; say why where that is not possible."""
    if point.reason:
        return point.reason
    try:
        scenario = point_scenario(point, profiles, routing)
        if doubt := disagreement(point, scenario):
            return doubt
        result = api.simulate(scenario)
    except MoesimError as error:
        return str(error)
    summary = result.summary
    predicted = {name: getattr(getattr(summary, f"{name}_s"), point.statistic) for name in ("ttft", "tpot", "e2el")} | {
        "throughput": summary.total_tokens_per_s_per_gpu
    }
    return Played(predicted=predicted, interval_80=summary.interval_80, warnings=result.warnings)


def disagreement(point: Point, scenario: Scenario) -> str:
    """Say why a measurement cannot be what its row describes; empty where it can.

    By Little's law ``concurrency * tpot * answers / e2el`` requests decode at a time. Their step must read the weights
    and the KV cache at no more than the datasheet's bandwidth, and compute at no more than its peak.
    """
    ttft, tpot = point.measured.get("ttft", math.nan), point.measured.get("tpot", math.nan)
    if len(point.pools) > 1 or not (math.isfinite(ttft) and math.isfinite(tpot)):
        return ""
    answer = point.osl * (1 + point.range_ratio) / 2
    running = point.concurrency / point.devices * point.pools[0].tp * point.pools[0].pp
    running *= answer * tpot / (ttft + answer * tpot)
    floor = step_floor(scenario, running, point.isl * (1 + point.range_ratio) / 2 + answer / 2)
    if floor <= tpot:
        return ""
    return (
        f"disagrees with physics: TTFT and TPOT leave {running:.0f} requests decoding on each rank, whose step "
        f"takes {1e3 * floor:.2f} ms at the datasheet's bandwidth and peak; measured {1e3 * tpot:.2f} ms"
    )


def step_floor(scenario: Scenario, sequences: float, context: float, prompt: float = 0.0) -> float:
    """Least time of a step [s]: all its traffic at the datasheet's bandwidth, or all its arithmetic at the peak.

    Parameters
    ----------
    scenario : Scenario
        Model, split and hardware.
    sequences, context : float
        Sequences that decode on a rank [1], and tokens of each [tokens].
    prompt : float
        New prompt tokens beside them [tokens].
    """
    ops, hardware = step_ops(scenario, sequences, context, prompt)
    # An even router touches the most experts; a floor must not count more than some router would.
    spared = {"moe": ROUTED_SHARE}
    traffic = sum(float(np.mean(op.memory_bytes)) * op.repeat * spared.get(op.kind, 1.0) for op in ops)
    flops = sum(float(np.mean(op.flops)) * op.repeat for op in ops)
    silicon = hardware.silicon
    return max(traffic / silicon.memory_bandwidth, flops / max(silicon.peak.values())) / scenario.parallelism.pp


def step_ops(
    scenario: Scenario, sequences: float, context: float, prompt: float = 0.0
) -> tuple[tuple[Op, ...], Hardware]:
    """List the ops that a step runs on a rank, routing even, and the hardware.

    Parameters
    ----------
    scenario, sequences, context, prompt
        As for :func:`step_floor`.
    """
    split = Parallelism.of(scenario.parallelism)
    shape = StepShape(
        prefill_tokens=prompt,
        prefill_sequences=1.0 if prompt else 0.0,
        decode_sequences=sequences,
        decode_context=context,
    )
    ops = build_ops(scenario_model(scenario.model), split, customised(scenario.stack), shape)
    hardware = scenario_hardware(scenario.hardware, split.devices)
    return tuple(op for op in ops if np.any(op.rows > 0)), hardware
