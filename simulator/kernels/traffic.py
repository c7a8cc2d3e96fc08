"""Who sends how many copies to whom: traffic matrices from routing, placement and the homes of tokens.

A token leaves its home rank in copies: one per expert, one per rank that holds any of its experts, or one per scale-up
domain that does. All three counts are kept, because algorithms differ in which of them they send.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.arrays import FloatArray, IdArray
from simulator.errors import ScenarioError

#: Tokens counted together: what a core's own cache holds.
_CHUNK = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Copies of tokens between the ranks of an exchange.

    Attributes
    ----------
    domain : int
        Ranks of a scale-up domain; rank r sits in domain r // domain [1].
    tokens : FloatArray
        Tokens at home on each rank, shape (ranks,) [tokens].
    experts : FloatArray
        Copies from rank to rank, one per expert of a token, shape (ranks, ranks) [1].
    ranks : FloatArray
        Copies from rank to rank, one per rank that a token needs, shape (ranks, ranks) [1].
    domains : FloatArray
        Copies from rank to domain, one per domain that a token needs, shape (ranks, domains) [1].
    """

    domain: int
    tokens: FloatArray
    experts: FloatArray
    ranks: FloatArray
    domains: FloatArray

    @property
    def size(self) -> int:
        """Ranks of the exchange [1]."""
        return len(self.tokens)

    @property
    def imbalance(self) -> float:
        """Copies that the most loaded rank receives, over the mean; 1 where nothing is sent [1]."""
        received = self.experts.sum(axis=0)
        return float(received.max() / received.mean()) if received.any() else 1.0


def domains_of(ranks: int, domain: int) -> int:
    """Count the scale-up domains that so many ranks fill.

    Raises
    ------
    ScenarioError
        The ranks fill some domains but not the last.
    """
    if ranks < 1:
        raise ScenarioError(f"expert exchange: {ranks} ranks; at least 1 is needed")
    if ranks > domain and ranks % domain:
        below, above = ranks // domain * domain, -(-ranks // domain) * domain
        raise ScenarioError(
            f"expert exchange: {ranks} ranks do not tile nodes of {domain} devices; {below} or {above} ranks would"
        )
    return max(1, ranks // domain)


def traffic_of(destinations: IdArray, homes: IdArray, *, ranks: int, domain: int) -> Traffic:
    """Count the copies that a batch of routed tokens needs.

    Parameters
    ----------
    destinations : integer array, shape (tokens, top_k)
        Rank that serves each choice of each token; an entry outside 0 to ``ranks - 1`` (a null expert, a dropped
        choice) sends nothing.
    homes : integer array, shape (tokens,)
        Rank on which each token lives.
    ranks, domain : int
        Ranks of the exchange, and ranks of a scale-up domain [1].

    Raises
    ------
    ScenarioError
        Ranks do not tile the domains, or a home lies outside the ranks.

    Notes
    -----
    A choice is counted per rank unless an earlier choice of the same token has the same rank, and likewise per
    domain: k (k - 1) / 2 comparisons of columns instead of a sort per token.

    Examples
    --------
    >>> t = traffic_of(np.array([[0, 1, 1]]), np.array([0]), ranks=2, domain=2)
    >>> t.experts.tolist(), t.ranks.tolist(), t.domains.tolist()
    ([[1.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]], [[1.0], [0.0]])
    """
    domains = domains_of(ranks, domain)
    if destinations.ndim != 2 or homes.shape != destinations.shape[:1]:
        raise ScenarioError(
            f"expert exchange: destinations of shape {destinations.shape} need (tokens, top_k), "
            f"and homes of shape {homes.shape} one entry per token"
        )
    if homes.size and not (int(homes.min()) >= 0 and int(homes.max()) < ranks):
        raise ScenarioError(f"expert exchange: a token's home is outside the {ranks} ranks")
    inside, counts = min(domain, ranks), np.zeros(4 * ranks * (ranks + 1), dtype=np.int64)
    for start in range(0, len(homes), _CHUNK):
        part = slice(start, start + _CHUNK)
        # Small integers, column by column: four times the values per vector instruction, and no strides.
        to = np.ascontiguousarray(_served(destinations[part], ranks).T)
        # One count for all three: pairs of home and rank, by whether the choice is its token's first there.
        kind = _first(to).astype(np.int32) + 2 * _first(to // np.int16(inside))
        pairs = homes[part].astype(np.int32) * np.int32(ranks + 1) + to
        counts += np.bincount((4 * pairs + kind).ravel(), minlength=len(counts))
    by_kind = counts.reshape(ranks, ranks + 1, 4)[:, :ranks].astype(np.float64)
    by_domain = by_kind[:, :, 2:].sum(axis=2).reshape(ranks, domains, ranks // domains).sum(axis=2)
    return Traffic(
        domain=domain,
        tokens=np.bincount(homes, minlength=ranks).astype(np.float64),
        experts=by_kind.sum(axis=2),
        ranks=by_kind[:, :, 1] + by_kind[:, :, 3],
        domains=by_domain,
    )


def even_traffic(
    tokens: ArrayLike,
    *,
    rank_copies: float,
    domain_copies: float,
    top_k: float,
    ranks: int,
    domain: int,
    expert_shards: int = 1,
) -> Traffic:
    """Spread copies evenly: what an even router sends on average, as a matrix.

    Parameters
    ----------
    tokens : array_like
        Tokens at home on each rank, one number or one per rank [tokens].
    rank_copies, domain_copies, top_k : float
        Ranks, domains and experts that a token reaches [1].
    ranks, domain : int
        Ranks of the exchange, and ranks of a scale-up domain [1].
    expert_shards : int
        Ranks that share each expert, of which a token goes to the one with its home's place [1].
    """
    domains = domains_of(ranks, domain)
    place = np.arange(ranks) % expert_shards
    share = np.where(place[:, None] == place, expert_shards / ranks, 0.0)
    home = np.broadcast_to(np.asarray(tokens, dtype=np.float64), (ranks,)).copy()
    row = home[:, None]
    return Traffic(
        domain=domain,
        tokens=home,
        experts=row * top_k * share,
        ranks=row * rank_copies * share,
        domains=np.tile(row * domain_copies / domains, (1, domains)),
    )


def sharded_destinations(groups: IdArray, homes: IdArray, *, expert_shards: int, coordinated: bool) -> IdArray:
    """Ranks that a token goes to where ``expert_shards`` consecutive ranks share each expert.

    Parameters
    ----------
    groups : integer array, shape (tokens, top_k)
        Group of ranks that serves each choice of each token; negative for none.
    homes : integer array, shape (tokens,)
        Rank on which each token lives.
    expert_shards : int
        Ranks of a group [1].
    coordinated : bool
        Whether a token goes only to the rank of a group that has its home's place, or to all of them.

    Returns
    -------
    integer array, shape (tokens, top_k) or (tokens, top_k * expert_shards)
    """
    first = np.where(groups < 0, -expert_shards, groups * expert_shards)
    if coordinated:
        return np.asarray(first + (homes % expert_shards)[:, None])
    return np.asarray((first[:, :, None] + np.arange(expert_shards)).reshape(len(groups), -1))


def contiguous_homes(tokens: int, ranks: int) -> NDArray[np.int64]:
    """Deal consecutive tokens to ranks in equal parts, as data-parallel ranks hold them; shape (tokens,)."""
    return np.arange(tokens, dtype=np.int64) * ranks // max(tokens, 1)


def _served(destinations: IdArray, ranks: int) -> NDArray[np.int16]:
    """Destinations as small integers, those outside the ranks as ``ranks``."""
    # Seen as unsigned, negative numbers are large ones.
    wide = destinations.astype(np.int64, copy=False).view(np.uint64)
    return np.minimum(wide, np.uint64(ranks)).astype(np.int16)


def _first(columns: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Whether a choice differs from all earlier ones of its token; shape (top_k, tokens)."""
    first = np.ones(columns.shape, dtype=bool)
    for i in range(1, len(columns)):
        for j in range(i):
            first[i] &= columns[i] != columns[j]
    return first
