"""Time to dispatch tokens to the ranks of their experts and to combine the results.

One model for all exchanges: a token leaves in a number of copies, each copy crosses a scale-up link, a scale-out link
or none, and a number of compute units push the copies. What differs between libraries (one copy per expert or per
rank, forwarding within the node, stages, fixed costs) is data of the kernel. :func:`dispatch_time` counts the copies
of an even router; :mod:`simulator.kernels.all_to_all` counts those of a real one and prices them by the same
:func:`load_time`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray
from simulator.errors import ScenarioError
from simulator.kernels.family import Family, arguments
from simulator.kernels.kernel import FLAG, LINK_SHARPNESS, Fabric, KernelTime, Machine, smooth_max

_S = {"unit": "s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeKernel:
    """What belongs to a dispatch or combine kernel rather than to the links.

    Attributes
    ----------
    launch : float
        Launch and synchronisation that nothing hides [s].
    start_expert : float
        Further start per expert of the layer: counters that every rank exchanges [s].
    start_hidden : float
        Further start per element of the hidden size: the first token's way through the pipeline [s].
    start_doubling : float
        Further start per doubling of the ranks [s].
    start_remote : float
        Further start where copies leave the scale-up domain [s].
    unit_token, unit_copy : float
        Time of one compute unit per token, and per copy of it [s].
    unit_rate, token_rate : float
        Rate at which one compute unit moves copies, and the tokens themselves, however many copies they make (staging
        before the first copy, summing after the last) [bytes/s].
    units : float
        Compute units that the kernel takes [1].
    efficiency, scale_out_efficiency : float
        Share of the scale-up and of the scale-out bandwidth that large exchanges reach [1].
    sharpness, link_sharpness : float
        Overlap of the start with the rest, and of units and links: 1 none, large perfect [1].
    merged : bool
        Whether a token crosses once per rank that it needs, or once per expert.
    forwarded : bool
        Whether a token crosses once per remote domain and is passed on inside it, or goes straight to its rank.
    scale_out_only : bool
        Whether all copies take the scale-out link, even inside the domain.
    staged : bool
        Whether copies first gather, inside the domain, at the rank whose place they go to in the other domains, and
        cross in one message per domain (two-level all-to-all), or go straight.
    coordinated : bool
        Whether tensor-parallel peers send only to their counterparts, which then gather what their peers received.
    peer : float
        Start of each message to another rank over the scale-out link, one after the other [s].
    peers_half : float
        Scale-out peers at which the link has lost half its rate to their connections' state; 0 for no loss [1].
    connection_rate : float
        Rate of one connection between two scale-out ports [bytes/s].
    """

    launch: float = field(metadata=_S)
    start_expert: float = field(default=0.0, metadata=_S)
    start_hidden: float = field(default=0.0, metadata=_S)
    start_doubling: float = field(default=0.0, metadata=_S)
    start_remote: float = field(default=0.0, metadata=_S)
    unit_token: float = field(default=0.0, metadata=_S)
    unit_copy: float = field(default=0.0, metadata=_S)
    unit_rate: float = field(default=1e15, metadata={"unit": "B/s"})
    token_rate: float = field(default=1e15, metadata={"unit": "B/s"})
    units: float
    efficiency: float
    scale_out_efficiency: float
    sharpness: float
    link_sharpness: float = LINK_SHARPNESS
    merged: bool = field(metadata=FLAG)
    forwarded: bool = field(metadata=FLAG)
    scale_out_only: bool = field(default=False, metadata=FLAG)
    staged: bool = field(default=False, metadata=FLAG)
    coordinated: bool = field(default=False, metadata=FLAG)
    peer: float = field(default=0.0, metadata=_S)
    peers_half: float = 0.0
    connection_rate: float = field(default=1e15, metadata={"unit": "B/s"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeLoad:
    """What an exchange asks of a rank, each field a number or an array that broadcasts.

    Attributes
    ----------
    tokens : array_like
        Tokens that the rank's units take up [tokens].
    copies : array_like
        Copies that its units move [1].
    scale_up, scale_out : array_like
        Copies over its scale-up and its scale-out link, in the fuller direction [1].
    peers : array_like
        Ranks that it sends to over the scale-out link [1].
    """

    tokens: ArrayLike
    copies: ArrayLike
    scale_up: ArrayLike
    scale_out: ArrayLike
    peers: ArrayLike


def distinct(draws: ArrayLike, buckets: ArrayLike, items: ArrayLike | None = None) -> FloatArray:
    """Expected number of distinct buckets hit by ``draws`` different items that are spread evenly over the buckets.

    Parameters
    ----------
    draws, buckets : array_like
        Experts per token, and ranks or nodes that hold the experts [1].
    items : array_like, optional
        Experts in all [1]; very many if not given.

    Notes
    -----
    ``b (1 - C(E - E/b, k) / C(E, k))``, which tends to ``b (1 - (1 - 1/b)^k)`` for many experts.

    Examples
    --------
    >>> round(float(distinct(8, 8, 256)), 2)
    5.29
    """
    k, b = np.broadcast_arrays(np.asarray(draws, dtype=np.float64), np.asarray(buckets, dtype=np.float64))
    if items is None:
        return np.asarray(b * -np.expm1(k * np.log1p(-np.minimum(1.0 / b, 1.0 - 1e-12))), dtype=np.float64)
    total = np.asarray(items, dtype=np.float64)
    missed = np.ones(np.broadcast_shapes(k.shape, total.shape))
    for i in range(int(np.max(k, initial=0.0))):
        left = np.maximum(total - i, 1.0)
        missed = missed * np.where(i < k, np.clip((total - total / b - i) / left, 0.0, 1.0), 1.0)
    return np.asarray(b * (1.0 - missed), dtype=np.float64)


def dispatch_time(
    tokens: ArrayLike,
    *,
    hidden: ArrayLike,
    top_k: ArrayLike,
    ranks: ArrayLike,
    element_bytes: ArrayLike,
    fabric: Fabric,
    kernel: ExchangeKernel,
    num_experts: ArrayLike | None = None,
    max_nodes: ArrayLike | None = None,
    max_rank_share: ArrayLike = 1.0,
    units: ArrayLike | None = None,
    rank_copies: ArrayLike | None = None,
    node_copies: ArrayLike | None = None,
    expert_shards: ArrayLike = 1.0,
) -> KernelTime:
    """Time the dispatch of ``tokens`` tokens of each rank [1] to the ranks of their experts.

    Parameters
    ----------
    tokens : array_like
        Tokens at home on each rank [1].
    hidden, top_k, ranks : array_like
        Model width, experts per token and ranks that share the experts [1].
    element_bytes : array_like
        Bytes per element on the wire, scales included [bytes].
    fabric : Fabric
        The links.
    kernel : ExchangeKernel
        Coefficients of the exchange.
    num_experts : array_like, optional
        Experts of the layer [1]; very many if not given.
    max_nodes : array_like, optional
        Most scale-up domains that a token may go to (node-limited routing) [1].
    max_rank_share : array_like
        Copies at the most loaded rank over the mean [1].
    units : array_like, optional
        Compute units given to the kernel instead of its own choice [1].
    rank_copies, node_copies : array_like, optional
        Ranks and domains that a token really reaches on average [1], instead of those of an even router.
    expert_shards : array_like
        Ranks that share each expert and all need its tokens; only a coordinated exchange treats them apart [1].

    Returns
    -------
    KernelTime
        Terms: ``scale_up``, ``scale_out``, ``units`` and ``latency``.

    Notes
    -----
    ``launch + smooth_max(start, units, scale_up, scale_out)``. With R ranks and G domains reached among n ranks in m
    domains of d, forwarded copies cross scale-out links ``G (m - 1) / m`` times and scale-up links ``R (d - 1) / d``
    times; straight copies ``R (n - d) / n`` and ``R (d - 1) / n`` times; staged ones ``R (m - 1) / m`` and
    ``R (d - 1) / d`` times.

    Measured on one node of H100; what leaves a node follows published figures.

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V3 technical report", 2024, arXiv:2412.19437.
    .. [2] C. Hwang et al., "Tutel: adaptive mixture-of-experts at scale", MLSys 2023, arXiv:2206.03382.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "dispatch.deepep_normal"
    >>> kernel = coefficients(ExchangeKernel, h100.kernels[name], name)
    >>> time = dispatch_time(
    ...     4096, hidden=7168, top_k=8, ranks=8, element_bytes=1.03125, num_experts=256,
    ...     fabric=h100.fabric, kernel=kernel,
    ... )
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.54 ms'
    """
    n = np.asarray(ranks, dtype=np.float64)
    if np.any(n < 1):
        raise ScenarioError("expert exchange: ranks must be at least 1")
    d = np.minimum(n, float(fabric.domain))
    m = np.ceil(n / d)
    shared = np.asarray(expert_shards if kernel.coordinated else 1.0, dtype=np.float64)
    reached_ranks, reached_nodes = _copies(top_k, n / shared, m, num_experts, max_nodes, kernel)
    if rank_copies is not None:
        reached_ranks = np.asarray(rank_copies, dtype=np.float64)
    if node_copies is not None:
        reached_nodes = np.asarray(node_copies, dtype=np.float64)
    up, out = _crossings(reached_ranks, reached_nodes, n, d, m, kernel, shared)
    sent = np.asarray(tokens, dtype=np.float64) * np.asarray(max_rank_share, dtype=np.float64)
    load = ExchangeLoad(
        tokens=sent,
        copies=sent * reached_ranks,
        scale_up=sent * up,
        scale_out=sent * out,
        peers=scale_out_peers(n, d, m, kernel, shared),
    )
    return load_time(
        load,
        hidden=hidden,
        ranks=n,
        element_bytes=element_bytes,
        fabric=fabric,
        kernel=kernel,
        num_experts=num_experts,
        units=units,
    )


def load_time(
    load: ExchangeLoad,
    *,
    hidden: ArrayLike,
    ranks: ArrayLike,
    element_bytes: ArrayLike,
    fabric: Fabric,
    kernel: ExchangeKernel,
    num_experts: ArrayLike | None = None,
    units: ArrayLike | None = None,
    links: ArrayLike | None = None,
) -> KernelTime:
    """Time an exchange from what it asks of a rank's links and units.

    Parameters
    ----------
    load : ExchangeLoad
        Tokens, copies, crossings and peers of the rank.
    hidden, ranks : array_like
        Model width, and ranks that share the experts [1].
    element_bytes : array_like
        Bytes per element on the wire, scales included [bytes].
    fabric : Fabric
        The links.
    kernel : ExchangeKernel
        Coefficients of the exchange.
    num_experts : array_like, optional
        Experts of the layer [1]; very many if not given.
    units : array_like, optional
        Compute units given to the kernel instead of its own choice [1].
    links : array_like, optional
        What the links take when messages share them [s], instead of what each rank's own two would.

    Notes
    -----
    A scale-out link takes ``(V / min(b e, c p) + s p) (1 + p / h)`` for V bytes to p peers: c is what one connection
    carries, s the start of a peer's message, h the peers at which their connections' state has halved the rate.

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V3 technical report", 2024, arXiv:2412.19437.
    .. [2] C. Hwang et al., "Tutel: adaptive mixture-of-experts at scale", MLSys 2023, arXiv:2206.03382.

    Examples
    --------
    An even router's load is that of :func:`dispatch_time`; a real one's that of
    :func:`simulator.kernels.all_to_all.exchange_time`.
    """
    width, n = np.asarray(hidden, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    d = np.minimum(n, float(fabric.domain))
    out, peers = np.asarray(load.scale_out, dtype=np.float64), np.asarray(load.peers, dtype=np.float64)
    payload = width * np.asarray(element_bytes, dtype=np.float64)
    scale_up = np.asarray(load.scale_up, dtype=np.float64) * payload / (_scale_up(n, d, fabric) * kernel.efficiency)
    rate = np.minimum(
        fabric.scale_out_bandwidth * kernel.scale_out_efficiency, kernel.connection_rate * np.maximum(peers, 1.0)
    )
    scale_out = (out * payload / rate + kernel.peer * peers) * crowding(peers, kernel)
    busy = np.asarray(kernel.units if units is None else units, dtype=np.float64)
    experts = 0.0 if num_experts is None else np.asarray(num_experts, dtype=np.float64)
    if num_experts is not None and not kernel.merged:
        busy = np.minimum(busy, experts)
    work = np.asarray(load.tokens, dtype=np.float64) * (kernel.unit_token + payload / kernel.token_rate)
    work = work + np.asarray(load.copies, dtype=np.float64) * (kernel.unit_copy + payload / kernel.unit_rate)
    work = work / busy
    start = kernel.start_expert * experts + kernel.start_hidden * width + kernel.start_doubling * np.log2(n)
    start = start + np.where(out > 0, fabric.scale_out_latency + kernel.start_remote, fabric.scale_up_latency)
    crossing = smooth_max(scale_up, scale_out, kernel.link_sharpness) if links is None else links
    bounds = smooth_max(crossing, work, kernel.link_sharpness)
    seconds = np.where(n > 1, kernel.launch + smooth_max(start, bounds, kernel.sharpness), 0.0)
    zero = np.zeros_like(seconds)
    return KernelTime(
        seconds=seconds,
        terms={
            "scale_up": scale_up + zero,
            "scale_out": scale_out + zero,
            "units": work + zero,
            "latency": kernel.launch + start + zero,
        },
    )


def crowding(peers: ArrayLike, kernel: ExchangeKernel) -> FloatArray:
    """Factor by which many peers at once slow a scale-out link [1]."""
    if kernel.peers_half <= 0.0:
        return np.ones_like(np.asarray(peers, dtype=np.float64))
    return 1.0 + np.asarray(peers, dtype=np.float64) / kernel.peers_half


def scale_out_peers(
    n: ArrayLike, d: ArrayLike, m: ArrayLike, kernel: ExchangeKernel, expert_shards: ArrayLike = 1.0
) -> FloatArray:
    """Count the ranks that each rank sends to over its scale-out link [1].

    Parameters
    ----------
    n, d, m : array_like
        Ranks, those of a scale-up domain, and domains [1].
    kernel : ExchangeKernel
        Whether copies go straight, by stages, or are forwarded.
    expert_shards : array_like
        Ranks that share each expert [1].
    """
    n, d, m = (np.asarray(value, dtype=np.float64) for value in (n, d, m))
    if kernel.scale_out_only:
        return np.asarray(n - 1.0, dtype=np.float64)
    if kernel.forwarded or kernel.staged:
        return np.asarray(m - 1.0, dtype=np.float64)
    return np.asarray((n - d) / np.asarray(expert_shards, dtype=np.float64), dtype=np.float64)


def _copies(
    top_k: ArrayLike,
    n: FloatArray,
    m: FloatArray,
    num_experts: ArrayLike | None,
    max_nodes: ArrayLike | None,
    kernel: ExchangeKernel,
) -> tuple[FloatArray, FloatArray]:
    """Ranks and domains that a token reaches when all experts are equally likely."""
    k = np.asarray(top_k, dtype=np.float64)
    allowed = m if max_nodes is None else np.minimum(np.asarray(max_nodes, dtype=np.float64), m)
    items = None if num_experts is None else np.asarray(num_experts, dtype=np.float64) * allowed / m
    nodes = distinct(k, allowed, items)
    if not kernel.merged:
        return np.asarray(k + 0.0 * n, dtype=np.float64), nodes
    return distinct(k, n * allowed / m, items), nodes


def _crossings(
    ranks: FloatArray,
    nodes: FloatArray,
    n: FloatArray,
    d: FloatArray,
    m: FloatArray,
    kernel: ExchangeKernel,
    expert_shards: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Copies of a token that cross scale-up and scale-out links."""
    if kernel.scale_out_only:
        return 0.0 * ranks, ranks * (n - 1.0) / n
    if kernel.forwarded:
        return ranks * (d - 1.0) / d, nodes * (m - 1.0) / m
    if kernel.staged:
        return ranks * (d - 1.0) / d, ranks * (m - 1.0) / m
    return ranks * ((d - expert_shards) / n + expert_shards - 1.0), ranks * (n - d) / n


def _scale_up(n: FloatArray, d: FloatArray, fabric: Fabric) -> FloatArray:
    """Scale-up bandwidth towards the others of the group [bytes/s]; without a switch, that of the links to them."""
    if fabric.switched:
        return np.asarray(fabric.scale_up_bandwidth + 0.0 * n, dtype=np.float64)
    reach = np.minimum((d - 1.0) / max(fabric.domain - 1.0, 1.0), 1.0)
    return np.asarray(fabric.scale_up_bandwidth * np.maximum(reach, 1e-12), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeShape:
    """Tokens on their way to experts or back: the arguments of :func:`dispatch_time`."""

    tokens: ArrayLike
    hidden: float
    top_k: float
    ranks: int
    element_bytes: float
    num_experts: int
    max_nodes: int | None = None
    max_rank_share: ArrayLike = 1.0
    expert_shards: int = 1


def _time(shape: ExchangeShape, machine: Machine, kernel: ExchangeKernel) -> KernelTime:
    return dispatch_time(**arguments(shape, "tokens"), fabric=machine.fabric, kernel=kernel)


EXCHANGE = Family(
    kinds=("dispatch", "combine"),
    shape=ExchangeShape,
    coefficients=ExchangeKernel,
    time=_time,
    axes=("tokens", "hidden", "top_k", "num_experts", "ranks"),
    equation="launch + smooth_max(start, smooth_max(smooth_max(scale_up, scale_out), units)) of the rank that receives "
    "most; scale_up and scale_out = copies * hidden * element_bytes / rate of the link",
    validity="one node of H100 was measured; what leaves the node follows published figures and the links' datasheets",
    references=(
        "DeepSeek-AI, DeepSeek-V3, 2024, arXiv:2412.19437 (forwarded and low-latency exchanges)",
        "C. Hwang et al., Tutel, MLSys 2023, arXiv:2206.03382 (two-level all-to-all)",
    ),
    theory="expert-exchange.md",
    off_together="exchange",
)
