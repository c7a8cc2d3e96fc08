"""Replay of a routing trace on a placement: the load of every rank at every layer, exactly, in microseconds.

The trace is reduced once per placement to running sums of tokens per rank. The load of any window of consecutive
tokens is then one difference of two rows. Two orders of the tokens are kept: *prompt order*, sequence after sequence,
from which prompt chunks take their tokens; and *decode order*, in which neighbouring tokens belong to different
sequences, as the tokens of a decode batch do. Each order is walked from its start and around.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, IdArray, IntArray
from simulator.placement.replica_routing import Assignments, home_ranks, serve
from simulator.placement.slots import Placement
from workloads.models.spec import Phase
from workloads.routing.trace import RoutingTrace

#: Largest size of the running sums of one order [bytes]; a longer trace is cut, and the result says so.
MAX_SUMS_BYTES = 600e6
#: Tokens that are counted at a time: their counts stay in the cache, and small arrays are quick to get.
_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSums:
    """Running sums of one token order.

    ``sums`` has shape (tokens + 1, ranks, layers): assignments to each rank at each layer before each token [1]. No
    token has more than ``top_k`` at a layer [1].
    """

    sums: NDArray[np.uint32]
    top_k: int

    @property
    def tokens(self) -> int:
        """Tokens of the order."""
        return len(self.sums) - 1

    def load(self, start: int, count: int) -> NDArray[np.unsignedinteger]:
        """Assignments of ``count`` tokens from ``start`` on, around the end; shape (ranks, layers) [1].

        ``start`` lies within the order, its end included. Counts have 32 bits, 64 where they could need more.
        """
        sums, stop = self.sums, start + count
        if stop < len(sums):
            difference: NDArray[np.unsignedinteger] = sums[stop] - sums[start]
            return difference
        turns, rest = divmod(stop, self.tokens)
        every: NDArray[np.unsignedinteger] = sums[-1]
        if (turns + 1) * self.tokens * self.top_k >= 2**32:
            every = every.astype(np.uint64)
        total: NDArray[np.unsignedinteger] = every * every.dtype.type(turns) + sums[rest] - sums[start]
        return total

    def loads(self, starts: IntArray, counts: IntArray) -> NDArray[np.unsignedinteger]:
        """Assignments of many windows, each as :meth:`load` tells them; shape (windows, ranks, layers) [1]."""
        sums = self.sums
        turns, rest = np.divmod(starts + counts, self.tokens)
        total: NDArray[np.unsignedinteger] = sums[rest] - sums[starts]
        if turns.any():
            every = sums[-1]
            if (int(turns.max()) + 1) * self.tokens * self.top_k >= 2**32:
                every, total = every.astype(np.uint64), sums[rest].astype(np.uint64) - sums[starts]
            around = np.flatnonzero(turns)
            total[around] += turns[around, None, None].astype(every.dtype) * every
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """

    placement: Placement
    slot_ids: IdArray
    decode_order: NDArray[np.int64]

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
        return next(self.growing_counts(order, ((tokens, windows),)))

    def growing_counts(self, order: Phase, sizes: Iterable[tuple[int, int]]) -> Iterator[FloatArray]:
        """Yield :meth:`counts` of several sizes, each of which only counts what the one before has not.

        Parameters
        ----------
        order : {"prefill", "decode"}
            Which order the windows are cut from.
        sizes : iterable of (int, int)
            Tokens of a window and number of windows; tokens ascend.
        """
        slots, layers = self.placement.slots, self.layers
        base = np.arange(layers)[:, None] * (slots + 1)
        shape = (layers, self.placement.ranks, self.placement.slots_per_rank)
        found, taken = np.zeros((0, layers * (slots + 1))), 0
        for tokens, windows in sizes:
            index = self.window_tokens(order, tokens, windows)
            if len(found) != windows:
                found, taken = np.zeros((windows, layers * (slots + 1))), 0
            for window in range(windows) if taken < index.shape[1] else ():
                flat = (self.slot_ids[index[window, taken:]] + base).reshape(-1)
                found[window] += np.bincount(flat, minlength=found.shape[1])
            taken = index.shape[1]
            counts = found.reshape(windows, layers, slots + 1)[..., :slots].reshape(windows, *shape)
            yield np.asarray(counts * (tokens / taken))

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
        15 ms, and the rank loads of either 1 us. Beyond one turn of the trace it takes as long as the whole trace.
        Memory: ``8 bytes * layers * slots`` for the array, and 16 bytes per assignment while it is counted.
        """
        turns, rest = divmod(count, self.tokens)
        counted = self._counted(phase, start, rest)
        if turns:
            counted += turns * self._counted(phase, 0, self.tokens)
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
        index = (start + np.arange(count)) % self.tokens
        wide = self.placement.slots + 1
        flat = self.slot_ids[self.decode_order[index] if phase == "decode" else index].astype(np.int64)
        flat += np.arange(self.layers)[:, None] * wide
        counted = np.bincount(flat.reshape(-1), minlength=self.layers * wide)
        # The last slot of a layer stands for null experts and empty slots, which are on no rank.
        return counted.reshape(self.layers, wide)[:, :-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingReplay(ServedTokens):
    """A routing trace on a placement, with the running sums that make its rank loads quick to tell.

    Attributes
    ----------
    prefill, decode : RankSums
        Running sums in either order.
    recorded_tokens : int
        Tokens of the trace before any cut.
    """

    prefill: RankSums
    decode: RankSums
    recorded_tokens: int

    @property
    def mean_load(self) -> float:
        """Assignments of the mean rank per token, those to null experts left out [1]."""
        return float(self.prefill.sums[-1].mean()) / self.tokens

    @property
    def whole(self) -> bool:
        """Whether every assignment is to an expert on some rank, none to a null expert."""
        return bool((self.prefill.sums[-1].sum(axis=0, dtype=np.int64) == self.tokens * self.top_k).all())

    @property
    def alike(self) -> bool:
        """Whether any tokens load the ranks alike: one rank has all experts, and no assignment is to a null expert."""
        return self.placement.ranks == 1 and self.whole


def expert_spread(routing: RoutingReplay | None, tokens: int, windows: int = 32) -> tuple[float, float]:
    """Return how unevenly batches of ``tokens`` decoded tokens load single experts.

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
    counts = routing.counts("decode", tokens, windows).reshape(-1, routing.placement.slots)
    mean = np.maximum(counts.mean(axis=-1), 1e-12)
    return float((counts.max(axis=-1) / mean).mean()), float((counts > 0).mean())


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
    room = int(MAX_SUMS_BYTES / (4 * placement.ranks * trace.layers))
    kept = replace(
        trace,
        expert_ids=trace.expert_ids[: max(room, 1)],
        sequence_start=trace.sequence_start[trace.sequence_start < max(room, 1)],
    )
    served = serve_tokens(kept, placement, concurrency, replica_routing=replica_routing, nodes=nodes)
    rank_ids = served.slot_ids // placement.slots_per_rank
    return RoutingReplay(
        placement=placement,
        slot_ids=served.slot_ids,
        decode_order=served.decode_order,
        prefill=_rank_sums(rank_ids, placement.ranks, None),
        decode=_rank_sums(rank_ids, placement.ranks, served.decode_order),
        recorded_tokens=trace.tokens,
    )


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
    return ServedTokens(placement=placement, slot_ids=serve(replica_routing, work), decode_order=order)


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


def _rank_sums(rank_ids: IdArray, ranks: int, order: NDArray[np.int64] | None) -> RankSums:
    tokens, layers, top_k = rank_ids.shape
    if ranks == 1 and not rank_ids.any():
        # One rank has it all, whichever tokens come first.
        run = np.arange(tokens + 1, dtype=np.uint32) * np.uint32(top_k)
        return RankSums(sums=np.repeat(run, layers).reshape(tokens + 1, 1, layers), top_k=top_k)
    sums = np.zeros((tokens + 1, ranks, layers), dtype=np.uint32)
    layer = np.arange(layers)[:, None]
    size = (ranks + 1) * layers
    for start in range(0, tokens, _CHUNK):
        part = rank_ids[start : start + _CHUNK] if order is None else rank_ids[order[start : start + _CHUNK]]
        flat = part.astype(np.int64) * layers + (layer + np.arange(len(part))[:, None, None] * size)
        found = np.bincount(flat.reshape(-1), minlength=len(part) * size).reshape(len(part), ranks + 1, layers)
        sums[start + 1 : start + 1 + len(part)] = found[:, :ranks]
    # NOTE: row by row, because a cumulative sum over the first axis strides through memory and is ten times slower.
    for token in range(tokens):
        np.add(sums[token], sums[token + 1], out=sums[token + 1])
    return RankSums(sums=sums, top_k=top_k)
