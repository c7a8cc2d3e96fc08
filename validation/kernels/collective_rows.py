"""Rows of the measured tables of collectives and expert exchanges, and the models that predict them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from simulator.arrays import FloatArray
from simulator.exchange import PLAIN_BYTES, WIRE_BYTES
from simulator.hardware import Hardware
from simulator.kernels.collectives import (
    AllReduceKernel,
    CollectiveKernel,
    all_gather_time,
    all_reduce_time,
    all_to_all_time,
    reduce_scatter_time,
)
from simulator.kernels.expert_exchange import ExchangeKernel, dispatch_time
from simulator.kernels.kernel import Fabric, KernelTime

if TYPE_CHECKING:
    import pandas as pd

#: Ranks of one node in the measured tables [1].
NODE = 8
#: Bytes per element of the NCCL tables' dtypes [bytes].
ELEMENT = {"half": 2.0, "int8": 1.0, "bfloat16": 2.0}
#: Bytes per element of a dispatched fp8 activation with one float32 scale per 128, and of a combined one [bytes].
PAYLOAD = {"dispatch": WIRE_BYTES["fp8"], "combine": PLAIN_BYTES}
#: Collectives that go around a ring or in pairs, as the rows name them: their kernel family and its model.
RINGS: Mapping[str, tuple[str, Callable[..., KernelTime]]] = {
    "all_gather": ("all_gather", all_gather_time),
    "reduce_scatter": ("reduce_scatter", reduce_scatter_time),
    "alltoall": ("all_to_all", all_to_all_time),
}


def joined(hardware: Hardware, ranks: int = NODE) -> Fabric:
    """The device's links, with all measured ranks in one domain, whatever the catalogue says of its node."""
    return dataclasses.replace(hardware.fabric, domain=max(hardware.fabric.domain, ranks))


def message_bytes(frame: pd.DataFrame) -> FloatArray:
    """Size of each row's message [bytes]."""
    return frame["message_elems"].to_numpy(dtype=np.float64) * frame["dtype"].map(ELEMENT).to_numpy(dtype=np.float64)


def ranks_of(frame: pd.DataFrame) -> FloatArray:
    """Ranks of each row [1]."""
    return frame["num_gpus"].to_numpy(dtype=np.float64)


def predict_ring(collective: str, frame: pd.DataFrame, *, fabric: Fabric, kernel: CollectiveKernel) -> FloatArray:
    """Predict rows [s] of one of the :data:`RINGS`.

    Parameters
    ----------
    collective : str
        A key of :data:`RINGS`.
    frame : DataFrame
        Measured rows.
    fabric : Fabric
        The links that were measured.
    kernel : CollectiveKernel
        Coefficients.
    """
    _, time = RINGS[collective]
    return time(message_bytes(frame), ranks_of(frame), fabric=fabric, kernel=kernel).seconds


def predict_all_reduce(frame: pd.DataFrame, *, fabric: Fabric, kernel: AllReduceKernel) -> FloatArray:
    """Predict all-reduce rows [s]; 8-bit integers cannot be reduced in the switch."""
    size, ranks = message_bytes(frame), ranks_of(frame)
    inside = all_reduce_time(size, ranks, fabric=fabric, kernel=kernel).seconds
    outside = all_reduce_time(size, ranks, fabric=fabric, kernel=kernel, in_switch=False).seconds
    return np.where(frame["dtype"].eq("int8").to_numpy(), outside, inside)


def predict_exchange(frame: pd.DataFrame, phase: str, *, fabric: Fabric, kernel: ExchangeKernel) -> FloatArray:
    """Predict dispatch or combine rows [s] of the DeepEP tables.

    Parameters
    ----------
    frame : DataFrame
        Measured rows.
    phase : {"dispatch", "combine"}
        Which way.
    fabric : Fabric
        The links that were measured.
    kernel : ExchangeKernel
        Coefficients.
    """
    column: Callable[[str], FloatArray] = lambda name: frame[name].to_numpy(dtype=np.float64)  # noqa: E731
    return dispatch_time(
        column("num_tokens"),
        hidden=column("hidden"),
        top_k=column("top_k"),
        ranks=NODE * column("num_nodes"),
        element_bytes=PAYLOAD[phase],
        num_experts=column("num_experts"),
        units=column(f"{phase}_sms") if f"{phase}_sms" in frame else None,
        fabric=fabric,
        kernel=kernel,
    ).seconds
