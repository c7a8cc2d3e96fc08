"""Which replica of an expert serves which token: by turns, near the token's home, or where the load is least."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray, IdArray
from simulator.errors import ScenarioError, nearest
from simulator.placement.slots import Placement

#: Tokens that ``least_loaded`` balances together, in decode order [tokens].
BLOCK = 128
#: Times that every replicated expert is poured anew [1].
_SWEEPS = 2
#: Tokens whose slots are looked up at a time [tokens].
_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignments:
    """The assignments that replicas share, and what a routing may look at.

    Attributes
    ----------
    expert_ids : integer array, shape (tokens, layers, top_k)
        Chosen experts; ids beyond the placed experts are null experts.
    placement : Placement
        Experts in slots.
    order : int64 array, shape (tokens,)
        Decode order of the tokens.
    home : int64 array, shape (tokens,)
        Rank on which each token lives.
    nodes : int
        Nodes that hold the ranks in equal groups [1].
    """

    expert_ids: IdArray
    placement: Placement
    order: NDArray[np.int64]
    home: NDArray[np.int64]
    nodes: int


def round_robin(work: Assignments) -> IdArray:
    """Replicas take turns by token."""
    slots, count = _with_null_experts(work)
    layers, experts, most = slots.shape
    kind = np.uint16 if work.placement.slots < 2**16 else np.uint32
    # Flat tables, and part by part: small arrays are much quicker to get than large ones.
    table, replicas, base = slots.reshape(-1).astype(kind), count.reshape(-1), np.arange(layers)[:, None] * experts
    chosen = np.empty(work.expert_ids.shape, dtype=kind)
    for start in range(0, len(chosen), _CHUNK):
        place = work.expert_ids[start : start + _CHUNK] + base
        if most > 1:
            turn = np.arange(start, start + len(place))[:, None, None]
            place, turn = place * most, turn % replicas.take(place)
            place += turn
        table.take(place, out=chosen[start : start + _CHUNK])
    return chosen


def local(work: Assignments) -> IdArray:
    """The replica on the token's own rank, else one of its node's in turn, else one of all in turn."""
    chosen = round_robin(work)
    slots, count = work.placement.replicas()
    layers, experts, most = slots.shape
    if most == 1:
        return chosen
    per_rank, per_node = work.placement.slots_per_rank, work.placement.slots // work.nodes
    present = np.arange(most) < count[..., None]
    turn = np.arange(len(chosen))
    # From far to near, so that the nearest is the last to be written.
    for places, size in ((slots // per_node, per_node), (slots // per_rank, per_rank)):
        for place in range(work.placement.slots // size):
            here = present & (places == place)
            near = here.sum(axis=2)
            first = np.argsort(~here, axis=2, kind="stable")
            token = np.flatnonzero(work.home * per_rank // size == place)
            ids = work.expert_ids[token].astype(np.int64)
            row = np.broadcast_to(np.arange(layers)[:, None], ids.shape)
            known = ids < experts
            ids = np.where(known, ids, 0)
            some = near[row, ids]
            nth = first[row, ids, turn[token][:, None, None] % np.maximum(some, 1)]
            chosen[token] = np.where(known & (some > 0), slots[row, ids, nth], chosen[token])
    return chosen


def least_loaded(work: Assignments) -> IdArray:
    """Fill the lightest ranks first, block by block of the decode order.

    Notes
    -----
    In every block of ``BLOCK`` tokens and every layer, replicas share evenly at first; then, the heaviest first and
    ``_SWEEPS`` times over, the tokens of each replicated expert are taken back and poured onto its replicas like water,
    the lightest rank first. It asks for the counts of a batch before its tokens leave, which a server has only if ranks
    exchange them.
    """
    chosen = round_robin(work)
    slots, count = work.placement.replicas()
    layers, experts, most = slots.shape
    if most == 1:
        return chosen
    shape = (-(-len(chosen) // BLOCK), layers, experts + 1)
    block = np.empty(len(chosen), dtype=np.int64)
    block[work.order] = np.arange(len(chosen)) // BLOCK
    # Null experts count as one more expert, which is on no rank.
    ids = np.minimum(work.expert_ids.astype(np.int64), experts)
    key = (block[:, None, None] * layers + np.arange(layers)[:, None]) * (experts + 1) + ids
    counted = np.bincount(key.ravel(), minlength=int(np.prod(shape))).reshape(shape)[..., :experts]
    quota = _poured(counted, slots // work.placement.slots_per_rank, count, work.placement.ranks)
    # The n-th token of an expert in its block goes to the replica whose quota reaches beyond n.
    flat = key.ravel()
    by_key = np.argsort(flat, kind="stable")
    sorted_key = flat[by_key]
    nth = np.empty(len(flat), dtype=np.int64)
    nth[by_key] = np.arange(len(flat)) - np.searchsorted(sorted_key, sorted_key)
    row = np.broadcast_to(np.arange(layers)[:, None], ids.shape)
    shared = np.flatnonzero((ids < experts).ravel())
    shared = shared[count[row.ravel()[shared], ids.ravel()[shared]] > 1]
    at = (np.broadcast_to(block[:, None, None], ids.shape).ravel()[shared], row.ravel()[shared], ids.ravel()[shared])
    replica = (np.cumsum(quota[at], axis=1) <= nth[shared][:, None]).sum(axis=1)
    chosen.reshape(-1)[shared] = slots[at[1], at[2], replica]
    return chosen


def _poured(
    counted: NDArray[np.int64], ranks_of: NDArray[np.int64], count: NDArray[np.int64], ranks: int
) -> NDArray[np.int64]:
    """Tokens that every replica takes in every block; shape (blocks, layers, experts, most replicas)."""
    blocks, layers, experts = counted.shape
    most = ranks_of.shape[2]
    load = np.zeros((blocks, layers, ranks))
    for layer in range(layers):
        alone = np.flatnonzero(count[layer] == 1)
        load[:, layer] = counted[:, layer, alone] @ np.eye(ranks)[ranks_of[layer, alone, 0]]
    quota = np.zeros((blocks, layers, experts, most), dtype=np.int64)
    heat = np.where(count > 1, counted.sum(axis=0), -1)
    hottest_first = np.argsort(-heat, axis=1, kind="stable")[:, : int((count > 1).sum(axis=1).max())]
    row, block = np.arange(layers), np.arange(blocks)[:, None, None]
    for turn in range(1 + _SWEEPS):
        for expert in hottest_first.T:
            replicas = count[row, expert]
            tokens = np.where(replicas > 1, counted[:, row, expert], 0)
            at = (block, row[:, None], ranks_of[row, expert])
            present = (np.arange(most) < replicas[:, None]) & ~_repeated(at[2])
            np.add.at(load, at, -np.where(present, quota[:, row, expert], 0))
            # At first all are even, so that nobody fills a rank that others are about to fill.
            level = np.zeros((blocks, layers, most)) if turn == 0 else load[at]
            share = _water(np.where(present, level, np.inf), tokens)
            quota[:, row, expert] = share
            np.add.at(load, at, np.where(present, share, 0))
    return quota


def _repeated(ranks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an earlier entry of the row is the same: replicas on one rank are one place to fill."""
    same = ranks[:, :, None] == ranks[:, None, :]
    return np.asarray((same & np.tri(ranks.shape[1], k=-1, dtype=bool)).any(axis=2))


def _water(level: FloatArray, amount: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pour whole amounts onto levels of shape (..., places) so that the highest one they reach is lowest."""
    order = np.argsort(level, axis=-1, kind="stable")
    ground = np.take_along_axis(level, order, axis=-1)
    places = np.arange(1, level.shape[-1] + 1)
    below = np.cumsum(np.where(np.isfinite(ground), ground, 0.0), axis=-1)
    surface = np.where(np.isfinite(ground), (below + amount[..., None]) / places, -np.inf)
    wet = np.maximum((surface > ground).sum(axis=-1), 1)
    height = np.take_along_axis(surface, wet[..., None] - 1, axis=-1)
    poured = np.where(np.arange(level.shape[-1]) < wet[..., None], np.floor(height - ground), 0.0)
    poured = np.maximum(np.where(np.isfinite(poured), poured, 0.0), 0.0).astype(np.int64)
    left = amount - poured.sum(axis=-1)
    poured += np.arange(level.shape[-1]) < left[..., None]
    share = np.empty_like(poured)
    np.put_along_axis(share, order, poured, axis=-1)
    return share


#: Every way to choose a replica by the name that a scenario gives it.
REPLICA_ROUTINGS: Mapping[str, Callable[[Assignments], IdArray]] = {
    "round_robin": round_robin,
    "local": local,
    "least_loaded": least_loaded,
}

#: Those that choose without a look at the decode order.
ORDER_FREE = frozenset({"round_robin"})


def serve(routing: str, work: Assignments) -> IdArray:
    """Choose the slot that serves each assignment by the name of a routing.

    Returns
    -------
    integer array, shape (tokens, layers, top_k)
        Slots; an assignment to a null expert has the number of slots, which is on no rank.

    Raises
    ------
    ScenarioError
        No routing has this name.
    """
    if routing not in REPLICA_ROUTINGS:
        raise ScenarioError(
            f"placement.replica_routing: unknown routing {routing!r}; {nearest(routing, REPLICA_ROUTINGS)}"
        )
    return REPLICA_ROUTINGS[routing](work)


def home_ranks(order: NDArray[np.int64], ranks: int) -> NDArray[np.int64]:
    """Deal tokens to ranks in turn in decode order, so that every step has as many at home on each; shape (tokens,)."""
    home = np.empty(len(order), dtype=np.int64)
    home[order] = np.arange(len(order)) % ranks
    return home


def _with_null_experts(work: Assignments) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give experts beyond the placed ones, which do no work, a slot that is on no rank."""
    slots, count = work.placement.replicas()
    beyond = max(int(work.expert_ids.max(initial=0)) + 1 - slots.shape[1], 0)
    extra = ((0, 0), (0, beyond))
    return (
        np.pad(slots, (*extra, (0, 0)), constant_values=work.placement.slots),
        np.pad(count, extra, constant_values=1),
    )
