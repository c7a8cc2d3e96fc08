"""Fitting the latent routing model to a recorded trace, by simulated moments.

The moments are the load of every expert, how many experts two tokens share by their distance in the text, the
information between layers and that between experts of one token. The model is simulated, its moments are compared
with those of the trace, and each parameter is moved by the ratio of the moment that it governs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from workloads.arrays import FloatArray
from workloads.errors import WorkloadError
from workloads.routing.dependence import (
    co_activation_information,
    layer_information,
    overlap_by_chance,
    overlap_by_distance,
    overlap_by_lag,
)
from workloads.routing.latent import PARTS, PASSAGES, LatentRouting, generate_fitted
from workloads.routing.stats import expert_load
from workloads.routing.trace import RoutingTrace

LAGS = (1, 2, 4, 8, 16, 40, 100)
DISTANCES = (1, 2, 4, 8, 16, 32)
ROUNDS = 10
#: Tokens simulated per round: enough for a load known to some per cent. Sequences are cut to it, none left out.
SIMULATED_TOKENS = 50_000
#: Most of a sequence's lasting state that can be its domain's [-].
_MOST_DOMAIN = 0.8
#: Most that the token's part may be of the others together [-].
_MOST_TOKEN = 0.6
#: The shortest trace that a fit is made from [tokens]: below it, noise is fitted.
LEAST_TOKENS = 2000
_QUANTILES = 21
_FACTORS = (6, 64)
_NEAR_ONE = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What a fit matches.

    Attributes
    ----------
    probability : float64 array, shape (layers, experts)
        Share of the tokens that choose each expert [-].
    excess : float64 array, shape (lags + distances, layers)
        Overlap above chance, by lag within a sequence and by distance between sequences [-].
    near, far : float
        Information between adjacent layers, and between layers half the depth apart [bit].
    together : float
        Information between two experts of a token [bit].
    """

    probability: FloatArray
    excess: FloatArray
    near: float
    far: float
    together: float


def measure(trace: RoutingTrace, seed: int = 0) -> Moments:
    """Measure the moments of a trace; ``seed`` draws the pairs of tokens that are compared."""
    rng = np.random.default_rng(seed)
    excess = np.concatenate([overlap_by_lag(trace, LAGS, rng), overlap_by_distance(trace, DISTANCES, rng)])
    deep = trace.layers > 1
    return Moments(
        probability=expert_load(trace) / trace.tokens,
        excess=excess - overlap_by_chance(trace),
        near=float(layer_information(trace).mean()) if deep else 0.0,
        far=float(layer_information(trace, _far(trace.layers)).mean()) if deep else 0.0,
        together=float(co_activation_information(trace).mean()),
    )


def fit_routing(
    trace: RoutingTrace, *, seed: int = 0, progress: Callable[[float], None] | None = None
) -> LatentRouting:
    """Fit the latent routing model to a trace.

    Parameters
    ----------
    trace : RoutingTrace
        Recorded choices, the same number of experts for every token.
    seed : int
        Seed of the simulations.
    progress : function, optional
        Called with the share done [-].

    Returns
    -------
    LatentRouting
        The fit.

    Raises
    ------
    WorkloadError
        The trace is too short, or holds empty slots.

    Notes
    -----
    An overlap above chance is proportional, for small variances, to the correlation of the states at that distance,
    so that the ratio of a measured to a simulated overlap corrects the correlation; non-negative least squares then
    splits it into the parts. Information between layers corrects the variance of the token's part, that and the one
    within a token the number of factors, and its decay over layers the memory between them.
    """
    if trace.padded:
        raise WorkloadError(f"routing trace {trace.source}: a fit needs equally many experts for every token")
    if trace.tokens < LEAST_TOKENS:
        msg = f"routing trace {trace.source}: got {trace.tokens} tokens, a fit needs at least {LEAST_TOKENS}"
        raise WorkloadError(msg)
    target = measure(trace, seed)
    model = _first_guess(trace, target)
    best, least = model, math.inf
    for turn in range(ROUNDS):
        simulated = generate_fitted(cut(model, trace), tokens=min(SIMULATED_TOKENS, trace.tokens), seed=seed)
        found = measure(simulated, seed)
        distance = moment_distance(target, found)
        if distance < least:
            best, least = model, distance
        model = _corrected(model, target, found, free=turn < ROUNDS // 2)
        if progress is not None:
            progress((turn + 1) / ROUNDS)
    return best


def moment_distance(target: Moments, found: Moments) -> float:
    """Mean relative distance of the moments: overlaps weigh three times as much as the others [-]."""
    load = np.abs(found.probability - target.probability).mean() / target.probability.mean()
    known = np.isfinite(target.excess) & np.isfinite(found.excess)
    excess = np.abs(found.excess - target.excess)[known].mean() / np.abs(target.excess[known]).mean()
    scale = max(target.near, 1e-3)
    between = (abs(found.near - target.near) + abs(found.far - target.far)) / (2 * scale)
    within = abs(found.together - target.together) / max(target.together, 1e-3)
    # The overlaps weigh most: the imbalance of batches follows from them.
    return float(load + 3 * excess + between + within) / 6


def moment_errors(model: LatentRouting, trace: RoutingTrace, *, seed: int) -> dict[str, float]:
    """Relative distance of the moments of a generated trace from those of the recorded one [-]."""
    target = measure(trace, seed)
    found = measure(generate_fitted(cut(model, trace), tokens=min(SIMULATED_TOKENS, trace.tokens), seed=seed), seed)
    known = np.isfinite(target.excess).all(axis=1) & np.isfinite(found.excess).all(axis=1)
    within: NDArray[np.bool_] = np.array(known)
    between: NDArray[np.bool_] = np.array(known)
    within[len(LAGS) :], between[: len(LAGS)] = False, False
    distance = {"load": float(np.abs(found.probability - target.probability).mean() / target.probability.mean())}
    for key, rows in (("overlap_in_sequence", within), ("overlap_between_sequences", between)):
        if rows.any():
            distance[key] = float(abs(found.excess[rows].mean() - target.excess[rows].mean()))
    for key in ("near", "far", "together"):
        if getattr(target, key) > 0:
            distance[f"information_{key}"] = abs(getattr(found, key) / getattr(target, key) - 1.0)
    return distance


def cut(model: LatentRouting, trace: RoutingTrace) -> LatentRouting:
    """Shorten a model's sequences so that ``SIMULATED_TOKENS`` hold as many as the trace has."""
    lengths = np.diff(trace.sequence_start, append=trace.tokens)
    low, high = 1, int(lengths.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(lengths, middle).sum() <= SIMULATED_TOKENS else (low, middle - 1)
    return replace(model, sequence_tokens=np.minimum(model.sequence_tokens, max(low, 2)))


def _first_guess(trace: RoutingTrace, target: Moments) -> LatentRouting:
    lengths = np.diff(trace.sequence_start, append=trace.tokens)
    run = _domain_run(target.excess[len(LAGS) :].mean(axis=1))
    scale = 20.0 * np.nan_to_num(target.excess[: len(LAGS)]).clip(0.0)
    variance = np.full((trace.layers, len(PARTS)), 12.0)
    variance[:, :-1] = _split(scale, _domain_share(target))
    return LatentRouting(
        probability=target.probability,
        variance=variance,
        factors=_FACTORS[0],
        layer_memory=0.97,
        top_k=trace.top_k,
        domains=max(round(len(lengths) / run), 1),
        domain_run=run,
        sequence_tokens=np.rint(np.quantile(lengths, np.linspace(0, 1, _QUANTILES))).astype(np.int64),
        source=trace.source,
    )


def _corrected(model: LatentRouting, target: Moments, found: Moments, *, free: bool) -> LatentRouting:
    """Move every parameter by the ratio of the moment that it governs; ``free`` lets the factors change too."""
    wanted, got = target.excess[: len(LAGS)], found.excess[: len(LAGS)]
    lasting = model.variance[:, :2].sum(axis=1)
    share = float(model.variance[:, 0].sum() / max(lasting.sum(), 1e-9))
    now = (_correlations() @ np.column_stack([lasting, model.variance[:, 2:-1]]).T).clip(1e-3)
    ratio = np.where(np.isfinite(wanted) & np.isfinite(got), wanted.clip(1e-4) / got.clip(1e-4), 1.0)
    # Overlaps saturate: near the goal they answer a variance with about half its relative change.
    ratio = (ratio**1.7).clip(0.5, 2.0)
    share *= math.sqrt(_ratio(_domain_share(target), _domain_share(found)))
    variance = np.empty_like(model.variance)
    variance[:, :-1] = _split(np.where(np.isfinite(wanted), now * ratio, np.nan), min(share, _MOST_DOMAIN))
    token = model.variance[:, -1] * _ratio(target.near, found.near)
    # More than a share of all that lasts adds little information and drowns the memory of the text.
    variance[:, -1] = np.minimum(token, _MOST_TOKEN * variance[:, :-1].sum(axis=1).clip(1.0))
    factors, memory = model.factors, model.layer_memory
    if free:
        # Fewer factors tie layers and experts more closely; both informations have a say.
        concentration = math.sqrt(_ratio(found.together, target.together) * _ratio(found.near, target.near))
        factors = round(float(np.clip(factors * concentration, *_FACTORS)))
    if model.layers > 2 and target.near > 0 and found.near > 0:
        gap = _far(model.layers) - 1
        decay = _ratio(target.far / target.near, max(found.far, 1e-4) / found.near)
        # Information goes about with the square of the correlation.
        memory = float(np.clip(memory * decay ** (0.5 / max(gap, 1)), 0.5, _NEAR_ONE))
    return replace(model, variance=variance, factors=factors, layer_memory=memory)


def _domain_share(moments: Moments) -> float:
    """Overlap of near sequences over that of far tokens of one sequence: what of the latter is the domain's [-]."""
    known: NDArray[np.bool_] = np.array(np.isfinite(moments.excess).all(axis=1))
    between, within = np.flatnonzero(known[len(LAGS) :])[:3] + len(LAGS), np.flatnonzero(known[: len(LAGS)])[-2:]
    if not (len(between) and len(within)):
        return 0.0
    share = moments.excess[between].mean() / max(float(moments.excess[within].mean()), 1e-6)
    return float(np.clip(share, 0.0, _MOST_DOMAIN))


def _correlations() -> FloatArray:
    """Correlation of what lasts (domain and sequence) and of the passages at each lag, shape (lags, parts - 2)."""
    lags = np.array(LAGS, float)
    return np.stack([np.ones_like(lags), *(np.exp(-lags / span) for span in PASSAGES)], axis=1)


def _split(wanted: FloatArray, domain_share: float) -> FloatArray:
    """Split correlations, shape (lags, layers), into variances of the parts by non-negative least squares.

    Coordinate descent on the normal equations; what no sequence was long enough to show (NaN) is left out.
    """
    known = np.isfinite(wanted).all(axis=1)
    basis, right = _correlations()[known], wanted[known].clip(0.0)
    gram, moment = basis.T @ basis, basis.T @ right
    parts = np.zeros((basis.shape[1], wanted.shape[1]))
    for _ in range(400):
        for part in range(len(parts)):
            if gram[part, part] > 0:
                parts[part] = np.maximum(0.0, parts[part] + (moment[part] - gram[part] @ parts) / gram[part, part])
    return np.column_stack([domain_share * parts[0], (1 - domain_share) * parts[0], parts[1:].T])


def _domain_run(excess: FloatArray) -> float:
    """Fit (1 - 1/run)^distance to the overlap of sequences by their distance, and return the run [sequences]."""
    known = np.isfinite(excess) & (excess > 0)
    if known.sum() < 2:
        return 1.0
    distance = np.array(DISTANCES, float)[known]
    slope = np.polyfit(distance, np.log(excess[known]), 1)[0]
    return float(np.clip(-1.0 / slope, 1.0, 100.0)) if slope < 0 else 100.0


def _ratio(wanted: float, got: float) -> float:
    """Return wanted / got within 1/2 and 2; 1 where there is nothing to compare."""
    return float(np.clip(wanted / got, 0.5, 2.0)) if wanted > 0 and got > 0 else 1.0


def _far(layers: int) -> int:
    return max(layers // 2, 1)
