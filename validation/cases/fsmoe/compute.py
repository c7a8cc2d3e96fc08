"""Times of a transformer layer's ops on FSMoE's two testbeds, from shapes, links and a handful of efficiencies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from simulator.kernels.collectives import (
    AllReduceKernel,
    CollectiveKernel,
    all_gather_time,
    all_reduce_time,
    all_to_all_time,
    reduce_scatter_time,
)
from simulator.kernels.kernel import Fabric
from validation.papers.papers import Case

#: Bytes of an element: FSMoE trains in 32 bits.
ELEMENT = 4.0
#: Bytes per second of one Gb/s.
GIGABIT = 1e9 / 8


def figures(case: Case) -> Mapping[str, float]:
    """Time of each op [s], by testbed, model, pass and op."""
    found: dict[str, float] = {}
    for testbed, machine in case.inputs["testbeds"].items():
        for name, model in case.inputs["layers"].items():
            for direction, times in (("fwd", 1.0), ("bwd", 2.0)):
                for op, seconds in layer_ops(case.inputs["batch"], model, machine):
                    # Backward doubles the products; it moves the same bytes between devices.
                    factor = times if op in {"experts", "attention"} else 1.0
                    found[f"{testbed}.{name}.{direction}.{op}"] = factor * seconds
        found.update({f"{testbed}.slope.{op}": seconds for op, seconds in slopes(machine).items()})
    return found


def slopes(machine: Mapping[str, Any]) -> dict[str, float]:
    """Time per byte of each collective [s/byte], in the paper's sizes: what a GPU sends, or what a gather makes."""
    nodes, gpus, port = machine["nodes"], machine["gpus"], machine["nic"] * GIGABIT / machine["gpus"]
    gather = (gpus - 1) / gpus / (machine["bus"] * machine["gather"])
    return {
        "all_to_all": (nodes - 1) / nodes / (port * machine["all_to_all"]),
        "all_gather": gather,
        "reduce_scatter": gather,
        "all_reduce": 2 * (nodes - 1) / nodes / (port * machine["all_reduce"]),
    }


def layer_ops(
    batch: Mapping[str, Any], model: Mapping[str, Any], machine: Mapping[str, Any]
) -> Iterator[tuple[str, float]]:
    """Ops of one layer forward, and the all-reduce of its gradients: expert parallel over nodes, sliced inside.

    Notes
    -----
    Tensor parallelism and the slices of experts span a node (``gpus``), experts the nodes. A token goes to ``top_k``
    experts within a capacity factor; each GPU exchanges its slice's share with its counterparts in other nodes twice
    (dispatch, combine), then gathers its peers' shares, and the layer gathers the hidden states of its slices.
    """
    nodes, gpus = machine["nodes"], machine["gpus"]
    width, tokens = model["width"], batch["sequences"] * batch["length"]
    routed = tokens * batch["top_k"] * batch["capacity"]
    apart = Fabric(
        domain=1,
        scale_up_bandwidth=1.0,
        scale_up_latency=0.0,
        scale_out_bandwidth=machine["nic"] * GIGABIT / gpus,
        scale_out_latency=machine["latency"],
    )
    inside = Fabric(
        domain=gpus,
        scale_up_bandwidth=machine["bus"],
        scale_up_latency=0.0,
        scale_out_bandwidth=1.0,
        scale_out_latency=0.0,
    )
    sent = routed * width * ELEMENT / gpus
    exchange = all_to_all_time(sent, nodes, fabric=apart, kernel=_kernel(machine["all_to_all"]))
    yield "all_to_all", 2.0 * float(exchange.seconds)
    gathered = (routed + tokens) * width * ELEMENT
    ring = _kernel(machine["gather"])
    yield "all_gather", float(all_gather_time(gathered, gpus, fabric=inside, kernel=ring).seconds)
    yield "reduce_scatter", float(reduce_scatter_time(gathered, gpus, fabric=inside, kernel=ring).seconds)
    gradients = model["attention_matrices"] * width**2 * ELEMENT / gpus
    yield (
        "all_reduce",
        float(all_reduce_time(gradients, nodes, fabric=apart, kernel=_ring(machine["all_reduce"])).seconds),
    )
    products = 2.0 * model["matrices"] * width * model["inner"] * routed / gpus
    yield "experts", machine["experts_start"] + products / machine["experts_rate"]
    scores = 4.0 * batch["sequences"] * batch["length"] ** 2 * width / gpus
    projections = 2.0 * model["attention_matrices"] * width**2 * tokens / gpus
    yield "attention", machine["attention_start"] + (projections + scores) / machine["attention_rate"]


def _kernel(share: float) -> CollectiveKernel:
    """A collective that reaches a share of its links and starts at once: messages here are tens of megabytes."""
    return CollectiveKernel(
        launch=0.0,
        hop=0.0,
        efficiency=share,
        own_share=0.0,
        ramp=0.0,
        ramp_bytes=1.0,
        scale_out_efficiency=share,
    )


def _ring(share: float) -> AllReduceKernel:
    return AllReduceKernel(
        launch=0.0, hop=0.0, efficiency=1.0, own_share=0.0, ramp=0.0, ramp_bytes=1.0, scale_out_efficiency=share
    )
