"""Time of a dense matrix product: tiles in waves over the SMs, bounded by arithmetic, operand feed and memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from simulator.cost.attention import dtype_bytes, matrix_peak, throttled
from simulator.cost.elementwise import ElementwiseKernel, elementwise_time
from simulator.cost.kernel import FloatArray, KernelTime, Silicon, smooth_max

#: Tile candidates, rows x columns of C; the fastest is taken, as the library's heuristics intend.
TILES = np.array([(64, 32), (64, 64), (64, 128), (128, 128), (64, 256), (128, 256), (256, 128)], dtype=np.float64)
#: Rows of the smallest tile: a last row of tiles that is not a multiple of it is ragged.
ROW_GRAIN = 64.0
#: Storage of A by dtype where it differs from that of B: weight-only formats multiply 16-bit activations.
ACTIVATION_DTYPE = {"mxfp4": "bfloat16", "int4": "bfloat16"}
#: Bytes of A per element before it is quantised, and of C [bytes].
BFLOAT16_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmKernel:
    """Coefficients of a GEMM library for one dtype.

    Attributes
    ----------
    launch : float
        Time of the smallest call [s].
    tile : float
        Prologue and epilogue of one tile [clocks].
    feed : float
        Operand bytes that one SM takes in per clock [bytes].
    compute : float
        Share of the peak matrix rate inside the main loop of the largest tile [1].
    small_tile : float
        Loss of that rate in smaller tiles, by the inverse square root of their area [1].
    memory : float
        Share of the datasheet memory bandwidth that is reached [1].
    unit_memory : float
        Bandwidth that one SM alone can draw, in fair shares of the whole [1].
    balance : float
        Weight of the last, partly filled wave: 0 spreads it evenly, 1 waits for a full wave [1].
    split_depth : float
        Least depth of a part where the k axis is split to fill the SMs [1].
    split : float
        Time to add up the parts of a split [s].
    throttle : float
        Loss of clock in long kernels [1].
    ragged : float
        Passes over B that a partly filled last row of tiles costs in addition [1].
    quantise : float
        Launch of the kernel that quantises A, 0 where A is not quantised [s].
    quantise_bytes : float
        Traffic of quantising A [bytes per element].
    sharpness : float
        Exponent of the blend of compute and memory time [1].
    """

    launch: float = field(metadata={"unit": "s"})
    tile: float
    feed: float = field(metadata={"unit": "B"})
    compute: float
    small_tile: float
    memory: float
    unit_memory: float
    balance: float
    split_depth: float
    split: float = field(metadata={"unit": "s"})
    throttle: float
    ragged: float
    quantise: float = field(metadata={"unit": "s"})
    quantise_bytes: float = field(metadata={"unit": "B"})
    sharpness: float


def gemm_time(
    m: ArrayLike, n: ArrayLike, k: ArrayLike, *, dtype: str, silicon: Silicon, kernel: GemmKernel
) -> KernelTime:
    """Time of ``C[m, n] = A[m, k] B[k, n]`` with B in memory, quantising A included where the dtype asks for it.

    Parameters
    ----------
    m, n, k : array_like
        Rows, columns and depth [1]; they broadcast.
    dtype : str
        ``bfloat16``, ``fp8``, ``fp8_block``, ``int8``, ``nvfp4``, or weight-only ``mxfp4`` and ``int4``.
    silicon, kernel
        The processor and the kernel's coefficients.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``compute``, ``memory``, ``quantise``.

    Notes
    -----
    For each tile ``(tm, tn)`` the k axis is split into ``s`` parts while SMs are idle; ``w = ceil(m/tm) ceil(n/tn) s
    / SMs`` waves take ``k/s * max(2 tm tn / rate, (tm + tn) bytes / feed) + tile`` each. The smallest time over the
    candidates is blended with the memory time of A, B and C. Quantising A is a memory-bound kernel of its own.
    """
    m, n, k = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (m, n, k)))
    a_bytes, b_bytes = dtype_bytes(ACTIVATION_DTYPE.get(dtype, dtype)), dtype_bytes(dtype)
    bandwidth = silicon.memory_bandwidth * kernel.memory
    compute, busy = _tiled(m, n, k, a_bytes, b_bytes, matrix_peak(dtype, silicon), silicon, kernel)
    compute = throttled(compute, kernel.throttle)
    traffic = n * k * b_bytes + m * k * a_bytes + m * n * BFLOAT16_BYTES
    memory = traffic / (bandwidth * np.minimum(1.0, busy * kernel.unit_memory))
    rest = np.where(m > ROW_GRAIN, (-m) % ROW_GRAIN / ROW_GRAIN, 0.0)
    memory = memory + kernel.ragged * rest * n * k * b_bytes / bandwidth
    quantise = np.zeros_like(compute)
    if kernel.quantise > 0.0:
        step = ElementwiseKernel(launch=kernel.quantise, memory=kernel.memory)
        quantise = elementwise_time(m * k * kernel.quantise_bytes, silicon=silicon, kernel=step).seconds
    seconds = kernel.launch + smooth_max(compute, memory, kernel.sharpness) + quantise
    launch = kernel.launch + np.zeros_like(compute)
    return KernelTime(
        seconds=seconds, terms={"launch": launch, "compute": compute, "memory": memory, "quantise": quantise}
    )


def _tiled(
    m: FloatArray,
    n: FloatArray,
    k: FloatArray,
    a_bytes: float,
    b_bytes: float,
    peak: float,
    silicon: Silicon,
    kernel: GemmKernel,
) -> tuple[FloatArray, FloatArray]:
    """Shortest time over the tile candidates [s], and the share of SMs that its tiles occupy [1]."""
    best = np.full(m.shape, np.inf)
    busy = np.ones(m.shape)
    for rows, columns in TILES:
        tiles = np.ceil(m / rows) * np.ceil(n / columns)
        parts = np.floor(np.clip(np.floor(silicon.units / tiles), 1.0, np.maximum(1.0, k / kernel.split_depth)))
        waves = tiles * parts / silicon.units
        rounds = np.where(waves <= 1.0, 1.0, waves + kernel.balance * (np.ceil(waves) - waves))
        loss = 1.0 + kernel.small_tile * np.sqrt(128.0 * 256.0 / (rows * columns))
        arithmetic = 2.0 * rows * columns * silicon.units * loss / (peak * kernel.compute)
        fed = (np.minimum(m, rows) * a_bytes + np.minimum(n, columns) * b_bytes) / (kernel.feed * silicon.clock)
        part = k / parts * np.maximum(arithmetic, fed) + kernel.tile / silicon.clock
        time = rounds * part + np.where(parts > 1.0, kernel.split, 0.0)
        better = time < best
        best = np.where(better, time, best)
        busy = np.where(better, np.minimum(1.0, waves), busy)
    return best, busy
