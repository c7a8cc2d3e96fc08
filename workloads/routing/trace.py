"""A routing trace: the experts that every token chose at every MoE layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from workloads.errors import WorkloadError

if TYPE_CHECKING:
    from numpy.typing import NDArray


#: Most experts of a layer: ids are kept in 16 bits, and one more marks an empty slot [1].
MOST_EXPERTS = 2**16 - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingTrace:
    """Recorded or generated top-k expert ids, tokens of a sequence in order.

    Attributes
    ----------
    expert_ids : integer array, shape (tokens, layers, top_k)
        Logical expert ids.
    sequence_start : int64 array, shape (sequences,)
        Index of the first token of each sequence, ascending; the first is 0.
    num_experts : int
        Experts per layer, so that one nobody chose still counts.
    source : str
        Where it came from: a path, or a generator with its parameters.
    padded : bool
        Whether the id ``num_experts`` marks slots that hold no expert, because the number of experts varies from
        token to token or an assignment was dropped. Empty slots do no work and may repeat.
    """

    expert_ids: NDArray[np.integer]
    sequence_start: NDArray[np.int64]
    num_experts: int
    source: str
    padded: bool = False

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.expert_ids.shape[0])

    @property
    def layers(self) -> int:
        """Number of MoE layers."""
        return int(self.expert_ids.shape[1])

    @property
    def top_k(self) -> int:
        """Slots per token: its experts, or the most experts of any token where the trace is padded."""
        return int(self.expert_ids.shape[2])


def check_routing(trace: RoutingTrace, num_experts: int, layers: int, top_k: int) -> None:
    """Check that a routing trace fits a model; its last experts may simply never have been chosen.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    num_experts, layers, top_k : int
        Routed experts per layer, MoE layers and experts per token of the model.

    Raises
    ------
    WorkloadError
        They differ; the message states both.
    """
    # A padded trace has as many slots as its router ever used, not the model's top-k.
    slots = top_k if trace.padded else trace.top_k
    if trace.num_experts > num_experts or (trace.layers, slots) != (layers, top_k):
        msg = (
            f"routing trace {trace.source}: it has {trace.layers} MoE layers of {trace.num_experts} experts, "
            f"top-{trace.top_k}; the model has {layers} MoE layers of {num_experts} experts, top-{top_k}"
        )
        raise WorkloadError(msg)


def with_experts(trace: RoutingTrace, num_experts: int) -> RoutingTrace:
    """Return a trace that counts more experts, those beyond its own never chosen."""
    if num_experts <= trace.num_experts:
        return trace
    ids = trace.expert_ids
    if trace.padded:
        ids = np.where(ids == trace.num_experts, num_experts, ids.astype(np.int64))
        ids = ids.astype(np.uint8 if num_experts < 256 else np.uint16)
    return replace(trace, expert_ids=ids, num_experts=num_experts)


def routing_fault(
    expert_ids: NDArray[np.integer], sequence_start: NDArray[np.integer], num_experts: int, *, padded: bool = False
) -> str | None:
    """Say what makes these arrays unfit to be a routing trace, naming the token and layer; ``None`` if nothing does.

    Parameters
    ----------
    expert_ids : integer array, shape (tokens, layers, top_k)
        Expert ids.
    sequence_start : integer array, shape (sequences,)
        First token of each sequence.
    num_experts : int
        Experts per layer.
    padded : bool
        Whether slots may be empty, marked with the id ``num_experts``.
    """
    if expert_ids.ndim != 3:
        return f"expert_ids has shape {expert_ids.shape}, expected 3 axes (tokens, layers, top_k)"
    if not np.issubdtype(expert_ids.dtype, np.integer):
        return f"expert_ids holds {expert_ids.dtype}, expected integers"
    if 0 in expert_ids.shape:
        return f"expert_ids is empty: shape {expert_ids.shape}"
    if num_experts < 1 or num_experts > MOST_EXPERTS:
        return f"has {num_experts:,} experts in a layer, expected 1 to {MOST_EXPERTS:,}"
    ids = num_experts + int(padded)
    if expert_ids.min() < 0 or expert_ids.max() >= ids:
        token, layer, slot = np.argwhere((expert_ids < 0) | (expert_ids >= ids))[0]
        given = expert_ids[token, layer, slot]
        expected = f"0 to {num_experts - 1}" + (f", or {num_experts} for an empty slot" if padded else "")
        return f"token {token}, layer {layer}: expert {given} does not exist, expected {expected}"
    repeated = _first_repeat(expert_ids, num_experts)
    if repeated is not None:
        token, layer = repeated
        return f"token {token}, layer {layer}: the same expert twice in {expert_ids[token, layer].tolist()}"
    return _sequence_fault(sequence_start, expert_ids.shape[0])


def _first_repeat(expert_ids: NDArray[np.integer], num_experts: int) -> tuple[int, int] | None:
    """Find the first (token, layer) that names an expert twice. Sorting per chunk keeps the memory bounded."""
    chunk = max(1, 2**22 // (expert_ids.shape[1] * expert_ids.shape[2]))
    for start in range(0, expert_ids.shape[0], chunk):
        ordered = np.sort(expert_ids[start : start + chunk], axis=2)
        same = (ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] < num_experts)
        repeats = same.any(axis=2)
        if repeats.any():
            token, layer = np.argwhere(repeats)[0]
            return start + int(token), int(layer)
    return None


def _sequence_fault(sequence_start: NDArray[np.integer], tokens: int) -> str | None:
    if sequence_start.ndim != 1 or not np.issubdtype(sequence_start.dtype, np.integer) or not len(sequence_start):
        given = f"{sequence_start.dtype} of shape {sequence_start.shape}"
        return f"sequence_start holds {given}, expected one whole number per sequence"
    if sequence_start[0] != 0:
        return f"sequence_start: sequence 0 starts at token {sequence_start[0]}, expected 0"
    steps = np.diff(sequence_start.astype(np.int64))
    if (steps <= 0).any():
        row = int((steps <= 0).argmax()) + 1
        before, start = sequence_start[row - 1 : row + 1]
        return f"sequence_start: sequence {row} starts at token {start}, not after the one before ({before})"
    if sequence_start[-1] >= tokens:
        return f"sequence_start: the last sequence starts at token {sequence_start[-1]} of only {tokens} tokens"
    return None
