"""Generating routing traces: who is popular, for whom, for how long.

Every kind makes one or more popularities per layer, says which token uses which, and draws ``top_k`` distinct experts
from it. docs/theory/routing.md compares the kinds with a recorded trace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.errors import WorkloadError
from workloads.parameters import choose, count, number
from workloads.routing.sampling import Popularity, draw_distinct, prepare_popularity
from workloads.routing.trace import RoutingTrace
from workloads.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MEAN_SEQUENCE = 256  # tokens; an assumption, between the recorded trace's 306 and a short chat turn
CHUNK = 2**15  # tokens drawn at a time, to bound the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingShape:
    """What a kind needs to know: sizes, and the first token of each sequence."""

    tokens: int
    layers: int
    num_experts: int
    sequence_start: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPlan:
    """What a kind decides.

    Attributes
    ----------
    weights : float64 array, shape (contexts, layers, experts)
        Relative popularity of the experts in each context.
    context : int64 array, shape (tokens,)
        The context of each token.
    stickiness : float
        Probability that a token keeps an expert of the token before it [-].
    """

    weights: NDArray[np.float64]
    context: NDArray[np.int64]
    stickiness: float = 0.0


def generate_routing(
    kind: str,
    *,
    tokens: int,
    layers: int,
    num_experts: int,
    top_k: int,
    seed: int,
    sequence_tokens: int = MEAN_SEQUENCE,
    num_groups: int = 1,
    top_k_groups: int = 1,
    **parameters: Any,
) -> RoutingTrace:
    """Generate a routing trace.

    Parameters
    ----------
    kind : str
        A key of ``ROUTING_KINDS``.
    tokens, layers, num_experts, top_k : int
        Shape of the trace, each at least 1; ``top_k`` at most ``num_experts``.
    seed : int
        Seed; the ``routing`` stream of it is used.
    sequence_tokens : int
        Mean length of a sequence [tokens]. Lengths are geometric.
    num_groups, top_k_groups : int
        Group-limited routing: experts lie in ``num_groups`` equal groups, and a token chooses among ``top_k_groups``.
    **parameters
        Parameters of the kind.

    Returns
    -------
    RoutingTrace
        The trace; ids are uint8 up to 256 experts, else uint16.

    Notes
    -----
    Groups are drawn by their total popularity and experts within them by theirs. Real routers rank groups by the sum
    of the best two scores in each, which follows the token more closely.

    Examples
    --------
    >>> trace = generate_routing("zipf", tokens=500, layers=2, num_experts=16, top_k=4, seed=1, exponent=0.8)
    >>> trace.expert_ids.shape
    (500, 2, 4)
    """
    plan_kind = choose(ROUTING_KINDS, "routing", kind, parameters)
    sizes = {"tokens": tokens, "layers": layers, "num_experts": num_experts, "sequence_tokens": sequence_tokens}
    for key, value in sizes.items():
        count(f"routing.{key}", value)
    count("routing.top_k", top_k, most=num_experts)
    _check_groups(num_experts, top_k, num_groups, top_k_groups)
    layout, popularities, draws = stream(seed, "routing").spawn(3)
    starts = _sequence_starts(layout, tokens, sequence_tokens)
    shape = RoutingShape(tokens=tokens, layers=layers, num_experts=num_experts, sequence_start=starts)
    plan = plan_kind(popularities, shape, **parameters)
    groups = (num_groups, top_k_groups) if top_k_groups < num_groups else None
    draw = _draw_sticky if plan.stickiness > 0 else _draw_independent
    expert_ids = np.empty((tokens, layers, top_k), np.uint8 if num_experts <= 256 else np.uint16)
    draw(draws, plan, shape, groups, expert_ids)
    given = ", ".join(f"{key} {value}" for key, value in parameters.items())
    return RoutingTrace(
        expert_ids=expert_ids,
        sequence_start=starts,
        num_experts=num_experts,
        source=f"generated: {kind}" + (f" ({given})" if given else "") + f", seed {seed}",
    )


def uniform(rng: np.random.Generator, shape: RoutingShape) -> RoutingPlan:  # noqa: ARG001
    """Every expert is equally popular: a perfectly balanced router.

    Parameters
    ----------
    rng : numpy.random.Generator
        Not used: nothing here is random.
    shape : RoutingShape
        Sizes.
    """
    weights = np.ones((1, shape.layers, shape.num_experts))
    return RoutingPlan(weights=weights, context=np.zeros(shape.tokens, np.int64))


def zipf(rng: np.random.Generator, shape: RoutingShape, *, exponent: Any) -> RoutingPlan:
    """The r-th most popular expert of a layer has weight ``r**-exponent``; each layer ranks its experts anew.

    Parameters
    ----------
    rng : numpy.random.Generator
        Shuffles the experts of each layer.
    shape : RoutingShape
        Sizes.
    exponent : float
        At least 0; 0 is uniform [-].
    """
    return _static(_shuffled_zipf(rng, shape, number("routing.exponent", exponent)), shape)


def dirichlet(rng: np.random.Generator, shape: RoutingShape, *, alpha: Any) -> RoutingPlan:
    """The popularities of a layer are one draw from a symmetric Dirichlet distribution.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the popularities.
    shape : RoutingShape
        Sizes.
    alpha : float
        Concentration, above 0; small is skewed, large is uniform [-].
    """
    concentration = np.full(shape.num_experts, number("routing.alpha", alpha, above=0))
    return _static(rng.dirichlet(concentration, shape.layers)[None], shape)


def layer_skew(rng: np.random.Generator, shape: RoutingShape, *, lowest: Any = 0.2, highest: Any = 1.2) -> RoutingPlan:
    """Zipf with an exponent of its own in each layer, uniform between two bounds.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the exponents and shuffles the experts.
    shape : RoutingShape
        Sizes.
    lowest, highest : float
        Bounds of the exponents, at least 0 [-].
    """
    low = number("routing.lowest", lowest)
    exponents = rng.uniform(low, number("routing.highest", highest, least=low), shape.layers)
    return _static(_shuffled_zipf(rng, shape, exponents[:, None]), shape)


def domain(
    rng: np.random.Generator,
    shape: RoutingShape,
    *,
    domains: Any = 64,
    spread: Any = 1.3,
    shared: Any = 0.25,
    stickiness: Any = 0.25,
) -> RoutingPlan:
    """Every sequence belongs to a domain (maths, law, code ...) with favourite experts of its own.

    Parameters
    ----------
    rng : numpy.random.Generator
        Assigns sequences to domains and draws the popularities.
    shape : RoutingShape
        Sizes.
    domains : int
        Number of equally likely domains, at least 1.
    spread : float
        Standard deviation of the log-popularity of experts within a domain, at least 0 [-].
    shared : float
        Share of its variance that all domains have in common, 0 to 1 [-].
    stickiness : float
        As for ``sticky`` [-].

    Notes
    -----
    Log-popularity is ``spread * (sqrt(shared) * z + sqrt(1 - shared) * z_domain)`` with standard normal z: additive in
    the router's logits. The defaults were fitted by hand to the recorded routing of gpt-oss-20b; see
    docs/theory/routing.md for how close they come and where they do not.
    """
    kinds = count("routing.domains", domains)
    scale = number("routing.spread", spread)
    common = number("routing.shared", shared, most=1)
    everywhere = rng.standard_normal((1, shape.layers, shape.num_experts))
    own = rng.standard_normal((kinds, shape.layers, shape.num_experts))
    of_sequence = rng.integers(kinds, size=len(shape.sequence_start))
    lengths = np.diff(shape.sequence_start, append=shape.tokens)
    return RoutingPlan(
        weights=np.exp(scale * (math.sqrt(common) * everywhere + math.sqrt(1 - common) * own)),
        context=np.repeat(of_sequence, lengths),
        stickiness=number("routing.stickiness", stickiness, most=1),
    )


def sticky(
    rng: np.random.Generator, shape: RoutingShape, *, stickiness: Any = 0.35, exponent: Any = 0.5
) -> RoutingPlan:
    """Zipf where a token keeps each expert of the token before it in its sequence with some probability.

    Parameters
    ----------
    rng : numpy.random.Generator
        Shuffles the experts of each layer.
    shape : RoutingShape
        Sizes.
    stickiness : float
        Probability to keep an expert, 0 to 1; the others are drawn anew [-].
    exponent : float
        Zipf exponent, at least 0 [-].
    """
    weights = _shuffled_zipf(rng, shape, number("routing.exponent", exponent))
    kept = number("routing.stickiness", stickiness, most=1)
    return RoutingPlan(weights=weights, context=np.zeros(shape.tokens, np.int64), stickiness=kept)


def drifting(
    rng: np.random.Generator, shape: RoutingShape, *, exponent: Any = 0.8, period: Any = 100_000
) -> RoutingPlan:
    """Zipf whose popularity travels slowly around the experts of each layer.

    Parameters
    ----------
    rng : numpy.random.Generator
        Arranges the experts of each layer in a ring.
    shape : RoutingShape
        Sizes.
    exponent : float
        Zipf exponent, at least 0 [-].
    period : int
        Tokens until the peak is back at the same expert, at least 1 [tokens].

    Notes
    -----
    The ranks 1, 2, 3 ... lie alternately to both sides of the peak, so that an expert's popularity rises and falls
    gradually as the peak comes by, one expert at a time.
    """
    experts = shape.num_experts
    around = np.concatenate([np.arange(0, experts, 2), np.arange(1, experts, 2)[::-1]])
    by_position = (around + 1.0) ** -number("routing.exponent", exponent)
    ring = rng.permuted(np.tile(np.arange(experts), (shape.layers, 1)), axis=1)
    step = np.arange(shape.tokens) * experts // count("routing.period", period) % experts
    shifts, context = np.unique(step, return_inverse=True)
    weights = by_position[(ring[None] - shifts[:, None, None]) % experts]
    return RoutingPlan(weights=weights, context=context)


ROUTING_KINDS: dict[str, Callable[..., RoutingPlan]] = {
    "uniform": uniform,
    "zipf": zipf,
    "dirichlet": dirichlet,
    "layer_skew": layer_skew,
    "domain": domain,
    "sticky": sticky,
    "drifting": drifting,
}


def _shuffled_zipf(
    rng: np.random.Generator, shape: RoutingShape, exponent: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Zipf weights, ranks shuffled in each layer, shape (1, layers, experts)."""
    rank = np.tile(np.arange(1.0, shape.num_experts + 1), (1, shape.layers, 1))
    return np.asarray(rng.permuted(rank, axis=2) ** -exponent)


def _static(weights: NDArray[np.float64], shape: RoutingShape) -> RoutingPlan:
    return RoutingPlan(weights=weights, context=np.zeros(shape.tokens, np.int64))


def _sequence_starts(rng: np.random.Generator, tokens: int, mean: int) -> NDArray[np.int64]:
    """Geometric sequence lengths: every token but the first begins a sequence with probability 1 / mean."""
    begins = rng.random(tokens) < 1.0 / mean
    begins[0] = True
    return np.flatnonzero(begins).astype(np.int64)


def _check_groups(num_experts: int, top_k: int, num_groups: int, top_k_groups: int) -> None:
    count("routing.num_groups", num_groups, most=num_experts)
    count("routing.top_k_groups", top_k_groups, most=num_groups)
    if num_experts % num_groups:
        msg = f"routing.num_groups: {num_groups} do not divide the {num_experts} experts"
        raise WorkloadError(msg)
    reach = num_experts // num_groups * top_k_groups
    if top_k > reach:
        held = f"{top_k_groups} of {num_groups} groups hold {reach} experts"
        msg = f"routing.top_k_groups: {held}, fewer than top_k {top_k}"
        raise WorkloadError(msg)


def _draw_independent(
    rng: np.random.Generator,
    plan: RoutingPlan,
    shape: RoutingShape,
    groups: tuple[int, int] | None,
    expert_ids: NDArray[Any],
) -> None:
    """Draw every token on its own, layer by layer."""
    for layer in range(shape.layers):
        popularity = prepare_popularity(plan.weights[:, layer])
        for start in range(0, shape.tokens, CHUNK):
            row = plan.context[start : start + CHUNK]
            drawn = _draw_in_groups(rng, popularity, row, expert_ids.shape[2], groups)
            expert_ids[start : start + CHUNK, layer] = drawn.T


def _draw_in_groups(
    rng: np.random.Generator,
    popularity: Popularity,
    row: NDArray[np.integer],
    top_k: int,
    groups: tuple[int, int] | None,
) -> NDArray[Any]:
    """Draw the groups that each token may use, then experts from them."""
    if groups is None:
        return draw_distinct(rng, popularity, row, top_k)
    num_groups, top_k_groups = groups
    contexts, experts = popularity.weights.shape
    mass = popularity.weights.reshape(contexts, num_groups, -1).sum(axis=2)
    chosen = draw_distinct(rng, prepare_popularity(mass), row, top_k_groups)
    allowed = np.zeros((len(row), num_groups), bool)
    allowed[np.arange(len(row)), chosen] = True
    return draw_distinct(rng, popularity, row, top_k, allowed=np.repeat(allowed, experts // num_groups, axis=1))


def _draw_sticky(
    rng: np.random.Generator,
    plan: RoutingPlan,
    shape: RoutingShape,
    groups: tuple[int, int] | None,
    expert_ids: NDArray[Any],
) -> None:
    """Draw position by position, all layers and sequences at once: a token needs the one before it."""
    if groups is not None:
        msg = "routing.num_groups: not together with stickiness"
        raise WorkloadError(msg)
    top_k = expert_ids.shape[2]
    popularity = prepare_popularity(plan.weights.reshape(-1, shape.num_experts))
    lengths = np.diff(shape.sequence_start, append=shape.tokens)
    longest_first = np.argsort(-lengths, kind="stable")
    starts, lengths = shape.sequence_start[longest_first], lengths[longest_first]
    layer = np.arange(shape.layers)
    before = np.empty((top_k, 0), np.int64)
    for position in range(int(lengths[0])):
        token = starts[: int(np.searchsorted(-lengths, -position, side="left"))] + position
        row = (plan.context[token][:, None] * shape.layers + layer).ravel()
        if position == 0:
            drawn = draw_distinct(rng, popularity, row, top_k)
        else:
            before = before[:, : len(row)]
            kept = rng.random(before.shape) < plan.stickiness
            drawn = draw_distinct(rng, popularity, row, top_k, *_kept_first(before, kept))
        expert_ids[token] = drawn.T.reshape(len(token), shape.layers, top_k)
        before = drawn


def _kept_first(
    before: NDArray[np.integer], kept: NDArray[np.bool_]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Move what each item keeps into its first slots; return that, shape (top_k, items), and how many it keeps."""
    items = kept.shape[1]
    place = kept.cumsum(axis=0)
    # Flat indices: a step has few items, and indexing by two axes takes twice as long.
    flat = np.flatnonzero(kept)
    held = np.zeros(kept.shape, before.dtype)
    held.reshape(-1)[(place.reshape(-1)[flat] - 1) * items + flat % items] = before.ravel()[flat]
    return held, place[-1]
