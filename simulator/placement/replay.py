"""Replay of a routing trace on a placement: the load of every rank at every layer, exactly, in microseconds.

Running sums of tokens per rank make the load of any window of consecutive tokens one difference of two rows. There
are two orders of the tokens: *prompt order*, sequence after sequence, from which prompt chunks take their tokens; and
*decode order*, in which neighbouring tokens belong to different sequences, as the tokens of a decode batch do. Each
order is walked from its start and around.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, IdArray
from simulator.placement.rank_sums import RankSums
from simulator.placement.replica_routing import Assignments, home_ranks, serve
from simulator.placement.slots import Placement
from workloads.models.spec import Phase
from workloads.routing.trace import RoutingTrace

#: Tokens that are counted at a time, so that what is made on the way stays in the cache [tokens].
_CHUNK = 256

#: Size of the counts of windows that a replay keeps for who asks again, as other devices do [bytes].
_KEPT_BYTES = 8e6


class KeptCounts:
    """Counts of windows by order, tokens and number of windows; those kept longest go first."""

    __slots__ = ("_found", "nbytes")

    def __init__(self) -> None:
        self._found: dict[tuple[Phase, int, int], NDArray[np.integer]] = {}
        self.nbytes = 0

    def get(self, key: tuple[Phase, int, int]) -> NDArray[np.integer] | None:
        """Return the counts of a key, if they are kept."""
        return self._found.get(key)

    def keep(self, key: tuple[Phase, int, int], counts: NDArray[np.int64]) -> None:
        """Keep the counts of a key in a type that just holds them."""
        found = self._found | {key: counts.astype(np.min_scalar_type(int(counts.max(initial=0))))}
        while (held := sum(each.nbytes for each in found.values())) > _KEPT_BYTES and len(found) > 1:
            del found[next(iter(found))]
        # At once, for other threads may read them meanwhile.
        self._found, self.nbytes = found, held


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class ServedTokens:
    """The slots that serve the tokens of a routing trace.

    Attributes
    ----------
    placement : Placement
        Experts on ranks.
    slot_ids : integer array, shape (tokens, layers, top_k)
        Slot that serves each assignment, in prompt order. An assignment to a null expert has the number of slots,
        which is on no rank.
    decode_order : int64 array, shape (tokens,)
        Prompt-order index of each token in decode order.
    turn : int64 array, shape (layers, slots)
        Tokens that every slot serves of all the trace [1].
    kept : KeptCounts
        Counts of windows that were asked for before.
    """

    placement: Placement
    slot_ids: IdArray
    decode_order: NDArray[np.int64]
    turn: NDArray[np.int64]
    kept: KeptCounts = field(default_factory=KeptCounts, repr=False)

    @property
    def tokens(self) -> int:
        """Tokens that are replayed."""
        return int(self.slot_ids.shape[0])

    @property
    def layers(self) -> int:
        """MoE layers."""
        return int(self.slot_ids.shape[1])

    @property
    def top_k(self) -> int:
        """Assignments per token."""
        return int(self.slot_ids.shape[2])

    def window_tokens(self, order: Phase, tokens: int, windows: int) -> NDArray[np.int64]:
        """Prompt-order indices of the tokens of evenly spread windows; shape (windows, tokens at most of the trace)."""
        starts = (np.arange(windows) * self.tokens) // windows
        index = (starts[:, None] + np.arange(min(tokens, self.tokens))) % self.tokens
        return self.decode_order[index] if order == "decode" else index

    def counts(self, order: Phase, tokens: int, windows: int) -> FloatArray:
        """Count tokens per expert slot in evenly spread windows of the trace.

        Parameters
        ----------
        order : {"prefill", "decode"}
            Which order the windows are cut from.
        tokens : int
            Tokens of a window; more than the trace has are scaled up from all of it [tokens].
        windows : int
            How many windows.

        Returns
        -------
        float64 array, shape (windows, layers, ranks, slots per rank)
        """
        if tokens >= self.tokens:
            counts = np.broadcast_to(self.turn * (tokens / self.tokens), (windows, *self.turn.shape))
        else:
            key = order, tokens, windows
            known = self.kept.get(key)
            if known is None:
                known = self._window_counts(order, tokens, windows)
                self.kept.keep(key, known)
            counts = known.astype(np.float64)
        return counts.reshape(windows, self.layers, self.placement.ranks, self.placement.slots_per_rank)

    def _window_counts(self, order: Phase, tokens: int, windows: int) -> NDArray[np.int64]:
        """Tokens of every slot of every layer in evenly spread windows; shape (windows, layers, slots)."""
        starts = (np.arange(windows) * self.tokens) // windows
        if tokens * windows <= self.tokens:
            return np.stack([self._counted(order, start, tokens) for start in starts.tolist()])
        # They overlap: each token is counted once, and windows are differences of the sums up to their ends.
        ends = (starts + tokens) % self.tokens
        bounds = np.unique(np.concatenate([[0, self.tokens], starts, ends]))
        parts = [self._counted(order, start, stop - start) for start, stop in pairwise(bounds.tolist())]
        upto = np.concatenate([np.zeros_like(parts[:1]), np.cumsum(parts, axis=0)])
        whole = np.where(ends < starts, 1, 0)[:, None, None] * upto[-1]
        found: NDArray[np.int64] = upto[np.searchsorted(bounds, ends)] + whole - upto[np.searchsorted(bounds, starts)]
        return found

    def slot_counts(self, phase: Phase, start: int, count: int) -> NDArray[np.int64]:
        """Count the tokens that every expert slot serves in one window: what a step asks of single experts.

        Parameters
        ----------
        phase : {"prefill", "decode"}
            Which order the window is cut from.
        start, count : int
            First token of the window in that order, and its tokens, around the end of the trace [tokens].

        Returns
        -------
        int64 array, shape (layers, ranks, slots per rank)
            Their sum over the slots of a rank is what :meth:`RankSums.load` tells of the same window.

        Notes
        -----
        Nothing is prepared: the assignments of the window are counted one by one. Time: some 10 us, and 2 to 8 ns for
        each of ``count * layers * top_k``; a decode step of 64 tokens of DeepSeek-V3 takes 70 us, one of 4096 takes
        15 ms, and the rank loads of either 1 us. Whole turns of the trace are known.
        Memory: ``8 bytes * layers * slots`` for the array, and 16 bytes per assignment while it is counted.
        """
        turns, rest = divmod(count, self.tokens)
        counted = self._counted(phase, start, rest) + turns * self.turn
        return counted.reshape(self.layers, self.placement.ranks, self.placement.slots_per_rank)

    def expert_counts(self, phase: Phase, start: int, count: int) -> NDArray[np.int64]:
        """Count the tokens of every expert in one window, its replicas together.

        Parameters and cost are those of :meth:`slot_counts`, with 20 ns more per slot of each layer.

        Returns
        -------
        int64 array, shape (layers, experts)
        """
        slots = self.slot_counts(phase, start, count).reshape(self.layers, -1)
        found = np.zeros((self.layers, self.placement.num_experts), dtype=np.int64)
        np.add.at(found, (np.arange(self.layers)[:, None], self.placement.slot_expert), slots)
        return found

    def _counted(self, phase: Phase, start: int, count: int) -> NDArray[np.int64]:
        """Tokens of every slot of every layer in a window of at most one turn; shape (layers, slots)."""
        total = np.zeros((self.layers, self.placement.slots), dtype=np.int64)
        for first in range(start, start + count, _CHUNK):
            index = np.arange(first, min(first + _CHUNK, start + count)) % self.tokens
            total += _slot_counts(
                self.slot_ids[self.decode_order[index] if phase == "decode" else index], self.placement
            )
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingReplay(ServedTokens):
    """A routing trace on a placement, with the sums that make its rank loads quick to tell.

    Attributes
    ----------
    prefill, decode : RankSums
        Rank loads of windows in either order.
    mean_load : float
        Assignments of the mean rank per token, those to null experts left out [1].
    whole : bool
        Whether every assignment is to an expert on some rank, none to a null expert.
    """

    prefill: RankSums
    decode: RankSums
    mean_load: float
    whole: bool

    @property
    def layer_shares(self) -> FloatArray | None:
        """Assignments of each layer over those of the mean layer [1]; ``None`` where all have as many."""
        if self.whole:
            return None
        assigned = self.turn.sum(axis=1)
        return np.asarray(assigned / max(assigned.mean(), 1.0))

    def refine(self) -> None:
        """Expect many windows of either order to be asked for, as an engine does."""
        self.prefill.refine()
        self.decode.refine()

    @property
    def alike(self) -> bool:
        """Whether any tokens load the ranks alike: one rank has all experts, and no assignment is to a null expert."""
        return self.placement.ranks == 1 and self.whole


def expert_spread(
    routing: RoutingReplay | None, tokens: int, windows: int = 32, slots: FloatArray | None = None
) -> tuple[float, float]:
    """Return how unevenly batches of ``tokens`` decoded tokens load single experts.

    Parameters
    ----------
    routing : RoutingReplay or None
        The routing trace on its placement; ``None`` for a dense model.
    tokens : int
        Tokens of a batch [tokens].
    windows : int
        Parts of the trace that are counted [1].
    slots : array, shape (layers,), or None
        Slots of each layer that hold an expert of its own, where layers have different numbers [1].

    Returns
    -------
    imbalance : float
        Load of the most loaded slot over the mean slot, mean over layers and windows [1].
    active : float
        Share of slots that are touched [1]. Both are NaN where nothing decodes, and 1 without routing.
    """
    if tokens < 1:
        return float("nan"), float("nan")
    if routing is None:
        return 1.0, 1.0
    return spread_of_counts(routing.counts("decode", tokens, windows), slots)


def spread_of_counts(counts: FloatArray, slots: FloatArray | None = None) -> tuple[float, float]:
    """Return what :func:`expert_spread` says of counted windows, shape (windows, layers, ranks, slots per rank)."""
    counts = counts.reshape(*counts.shape[:2], -1)
    held = counts.shape[-1] if slots is None else slots
    mean = np.maximum(counts.sum(axis=-1) / held, 1e-12)
    return float((counts.max(axis=-1) / mean).mean()), float(((counts > 0).sum(axis=-1) / held).mean())


def replay(
    trace: RoutingTrace,
    placement: Placement,
    concurrency: int,
    *,
    replica_routing: str = "round_robin",
    nodes: int = 1,
) -> RoutingReplay:
    """Reduce a routing trace to rank loads on a placement.

    Parameters
    ----------
    trace : RoutingTrace
        Recorded or generated choices; its layers and experts match the placement.
    placement : Placement
        Experts on ranks.
    concurrency : int
        Sequences decoded side by side, the stride of the decode order [1].
    replica_routing : str
        Which replica of an expert serves a token: a key of ``REPLICA_ROUTINGS``.
    nodes : int
        Nodes that hold the ranks, for routings that look where a replica is [1].
    """
    return summed(serve_tokens(trace, placement, concurrency, replica_routing=replica_routing, nodes=nodes))


def summed(served: ServedTokens) -> RoutingReplay:
    """Make rank loads quick to tell of tokens whose slots are known."""
    placement = served.placement
    turn = np.ascontiguousarray(served.turn.reshape(served.layers, placement.ranks, -1).sum(axis=2).T)
    prefill = RankSums(served.slot_ids, placement, turn)
    return RoutingReplay(
        placement=placement,
        slot_ids=served.slot_ids,
        decode_order=served.decode_order,
        turn=served.turn,
        prefill=prefill,
        decode=prefill.ordered(served.decode_order),
        mean_load=float(turn.mean()) / served.tokens,
        whole=bool((turn.sum(axis=0) == served.tokens * served.top_k).all()),
    )


def reordered(routing: RoutingReplay, trace: RoutingTrace, concurrency: int) -> RoutingReplay:
    """Replay the same trace on the same slots in another decode order; parameters as for :func:`replay`.

    Only for replicas that are chosen without a look at the decode order, as ``round_robin`` does.
    """
    order = decode_order(trace.sequence_start, trace.tokens, concurrency)
    return replace(routing, decode_order=order, decode=routing.prefill.ordered(order), kept=KeptCounts())


def serve_tokens(
    trace: RoutingTrace, placement: Placement, concurrency: int, *, replica_routing: str = "round_robin", nodes: int = 1
) -> ServedTokens:
    """Find the slot that serves each assignment of a trace; parameters as for :func:`replay`."""
    order = decode_order(trace.sequence_start, trace.tokens, concurrency)
    work = Assignments(
        expert_ids=trace.expert_ids,
        placement=placement,
        order=order,
        home=home_ranks(order, placement.ranks),
        nodes=nodes,
    )
    slot_ids = serve(replica_routing, work)
    turn = np.zeros((trace.layers, placement.slots), dtype=np.int64)
    for start in range(0, trace.tokens, _CHUNK):
        turn += _slot_counts(slot_ids[start : start + _CHUNK], placement)
    return ServedTokens(placement=placement, slot_ids=slot_ids, decode_order=order, turn=turn)


def _slot_counts(slot_ids: IdArray, placement: Placement) -> NDArray[np.int64]:
    """Count the tokens of every slot at every layer; shape (layers, slots) [1]."""
    layers, wide = slot_ids.shape[1], placement.slots + 1
    flat = slot_ids + np.arange(layers)[:, None] * wide
    # The last slot of a layer stands for null experts and empty slots, which are on no rank.
    return np.bincount(flat.reshape(-1), minlength=layers * wide).reshape(layers, wide)[:, :-1]


def decode_order(sequence_start: IdArray, tokens: int, concurrency: int) -> NDArray[np.int64]:
    """Order tokens as decode batches take them: one token of each of ``concurrency`` sequences, then their next.

    Sequences are laid end to end in lanes, each new one in the shortest lane; the order reads across the lanes.
    """
    lengths = np.diff(np.append(sequence_start, tokens))
    lanes = max(min(concurrency, len(lengths)), 1)
    heap = [(0, lane) for lane in range(lanes)]
    lane = np.empty(tokens, dtype=np.int64)
    position = np.empty(tokens, dtype=np.int64)
    for start, length in zip(sequence_start.tolist(), lengths.tolist(), strict=True):
        used, index = heapq.heappop(heap)
        lane[start : start + length] = index
        position[start : start + length] = np.arange(used, used + length)
        heapq.heappush(heap, (used + length, index))
    return np.lexsort((lane, position))
