"""Routing of models whose MoE layers differ: every kind of layer by itself, side by side in the shape of the largest.

A trace holds one number of experts and of slots per token for all layers. A layer with fewer experts has them spread
over the ids of the largest, so that contiguous groups of ids, which are what a linear placement gives to a rank, hold
as many of them as the layer by itself would give; ids between are experts that nobody chooses. Slots that a layer does
not use are empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from workloads.errors import WorkloadError
from workloads.routing.trace import RoutingTrace, routing_fault

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Router:
    """How tokens are routed at a layer: its experts, those of them that compute nothing, and experts per token [1]."""

    num_experts: int
    null_experts: int
    top_k: int

    @property
    def choices(self) -> int:
        """Experts that a token chooses among [1]."""
        return self.num_experts + self.null_experts


def largest(routers: Sequence[Router]) -> Router:
    """Return the shape in which all of these have room."""
    return Router(
        num_experts=max(router.num_experts for router in routers),
        null_experts=max(router.null_experts for router in routers),
        top_k=max(router.top_k for router in routers),
    )


def by_kind(routers: Sequence[Router]) -> Mapping[Router, NDArray[np.int64]]:
    """Return the layers of each kind of router."""
    return {
        router: np.array([layer for layer, own in enumerate(routers) if own == router], dtype=np.int64)
        for router in dict.fromkeys(routers)
    }


def side_by_side(traces: Mapping[Router, RoutingTrace], routers: Sequence[Router]) -> RoutingTrace:
    """Put the traces of all kinds of layers into one.

    Parameters
    ----------
    traces : mapping of Router to RoutingTrace
        Of each kind, the trace of its layers in order. Shorter ones repeat.
    routers : sequence of Router
        The router of every MoE layer.

    Returns
    -------
    RoutingTrace
        Its sequences are those of the longest trace. Experts of smaller layers are spread over the ids of the largest.
    """
    whole = largest(routers)
    first = max(traces.values(), key=lambda trace: trace.tokens)
    ids = np.full((first.tokens, len(routers), whole.top_k), whole.choices, dtype=np.uint16)
    for router, layers in by_kind(routers).items():
        own = traces[router].expert_ids
        spread = _spread(router, whole)[np.resize(own, (first.tokens, *own.shape[1:]))]
        ids[:, layers, : own.shape[2]] = spread
    return RoutingTrace(
        expert_ids=ids if whole.choices >= 2**8 else ids.astype(np.uint8),
        sequence_start=first.sequence_start,
        num_experts=whole.choices,
        source=first.source,
        padded=bool((ids == whole.choices).any()),
    )


def apart(trace: RoutingTrace, routers: Sequence[Router]) -> dict[Router, RoutingTrace]:
    """Take a recorded trace apart by kind of layer.

    Raises
    ------
    WorkloadError
        A layer names experts that it does not have, or another number of them.
    """
    found = {}
    for router, layers in by_kind(routers).items():
        ids = trace.expert_ids[:, layers]
        if trace.padded:
            # What is empty in the trace is empty in the layer, whose first empty id is another.
            ids = np.where(ids == trace.num_experts, router.choices, ids)
        used = trace.top_k if not trace.padded else int((ids < router.choices).sum(axis=2).max(initial=0))
        own = replace(trace, expert_ids=ids, num_experts=router.choices)
        fault = routing_fault(ids, trace.sequence_start, router.choices, padded=trace.padded)
        if fault is not None or used > router.top_k or (used < router.top_k and not trace.padded):
            what = fault or f"it has {used} experts per token"
            raise WorkloadError(
                f"routing trace {trace.source}: MoE layers {_named(layers)}: {what}; the model has {router.choices} "
                f"experts there, top-{router.top_k}; layers that use fewer than others pad their slots with the id "
                f"{trace.num_experts}"
            )
        found[router] = own if ids.shape[2] <= router.top_k else replace(own, expert_ids=_packed(ids, router))
    return found


def _packed(ids: NDArray[np.integer], router: Router) -> NDArray[np.integer]:
    """Bring the slots that hold experts to the front, and keep as many as the layer has."""
    order = np.argsort(ids == router.choices, axis=2, kind="stable")[:, :, : router.top_k]
    return np.asarray(np.take_along_axis(ids, order, axis=2))


def _spread(router: Router, whole: Router) -> NDArray[np.uint16]:
    """Map the ids of a layer, its empty one among them, to those of the largest."""
    computing = np.arange(router.num_experts) * whole.num_experts // router.num_experts
    null = whole.num_experts + np.arange(router.null_experts)
    return np.concatenate([computing, null, [whole.choices]]).astype(np.uint16)


def _named(layers: NDArray[np.int64]) -> str:
    shown = ", ".join(str(layer) for layer in layers[:4].tolist())
    return shown + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
