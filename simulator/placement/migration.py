"""What a change of placement moves: which experts, over which links, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import IntArray
from simulator.placement.slots import Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Experts that come to a rank that did not hold them; all arrays have shape (moves,).

    Attributes
    ----------
    layer, expert : int64 array
        Which expert of which layer.
    source, target : int64 array
        Rank that sends it, and rank that receives it.
    """

    layer: IntArray
    expert: IntArray
    source: IntArray
    target: IntArray

    def __len__(self) -> int:
        return len(self.layer)

    def staging(self) -> int:
        """Most experts that one rank receives in one layer, which it must hold beside those it still serves [1]."""
        if not len(self):
            return 0
        _, count = np.unique(np.stack([self.layer, self.target]), axis=1, return_counts=True)
        return int(count.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What moving experts takes.

    Attributes
    ----------
    experts : int
        Replicas that move, over all layers [1].
    near_bytes, far_bytes : float
        Bytes over scale-up and over scale-out links, all ranks together [bytes].
    seconds : float
        Time on otherwise idle links [s].
    staging_bytes : float
        Memory that the fullest device needs beside its slots, where layers move one after another [bytes].
    """

    experts: int
    near_bytes: float
    far_bytes: float
    seconds: float
    staging_bytes: float


def aligned(new: Placement, old: Placement, nodes: int = 1) -> Placement:
    """Rename nodes, and ranks within them, so that as many experts as possible stay where they are.

    Ranks of a node are equal, and so are nodes, so that no load changes. Layer by layer, new nodes take the names of
    old ones, and then new ranks those of old ones, the pair with most experts in common first.
    """
    per_node = old.ranks // nodes
    order = _matched(_held(new, nodes), _held(old, nodes))
    ranks = (order[..., None] * per_node + np.arange(per_node)).reshape(len(order), -1)
    moved = _reordered(new, ranks)
    if per_node == 1:
        return moved
    held_new, held_old = _held(moved, moved.ranks), _held(old, old.ranks)
    layers = len(held_new)
    inner = _matched(
        held_new.reshape(layers * nodes, per_node, -1), held_old.reshape(layers * nodes, per_node, -1)
    ).reshape(layers, nodes, per_node)
    ranks = (inner + np.arange(nodes)[:, None] * per_node).reshape(layers, -1)
    return _reordered(moved, ranks)


def moves(new: Placement, old: Placement, nodes: int = 1) -> Moves:
    """List what must move, each expert from a rank that holds it, in the same node where one does.

    Several holders of an expert take turns by the rank that receives it.
    """
    held_new, held_old = _held(new, new.ranks), _held(old, old.ranks)
    layer, target, expert = np.nonzero(held_new & ~held_old)
    holders = held_old[layer, :, expert]
    node = np.arange(old.ranks) // (old.ranks // nodes)
    near = holders & (node == node[target][:, None])
    pool = np.where(near.any(axis=1)[:, None], near, holders)
    turn = target % pool.sum(axis=1)
    source = (np.cumsum(pool, axis=1) > turn[:, None]).argmax(axis=1)
    return Moves(layer=layer, expert=expert, source=source, target=target)


def migration(
    moved: Moves,
    expert_bytes: float,
    *,
    ranks: int,
    nodes: int,
    near_bandwidth: float,
    far_bandwidth: float,
) -> Migration:
    """Time a migration by its fullest link.

    Parameters
    ----------
    moved : Moves
        What moves.
    expert_bytes : float
        Weights of one expert of one layer on one device [bytes].
    ranks, nodes : int
        Expert-parallel ranks, and the nodes that hold them in equal groups [1].
    near_bandwidth, far_bandwidth : float
        Bandwidth of a device to its node and to other nodes, per direction [bytes/s].

    Notes
    -----
    Every device sends and receives at once over either link; the fullest direction of the fullest link sets the time.
    Devices that share an expert rank each move their part at the same time.
    """
    node = np.arange(ranks) // (ranks // nodes)
    far = node[moved.source] != node[moved.target]
    busiest = [
        max(
            np.bincount(moved.source[chosen], minlength=ranks).max(initial=0),
            np.bincount(moved.target[chosen], minlength=ranks).max(initial=0),
        )
        for chosen in (~far, far)
    ]
    return Migration(
        experts=len(moved),
        near_bytes=float((~far).sum() * expert_bytes),
        far_bytes=float(far.sum() * expert_bytes),
        seconds=float(max(busiest[0] * expert_bytes / near_bandwidth, busiest[1] * expert_bytes / far_bandwidth)),
        staging_bytes=moved.staging() * expert_bytes,
    )


def _held(placement: Placement, parts: int) -> NDArray[np.bool_]:
    """Whether each of equal parts of the slots holds each expert; shape (layers, parts, experts)."""
    layers, slots = placement.slot_expert.shape
    held = np.zeros((layers, parts, placement.num_experts), dtype=bool)
    part = np.arange(slots) // (slots // parts)
    held[np.arange(layers)[:, None], part, placement.slot_expert] = True
    return held


def _matched(new: NDArray[np.bool_], old: NDArray[np.bool_]) -> IntArray:
    """For every old part, the new part that takes its name, greedily by what they share; shape (rows, parts)."""
    shared = np.einsum("rie,rje->rij", old.astype(np.float32), new.astype(np.float32))
    rows, parts, _ = shared.shape
    row, chosen = np.arange(rows), np.empty((rows, parts), dtype=np.int64)
    for _ in range(parts):
        best = shared.reshape(rows, -1).argmax(axis=1)
        place, part = best // parts, best % parts
        chosen[row, place] = part
        shared[row, place, :] = -1.0
        shared[row, :, part] = -1.0
    return chosen


def _reordered(placement: Placement, ranks: IntArray) -> Placement:
    """Put the given rank of every layer in each place."""
    layers = len(ranks)
    by_rank = placement.slot_expert.reshape(layers, placement.ranks, -1)
    slot_expert = np.take_along_axis(by_rank, ranks[..., None], axis=1).reshape(layers, -1)
    return replace(placement, slot_expert=slot_expert)
