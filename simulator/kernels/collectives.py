"""Time of collectives among the ranks of a group, within a scale-up domain and across domains.

Sizes follow NCCL's conventions: an all-reduce names the buffer of a rank, an all-gather or reduce-scatter the buffer
over all ranks, an all-to-all what one rank sends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray
from simulator.errors import ScenarioError
from simulator.kernels.family import Family
from simulator.kernels.kernel import HOST_SHARPNESS, LINK_SHARPNESS, Fabric, KernelTime, Machine, smooth_max

_S, _B, _HZ = {"unit": "s"}, {"unit": "B"}, {"unit": "Hz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveKernel:
    """What belongs to a collective library's ring or pairwise algorithm rather than to the links.

    Attributes
    ----------
    launch : float
        Launch and synchronisation [s].
    hop : float
        Each further rank on the way of a small message [s].
    efficiency : float
        Share of the link's datasheet bandwidth that large messages reach [1].
    own_share : float
        Cost of a rank's own part of the buffer, which is only copied, relative to a part that travels [1].
    ramp : float
        What filling the pipeline adds once messages are cut in chunks [s].
    ramp_bytes : float
        Volume at which half of that is paid [bytes].
    scale_out_efficiency : float
        Share of the scale-out bandwidth that large messages reach [1].
    clock : float
        Clock of the processors on which the latencies were fitted [Hz], 0 where unknown: slower ones take longer.
    """

    launch: float = field(metadata=_S)
    hop: float = field(metadata=_S)
    efficiency: float
    own_share: float
    ramp: float = field(metadata=_S)
    ramp_bytes: float = field(metadata=_B)
    scale_out_efficiency: float = 0.85
    clock: float = field(default=0.0, metadata=_HZ)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduceKernel(CollectiveKernel):
    """What belongs to an all-reduce: a ring, a reduction in the switch, and the direct kernels of serving engines.

    Attributes
    ----------
    switch_efficiency : float
        Share of the link's bandwidth when the switch reduces [1]; 0 where it cannot.
    direct_launch, direct_hop : float
        One-shot kernel (each rank reads all others' buffers): start, and each further rank [s].
    two_shot_launch, two_shot_hop : float
        Two-shot kernel (reduce-scatter, then all-gather): start, and each further rank [s].
    direct_efficiency : float
        Share of the link's bandwidth in both direct kernels [1].
    one_shot_bytes : float
        Ranks times message below which one shot is taken [bytes]; a pair always takes it.
    direct_bytes : float
        Largest message for the direct kernels [bytes]; 0 leaves all to the library.
    host : float
        Least time where the host launches the kernel outside a graph [s].
    copy_efficiency : float
        Rate of the copy that a call outside a graph makes of the library's result, over the memory bandwidth [1]; 0
        for none. It is above 1 where the cache holds part of it.
    """

    switch_efficiency: float = 0.0
    direct_launch: float = field(default=0.0, metadata=_S)
    direct_hop: float = field(default=0.0, metadata=_S)
    two_shot_launch: float = field(default=0.0, metadata=_S)
    two_shot_hop: float = field(default=0.0, metadata=_S)
    direct_efficiency: float = 0.0
    one_shot_bytes: float = field(default=0.0, metadata=_B)
    direct_bytes: float = field(default=0.0, metadata=_B)
    host: float = field(default=0.0, metadata=_S)
    copy_efficiency: float = 0.0


def all_gather_time(
    message_bytes: ArrayLike, ranks: ArrayLike, *, fabric: Fabric, kernel: CollectiveKernel
) -> KernelTime:
    """Time an all-gather.

    Parameters
    ----------
    message_bytes : array_like
        The gathered buffer [bytes].
    ranks : array_like
        Ranks that take part [1].
    fabric : Fabric
        The links.
    kernel : CollectiveKernel
        Coefficients of the collective.

    Notes
    -----
    ``launch + (n - 1) hop + V (1 + own / (n - 1)) / bandwidth + ramp V / (V + V_half)`` with ``V = S (n - 1) / n``;
    all but the third are longer on processors of a lower clock than those of the fit.
    Across domains, each rank first fetches its counterparts' parts over its own scale-out link.

    Measured with 2 to 8 ranks of one domain and 512 B to 512 MiB; nothing across domains.

    References
    ----------
    .. [1] R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in MPICH",
       International Journal of High Performance Computing Applications 19(1), 2005, doi:10.1177/1094342005051521.
    .. [2] Z. Hu et al., "Demystifying NCCL: an in-depth analysis of GPU communication protocols and algorithms",
       2025, arXiv:2507.04786.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "all_gather.nccl"
    >>> kernel = coefficients(CollectiveKernel, h100.kernels[name], name)
    >>> time = all_gather_time(128 * 2**20, 8, fabric=h100.fabric, kernel=kernel)
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.38 ms'
    """
    return _gather(message_bytes, ranks, fabric, kernel)


def reduce_scatter_time(
    message_bytes: ArrayLike, ranks: ArrayLike, *, fabric: Fabric, kernel: CollectiveKernel
) -> KernelTime:
    """Time a reduce-scatter; the mirror of an all-gather.

    Parameters
    ----------
    message_bytes : array_like
        Buffer of each rank before it [bytes].
    ranks : array_like
        Ranks that take part [1].
    fabric : Fabric
        The links.
    kernel : CollectiveKernel
        Coefficients of the collective.

    References
    ----------
    .. [1] R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in MPICH",
       International Journal of High Performance Computing Applications 19(1), 2005, doi:10.1177/1094342005051521.
    .. [2] Z. Hu et al., "Demystifying NCCL: an in-depth analysis of GPU communication protocols and algorithms",
       2025, arXiv:2507.04786.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "reduce_scatter.nccl"
    >>> kernel = coefficients(CollectiveKernel, h100.kernels[name], name)
    >>> time = reduce_scatter_time(128 * 2**20, 8, fabric=h100.fabric, kernel=kernel)
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.38 ms'
    """
    return _gather(message_bytes, ranks, fabric, kernel)


def all_to_all_time(
    message_bytes: ArrayLike, ranks: ArrayLike, *, fabric: Fabric, kernel: CollectiveKernel
) -> KernelTime:
    """Time an all-to-all.

    Parameters
    ----------
    message_bytes : array_like
        What each rank sends, in equal parts to all ranks [bytes].
    ranks : array_like
        Ranks that take part [1].
    fabric : Fabric
        The links.
    kernel : CollectiveKernel
        Coefficients of the collective.

    Notes
    -----
    Within a domain as an all-gather. Across domains the parts for other domains leave over the scale-out link at the
    same time as those for the domain cross the scale-up links: the slower of the two counts.

    References
    ----------
    .. [1] R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in MPICH",
       International Journal of High Performance Computing Applications 19(1), 2005, doi:10.1177/1094342005051521.
    .. [2] Z. Hu et al., "Demystifying NCCL: an in-depth analysis of GPU communication protocols and algorithms",
       2025, arXiv:2507.04786.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "all_to_all.nccl"
    >>> kernel = coefficients(CollectiveKernel, h100.kernels[name], name)
    >>> time = all_to_all_time(128 * 2**20, 8, fabric=h100.fabric, kernel=kernel)
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.42 ms'
    """
    size, n, d, m = _shape(message_bytes, ranks, fabric)
    inside = _ring(size * d / n, d, fabric, kernel)
    outside = size * (1.0 - d / n) / (fabric.scale_out_bandwidth * kernel.scale_out_efficiency)
    latency = np.where(m > 1, fabric.scale_out_latency, 0.0)
    seconds = np.where(m > 1, smooth_max(inside.seconds, outside, LINK_SHARPNESS) + latency, inside.seconds)
    return _settle(seconds, {**inside.terms, "scale_out": outside + latency}, n)


def all_reduce_time(
    message_bytes: ArrayLike,
    ranks: ArrayLike,
    *,
    fabric: Fabric,
    kernel: AllReduceKernel,
    in_switch: bool = True,
) -> KernelTime:
    """Time an all-reduce.

    Parameters
    ----------
    message_bytes : array_like
        Buffer of each rank [bytes].
    ranks : array_like
        Ranks that take part [1].
    fabric : Fabric
        The links.
    kernel : AllReduceKernel
        Coefficients of the collective.
    in_switch : bool
        Whether the dtype can be reduced in the switch (8-bit integers cannot).

    Notes
    -----
    Ring: ``V = 2 S (n - 1) / n``. Reduced in the switch (more than two ranks, where it can add): ``V = S (1 + 1 / n)``.
    One shot: ``V = S (n - 1)``; two shots: as the ring. Across domains: reduce-scatter within, a ring over the
    counterparts in the other domains with a share ``S / d`` each, all-gather within.

    Measured with 2 to 8 ranks of one domain and 256 B to 512 MiB; nothing across domains.

    References
    ----------
    .. [1] R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in MPICH",
       International Journal of High Performance Computing Applications 19(1), 2005, doi:10.1177/1094342005051521.
    .. [2] Z. Hu et al., "Demystifying NCCL: an in-depth analysis of GPU communication protocols and algorithms",
       2025, arXiv:2507.04786.
    .. [3] B. Klenk, N. Jiang, G. Thorson, L. Dennison, "An in-network architecture for accelerating shared-memory
       multiprocessor collectives", ISCA 2020, doi:10.1109/ISCA45697.2020.00085.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "all_reduce.nccl"
    >>> kernel = coefficients(AllReduceKernel, h100.kernels[name], name)
    >>> time = all_reduce_time(128 * 2**20, 8, fabric=h100.fabric, kernel=kernel)
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.6 ms'
    """
    size, n, d, m = _shape(message_bytes, ranks, fabric)
    ring = _ring(2.0 * size, d, fabric, kernel)
    seconds = ring.seconds
    if kernel.switch_efficiency > 0.0 and fabric.switch_reduction > 0.0 and in_switch:
        reach = _bandwidth(d, fabric) * kernel.switch_efficiency * fabric.switch_reduction
        switched = size * (1.0 + 1.0 / d)
        switch = _latency(switched, d, fabric, kernel) + switched / reach
        seconds = np.where(d > 2, np.minimum(seconds, switch), seconds)
    if kernel.copy_efficiency > 0.0:
        seconds = seconds + 2.0 * size / (fabric.memory_bandwidth * kernel.copy_efficiency)
    if kernel.direct_bytes > 0.0:
        direct = _direct(size, d, fabric, kernel)
        seconds = np.where((m == 1) & (size <= kernel.direct_bytes), direct, seconds)
    outside = 2.0 * size / d * (m - 1.0) / m / (fabric.scale_out_bandwidth * kernel.scale_out_efficiency)
    outside = outside + 2.0 * np.ceil(np.log2(m)) * fabric.scale_out_latency
    seconds = seconds + np.where(m > 1, outside, 0.0)
    if kernel.host > 0.0:
        seconds = smooth_max(seconds, kernel.host, HOST_SHARPNESS)
    return _settle(seconds, {**ring.terms, "scale_out": outside}, n)


def _gather(message_bytes: ArrayLike, ranks: ArrayLike, fabric: Fabric, kernel: CollectiveKernel) -> KernelTime:
    size, n, d, m = _shape(message_bytes, ranks, fabric)
    inside = _ring(size, d, fabric, kernel)
    outside = size / d * (m - 1.0) / m / (fabric.scale_out_bandwidth * kernel.scale_out_efficiency)
    outside = outside + np.ceil(np.log2(m)) * fabric.scale_out_latency
    seconds = inside.seconds + np.where(m > 1, outside, 0.0)
    return _settle(seconds, {**inside.terms, "scale_out": outside}, n)


def _ring(size: FloatArray, ranks: FloatArray, fabric: Fabric, kernel: CollectiveKernel) -> KernelTime:
    """Ring (or pairwise exchange) of a buffer over the ranks of one domain."""
    others = np.maximum(ranks - 1.0, 1.0)
    volume = size * (ranks - 1.0) / ranks
    link = volume * (1.0 + kernel.own_share / others) / (_bandwidth(ranks, fabric) * kernel.efficiency)
    latency = _latency(volume, ranks, fabric, kernel)
    return KernelTime(seconds=latency + link, terms={"link": link, "latency": latency})


def _direct(size: FloatArray, ranks: FloatArray, fabric: Fabric, kernel: AllReduceKernel) -> FloatArray:
    others = ranks - 1.0
    reach, slower = _bandwidth(ranks, fabric) * kernel.direct_efficiency, _slower(fabric, kernel)
    one = slower * (kernel.direct_launch + kernel.direct_hop * others) + size * others / reach
    two = slower * (kernel.two_shot_launch + kernel.two_shot_hop * others) + 2.0 * size * others / ranks / reach
    chosen = np.where((ranks <= 2) | (size * ranks < kernel.one_shot_bytes), one, two)
    return np.asarray(chosen, dtype=np.float64)


def _latency(volume: FloatArray, ranks: FloatArray, fabric: Fabric, kernel: CollectiveKernel) -> FloatArray:
    """Launch, hops and the filling of the pipeline [s]."""
    steps = kernel.launch + kernel.hop * (ranks - 1.0) + kernel.ramp * volume / (volume + kernel.ramp_bytes)
    return np.asarray(_slower(fabric, kernel) * steps, dtype=np.float64)


def _slower(fabric: Fabric, kernel: CollectiveKernel) -> float:
    """Stretch of latencies on processors of a lower clock than those of the fit; a higher one is not credited."""
    return max(kernel.clock / fabric.clock, 1.0) if fabric.clock > 0.0 else 1.0


def _bandwidth(ranks: FloatArray, fabric: Fabric) -> FloatArray:
    """Scale-up bandwidth that a rank has towards the others of its group [bytes/s].

    Without a switch, a rank has one link to each other rank of the domain and can use those to its group only.
    """
    reach = 1.0 if fabric.switched else np.minimum((ranks - 1.0) / max(fabric.domain - 1.0, 1.0), 1.0)
    return np.asarray(fabric.scale_up_bandwidth * np.maximum(reach, 1e-12), dtype=np.float64)


def _shape(
    message_bytes: ArrayLike, ranks: ArrayLike, fabric: Fabric
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Broadcast sizes [bytes] and ranks, and split the ranks into ranks per domain and domains."""
    size, n = np.broadcast_arrays(np.asarray(message_bytes, dtype=np.float64), np.asarray(ranks, dtype=np.float64))
    if np.any(n < 1) or np.any(size < 0):
        raise ScenarioError("collective: ranks must be at least 1 and sizes not negative")
    inside = np.minimum(n, float(fabric.domain))
    return size, n, inside, np.ceil(n / inside)


def _settle(seconds: FloatArray, terms: dict[str, FloatArray], ranks: FloatArray) -> KernelTime:
    """Set the times of a single rank, which has nothing to exchange, to zero."""
    together = np.where(ranks > 1, 1.0, 0.0)
    return KernelTime(seconds=together * seconds, terms={name: together * term for name, term in terms.items()})


def send_time(message_bytes: ArrayLike, ranks: ArrayLike, *, fabric: Fabric) -> KernelTime:
    """Time a message from one rank to another: the next pipeline stage, outside the domain where the ranks fill it.

    Parameters
    ----------
    message_bytes : array_like
        What is sent [bytes].
    ranks : array_like
        Ranks of the instance [1]: links of the domain are used where they all fit in.
    fabric : Fabric
        The links.

    Returns
    -------
    KernelTime
        Terms: ``link``, ``latency``.

    Notes
    -----
    ``latency + message_bytes / bandwidth`` at the datasheet's bandwidth.

    References
    ----------
    .. [1] R. W. Hockney, "The communication challenge for MPP", Parallel Computing 20(3), 1994.

    Examples
    --------
    >>> links = Fabric(domain=8, scale_up_bandwidth=450e9, scale_up_latency=1e-6,
    ...                scale_out_bandwidth=50e9, scale_out_latency=5e-6)
    >>> float(send_time(45e6, 8, fabric=links).seconds), float(send_time(45e6, 16, fabric=links).seconds)
    (0.000101, 0.000905)
    """
    inside = np.asarray(ranks) <= fabric.domain
    latency = np.where(inside, fabric.scale_up_latency, fabric.scale_out_latency)
    bandwidth = np.where(inside, fabric.scale_up_bandwidth, fabric.scale_out_bandwidth)
    link = np.asarray(message_bytes, dtype=np.float64) / bandwidth
    return KernelTime(seconds=latency + link, terms={"link": link, "latency": latency + 0.0 * link})


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveShape:
    """A message [bytes], counted as the collective counts it, and the ranks among which it travels [1]."""

    message_bytes: ArrayLike
    ranks: ArrayLike


_AXES = ("message_bytes", "ranks")
_REFERENCES = (
    "R. Thakur, R. Rabenseifner, W. Gropp, Optimization of Collective Communication Operations in MPICH, "
    "IJHPCA 19(1), 2005, doi:10.1177/1094342005051521",
    "Z. Hu et al., Demystifying NCCL, 2025, arXiv:2507.04786",
)
_RING = "latency + link (+ scale_out across domains); latency = launch, hops and ramp of V, link = V / bandwidth"


def _collective(
    kind: str,
    coefficients: type[CollectiveKernel],
    time: Callable[..., KernelTime],
    equation: str,
    *further: str,
    fastest: bool = False,
) -> Family[CollectiveShape, Any]:
    """Record a collective, whose function takes a message and the ranks among which it travels."""

    def price(shape: CollectiveShape, machine: Machine, kernel: CollectiveKernel) -> KernelTime:
        return time(shape.message_bytes, shape.ranks, fabric=machine.fabric, kernel=kernel)

    return Family(
        kinds=(kind,),
        shape=CollectiveShape,
        coefficients=coefficients,
        time=price,
        axes=_AXES,
        equation=equation,
        validity="2 to 8 ranks of one domain were measured, 512 B to 512 MiB; nothing across domains",
        references=(*_REFERENCES, *further),
        theory="collectives.md",
        off_together="collectives",
        fastest=fastest,
    )


def _send(shape: CollectiveShape, machine: Machine, _: None) -> KernelTime:
    return send_time(shape.message_bytes, shape.ranks, fabric=machine.fabric)


ALL_GATHER = _collective("all_gather", CollectiveKernel, all_gather_time, f"{_RING}; V = message * (n - 1) / n")
REDUCE_SCATTER = _collective(
    "reduce_scatter", CollectiveKernel, reduce_scatter_time, f"{_RING}; V = message * (n - 1) / n"
)
ALL_TO_ALL = _collective(
    "all_to_all",
    CollectiveKernel,
    all_to_all_time,
    f"{_RING}, beside the parts for other domains; V = message * (n - 1) / n",
)
ALL_REDUCE = _collective(
    "all_reduce",
    AllReduceKernel,
    all_reduce_time,
    "fastest backend of the stack, each latency + V / bandwidth: the lesser of ring (V = 2 S (n - 1) / n) and "
    "switch (V = S (1 + 1 / n)) with the copy outside a graph, or up to direct_bytes one shot (V = S (n - 1)) or two "
    "(V = 2 S (n - 1) / n); + scale_out across domains, no less than host",
    "B. Klenk et al., In-Network Reduction, ISCA 2020, doi:10.1109/ISCA45697.2020.00085",
    fastest=True,
)
SEND = Family(
    kinds=("send",),
    shape=CollectiveShape,
    coefficients=NoneType,
    time=_send,
    axes=_AXES,
    equation="latency + message_bytes / bandwidth of the link to the next stage",
    validity="a lone message at the datasheet's bandwidth; not measured",
    references=("R. W. Hockney, The communication challenge for MPP, Parallel Computing 20(3), 1994",),
    theory="collectives.md",
)
