"""Play a measured serving run as its benchmark did, and keep what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from simulator import api
from simulator.errors import MoesimError
from simulator.scenario import Scenario
from validation.serving_points import Point
from workloads.dtypes import DTYPE_BYTES
from workloads.model_library import load_model
from workloads.model_spec import ModelSpec

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the simulated run says: the metrics of the point [s], [tokens/s], the 80 % interval as factors on times."""

    predicted: Mapping[str, float]
    interval_80: tuple[float, float]
    warnings: tuple[str, ...]


def point_scenario(point: Point, profiles: Path | None = None) -> Scenario:
    """Build the scenario of a measured run: a closed loop from an empty server, its lengths, nothing left out.

    Raises
    ------
    MoesimError
        The model is unknown, or the run needs what scenarios cannot say.
    """
    pool = point.pools[0]
    model: dict[str, Any] = {"name": point.model, **asked_dtypes(load_model(point.model), point.dtypes)}
    hardware = {"device": point.device} | ({"profiles": str(profiles)} if profiles else {})
    lengths = {
        "kind": "uniform",
        "input": point.isl,
        "output": point.osl,
        "range_ratio": point.range_ratio,
    }
    data: dict[str, Any] = {
        "model": model,
        "hardware": hardware,
        "parallelism": {"tp": pool.tp, "dp": pool.dp, "pp": pool.pp, "ep": pool.ep, "instances": pool.workers},
        "stack": {"name": point.stack},
        "requests": {
            "kind": "closed_loop",
            "concurrency": point.concurrency,
            "count": point.requests,
            "lengths": lengths,
        },
    }
    return Scenario.from_mapping(data, point.id)


def asked_dtypes(model: ModelSpec, asked: Mapping[str, str]) -> dict[str, str]:
    """Say which weights to quantise so that a model runs as a table asks.

    A checkpoint that is quantised already, to no more bytes than asked for, runs as it is published: engines do not
    widen weights, nor quantise the parts that the publisher left in 16 bits.
    """
    kv_cache = {"kv_cache": DTYPE_NAMES.get(name, name) for name in [asked.get("kv_cache")] if name}
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


def play(point: Point, profiles: Path | None = None) -> Played | str:
    """Simulate a run; say why where that is not possible."""
    if point.reason:
        return point.reason
    if len(point.pools) > 1:
        return "separate prefill and decode pools are not simulated"
    try:
        result = api.simulate(point_scenario(point, profiles))
    except MoesimError as error:
        return str(error)
    summary = result.summary
    predicted = {
        name: getattr(getattr(summary, f"{name}_s"), point.statistic) for name in ("ttft", "tpot", "e2el")
    } | {"throughput": summary.total_tokens_per_s_per_gpu}
    return Played(predicted=predicted, interval_80=summary.interval_80, warnings=result.warnings)
