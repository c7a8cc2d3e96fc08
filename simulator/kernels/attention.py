"""Time of flash attention: prefill over tiles of queries, decode over splits of the KV cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray
from simulator.kernels.family import Family, arguments
from simulator.kernels.kernel import (
    CACHE_SPEED,
    FLAG,
    KernelTime,
    Machine,
    Silicon,
    dtype_bytes,
    found_in_cache,
    matrix_peak,
    smooth_max,
    throttled,
)

#: exp() per clock and SM: the special function units of every NVIDIA generation since Volta [1/clock].
EXPONENTIALS_PER_CLOCK = 16.0
#: Keys of one block of the flash kernels, and query heads that share a scan in decoding [1].
TILE_KEYS = 128.0
TILE_HEADS = 128.0
#: Elements of a head up to which a kernel takes its narrow tile [1].
NARROW_HEAD = 64.0
#: Share of the best occupancy at which flash attention stops splitting further [1].
ENOUGH_OCCUPANCY = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionDecodeKernel:
    """Coefficients of a split-KV decode kernel.

    Attributes
    ----------
    launch : float
        Time of the smallest call [s].
    combine : float
        Extra time where the KV cache is split and partial results are merged [s].
    merge : float
        Time that each part of a split adds to the merge [s].
    sequence : float
        Time that each sequence of the batch adds in preparing the call [s].
    repack : float
        Extra time where the query heads of several sequences are brought together per KV head [s].
    tile : float
        Fixed time of one tile on one SM [s].
    stream : float
        KV bytes of a tile's first block that one SM takes in per clock, waiting for them [bytes].
    pipeline : float
        How much faster the blocks after the first come, loaded while their predecessors are worked on [1].
    block : float
        Least time of each block after the first, however few its bytes: addressing pages and softmax [clocks].
    host : float
        Time of the host to launch the call where no graph replays it; the device works meanwhile [s].
    memory : float
        Share of the datasheet memory bandwidth that is reached [1].
    max_splits : float
        Largest number of splits of one sequence [1].
    tiles_per_unit : float
        Tiles that one SM runs at a time [1].
    balance : float
        Weight of the last, partly filled round of tiles: 0 spreads it evenly, 1 waits for a full round [1].
    sharpness : float
        Exponent of the blend of streaming and memory time [1].
    """

    launch: float = field(metadata={"unit": "s"})
    combine: float = field(metadata={"unit": "s"})
    merge: float = field(metadata={"unit": "s"})
    sequence: float = field(metadata={"unit": "s"})
    repack: float = field(metadata={"unit": "s"})
    tile: float = field(metadata={"unit": "s"})
    stream: float = field(metadata={"unit": "B"})
    pipeline: float
    memory: float
    max_splits: float
    tiles_per_unit: float
    balance: float
    sharpness: float
    block: float = 0.0
    host: float = field(default=0.0, metadata={"unit": "s"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPrefillKernel:
    """Coefficients of a causal prefill kernel.

    Attributes
    ----------
    launch : float
        Time of the smallest call [s].
    repack : float
        Extra time where single-token queries of several sequences are brought together per KV head [s].
    combine : float
        Extra time where the keys are split, as in decoding, because there are few tiles, and partial results are
        merged [s].
    tile : float
        Fixed time of one tile of queries on one SM [s].
    packing : float
        What gathering the query heads of one KV head adds to the time of a tile [s].
    block : float
        Fixed time of one block of keys within a tile [s].
    compute : float
        Share of the peak matrix rate inside the main loop [1].
    softmax : float
        Time of the softmax in that of its exponentials alone [1].
    memory : float
        Share of the datasheet memory bandwidth that is reached [1].
    gather : float
        Cost of a byte of keys and values, which lie in pages and which the call may store there first, in bytes of
        queries [1].
    host : float
        Time of the host to launch the call where no graph replays it; the device works meanwhile [s].
    tile_rows, narrow_tile_rows : float
        Query rows of a tile, for heads of more than 64 elements and for narrower ones [1].
    max_splits : float
        Largest number of splits of one tile's keys; 1 where the kernel never splits [1].
    packs : bool
        Whether the query heads of one KV head share tiles, or each has its own (single tokens always share).
    balance : float
        Weight of the last, partly filled round of tiles: 0 spreads it evenly, 1 waits for a full round [1].
    order : float
        Exponent of the blend of mean and longest work of an SM: large where long tiles start first [1].
    throttle : float
        Loss of clock in kernels that run much longer than :data:`~simulator.kernels.kernel.THROTTLE_TIME` [1].
    sharpness : float
        Exponent of the blend of compute and memory time [1].
    whole_tiles : float
        1 where matrix units compute whole tiles and blocks however many rows and keys of them are filled, 0 where cores
        compute only those that there are [1].
    """

    launch: float = field(metadata={"unit": "s"})
    repack: float = field(metadata={"unit": "s"})
    combine: float = field(metadata={"unit": "s"})
    tile: float = field(metadata={"unit": "s"})
    packing: float = field(metadata={"unit": "s"})
    block: float = field(metadata={"unit": "s"})
    compute: float
    softmax: float
    memory: float
    tile_rows: float
    narrow_tile_rows: float
    max_splits: float
    packs: bool = field(metadata=FLAG)
    balance: float
    order: float
    throttle: float
    sharpness: float
    gather: float = 1.0
    host: float = field(default=0.0, metadata={"unit": "s"})
    whole_tiles: float = 1.0


def full_rounds(rounds: FloatArray, balance: float) -> FloatArray:
    """Rounds [1] that tiles take on all SMs: at least one, the last partly filled one weighed by ``balance``."""
    return np.where(rounds <= 1.0, 1.0, rounds + balance * (np.ceil(rounds) - rounds))


def attention_decode_time(
    batch: ArrayLike,
    kv_length: ArrayLike,
    num_heads: ArrayLike,
    num_kv_heads: ArrayLike,
    head_dim: ArrayLike,
    *,
    window: ArrayLike | None = None,
    dtype: str,
    kv_dtype: str,
    silicon: Silicon,
    kernel: AttentionDecodeKernel,
    cached: bool = False,
) -> KernelTime:
    """Time of one decode attention call, one query token per sequence.

    Parameters
    ----------
    batch : array_like
        Sequences [1].
    kv_length : array_like
        Keys per sequence, the new one included [1].
    num_heads, num_kv_heads, head_dim : array_like
        Query heads, KV heads and elements per head on this rank [1].
    window : array_like or None
        Sliding window [tokens]; longer histories are not read.
    dtype, kv_dtype : str
        Storage of queries and of the KV cache.
    silicon, kernel
        The processor and the kernel's coefficients.
    cached : bool
        Whether the KV cache was read just before, as in a benchmark that repeats one call: what fits in the
        last-level cache then comes from there. In serving the other layers evict it.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``stream`` (SMs pulling KV), ``memory``.

    Notes
    -----
    ``batch * num_kv_heads`` tiles are split along the keys into ``s`` parts until the SMs are full. A part takes
    ``tile + bytes / (stream * clock)`` for its first block of keys and ``block / clock + bytes / (pipeline * stream *
    clock)`` for each further one; parts run in rounds. Memory traffic, which starts with the first blocks, bounds
    the whole from below.

    Measured with heads of 64 and 128 elements, up to 131072 keys and 2048 sequences of one length; windows were
    not.

    References
    ----------
    .. [1] T. Dao, "FlashAttention-2: faster attention with better parallelism and work partitioning", ICLR 2024,
       arXiv:2307.08691.
    .. [2] T. Dao, D. Haziza, F. Massa, G. Sizov, "Flash-Decoding for long-context inference", 2023.
    .. [3] W. Kwon et al., "Efficient memory management for large language model serving with PagedAttention", SOSP
       2023, arXiv:2309.06180.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "attention_decode.flash.bfloat16"
    >>> kernel = coefficients(AttentionDecodeKernel, h100.kernels[name], name)
    >>> time = attention_decode_time(
    ...     64, 4096, 32, 8, 128, dtype="bfloat16", kv_dtype="bfloat16", silicon=h100.silicon, kernel=kernel
    ... )
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.37 ms'
    """
    batch, kv_length, heads, kv_heads, head_dim = (
        np.asarray(x, dtype=np.float64) for x in (batch, kv_length, num_heads, num_kv_heads, head_dim)
    )
    keys = kv_length if window is None else np.minimum(kv_length, np.asarray(window, dtype=np.float64))
    groups = heads / kv_heads
    tiles = batch * kv_heads * np.ceil(groups / TILE_HEADS)
    token_bytes = 2.0 * head_dim * dtype_bytes(kv_dtype)
    query_bytes = 2.0 * batch * heads * head_dim * dtype_bytes(dtype)
    traffic = batch * kv_heads * keys * token_bytes
    fixed = kernel.sequence * batch + np.where((batch > 1) & (kv_heads > 1) & (groups > 1), kernel.repack, 0.0)
    return streaming_time(
        tiles, keys, token_bytes, traffic, query_bytes, fixed=fixed, silicon=silicon, kernel=kernel, cached=cached
    )


def streaming_time(
    tiles: FloatArray,
    keys: FloatArray,
    token_bytes: FloatArray,
    traffic: FloatArray,
    query_bytes: FloatArray,
    *,
    fixed: FloatArray,
    silicon: Silicon,
    kernel: AttentionDecodeKernel,
    cached: bool,
    key_time: float = 0.0,
) -> KernelTime:
    """Time of ``tiles`` independent scans over ``keys`` cached tokens each, split until the SMs are full [s].

    Parameters
    ----------
    tiles : FloatArray
        Scans that are independent of each other [1].
    keys : FloatArray
        Cached tokens that each reads [tokens].
    token_bytes : FloatArray
        Bytes that a tile reads per key [bytes].
    traffic, query_bytes : FloatArray
        Bytes that all tiles together draw from memory, and those of queries and outputs [bytes].
    fixed : FloatArray
        Added to the launch [s].
    silicon, kernel
        The processor and the kernel's coefficients.
    cached : bool
        Whether the cache was read just before, as in :func:`attention_decode_time`.
    key_time : float
        Arithmetic of one key on one SM [s].

    References
    ----------
    .. [1] T. Dao, D. Haziza, F. Massa, G. Sizov, "Flash-Decoding for long-context inference", 2023.

    Examples
    --------
    Both latent and grouped-query decoding are scans like this one; see :func:`attention_decode_time`.
    """
    blocks = np.ceil(keys / TILE_KEYS)
    slots = silicon.units * kernel.tiles_per_unit
    enough = np.ceil(ENOUGH_OCCUPANCY * np.floor(slots / tiles))
    splits = np.clip(enough, 1.0, np.minimum(kernel.max_splits, blocks))
    part = np.ceil(blocks / splits)
    rounds = full_rounds(tiles * splits / slots, kernel.balance)
    first = TILE_KEYS * token_bytes / (kernel.stream * silicon.clock)
    later = np.maximum(first / kernel.pipeline + kernel.block / silicon.clock, TILE_KEYS * key_time)
    stream = rounds * (kernel.tile + first + (part - 1.0) * later)
    found = traffic * found_in_cache(traffic, silicon) if cached else 0.0
    memory = (traffic - found * (1.0 - 1.0 / CACHE_SPEED) + query_bytes) / (silicon.memory_bandwidth * kernel.memory)
    merging = np.where(splits > 1.0, kernel.combine + kernel.merge * splits, 0.0)
    launch = kernel.launch + fixed + merging
    seconds = np.maximum(launch + smooth_max(stream, memory + kernel.tile + first, kernel.sharpness), kernel.host)
    return KernelTime(seconds=seconds, terms={"launch": launch, "stream": stream, "memory": memory})


def attention_prefill_time(
    batch: ArrayLike,
    context: ArrayLike,
    prefix: ArrayLike,
    num_heads: ArrayLike,
    num_kv_heads: ArrayLike,
    head_dim: ArrayLike,
    *,
    window: ArrayLike | None = None,
    dtype: str,
    kv_dtype: str,
    silicon: Silicon,
    kernel: AttentionPrefillKernel,
) -> KernelTime:
    """Time of one causal prefill attention call.

    Parameters
    ----------
    batch : array_like
        Sequences [1].
    context : array_like
        New tokens per sequence [1].
    prefix : array_like
        Tokens per sequence that are cached already [1].
    num_heads, num_kv_heads, head_dim : array_like
        Query heads, KV heads and elements per head on this rank [1].
    window : array_like or None
        Sliding window [tokens].
    dtype, kv_dtype : str
        Storage of queries and of the KV cache.
    silicon, kernel
        The processor and the kernel's coefficients.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``compute``, ``memory``.

    Notes
    -----
    The query heads of one KV head share tiles of rows where the kernel packs them; a tile visits blocks of
    :data:`TILE_KEYS` keys up to its own diagonal. See :func:`causal_time`.

    Measured with heads of 64 and 128 elements and up to 16384 tokens; windows were not.

    References
    ----------
    .. [1] T. Dao, "FlashAttention-2: faster attention with better parallelism and work partitioning", ICLR 2024,
       arXiv:2307.08691.
    .. [2] J. Shah et al., "FlashAttention-3: fast and accurate attention with asynchrony and low-precision",
       NeurIPS 2024, arXiv:2407.08608.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "attention_prefill.flash.bfloat16"
    >>> kernel = coefficients(AttentionPrefillKernel, h100.kernels[name], name)
    >>> time = attention_prefill_time(
    ...     1, 8192, 0, 32, 8, 128, dtype="bfloat16", kv_dtype="bfloat16", silicon=h100.silicon, kernel=kernel
    ... )
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.82 ms'
    """
    batch, context, prefix, heads, kv_heads, head_dim = (
        np.asarray(x, dtype=np.float64) for x in (batch, context, prefix, num_heads, num_kv_heads, head_dim)
    )
    groups = heads / kv_heads
    repack = np.where((context == 1) & (batch > 1) & (kv_heads > 1) & (groups > 1), kernel.repack, 0.0)
    element, kv_element = dtype_bytes(dtype), dtype_bytes(kv_dtype)
    keys = prefix + context if window is None else np.minimum(prefix + context, context + np.asarray(window))
    gathered = kernel.gather * kv_heads * keys * kv_element
    traffic = batch * head_dim * 2.0 * (heads * context * element + gathered)
    packed = kernel.packs | (context == 1)
    return causal_time(
        batch * np.where(packed, kv_heads, heads),
        context * np.where(packed, groups, 1.0),
        context,
        prefix,
        4.0 * head_dim,
        traffic,
        tile_rows=np.where(head_dim > NARROW_HEAD, kernel.tile_rows, kernel.narrow_tile_rows),
        tile=kernel.tile + np.where(packed & (groups > 1), kernel.packing, 0.0),
        fixed=repack,
        window=window,
        order=kernel.order,
        peak=matrix_peak(dtype, silicon),
        silicon=silicon,
        kernel=kernel,
    )


def causal_time(
    streams: FloatArray,
    rows: FloatArray,
    context: FloatArray,
    prefix: FloatArray,
    flops: FloatArray,
    traffic: FloatArray,
    *,
    tile_rows: FloatArray,
    tile: FloatArray,
    fixed: FloatArray,
    window: ArrayLike | None,
    order: ArrayLike,
    peak: float,
    silicon: Silicon,
    kernel: AttentionPrefillKernel,
) -> KernelTime:
    """Time of causal attention of ``rows`` packed query rows in each of ``streams`` KV heads [s].

    Parameters
    ----------
    streams, rows : FloatArray
        KV heads, and query rows that are packed for each [1].
    context, prefix : FloatArray
        New tokens per sequence, and those cached before them [tokens].
    flops : FloatArray
        Work of one query-key pair [FLOP].
    traffic : FloatArray
        Memory traffic [bytes].
    tile_rows, tile : FloatArray
        Rows of a tile [1], and its fixed time [s].
    fixed : FloatArray
        Added to the launch [s].
    window : array_like or None
        Sliding window [tokens].
    order : array_like
        Exponent with which the last tile is blended in [1].
    peak : float
        Peak of the matrix units at the arithmetic dtype [FLOP/s].
    silicon, kernel
        The processor and the kernel's coefficients.

    Notes
    -----
    A tile of ``r`` rows spans ``r context / rows`` tokens. A block of 128 keys takes it ``block`` and the root of
    the summed squares of its matrix work ``128 r flops / rate`` and its exponentials, which overlap in part. The
    tiles' blocks are counted up to the diagonal and spread over the SMs; the last tile, whose blocks run one after
    another unless they are split, is blended in with exponent ``order``.

    References
    ----------
    .. [1] T. Dao, "FlashAttention-2: faster attention with better parallelism and work partitioning", ICLR 2024,
       arXiv:2307.08691.
    .. [2] J. Shah et al., "FlashAttention-3: fast and accurate attention with asynchrony and low-precision",
       NeurIPS 2024, arXiv:2407.08608.

    Examples
    --------
    Both latent and grouped-query prefill are causal like this; see :func:`attention_prefill_time`.
    """
    tiles = np.ceil(rows / tile_rows)
    span = tile_rows * context / rows
    mean_keys = prefix + (span * (tiles - 1.0) / 2.0 + context / tiles)
    longest = prefix + context
    if window is not None:
        limit = np.asarray(window, dtype=np.float64) + span
        mean_keys, longest = np.minimum(mean_keys, limit), np.minimum(longest, limit)
    total = streams * tiles
    most = np.ceil(longest / TILE_KEYS)
    # On average the last block of a tile reaches half a block beyond its diagonal, unless the two fall together.
    ragged = 0.5 * (1.0 - np.gcd(np.rint(span).astype(np.int64), int(TILE_KEYS)) / TILE_KEYS)
    whole, partly = kernel.whole_tiles, 1.0 - kernel.whole_tiles
    mean = whole * np.minimum(np.maximum(1.0, mean_keys / TILE_KEYS + ragged), most) + partly * mean_keys / TILE_KEYS
    filled = whole * tile_rows + partly * rows / tiles
    matrix = filled * TILE_KEYS * flops * silicon.units / (peak * kernel.compute)
    softmax = filled * TILE_KEYS / (EXPONENTIALS_PER_CLOCK * silicon.clock)
    block = kernel.block + np.hypot(matrix, kernel.softmax * softmax)
    enough = np.ceil(ENOUGH_OCCUPANCY * np.floor(silicon.units / total))
    splits = np.clip(enough, 1.0, np.minimum(kernel.max_splits, most))
    rounds = total * splits / silicon.units
    rounds = np.where(rounds < 1.0, rounds, full_rounds(rounds, kernel.balance))
    spread = rounds * (tile + mean / splits * block)
    critical = tile + (whole * np.ceil(most / splits) + partly * longest / TILE_KEYS / splits) * block
    compute = throttled(smooth_max(spread, critical, order), kernel.throttle, silicon)
    memory = traffic / (silicon.memory_bandwidth * kernel.memory)
    launch = kernel.launch + fixed + np.where(splits > 1.0, kernel.combine, 0.0)
    seconds = np.maximum(launch + smooth_max(compute, memory, kernel.sharpness), kernel.host)
    return KernelTime(seconds=seconds, terms={"launch": launch, "compute": compute, "memory": memory})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPrefillShape:
    """Causal attention of new tokens: the arguments of :func:`attention_prefill_time`.

    ``dtype`` is that of the arithmetic and ``kv_dtype`` that of the KV cache.
    """

    batch: ArrayLike
    context: ArrayLike
    prefix: ArrayLike
    num_heads: ArrayLike
    num_kv_heads: ArrayLike
    head_dim: ArrayLike
    window: ArrayLike | None = None
    dtype: str
    kv_dtype: str

    @property
    def kv_length(self) -> FloatArray:
        """Keys that the last new token attends to, windows aside [tokens]."""
        return np.asarray(self.context, dtype=np.float64) + np.asarray(self.prefix, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionDecodeShape:
    """Attention of one token per sequence: the arguments of :func:`attention_decode_time`.

    ``dtype`` is that of the arithmetic and ``kv_dtype`` that of the KV cache.
    """

    batch: ArrayLike
    kv_length: ArrayLike
    num_heads: ArrayLike
    num_kv_heads: ArrayLike
    head_dim: ArrayLike
    window: ArrayLike | None = None
    dtype: str
    kv_dtype: str


def _prefill_time(shape: AttentionPrefillShape, machine: Machine, kernel: AttentionPrefillKernel) -> KernelTime:
    return attention_prefill_time(**arguments(shape, "batch", "context"), silicon=machine.silicon, kernel=kernel)


def _decode_time(shape: AttentionDecodeShape, machine: Machine, kernel: AttentionDecodeKernel) -> KernelTime:
    return attention_decode_time(**arguments(shape, "batch", "kv_length"), silicon=machine.silicon, kernel=kernel)


ATTENTION_PREFILL = Family(
    kinds=("attention_prefill",),
    shape=AttentionPrefillShape,
    coefficients=AttentionPrefillKernel,
    time=_prefill_time,
    axes=("batch", "context", "num_heads", "num_kv_heads", "head_dim", "kv_length"),
    table_dtype="kv_dtype",
    equation="max(host, launch + smooth_max(compute, memory)); compute = smooth_max(spread, critical) of blocks of "
    "block + hypot(matrix, softmax), memory = bytes of queries, keys and values / bandwidth",
    validity="heads of 64 and 128 elements, up to 16384 new tokens; sliding windows were not measured",
    references=(
        "T. Dao, FlashAttention-2, ICLR 2024, arXiv:2307.08691",
        "J. Shah et al., FlashAttention-3, NeurIPS 2024, arXiv:2407.08608",
    ),
    theory="attention.md",
)
ATTENTION_DECODE = Family(
    kinds=("attention_decode",),
    shape=AttentionDecodeShape,
    coefficients=AttentionDecodeKernel,
    time=_decode_time,
    axes=("batch", "num_heads", "num_kv_heads", "head_dim", "kv_length"),
    table_dtype="kv_dtype",
    equation="max(host, launch + smooth_max(stream, memory + tile + first)); "
    "stream = rounds * (tile + first + (part - 1) * later), memory = KV and query bytes / bandwidth",
    validity="heads of 64 and 128 elements, up to 131072 keys and 2048 sequences; all sequences of one length",
    references=(
        "T. Dao, D. Haziza, F. Massa, G. Sizov, Flash-Decoding, 2023 (splits of the keys)",
        "W. Kwon et al., PagedAttention, SOSP 2023, arXiv:2309.06180 (pages)",
    ),
    theory="attention.md",
)
