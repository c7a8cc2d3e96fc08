"""Exchanges of the real, uneven traffic: which rank sends what to whom in which stage, and what that takes.

An algorithm is one or more stages, each a matrix of copies from rank to rank. The closed form sums a stage over each
rank's links; the ``flow`` fidelity sends the same matrices as messages that share links. For even traffic the closed
form is that of :func:`simulator.kernels.expert_exchange.dispatch_time`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray
from simulator.errors import ScenarioError
from simulator.kernels.collectives import CollectiveKernel, all_gather_time
from simulator.kernels.expert_exchange import ExchangeKernel, ExchangeLoad, load_time
from simulator.kernels.kernel import Fabric, KernelTime
from simulator.kernels.traffic import Traffic


def exchange_stages(traffic: Traffic, kernel: ExchangeKernel, *, expert_shards: int = 1) -> tuple[FloatArray, ...]:
    """Copies from rank to rank in each stage of a dispatch; a combine runs the stages back, transposed.

    Parameters
    ----------
    traffic : Traffic
        Who needs what.
    kernel : ExchangeKernel
        Whose flags say how copies travel.
    expert_shards : int
        Ranks that share each expert; a coordinated exchange ends by gathering among them [1].

    Returns
    -------
    tuple of FloatArray, shape (ranks, ranks)
        What a stage sends; the diagonal is what stays.

    Notes
    -----
    A forwarding kernel passes copies on while others arrive: both hops are one stage.
    """
    copies = traffic.ranks if kernel.merged else traffic.experts
    if kernel.scale_out_only:
        return (copies,)
    if kernel.forwarded:
        return (_forwarded(traffic, copies),)
    if kernel.staged:
        return _staged(traffic, copies)
    if kernel.coordinated and expert_shards > 1:
        return copies, _gathered(copies, expert_shards)
    return (copies,)


def exchange_time(
    traffic: Traffic,
    *,
    hidden: float,
    element_bytes: float,
    fabric: Fabric,
    kernel: ExchangeKernel,
    num_experts: float | None = None,
    units: float | None = None,
    expert_shards: int = 1,
    links: ArrayLike | None = None,
) -> KernelTime:
    """Time a dispatch or combine of uneven traffic on every rank [s], shape (ranks,); the slowest ends it.

    Parameters
    ----------
    traffic : Traffic
        Who sends what to whom.
    hidden, element_bytes, num_experts, units
        As for :func:`simulator.kernels.expert_exchange.dispatch_time`.
    fabric, kernel : Fabric, ExchangeKernel
        The links, and the kernel that uses them.
    expert_shards : int
        Ranks that share each expert [1].
    links : array_like, optional
        What the links take when messages share them [s], from the ``flow`` fidelity.

    Raises
    ------
    ScenarioError
        The traffic was counted for domains of another size than the fabric's.

    Notes
    -----
    A link works in both directions at once, so that the fuller one counts. Stages follow one another.

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V3 technical report", 2024, arXiv:2412.19437.
    .. [2] C. Hwang et al., "Tutel: adaptive mixture-of-experts at scale", MLSys 2023, arXiv:2206.03382.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> from simulator.kernels.traffic import traffic_of
    >>> h100 = load_hardware("h100-sxm")
    >>> kernel = coefficients(ExchangeKernel, h100.kernels["dispatch.deepep_normal"], "dispatch")
    >>> homes = np.repeat(np.arange(8), 512)
    >>> hot = traffic_of(np.zeros((4096, 1), dtype=np.int64), homes, ranks=8, domain=8)
    >>> time = exchange_time(hot, hidden=7168, element_bytes=1.03125, fabric=h100.fabric, kernel=kernel)
    >>> f"{time.seconds.max() / time.seconds.min():.1f} times as long on the rank that all tokens go to"
    '2.7 times as long on the rank that all tokens go to'
    """
    domain = min(traffic.domain, traffic.size)
    if traffic.domain != fabric.domain and traffic.size > min(traffic.domain, fabric.domain):
        raise ScenarioError(
            f"expert exchange: traffic counted for domains of {traffic.domain} ranks on a fabric of {fabric.domain}"
        )
    copies = traffic.ranks if kernel.merged else traffic.experts
    node = np.arange(traffic.size) // domain
    same, other = node[:, None] == node, ~np.eye(traffic.size, dtype=bool)
    up = out = peers = np.zeros(traffic.size)
    for stage in exchange_stages(traffic, kernel, expert_shards=expert_shards):
        inside = np.zeros_like(stage) if kernel.scale_out_only else np.where(same & other, stage, 0.0)
        outside = np.where(other, stage, 0.0) - inside
        up, out = up + _fuller(inside), out + _fuller(outside)
        peers = peers + _fuller((outside > 0).astype(np.float64))
    load = ExchangeLoad(
        tokens=traffic.tokens, copies=_fuller(copies), scale_up=up, scale_out=out, peers=np.maximum(peers, 0.0)
    )
    return load_time(
        load,
        hidden=hidden,
        ranks=traffic.size,
        element_bytes=element_bytes,
        fabric=fabric,
        kernel=kernel,
        num_experts=num_experts,
        units=units,
        links=links,
    )


def gather_exchange_time(
    traffic: Traffic, *, hidden: float, element_bytes: float, fabric: Fabric, kernel: CollectiveKernel
) -> KernelTime:
    """Time an exchange in which every rank gathers all tokens, or a combine that reduces and scatters them [s].

    Parameters
    ----------
    traffic : Traffic
        Tokens at home on each rank; where they go makes no difference.
    hidden : float
        Model width [1].
    element_bytes : float
        Bytes per element on the wire, scales included [bytes].
    fabric : Fabric
        The links.
    kernel : CollectiveKernel
        Coefficients of the collective.

    Notes
    -----
    Whom the tokens need makes no difference; ranks with fewer tokens than the fullest pad theirs.

    References
    ----------
    .. [1] R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in MPICH",
       International Journal of High Performance Computing Applications 19(1), 2005, doi:10.1177/1094342005051521.

    Examples
    --------
    As :func:`simulator.kernels.collectives.all_gather_time` of the fullest rank's tokens times the ranks.
    """
    payload = hidden * element_bytes
    message = float(traffic.tokens.max(initial=0.0)) * traffic.size * payload
    return all_gather_time(message, traffic.size, fabric=fabric, kernel=kernel)


def gather_stages(traffic: Traffic) -> tuple[FloatArray, ...]:
    """Stages of an all-gather: from the counterparts in other domains, then among the ranks of a domain."""
    n, d = traffic.size, min(traffic.domain, traffic.size)
    full = np.full(n, float(traffic.tokens.max(initial=0.0)))
    place, node = np.arange(n) % d, np.arange(n) // d
    counterparts = np.where((place[:, None] == place) & (node[:, None] != node), full[:, None], 0.0)
    within = np.where(node[:, None] == node, full[:, None] * (n // d), 0.0)
    return (counterparts, within) if n > d else (within,)


def slowest(time: KernelTime) -> KernelTime:
    """Take the rank that ends last, with its terms."""
    last = int(np.argmax(time.seconds))
    terms = {name: np.asarray(np.broadcast_to(term, time.seconds.shape)[last]) for name, term in time.terms.items()}
    return KernelTime(seconds=np.asarray(time.seconds[last]), terms=terms)


def reversed_stages(stages: Sequence[FloatArray]) -> tuple[FloatArray, ...]:
    """Turn the stages of a dispatch into those of the combine that answers it."""
    return tuple(stage.T for stage in reversed(stages))


def _fuller(copies: FloatArray) -> FloatArray:
    """Copies that each rank sends or receives, whichever is more."""
    return np.asarray(np.maximum(copies.sum(axis=1), copies.sum(axis=0)), dtype=np.float64)


def _forwarded(traffic: Traffic, copies: FloatArray) -> FloatArray:
    """One copy per domain to the rank of the sender's place there, which passes copies on inside."""
    n, d = traffic.size, min(traffic.domain, traffic.size)
    m = n // d
    sent = np.zeros((m, d, m, d))
    place = np.arange(d)
    sent[:, place, :, place] = traffic.domains.reshape(m, d, m).transpose(1, 0, 2)
    sent[np.arange(m), :, np.arange(m), :] = copies.reshape(m, d, m, d).sum(axis=0).transpose(1, 0, 2)
    return sent.reshape(n, n)


def _staged(traffic: Traffic, copies: FloatArray) -> tuple[FloatArray, ...]:
    """Gather by place inside the domain, then cross to the same place of the other domains."""
    n, d = traffic.size, min(traffic.domain, traffic.size)
    m = n // d
    by_place = copies.reshape(m, d, m, d)
    inside = np.zeros((m, d, m, d))
    inside[np.arange(m), :, np.arange(m), :] = by_place.sum(axis=2)
    if m == 1:
        return (inside.reshape(n, n),)
    across = np.zeros((m, d, m, d))
    place = np.arange(d)
    across[:, place, :, place] = by_place.sum(axis=1).transpose(2, 0, 1)
    return inside.reshape(n, n), across.reshape(n, n)


def _gathered(copies: FloatArray, expert_shards: int) -> FloatArray:
    """Every rank passes what it received to the others that share its experts."""
    group = np.arange(len(copies)) // expert_shards
    return np.where(group[:, None] == group, copies.sum(axis=0)[:, None], 0.0)
