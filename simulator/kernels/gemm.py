"""Time of a dense matrix product: tiles in waves over the SMs, bounded by arithmetic, operand feed and memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray
from simulator.kernels.attention import full_rounds
from simulator.kernels.elementwise import ElementwiseKernel, elementwise_time
from simulator.kernels.family import Family
from simulator.kernels.kernel import (
    CACHE_SPEED,
    KernelTime,
    Machine,
    Silicon,
    dtype_bytes,
    found_in_cache,
    matrix_peak,
    smooth_max,
    throttled,
)

#: Tile candidates, rows x columns of C.
TILES = ((64, 32), (64, 64), (64, 128), (128, 128), (64, 256), (128, 256), (256, 128))
#: Tile of the least overhead per FLOP, by which the loss of smaller ones is measured [elements of C].
LARGE_TILE = 128.0 * 256.0
#: Rows of the smallest tile, and of the smallest tile of a library that has turned to coarse ones [1].
FINE_ROWS, COARSE_ROWS = 64.0, 128.0
#: Storage of A by dtype where it differs from that of B: weight-only formats multiply 16-bit activations.
ACTIVATION_DTYPE = {"mxfp4": "bfloat16", "int4": "bfloat16"}
#: Bytes per element of C [bytes].
OUTPUT_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmKernel:
    """Coefficients of a GEMM library for one dtype.

    Attributes
    ----------
    launch : float
        Time of the smallest call [s].
    tile : float
        Prologue and epilogue of one tile [clocks].
    depth : float
        Least time per element of the k axis in a tile, however small: the latency of the main loop [clocks].
    feed : float
        Operand bytes that one SM takes in per clock [bytes].
    cache_feed : float
        Operand bytes per clock and SM that the last-level cache serves when all SMs ask at once [bytes].
    compute : float
        Share of the peak matrix rate inside the main loop of the largest tile [1].
    small_tile : float
        Loss of that rate in smaller tiles, by the inverse square root of their area [1].
    memory : float
        Share of the datasheet memory bandwidth that is reached in reading [1].
    write : float
        Cost of writing a byte of C in bytes read [1].
    balance : float
        Weight of the last, partly filled wave: 0 spreads it evenly, 1 waits for a full wave [1].
    split_depth : float
        Least depth of a part where the k axis is split to fill the SMs; beyond any k where it never is [1].
    split : float
        Time to add up the parts of a split [s].
    overlap : float
        Share of the shorter of compute and memory time that the longer does not hide [1].
    first_wave : float
        The same, in the first wave only [1].
    sharpness : float
        Exponent of the blend of compute and memory time [1].
    throttle : float
        Loss of clock in long kernels [1].
    coarse_rows : float
        Rows of A above which the library only uses tiles of 128 rows or more, and below which only those of 64;
        0 where it chooses freely [1].
    ragged : float
        Cost of a last row of tiles that is almost empty, in the geometric mean of the product's time and a pass
        over B [1].
    ragged_depth : float
        Growth of ``depth`` where the last row of tiles is almost empty [1].
    fine_rows : float
        Rows of the tiles that few rows of A take, of which the last one may be partly filled [1].
    spill : float
        Share of the operands that SMs take in that comes from memory and not from the cache, where the smaller of A
        and B is far larger than the cache: it is high where tiles are not ordered for reuse [1].
    quantise : float
        Launch of the kernel that quantises A, 0 where A is not quantised [s].
    quantise_bytes : float
        Traffic of quantising A [bytes per element].
    quantise_row : float
        Time of an SM to quantise a row of A, however short [clocks].
    epilogue : float
        Least time of a tile, however short its k axis: its epilogue, which long main loops hide [clocks].
    whole_tiles : float
        1 where matrix units compute whole tiles however many rows of them are filled, 0 where cores compute only the
        rows that there are [1].
    """

    launch: float = field(metadata={"unit": "s"})
    tile: float
    depth: float
    feed: float = field(metadata={"unit": "B"})
    cache_feed: float = field(metadata={"unit": "B"})
    compute: float
    small_tile: float
    memory: float
    write: float
    balance: float
    split_depth: float
    split: float = field(metadata={"unit": "s"})
    overlap: float
    first_wave: float
    sharpness: float
    throttle: float
    coarse_rows: float
    ragged: float
    ragged_depth: float = 0.0
    fine_rows: float = 64.0
    spill: float = 0.0
    quantise: float = field(metadata={"unit": "s"})
    quantise_bytes: float = field(metadata={"unit": "B"})
    quantise_row: float = 0.0
    epilogue: float = 0.0
    whole_tiles: float = 1.0


def gemm_time(
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    dtype: str,
    silicon: Silicon,
    kernel: GemmKernel,
    in_turn: float | None = None,
) -> KernelTime:
    """Time of ``C[m, n] = A[m, k] B[k, n]`` with B in memory, quantising A included where the kernel does.

    Parameters
    ----------
    m, n, k : array_like
        Rows, columns and depth [1]; they broadcast.
    dtype : str
        ``bfloat16``, ``fp8``, ``fp8_block``, ``int8``, ``nvfp4``, or weight-only ``mxfp4`` and ``int4``.
    silicon, kernel
        The processor and the kernel's coefficients.
    in_turn : float, optional
        Sets of operands that a benchmark multiplies in turn [1]: where they fit in the last-level cache together they
        come from there. In serving other layers evict them, and it is left out.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``compute``, ``memory``, ``quantise``.

    Notes
    -----
    For each candidate tile ``(r, c)`` the k axis is split into ``s`` parts while SMs are idle; ``ceil(m/r) ceil(n/c)
    s / SMs`` waves take ``k/s * max(2 r c / rate, (r + c) bytes / feed, depth) + tile`` each, at least ``epilogue``,
    and together no less than the cache needs to serve all operands. This and the memory time of A, B and C overlap in
    part. The fastest candidate counts. Quantising A is a kernel of its own, memory-bound but for a time per row; the
    product finds what it wrote in the cache.

    Measured for m from 1 to 32768 and n and k from 32 to 65536 on H100 and A100; which tile a library really takes
    is not known, so that single shapes may be 20 % off.

    References
    ----------
    .. [1] NVIDIA, "Matrix Multiplication Background User's Guide": tile and wave quantisation.
    .. [2] M. Osama, D. Merrill, C. Cecka, M. Garland, J. D. Owens, "Stream-K: work-centric parallel decomposition
       for dense matrix-matrix multiplication on the GPU", PPoPP 2023, arXiv:2301.03598.
    .. [3] S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
       architectures", Communications of the ACM 52(4), 2009, doi:10.1145/1498765.1498785.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "gemm.cublas.bfloat16"
    >>> kernel = coefficients(GemmKernel, h100.kernels[name], name)
    >>> time = gemm_time(4096, 8192, 8192, dtype="bfloat16", silicon=h100.silicon, kernel=kernel)
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.72 ms'
    """
    m, n, k = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (m, n, k)))
    a_bytes, b_bytes = dtype_bytes(ACTIVATION_DTYPE.get(dtype, dtype)), dtype_bytes(dtype)
    bandwidth = silicon.memory_bandwidth * kernel.memory
    saved = 1.0 - 1.0 / CACHE_SPEED
    operands = n * k * b_bytes + m * k * a_bytes
    if kernel.quantise > 0.0:
        # The product finds in the cache what the kernel before it wrote there.
        operands = operands - saved * m * k * a_bytes * found_in_cache(m * k * a_bytes, silicon)
    result = m * n * OUTPUT_BYTES
    if in_turn is not None:
        operands = operands * (1.0 - saved * found_in_cache(in_turn * operands + result, silicon))
    memory = (operands + result * kernel.write) / bandwidth
    product, compute = _fastest_tile(m, n, k, a_bytes, b_bytes, memory, matrix_peak(dtype, silicon), silicon, kernel)
    coarse = (kernel.coarse_rows > 0.0) & (m > kernel.coarse_rows)
    grain = np.where(coarse, COARSE_ROWS, kernel.fine_rows)
    empty = np.where(m > grain, emptiness(m, grain), 0.0)
    ragged = kernel.ragged * empty * np.sqrt(np.ceil(m / grain)) * n * k * b_bytes / bandwidth
    quantise = np.zeros_like(memory)
    if kernel.quantise > 0.0:
        step = ElementwiseKernel(launch=kernel.quantise, memory=kernel.memory)
        quantise = elementwise_time(m * k * kernel.quantise_bytes, silicon=silicon, kernel=step).seconds
        quantise = quantise + kernel.quantise_row * m / silicon.units / silicon.clock
    terms = {
        "launch": kernel.launch + np.zeros_like(memory),
        "compute": compute,
        "memory": memory + ragged,
        "quantise": quantise,
    }
    return KernelTime(seconds=kernel.launch + product + ragged + quantise, terms=terms)


def emptiness(m: FloatArray, rows: FloatArray | float) -> FloatArray:
    """Say how empty the last row of tiles is [1]: nearly 0 while it is three quarters full, 1 with a single row."""
    missing = (-m) % rows / rows
    return np.asarray(missing**2 * (3.0 - 2.0 * missing), dtype=np.float64)


def _fastest_tile(
    m: FloatArray,
    n: FloatArray,
    k: FloatArray,
    a_bytes: float,
    b_bytes: float,
    memory: FloatArray,
    peak: float,
    silicon: Silicon,
    kernel: GemmKernel,
) -> tuple[FloatArray, FloatArray]:
    """Time of compute and memory together, and of compute alone, with the tile that the library takes [s]."""
    shape = (len(TILES), *(1,) * m.ndim)
    rows, columns = (np.array(side).reshape(shape) for side in zip(*TILES, strict=True))
    tiles = np.ceil(m / rows) * np.ceil(n / columns)
    parts = np.floor(np.clip(np.floor(silicon.units / tiles), 1.0, np.maximum(1.0, k / kernel.split_depth)))
    rounds = full_rounds(tiles * parts / silicon.units, kernel.balance)
    loss = 1.0 + kernel.small_tile * (np.sqrt(LARGE_TILE / (rows * columns)) - 1.0)
    filled = kernel.whole_tiles * rows + (1.0 - kernel.whole_tiles) * m / np.ceil(m / rows)
    arithmetic = 2.0 * filled * columns * silicon.units * loss / (peak * kernel.compute)
    operands = (np.minimum(m, rows) * a_bytes + np.minimum(n, columns) * b_bytes) / silicon.clock
    depth = kernel.depth * (1.0 + kernel.ragged_depth * emptiness(m, FINE_ROWS)) / silicon.clock
    step = np.maximum(np.maximum(arithmetic, depth), operands / kernel.feed)
    part = np.maximum(k / parts * step + kernel.tile / silicon.clock, kernel.epilogue / silicon.clock)
    taken_in = tiles * k * operands
    served = taken_in / (kernel.cache_feed * silicon.units)
    smaller = np.minimum(m * a_bytes, n * b_bytes) * k
    missed = kernel.spill * np.maximum(1.0 - silicon.cache / smaller, 0.0) * taken_in * silicon.clock
    memory = np.maximum(memory, missed / (silicon.memory_bandwidth * kernel.memory))
    compute = throttled(np.maximum(rounds * part, served), kernel.throttle, silicon)
    exposed = (kernel.overlap + kernel.first_wave / rounds) * np.minimum(compute, memory)
    time = smooth_max(compute, memory, kernel.sharpness) + exposed + np.where(parts > 1.0, kernel.split, 0.0)
    if kernel.coarse_rows > 0.0:
        side = np.where(m > FINE_ROWS, COARSE_ROWS, FINE_ROWS)
        allowed = (rows == np.where(m > kernel.coarse_rows, COARSE_ROWS, FINE_ROWS)) & (columns <= side)
        time = np.where(allowed, time, np.inf)
    fastest = np.argmin(time, axis=0)[None]
    return np.take_along_axis(time, fastest, 0)[0], np.take_along_axis(compute, fastest, 0)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmShape:
    """Shape of ``C[m, n] = A[m, k] B[k, n]`` [1] with weights B stored as ``dtype``."""

    m: ArrayLike
    n: ArrayLike
    k: ArrayLike
    dtype: str


def _time(shape: GemmShape, machine: Machine, kernel: GemmKernel) -> KernelTime:
    m, n, k = (np.maximum(side, 1.0) for side in (shape.m, shape.n, shape.k))
    return gemm_time(m, n, k, dtype=shape.dtype, silicon=machine.silicon, kernel=kernel)


GEMM = Family(
    kinds=("gemm",),
    shape=GemmShape,
    coefficients=GemmKernel,
    time=_time,
    axes=("m", "n", "k"),
    table_dtype="dtype",
    equation="launch + min over tiles of (smooth_max(compute, memory) + exposed + split) + ragged + quantise; "
    "compute = max(rounds * part, served), memory = bytes of A, B and C / bandwidth",
    validity="m to 32768, n and k from 32 to 65536 on H100 and A100; a library's choice of tiles by name is not known",
    references=(
        "NVIDIA, Matrix Multiplication Background User's Guide (tile and wave quantisation)",
        "M. Osama et al., Stream-K, PPoPP 2023, arXiv:2301.03598 (splitting the k axis)",
    ),
    theory="gemm.md",
)
