"""How choices of experts depend on one another: along the text, between layers, within a token, on the token's id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workloads.errors import WorkloadError
from workloads.parameters import count
from workloads.routing.stats import expert_load

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workloads.arrays import FloatArray, IdArray
    from workloads.routing.trace import RoutingTrace

#: Pairs of tokens that a mean over pairs is taken from; its standard error is then below 0.5 % of an overlap of 0.3.
PAIRS = 6000
SAMPLE = 16_000  # tokens that joint counts are taken from


def overlap(trace: RoutingTrace, first: IdArray, second: IdArray) -> FloatArray:
    """Share of the experts of some tokens that others chose too, shape (layers,) [-].

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    first, second : integer array, shape (pairs,)
        Tokens; each of ``first`` is compared with that of ``second``.
    """
    if not len(first):
        return np.full(trace.layers, np.nan)
    shares = np.empty(trace.layers)
    for layer in range(trace.layers):
        ids = trace.expert_ids[:, layer]
        mine, other = ids[first], ids[second]
        held = mine != trace.num_experts
        common = (mine[:, :, None] == other[:, None, :]).any(axis=2) & held
        shares[layer] = common.sum() / max(int(held.sum()), 1)
    return shares


def overlap_by_lag(trace: RoutingTrace, lags: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Overlap of tokens that are ``lag`` tokens apart in one sequence; NaN where no sequence is that long.

    Returns
    -------
    float64 array, shape (lags, layers)
        Share [-]. What it is above :func:`overlap_by_chance` is the memory of the text.
    """
    sequence = sequence_of(trace)
    shares = np.empty((len(lags), trace.layers))
    for row, lag in enumerate(lags):
        token: IdArray = np.arange(max(trace.tokens - lag, 0))
        token = token[sequence[token] == sequence[token + lag]]
        token = _sample(rng, token)
        shares[row] = overlap(trace, token, token + lag)
    return shares


def overlap_by_distance(trace: RoutingTrace, distances: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Overlap of tokens drawn from sequences that are so many sequences apart, shape (distances, layers) [-]."""
    starts = trace.sequence_start
    lengths = np.diff(starts, append=trace.tokens)
    shares = np.full((len(distances), trace.layers), np.nan)
    for row, distance in enumerate(distances):
        if distance >= len(starts):
            continue
        near = rng.integers(len(starts) - distance, size=PAIRS)
        far = near + distance
        drawn = rng.random((2, PAIRS))
        tokens = [
            starts[at] + (part * lengths[at]).astype(np.int64) for at, part in zip((near, far), drawn, strict=True)
        ]
        shares[row] = overlap(trace, *tokens)
    return shares


def overlap_by_chance(trace: RoutingTrace) -> FloatArray:
    """Overlap of unrelated tokens, from the load of the experts alone, shape (layers,) [-].

    Notes
    -----
    sum of p^2 / sum of p with p the probability that a token chooses an expert.
    """
    probability = expert_load(trace) / trace.tokens
    return np.asarray((probability**2).sum(axis=1) / np.maximum(probability.sum(axis=1), 1e-300))


def layer_information(trace: RoutingTrace, gap: int = 1, *, most_tokens: int = SAMPLE) -> FloatArray:
    """Mutual information of an expert of a token and one of the same token ``gap`` layers further.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    gap : int
        Layers between the two; 1 = adjacent.
    most_tokens : int
        Tokens that are looked at, evenly spread over the trace, to bound the work [tokens].

    Returns
    -------
    float64 array, shape (layers - gap,)
        Information [bit], that of pairs of unrelated tokens subtracted: it is what a finite sample shows by chance.
    """
    count("gap", gap, most=max(trace.layers - 1, 1))
    ids = _spread(trace, most_tokens)
    turned = np.roll(np.arange(len(ids)), len(ids) // 2)
    found = np.empty(max(trace.layers - gap, 0))
    for layer in range(len(found)):
        here, there = ids[:, layer], ids[:, layer + gap]
        by_chance = information(_pairs(here, there[turned], trace.num_experts))
        found[layer] = information(_pairs(here, there, trace.num_experts)) - by_chance
    return found


def next_layer_hit_rate(trace: RoutingTrace, *, most_tokens: int = SAMPLE) -> tuple[FloatArray, FloatArray]:
    """How often the first choice of a layer tells that of the next one.

    Returns
    -------
    conditional, unconditional : float64 array, shape (layers - 1,)
        Share of every second token whose first choice is the most frequent one after the same first choice
        in the layer before; and the share that the layer's most frequent first choice has. Frequencies are from the
        others [-].
    """
    top, experts = _spread(trace, most_tokens)[:, :, 0].astype(np.int64), trace.num_experts + 1
    top = np.concatenate([top[::2], top[1::2]])
    half = (len(top) + 1) // 2
    conditional, unconditional = np.empty((2, max(trace.layers - 1, 0)))
    for layer in range(len(conditional)):
        here, there = top[:, layer], top[:, layer + 1]
        table = np.bincount(here[:half] * experts + there[:half], minlength=experts**2).reshape(experts, experts)
        conditional[layer] = (table.argmax(axis=1)[here[half:]] == there[half:]).mean()
        unconditional[layer] = (there[half:] == table.sum(axis=0).argmax()).mean()
    return conditional, unconditional


def co_activation(trace: RoutingTrace, layer: int, *, most_tokens: int = SAMPLE) -> FloatArray:
    """How much more often two experts serve the same token than if experts were chosen independently.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    layer : int
        MoE layer.
    most_tokens : int
        Tokens that are looked at, evenly spread [tokens].

    Returns
    -------
    float64 array, shape (experts, experts)
        Observed over expected tokens in common [-]; 1 on the diagonal, and where neither was chosen.
    """
    together = _together(_spread(trace, most_tokens)[:, layer], trace.num_experts)
    expected = _independent(together)
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = together / expected
    lift[~np.isfinite(lift)] = 1.0
    return lift


def co_activation_information(trace: RoutingTrace, *, most_tokens: int = SAMPLE) -> FloatArray:
    """Mutual information of two different experts of the same token, shape (layers,) [bit]."""
    found, ids = np.zeros(trace.layers), _spread(trace, most_tokens)
    for layer in range(trace.layers if trace.top_k > 1 else 0):
        together = _together(ids[:, layer], trace.num_experts)
        found[layer] = _divergence(together, _independent(together))
    return found


def token_identity_share(trace: RoutingTrace, token_ids: IdArray, rng: np.random.Generator) -> FloatArray:
    """Share of the choice that the token's identity explains.

    Parameters
    ----------
    trace : RoutingTrace
        The trace.
    token_ids : integer array, shape (tokens,)
        Vocabulary id of each token.
    rng : numpy.random.Generator
        Draws the pairs of tokens.

    Returns
    -------
    float64 array, shape (layers,)
        (overlap of equal tokens in different sequences - by chance) / (1 - by chance) [-]: 0 if identity says
        nothing, 1 if it decides all. NaN if no token comes back in another sequence.
    """
    if token_ids.shape != (trace.tokens,):
        msg = f"token_ids: got shape {token_ids.shape}, expected one id for each of the {trace.tokens} tokens"
        raise WorkloadError(msg)
    sequence = sequence_of(trace)
    order = np.lexsort((rng.random(trace.tokens), token_ids))
    first, second = order[:-1], order[1:]
    same = (token_ids[first] == token_ids[second]) & (sequence[first] != sequence[second])
    chosen = _sample(rng, np.flatnonzero(same))
    equal = overlap(trace, first[chosen], second[chosen])
    other = rng.integers(trace.tokens, size=(2, PAIRS))
    chance = overlap(trace, other[0], other[1])
    return (equal - chance) / (1 - chance)


def sequence_of(trace: RoutingTrace) -> IdArray:
    """Return the sequence of each token, shape (tokens,)."""
    lengths = np.diff(trace.sequence_start, append=trace.tokens)
    return np.repeat(np.arange(len(lengths)), lengths)


def information(joint: NDArray[np.number]) -> float:
    """Mutual information of a table of joint counts [bit]."""
    table = np.asarray(joint, np.float64)
    return _divergence(table, np.outer(table.sum(axis=1), table.sum(axis=0)) / max(table.sum(), 1e-300))


def _divergence(observed: FloatArray, expected: FloatArray) -> float:
    seen = observed > 0
    total = observed.sum()
    if not total:
        return 0.0
    scaled = expected[seen] * (total / expected.sum())
    return float((observed[seen] * np.log2(observed[seen] / scaled)).sum() / total)


def _independent(together: FloatArray) -> FloatArray:
    """Expected counts of pairs of different experts if they were chosen independently, with the same totals."""
    share = together.sum(axis=1)
    expected = np.outer(share, share)
    np.fill_diagonal(expected, 0.0)
    return np.asarray(expected * (together.sum() / max(expected.sum(), 1e-300)))


def _together(ids: IdArray, experts: int) -> FloatArray:
    """Count the tokens that each two different experts have in common, shape (experts, experts)."""
    table = _pairs(ids, ids, experts).astype(np.float64)
    np.fill_diagonal(table, 0.0)
    return table


def _pairs(here: IdArray, there: IdArray, experts: int) -> NDArray[np.int64]:
    """Count pairs of an expert of ``here`` and one of ``there``, tokens side by side, empty slots left out."""
    wide = experts + 1
    table = np.zeros(wide * wide, np.int64)
    for slot in range(here.shape[1]):
        flat = here[:, slot, None].astype(np.int64) * wide + there
        table += np.bincount(flat.ravel(), minlength=wide * wide)
    return table.reshape(wide, wide)[:experts, :experts]


def _spread(trace: RoutingTrace, most: int) -> IdArray:
    """Take at most ``most`` tokens, evenly spread."""
    return trace.expert_ids[:: max(-(-trace.tokens // most), 1)]


def _sample(rng: np.random.Generator, items: IdArray) -> IdArray:
    return items if len(items) <= PAIRS else items[rng.integers(len(items), size=PAIRS)]
