"""Time of one fused mixture-of-experts layer on one rank, from the tokens that each local expert receives.

Two grouped GEMMs (gate and up, then down) over the experts that are hit, and the small kernels around them (permute
or sort, quantise, activation, finalise). What is felt of an uneven router follows from the counts themselves: more
rows on the hottest rank cost time, fewer distinct experts touched save weight traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray, last_sum
from simulator.errors import ScenarioError
from simulator.kernels.expert_counts import balanced_counts as balanced_counts
from simulator.kernels.expert_counts import power_law_counts as power_law_counts
from simulator.kernels.expert_exchange import distinct
from simulator.kernels.family import Family
from simulator.kernels.kernel import (
    DTYPE_BYTES,
    HOST_SHARPNESS,
    KernelTime,
    Machine,
    Silicon,
    choice_of,
    matrix_peak,
    smooth_max,
    throttled,
)

#: What a kernel picks its row tile from.
TileDensity = Literal["tokens", "rows_per_expert", "tokens_per_expert"]
#: Row tiles that grouped GEMM kernels are built with [rows].
ROW_TILES = (16, 32, 64, 128)
#: Bytes of an activation that no quantisation has touched (bfloat16) [bytes].
ACTIVATION_BYTES = 2.0
#: Share of the cache that one expert's weights may fill before half of them are fetched again by the next row tile [1]:
#: the other half holds the rows in and out.
CACHE_SHARE = 0.5
#: Sharpness of the blend of the memory's bandwidth and what the busy units can draw of it [1]: either bound counts
#: alone as soon as it is 1.5 times the other.
STARVED_SHARPNESS = 4.0
#: Inner extents that are no multiple of this many elements defeat vectorised loads.
ALIGNMENT = 16


def _seconds() -> float:
    return field(metadata={"unit": "s"})  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeKernel:
    """What belongs to a fused MoE kernel rather than to the silicon.

    Attributes
    ----------
    launch : float
        Launches and fixed work of all kernels of the layer [s].
    expert_launch : float
        Set-up per local expert, hit or not [s].
    memory_efficiency : float
        Share of the datasheet bandwidth reached when streaming weights [1].
    unit_bandwidth : float
        Bandwidth that one unit can draw, in multiples of its even share [1].
    compute_efficiency : float
        Share of the datasheet peak in the main loop of full tiles [1].
    fill_depth : float
        Pipeline fill and epilogue of a tile, as extra inner elements [1].
    minimum_rows : float
        Rows below which a tile takes no less time [1]: a unit's intake of weights, per cycle, is what bounds it. A chip
        whose units multiply fewer numbers per cycle reaches that bound at fewer rows.
    tail : float
        Share of wave quantisation that is felt [1].
    sharpness : float
        Overlap of arithmetic and memory traffic: 1 none, large perfect [1].
    reread : float
        Share of weight traffic repeated by each further row tile of an expert whose weights overflow the cache [1].
    hidden_traffic, intermediate_traffic : float
        Traffic of the small kernels per assignment, per element of the hidden and of the intermediate size [bytes].
    token_traffic : float
        Traffic of the small kernels per presented token and element of the hidden size [bytes].
    foreign_share : float
        Share of the small kernels' work that assignments to other ranks' experts also cost [1].
    unaligned : float
        Slowdown of the second GEMM where the intermediate size defeats vectorised loads [1].
    tile_columns : float
        Columns of an output tile [1].
    tile_16, tile_32, tile_64 : float
        Largest load that is given 16, 32 and 64 row tiles; above the last 128 rows are taken [1].
    tile_density : {"tokens", "rows_per_expert", "tokens_per_expert"}
        What that load is: tokens presented, rows per expert if the router were even, or tokens presented per local
        expert.
    padding : float
        Multiple to which each expert's rows are padded in memory [1].
    host : float
        Time below which the layer cannot go because the host issues it kernel by kernel [s].
    whole_tiles : float
        1 where matrix units compute whole tiles however many rows of them are filled, 0 where cores compute only the
        rows that there are [1].
    clock : float
        Clock of the chip of the fit [Hz], 0 where unknown: launches take longer on a slower one.
    unit_rate : float
        Arithmetic of one unit of the chip of the fit in this dtype [FLOP per cycle], 0 where unknown.
    """

    launch: float = _seconds()
    expert_launch: float = _seconds()
    memory_efficiency: float
    unit_bandwidth: float
    compute_efficiency: float
    fill_depth: float
    minimum_rows: float
    tail: float
    sharpness: float
    reread: float
    hidden_traffic: float
    intermediate_traffic: float
    token_traffic: float
    foreign_share: float
    unaligned: float = 1.0
    tile_columns: float = 128.0
    tile_16: float = 16.0
    tile_32: float = 32.0
    tile_64: float = 64.0
    tile_density: TileDensity = field(default="rows_per_expert", metadata=choice_of(get_args(TileDensity)))
    padding: float = 1.0
    host: float = field(default=0.0, metadata={"unit": "s"})
    whole_tiles: float = 1.0
    clock: float = field(default=0.0, metadata={"unit": "Hz"})
    unit_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoad:
    """What a grouped GEMM feels of the per-expert counts of a rank, arrays of one shape.

    ``rows`` assignments [1]; ``active`` experts hit [1]; ``tiles`` row tiles [1] of the size that the kernel picks;
    ``experts`` local experts [1].
    """

    rows: FloatArray
    active: FloatArray
    tiles: FloatArray
    experts: FloatArray


def row_tile(
    kernel: MoeKernel,
    *,
    num_tokens: ArrayLike,
    top_k: ArrayLike,
    num_experts: ArrayLike,
    local_experts: ArrayLike,
) -> FloatArray:
    """Pick the row tile [rows] of the grouped GEMM from the load, as kernel heuristics and autotuners do.

    Parameters
    ----------
    kernel : MoeKernel
        By what it goes: all tokens, those per expert, or those per local expert; and from where on.
    num_tokens : array_like
        Tokens over all ranks that share the experts [tokens].
    top_k, num_experts, local_experts : array_like
        Experts per token, of the layer, and of the rank [1].
    """
    tokens = np.asarray(num_tokens, dtype=np.float64)
    loads: Mapping[TileDensity, FloatArray] = {
        "tokens": tokens,
        "rows_per_expert": tokens * np.asarray(top_k) / np.asarray(num_experts),
        "tokens_per_expert": tokens / np.asarray(local_experts),
    }
    load = np.broadcast_to(loads[kernel.tile_density], np.broadcast_shapes(*(each.shape for each in loads.values())))
    limits = np.array([kernel.tile_16, kernel.tile_32, kernel.tile_64])
    picked: FloatArray = np.asarray(ROW_TILES, dtype=np.float64)[np.searchsorted(limits, load, side="left")]
    return picked


def tile_changes(kernel: MoeKernel, top_k: float, num_experts: float, local_experts: float) -> FloatArray:
    """Return the tokens over all ranks up to which each row tile but the largest is taken, shape (3,) [tokens].

    Parameters
    ----------
    kernel : MoeKernel
        By what it goes; see :func:`row_tile`.
    top_k, num_experts, local_experts : float
        Experts per token, of the layer, and of the rank [1].
    """
    tokens_per_load: Mapping[TileDensity, float] = {
        "tokens": 1.0,
        "rows_per_expert": num_experts / top_k,
        "tokens_per_expert": local_experts,
    }
    return np.array([kernel.tile_16, kernel.tile_32, kernel.tile_64]) * tokens_per_load[kernel.tile_density]


def expert_load(counts: ArrayLike, tile: ArrayLike) -> ExpertLoad:
    """Reduce per-expert counts over their last axis.

    Parameters
    ----------
    counts : array_like, shape (..., local_experts)
        Tokens assigned to each local expert [1]. A fraction below one is the probability that the expert is hit.
    tile : array_like, shape (...)
        Row tile [rows].
    """
    c = np.asarray(counts)
    if c.ndim == 0 or c.shape[-1] == 0:
        raise ScenarioError(f"moe: counts have shape {c.shape}; the last axis must hold at least one local expert")
    tile = np.asarray(tile, dtype=np.float64)[..., None]
    if c.dtype.kind in "iu":
        rows, tiles, active = c.sum(-1), last_sum(np.ceil(c / tile)), np.count_nonzero(c, axis=-1)
    else:
        hit = np.minimum(c, 1.0)
        tiles = last_sum(np.maximum(np.ceil(np.where(c < 1.0, 0.0, c) / tile), hit))
        rows, active = last_sum(c), last_sum(hit)
    return ExpertLoad(
        rows=np.asarray(rows, dtype=np.float64),
        active=np.asarray(active, dtype=np.float64),
        tiles=tiles,
        experts=np.asarray(c.shape[-1], dtype=np.float64),
    )


def moe_time(
    counts: ArrayLike,
    *,
    num_tokens: ArrayLike,
    top_k: ArrayLike,
    num_experts: ArrayLike,
    hidden: ArrayLike,
    intermediate: ArrayLike,
    matrices: ArrayLike = 3,
    presented_tokens: ArrayLike | None = None,
    dtype: str,
    silicon: Silicon,
    kernel: MoeKernel,
) -> KernelTime:
    """Time one fused MoE layer on one rank.

    Parameters
    ----------
    counts : array_like, shape (..., local_experts)
        Tokens assigned to each local expert of the rank [1]; integers, or expectations as floats.
    num_tokens : array_like, shape (...)
        Tokens over all ranks that share the experts [1].
    top_k, num_experts : array_like
        Experts per token and logical experts of the layer [1].
    hidden, intermediate : array_like
        Model width and the expert's inner width on this rank (divided by the tensor parallelism within experts) [1].
    matrices : array_like
        3 with a gate, 2 without [1].
    presented_tokens : array_like, shape (...), optional
        Tokens that the kernel finds in its input: those that an exchange brought, or all of them [1].
    dtype : str
        Dtype of the expert weights.
    silicon : Silicon
        The processor.
    kernel : MoeKernel
        Coefficients of the kernel.

    Returns
    -------
    KernelTime
        Shape of ``counts`` without its last axis, broadcast with the others. Terms: ``compute``, ``memory``,
        ``passes`` (small kernels) and ``launch``.

    Notes
    -----
    Per GEMM, ``smooth_max(waves * tile, bytes / bandwidth)`` with ``tile = 2 rows columns (K + fill) / rate`` and
    ``bytes`` the weights of the experts that are hit, their re-reads, and the rows in and out.

    Measured on H100 and A100 with hidden sizes of 2048 to 7168, 8 to 512 experts and 1 to 16384 tokens, even to
    power-law.

    References
    ----------
    .. [1] T. Gale, D. Narayanan, C. Young, M. Zaharia, "MegaBlocks: efficient sparse training with mixture-of-
       experts", MLSys 2023, arXiv:2211.15841.
    .. [2] S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
       architectures", Communications of the ACM 52(4), 2009, doi:10.1145/1498765.1498785.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "moe.deepgemm_masked.fp8_block"
    >>> kernel = coefficients(MoeKernel, h100.kernels[name], name)
    >>> time = moe_time(
    ...     np.full(8, 32.0), num_tokens=1024, top_k=8, num_experts=256, hidden=7168, intermediate=2048,
    ...     dtype="fp8_block", silicon=h100.silicon, kernel=kernel,
    ... )
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.15 ms'
    """
    local = np.shape(counts)[-1] if np.ndim(counts) else 1
    tile = row_tile(kernel, num_tokens=num_tokens, top_k=top_k, num_experts=num_experts, local_experts=max(local, 1))
    return moe_load_time(
        expert_load(counts, tile),
        tile=tile,
        num_tokens=num_tokens,
        top_k=top_k,
        hidden=hidden,
        intermediate=intermediate,
        matrices=matrices,
        presented_tokens=presented_tokens,
        dtype=dtype,
        silicon=silicon,
        kernel=kernel,
    )


def moe_load_time(
    load: ExpertLoad,
    *,
    tile: ArrayLike,
    num_tokens: ArrayLike,
    top_k: ArrayLike,
    hidden: ArrayLike,
    intermediate: ArrayLike,
    matrices: ArrayLike = 3,
    presented_tokens: ArrayLike | None = None,
    dtype: str,
    silicon: Silicon,
    kernel: MoeKernel,
) -> KernelTime:
    """Time one fused MoE layer of a load that is reduced already.

    Parameters
    ----------
    load : ExpertLoad
        What the counts come to.
    tile : array_like
        Row tile, as :func:`row_tile` picks it [rows].
    num_tokens, top_k, hidden, intermediate, matrices, presented_tokens, dtype, silicon, kernel
        As for :func:`moe_time`.

    References
    ----------
    .. [1] T. Gale, D. Narayanan, C. Young, M. Zaharia, "MegaBlocks: efficient sparse training with
       mixture-of-experts", MLSys 2023, arXiv:2211.15841.

    Examples
    --------
    Counts become a load by :func:`expert_load`; see :func:`moe_time`.
    """
    width, inner = np.asarray(hidden, dtype=np.float64), np.asarray(intermediate, dtype=np.float64)
    tokens = np.asarray(num_tokens if presented_tokens is None else presented_tokens, dtype=np.float64)
    up = (np.asarray(matrices, dtype=np.float64) - 1.0) * inner
    compute_1, memory_1 = _grouped_gemm(load, tile, up, width, dtype, silicon, kernel)
    compute_2, memory_2 = _grouped_gemm(load, tile, width, inner, dtype, silicon, kernel)
    slowdown = np.where(inner % ALIGNMENT == 0, 1.0, kernel.unaligned)
    gemms = smooth_max(compute_1, memory_1, kernel.sharpness)
    gemms = gemms + slowdown * smooth_max(compute_2, memory_2, kernel.sharpness)
    foreign = np.maximum(tokens * np.asarray(top_k) - load.rows, 0.0)
    padded = np.maximum(load.rows, load.active * kernel.padding)
    walked = padded + kernel.foreign_share * foreign
    traffic = walked * (kernel.hidden_traffic * width + kernel.intermediate_traffic * inner)
    traffic = traffic + tokens * kernel.token_traffic * width
    passes = traffic / (silicon.memory_bandwidth * kernel.memory_efficiency)
    launch = max(kernel.clock / silicon.clock, 1.0) * (kernel.launch + kernel.expert_launch * load.experts)
    launch = launch + 0.0 * passes
    seconds = launch + gemms + passes
    if kernel.host > 0.0:
        seconds = smooth_max(seconds, kernel.host, HOST_SHARPNESS)
    return KernelTime(
        seconds=seconds,
        terms={
            "compute": compute_1 + compute_2,
            "memory": memory_1 + memory_2,
            "passes": passes,
            "launch": launch,
        },
    )


def _grouped_gemm(
    load: ExpertLoad,
    tile: ArrayLike,
    columns: FloatArray,
    depth: FloatArray,
    dtype: str,
    silicon: Silicon,
    kernel: MoeKernel,
) -> tuple[FloatArray, FloatArray]:
    """What arithmetic and memory traffic of one grouped GEMM would take alone [s]."""
    filled = load.rows / np.maximum(load.tiles, 1e-9)
    taken = kernel.whole_tiles * np.asarray(tile, dtype=np.float64) + (1.0 - kernel.whole_tiles) * filled
    rows = np.maximum(taken, kernel.minimum_rows * _intake(dtype, silicon, kernel))
    blocks = load.tiles * np.ceil(columns / kernel.tile_columns)
    rate = matrix_peak(dtype, silicon) * kernel.compute_efficiency
    full = blocks / silicon.units
    waves = kernel.tail * np.ceil(full) + (1.0 - kernel.tail) * np.where(blocks > 0, np.maximum(full, 1.0), 0.0)
    compute = waves * 2.0 * rows * kernel.tile_columns * (depth + kernel.fill_depth) * silicon.units / rate
    compute = throttled(np.asarray(compute, dtype=np.float64), 0.0, silicon)

    weights = columns * depth * DTYPE_BYTES[dtype]
    overflow = weights / (weights + CACHE_SHARE * silicon.cache)
    again = kernel.reread * overflow * np.maximum(load.tiles - load.active, 0.0)
    moved = (load.active + again) * weights
    moved = moved + load.rows * (depth * min(DTYPE_BYTES[dtype], ACTIVATION_BYTES) + columns * ACTIVATION_BYTES)
    reach = np.maximum(full * kernel.unit_bandwidth, 1e-9)
    starved = smooth_max(1.0, 1.0 / reach, STARVED_SHARPNESS)
    memory = np.where(blocks > 0, moved * starved / (silicon.memory_bandwidth * kernel.memory_efficiency), 0.0)
    return np.asarray(compute, dtype=np.float64), np.asarray(memory, dtype=np.float64)


def _intake(dtype: str, silicon: Silicon, kernel: MoeKernel) -> float:
    """Rows at which arithmetic takes as long as the intake of weights, over those on the chip of the fit [1].

    Units that multiply more per cycle have so far come with as much more intake (pairs of them share operands).
    """
    if kernel.unit_rate <= 0.0:
        return 1.0
    return min(matrix_peak(dtype, silicon) / (silicon.units * silicon.clock) / kernel.unit_rate, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsShape:
    """The routed experts of a layer on every rank that shares them.

    Attributes
    ----------
    counts : array, shape (..., samples, ranks, local experts), or None
        Tokens per expert slot [tokens]; ``None`` spreads them evenly.
    num_tokens : array, shape (...)
        Tokens over all ranks [tokens].
    top_k, num_experts, ep : float, int, int
        Experts per token that have weights, logical experts and ranks that share them [1].
    hidden, intermediate, matrices : float
        As for :func:`moe_time` [1].
    exchanged : bool
        Whether a rank finds in its input only the tokens that an exchange brought, or all of them.
    dtype : str
        Dtype of the expert weights.
    """

    counts: FloatArray | None
    num_tokens: FloatArray
    top_k: float
    num_experts: int
    ep: int
    hidden: float
    intermediate: float
    matrices: float
    exchanged: bool
    dtype: str

    @property
    def local_experts(self) -> int:
        """Slots of a rank, redundant ones included where ranks are no divisor of the experts [1]."""
        return -(-self.num_experts // self.ep)


def rank_times(shape: ExpertsShape, machine: Machine, kernel: MoeKernel) -> KernelTime:
    """Time the routed experts on every rank: seconds of shape (..., samples, ranks)."""
    tokens, counts = np.maximum(shape.num_tokens, 1.0), shape.counts
    if counts is None:
        local = shape.local_experts
        even = tokens * shape.top_k / (shape.ep * local)
        counts = np.broadcast_to(even[..., None, None, None], (*even.shape, 1, 1, local))
    needed = _ranks_needed(shape.top_k, shape.ep, shape.num_experts)
    return moe_time(
        counts,
        num_tokens=tokens[..., None, None],
        top_k=shape.top_k,
        num_experts=shape.num_experts,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        matrices=shape.matrices,
        presented_tokens=last_sum(counts) * needed if shape.exchanged else None,
        dtype=shape.dtype,
        silicon=machine.silicon,
        kernel=kernel,
    )


@lru_cache(maxsize=64)
def _ranks_needed(top_k: float, ranks: int, experts: int) -> float:
    """Ranks that a token needs, over its assignments [1]."""
    return float(distinct(top_k, ranks, experts) / top_k)


def _time(shape: ExpertsShape, machine: Machine, kernel: MoeKernel) -> KernelTime:
    """Time the mean rank; the layer ends when the slowest rank does, and the others wait."""
    time = rank_times(shape, machine, kernel)
    mean = time.seconds.mean(axis=(-1, -2))
    terms = {term: np.broadcast_to(v, time.seconds.shape).mean(axis=(-1, -2)) for term, v in time.terms.items()}
    slowest = time.seconds.max(axis=-1).mean(axis=-1)
    return KernelTime(seconds=mean, terms=terms, imbalance_wait=slowest - mean)


MOE = Family(
    kinds=("moe",),
    shape=ExpertsShape,
    coefficients=MoeKernel,
    time=_time,
    axes=("num_tokens", "hidden", "intermediate", "top_k", "num_experts", "ep"),
    table_dtype="dtype",
    equation="launch + smooth_max(compute_1, memory_1) + smooth_max(compute_2, memory_2) + passes of the mean rank; "
    "compute = waves * row tiles / rate, memory = weights of the experts hit and rows / bandwidth",
    validity="hidden 2048 to 7168, 8 to 512 experts, 1 to 16384 tokens, even to power-law routing",
    references=(
        "T. Gale, D. Narayanan, C. Young, M. Zaharia, MegaBlocks, MLSys 2023, arXiv:2211.15841 (grouped products)",
        "S. Williams, A. Waterman, D. Patterson, Roofline, CACM 52(4), 2009, doi:10.1145/1498765.1498785",
    ),
    theory="moe-kernels.md",
)
