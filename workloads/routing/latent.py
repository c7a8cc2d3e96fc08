"""Routing from a latent state of the text: what a fitted trace is generated with.

A token has a hidden state of a few factors, a sum of parts that last differently long: its domain, its sequence, its
passage and itself. Every layer reads the same state through loadings of its own, adds it to the log-popularities of
its experts and takes the ``top_k`` largest after independent noise. Load, stickiness, domains and the dependence
between layers then have one cause. docs/theory/routing.md has the equations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.errors import nearest
from workloads.errors import WorkloadError
from workloads.parameters import choose, count
from workloads.routing.routers import ROUTERS, stacked, trace_from_choices
from workloads.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from workloads.arrays import RealArray
    from workloads.routing.trace import RoutingTrace

#: Tokens after which a passage's part of the state has lost 1/e of its correlation; what fits differ in is how much
#: of the state each holds. They span a phrase to a page.
PASSAGES = (100.0, 12.0, 1.5)
#: Parts of the state, from what lasts longest; ``token`` is drawn anew for every token.
PARTS = ("domain", "sequence", "passage_100", "passage_12", "passage_1.5", "token")
#: Kinds of token (articles, digits, line ends ...), the r-th most frequent with weight 1/r. An assumption: with about
#: a hundred, co-activation and the dependence between near and far layers of a recorded trace come out together.
TOKEN_KINDS = 100
BALANCING_ROUNDS = 12
CHUNK_NUMBERS = 2**21  # logits made at a time, to bound the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentRouting:
    """Parameters of a latent routing model, as fitted to a recorded trace.

    Attributes
    ----------
    probability : float64 array, shape (layers, experts)
        Share of the tokens that choose each expert; a layer sums to ``top_k`` [-].
    variance : float64 array, shape (layers, parts)
        Variance of the logits from each of ``PARTS`` [-].
    factors : int
        Dimensions of the hidden state; few make layers depend on one another strongly.
    layer_memory : float
        Correlation of the states that two successive layers read [-].
    top_k : int
        Experts per token.
    domains : int
        Kinds of text that the sequences come from.
    domain_run : float
        Mean number of consecutive sequences of one domain.
    sequence_tokens : int64 array, shape (quantiles,)
        Evenly spaced quantiles of the lengths of sequences, shortest to longest [tokens].
    source : str
        What it was fitted to.
    """

    probability: NDArray[np.float64]
    variance: NDArray[np.float64]
    factors: int
    layer_memory: float
    top_k: int
    domains: int
    domain_run: float
    sequence_tokens: NDArray[np.int64]
    source: str

    @property
    def layers(self) -> int:
        """MoE layers that it was fitted to."""
        return int(self.probability.shape[0])

    @property
    def num_experts(self) -> int:
        """Experts per layer that it was fitted to."""
        return int(self.probability.shape[1])


def generate_fitted(
    model: LatentRouting,
    *,
    tokens: int,
    seed: int,
    layers: int | None = None,
    num_experts: int | None = None,
    top_k: int | None = None,
    router: str | None = None,
    router_parameters: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
) -> RoutingTrace:
    """Generate a routing trace with the statistics of the trace that ``model`` was fitted to.

    Parameters
    ----------
    model : LatentRouting
        The fit.
    tokens : int
        Length of the trace [tokens]; any.
    seed : int
        Seed; the ``routing`` stream of it is used.
    layers, num_experts, top_k : int, optional
        Sizes; those of the fit by default. Other layers repeat fitted ones with their experts renamed; other numbers
        of experts take as many quantiles of the probability.
    router : str, optional
        A key of ``routers.ROUTERS`` that chooses from the logits; the ``top_k`` largest by default.
    router_parameters : mapping, optional
        Its parameters; ``top_k`` is the fit's where the router takes one.
    progress : function, optional
        Called with the share done [-].

    Returns
    -------
    RoutingTrace
        The trace; ids in the order of their logits, largest first.
    """
    count("routing.tokens", tokens)
    resized = resize(model, seed, layers, num_experts, top_k)
    starts, lengths = sequence_layout(resized, stream(seed, "routing").spawn(5)[0], tokens)
    choose_from: Callable[[RealArray], NDArray[np.int64]] = partial(largest, top_k=resized.top_k)
    if router is not None:
        choose_from = _router(router, dict(router_parameters or {}), resized.top_k)
    layers_chosen: list[list[NDArray[np.int64]]] = [[] for _ in range(resized.layers)]
    for layer, first, logits in latent_logits(resized, lengths, seed):
        layers_chosen[layer].append(np.asarray(choose_from(logits), np.int64))
        if progress is not None:
            progress((layer + (first + len(logits)) / tokens) / resized.layers)
    return trace_from_choices(
        [stacked(chunks, resized.num_experts) for chunks in layers_chosen],
        starts,
        resized.num_experts,
        f"generated: fitted to {model.source}, seed {seed}" + (f", router {router}" if router else ""),
    )


def _router(name: str, given: dict[str, Any], top_k: int) -> Callable[[RealArray], NDArray[np.int64]]:
    """Bind the parameters of a router; its ``top_k`` is the fit's where it takes one that is not given."""
    if name not in ROUTERS:
        raise WorkloadError(f"router.kind: unknown kind {name!r}; {nearest(name, ROUTERS)}")
    if "top_k" in signature(ROUTERS[name]).parameters:
        given = {"top_k": top_k, **given}
    choose(ROUTERS, "router", name, given)
    return partial(ROUTERS[name], **given)


def latent_logits(model: LatentRouting, lengths: NDArray[np.int64], seed: int) -> Iterator[tuple[int, int, RealArray]]:
    """Yield (layer, first token, logits with their noise): all tokens of a layer in chunks, layer after layer.

    Parameters
    ----------
    model : LatentRouting
        The parameters; layers and experts as in ``model``.
    lengths : int64 array, shape (sequences,)
        Tokens of each sequence.
    seed : int
        Seed; the ``routing`` stream of it is used.

    Notes
    -----
    logit = bias + loading . sum over parts of sqrt(variance) state + Gumbel noise, loadings and states standard
    normal. The bias of each expert is found on a sample of the tokens so that the expert gets its ``probability``. The
    state of a token kind changes from layer to layer as ``m state + sqrt(1 - m^2) innovation`` with m =
    ``layer_memory``.
    """
    _, hidden, loadings, noise, _ = stream(seed, "routing").spawn(5)
    state = _draw_state(model, lengths, hidden)
    rows = max(1, CHUNK_NUMBERS // model.num_experts)
    keep, renew = np.float32(model.layer_memory), np.float32(np.sqrt(1 - model.layer_memory**2))
    for layer in range(model.layers):
        if layer:
            fresh = hidden.standard_normal(state.kinds.shape, dtype=np.float32)
            state.kinds[:] = keep * state.kinds + renew * fresh
        loading = loadings.standard_normal((model.factors, model.num_experts), dtype=np.float32)
        loading /= np.float32(np.sqrt(model.factors))
        scale = np.sqrt(model.variance[layer]).astype(np.float32)
        of_sequence = scale[0] * state.domains + scale[1] * state.sequences
        of_kind = scale[-1] * state.kinds
        logits_of = partial(_logits, state, of_sequence, of_kind, scale[2:-1], loading, noise)
        sample = np.unique(np.linspace(0, len(state.kind) - 1, rows // 8).astype(np.int64))
        bias = balance(logits_of(sample), model.probability[layer], model.top_k)
        for first in range(0, len(state.kind), rows):
            yield layer, first, logits_of(slice(first, first + rows)) + bias


def _logits(
    state: _State,
    of_sequence: RealArray,
    of_kind: RealArray,
    of_passages: RealArray,
    loading: RealArray,
    noise: np.random.Generator,
    tokens: Any,
) -> RealArray:
    """Return the logits of some tokens of one layer, without the bias of its experts."""
    mixed = of_sequence[state.sequence[tokens]] + of_kind[state.kind[tokens]]
    for size, passage in zip(of_passages, state.passages, strict=True):
        mixed += size * passage[tokens]
    logits = mixed @ loading
    # The negative logarithm of a standard exponential is a Gumbel variate.
    arrival = noise.standard_exponential(logits.shape, dtype=np.float32)
    logits -= np.log(np.maximum(arrival, np.float32(1e-30)))
    return np.asarray(logits, np.float32)


def balance(logits: RealArray, probability: NDArray[np.float64], top_k: int) -> RealArray:
    """Find the bias of every expert with which each is among the ``top_k`` of its share of the tokens.

    Parameters
    ----------
    logits : float array, shape (tokens, experts)
        Logits of a sample of tokens.
    probability : float64 array, shape (experts,)
        Share of the tokens that each expert shall get; sums to ``top_k`` [-].
    top_k : int
        Experts per token.

    Returns
    -------
    float32 array, shape (experts,)

    Notes
    -----
    An expert is chosen where its logit passes the token's threshold, halfway between its k-th and next largest. Each
    round shifts every expert by most of the quantile of its distance to the thresholds that its share asks for.
    """
    tokens, experts = logits.shape
    bias = np.zeros(experts, np.float32)
    if top_k == experts:
        return bias
    place = np.clip(np.rint((1 - probability) * tokens), 0, tokens - 1).astype(np.int64)
    for _ in range(BALANCING_ROUNDS):
        shifted = logits + bias
        edge = np.partition(shifted, (experts - top_k - 1, experts - top_k), axis=1)
        threshold = edge[:, experts - top_k - 1 : experts - top_k + 1].mean(axis=1)
        margin = np.sort(shifted - threshold[:, None], axis=0)
        bias -= np.float32(0.7) * margin[place, np.arange(experts)]
        bias -= bias.mean()
    return bias


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """Standard normal states: per sequence (domain, own), per token kind, and per token (passages)."""

    domains: RealArray
    sequences: RealArray
    passages: tuple[RealArray, ...]
    kinds: RealArray
    sequence: NDArray[np.int64]
    kind: NDArray[np.int64]


def _draw_state(model: LatentRouting, lengths: NDArray[np.int64], rng: np.random.Generator) -> _State:
    """Draw the state; domains are centred, so that the load of a long trace is that of the fit."""
    tokens, sequences, factors = int(lengths.sum()), len(lengths), model.factors
    changes = rng.random(sequences) < 1.0 / model.domain_run
    # Domains come in rounds, so that a long text visits all equally often.
    rounds = [rng.permutation(model.domains) for _ in range(-(-sequences // model.domains))]
    domain = np.concatenate(rounds)[np.cumsum(changes) - changes[0]]
    shares = 1.0 / np.arange(1, TOKEN_KINDS + 1)
    kind = rng.choice(TOKEN_KINDS, size=tokens, p=shares / shares.sum())
    passages = tuple(
        _autoregressive(rng.standard_normal((tokens, factors), dtype=np.float32), lengths, float(np.exp(-1 / span)))
        for span in PASSAGES
    )
    return _State(
        domains=_even(rng, model.domains, factors)[domain],
        sequences=rng.standard_normal((sequences, factors), dtype=np.float32),
        passages=passages,
        kinds=rng.standard_normal((TOKEN_KINDS, factors), dtype=np.float32),
        sequence=np.repeat(np.arange(sequences), lengths),
        kind=kind,
    )


def _even(rng: np.random.Generator, number: int, factors: int) -> RealArray:
    """Draw ``number`` normal vectors of mean 0 and, where there are enough of them, of unit covariance exactly."""
    vectors = rng.standard_normal((number, factors))
    if number > 1:
        vectors -= vectors.mean(axis=0)
        scale = np.sqrt(number) / np.sqrt((vectors**2).mean(axis=1).sum())
        vectors *= scale
    if number > factors + 1:
        covariance = vectors.T @ vectors / number
        vectors = vectors @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    return vectors.astype(np.float32)


def sequence_layout(
    model: LatentRouting, rng: np.random.Generator, tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw sequences until ``tokens`` are full, the last one cut; return their starts and lengths [tokens]."""
    quantiles = model.sequence_tokens.astype(np.float64)
    grid = np.linspace(0, 1, len(quantiles))
    lengths = np.empty(0, np.int64)
    while lengths.sum() < tokens:
        drawn = np.interp(rng.random(int(tokens / quantiles.mean()) + 8), grid, quantiles)
        lengths = np.concatenate([lengths, np.maximum(np.rint(drawn), 1).astype(np.int64)])
    ends = np.minimum(np.cumsum(lengths), tokens)
    ends = ends[: int(np.searchsorted(ends, tokens)) + 1]
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    return starts, ends - starts


def largest(logits: RealArray, top_k: int) -> NDArray[np.int64]:
    """Return the ids of the ``top_k`` largest of each row, largest first."""
    if top_k == logits.shape[1]:
        return np.argsort(-logits, axis=1, kind="stable")
    found = np.argpartition(-logits, top_k - 1, axis=1)[:, :top_k]
    order = np.argsort(-np.take_along_axis(logits, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def resize(
    model: LatentRouting, seed: int, layers: int | None, num_experts: int | None, top_k: int | None
) -> LatentRouting:
    """Give a fit other sizes; see :func:`generate_fitted`.

    Parameters
    ----------
    model : LatentRouting
        The fit.
    seed : int
        Of the stream that deals the probabilities out anew.
    layers, num_experts, top_k : int or None
        Sizes asked for [1]; the fit's own where None.

    Returns
    -------
    LatentRouting
        Layers are taken evenly from the fit's; experts have the fit's spread of probabilities, in an order drawn anew
        wherever their number or the layers changed.

    Raises
    ------
    WorkloadError
        A size is no count, or a token chooses more experts than there are.
    """
    wanted_layers = count("routing.layers", model.layers if layers is None else layers)
    experts = count("routing.num_experts", model.num_experts if num_experts is None else num_experts)
    chosen = count("routing.top_k", model.top_k if top_k is None else top_k)
    if chosen > experts:
        raise WorkloadError(f"routing.top_k: got {chosen}, expected at most the {experts} experts")
    rng = stream(seed, "routing").spawn(5)[4]
    like = np.rint(np.linspace(0, model.layers - 1, wanted_layers)).astype(np.int64)
    probability = model.probability[like]
    if experts != model.num_experts:
        at = (np.arange(experts) + 0.5) / experts
        known = (np.arange(model.num_experts) + 0.5) / model.num_experts
        probability = np.stack([np.interp(at, known, row) for row in np.sort(probability, axis=1)])
    if wanted_layers != model.layers or experts != model.num_experts:
        probability = rng.permuted(probability, axis=1)
    return replace(model, probability=_to_sum(probability, chosen), variance=model.variance[like], top_k=chosen)


def _to_sum(probability: NDArray[np.float64], top_k: int) -> NDArray[np.float64]:
    """Scale the probabilities of each layer to a sum of ``top_k``, none above 1."""
    scaled = probability * (top_k / probability.sum(axis=1, keepdims=True))
    for _ in range(probability.shape[1]):
        over = scaled >= 1.0
        room = top_k - over.sum(axis=1, keepdims=True)
        rest = np.where(over, 0.0, scaled)
        again = np.where(over, 1.0, rest * (room / np.maximum(rest.sum(axis=1, keepdims=True), 1e-300)))
        if (again <= 1.0).all():
            return np.asarray(again)
        scaled = again
    return np.asarray(np.minimum(scaled, 1.0))


def _autoregressive(shocks: RealArray, lengths: NDArray[np.int64], memory: float) -> RealArray:
    """Turn independent shocks into a stationary AR(1) process of unit variance within each sequence, in place."""
    longest_first = np.argsort(-lengths, kind="stable")
    starts, sorted_lengths = (np.cumsum(lengths) - lengths)[longest_first], lengths[longest_first]
    keep, renew = np.float32(memory), np.float32(np.sqrt(1 - memory**2))
    for position in range(1, int(sorted_lengths[0])):
        token = starts[: int(np.searchsorted(-sorted_lengths, -position, side="left"))] + position
        shocks[token] = keep * shocks[token - 1] + renew * shocks[token]
    return shocks
