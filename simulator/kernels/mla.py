"""Time of multi-head latent attention: prefill and decode over the compressed KV cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray
from simulator.kernels.attention import (
    AttentionDecodeKernel,
    AttentionPrefillKernel,
    causal_time,
    streaming_time,
)
from simulator.kernels.family import Family, arguments
from simulator.kernels.kernel import FLAG, KernelTime, Machine, Silicon, dtype_bytes, matrix_peak


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaDecodeKernel(AttentionDecodeKernel):
    """Coefficients of a latent decode kernel: those of :class:`AttentionDecodeKernel` and four more.

    Attributes
    ----------
    head_tile : float
        Query heads that share one scan of the latent cache [1].
    compute : float
        Share of the peak matrix rate inside the scan [1].
    convert : float
        Traffic of casting the cache to 16 bits before the scan, 0 where the scan reads it as it is stored [bytes per
        element].
    lone : float
        How much longer the scan of a block takes where a rank has one query head, and the kernel goes without matrix
        units for it [1].
    """

    head_tile: float
    compute: float
    convert: float = field(metadata={"unit": "B"})
    lone: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaPrefillKernel(AttentionPrefillKernel):
    """Coefficients of a latent prefill kernel: those of :class:`AttentionPrefillKernel` and one more.

    Attributes
    ----------
    absorbed : bool
        Whether the kernel works on the latent vectors (all heads share one key of latent + rope elements), or keys and
        values were expanded per head first.
    """

    absorbed: bool = field(metadata=FLAG)


def mla_prefill_time(
    batch: ArrayLike,
    context: ArrayLike,
    prefix: ArrayLike,
    num_heads: ArrayLike,
    *,
    kv_lora_rank: float = 512,
    rope_dim: float = 64,
    nope_dim: float = 128,
    v_dim: float = 128,
    dtype: str,
    kv_dtype: str,
    silicon: Silicon,
    kernel: MlaPrefillKernel,
) -> KernelTime:
    """Time of one causal latent-attention prefill call, projections not included.

    Parameters
    ----------
    batch, context, prefix, num_heads : array_like
        Sequences, new tokens and cached tokens per sequence, query heads on this rank [1].
    kv_lora_rank, rope_dim, nope_dim, v_dim : float
        Elements of the latent, of the shared rope key, and of a head's own key and value [1].
    dtype, kv_dtype : str
        Storage of queries and of the latent cache.
    silicon, kernel
        The processor and the kernel's coefficients.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``compute``, ``memory``.

    Notes
    -----
    One query-key pair costs ``2 (2 rank + rope)`` FLOP in the absorbed form and ``2 (nope + rope + v)`` in the
    expanded one. The absorbed kernel takes one sequence after another, the long tiles of each first, so that those of
    the last sequence come late.

    The absorbed form was measured up to 32768 tokens; the expanded one takes the coefficients of grouped-query
    attention.

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V2: a strong, economical, and efficient mixture-of-experts language model", 2024,
       arXiv:2405.04434.
    .. [2] T. Dao, "FlashAttention-2: faster attention with better parallelism and work partitioning", ICLR 2024,
       arXiv:2307.08691.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "mla_prefill.expanded.bfloat16"
    >>> kernel = coefficients(MlaPrefillKernel, h100.kernels[name], name)
    >>> time = mla_prefill_time(
    ...     1, 4096, 0, 128, dtype="bfloat16", kv_dtype="bfloat16", silicon=h100.silicon, kernel=kernel
    ... )
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '1.1 ms'
    """
    batch, context, prefix, heads = (np.asarray(x, dtype=np.float64) for x in (batch, context, prefix, num_heads))
    absorbed = kernel.absorbed
    key_dim = kv_lora_rank + rope_dim if absorbed else nope_dim + rope_dim
    value_dim = kv_lora_rank if absorbed else v_dim
    element, kv_element = dtype_bytes(dtype), dtype_bytes(kv_dtype)
    queries = heads * context * (key_dim + value_dim) * element
    cached = (prefix + context) * (
        (kv_lora_rank + rope_dim) * kv_element if absorbed else heads * (key_dim + value_dim) * element
    )
    return causal_time(
        batch if absorbed else batch * heads,
        context * heads if absorbed else context,
        context,
        prefix,
        np.asarray(2.0 * (key_dim + value_dim)),
        batch * (queries + kernel.gather * cached),
        tile_rows=np.asarray(kernel.tile_rows),
        tile=np.asarray(kernel.tile),
        fixed=np.zeros_like(batch),
        window=None,
        order=np.where((batch > 1) & absorbed, 1.0, kernel.order),
        peak=matrix_peak(dtype, silicon),
        silicon=silicon,
        kernel=kernel,
    )


def mla_decode_time(
    batch: ArrayLike,
    kv_length: ArrayLike,
    num_heads: ArrayLike,
    *,
    kv_lora_rank: float = 512,
    rope_dim: float = 64,
    dtype: str = "bfloat16",
    kv_dtype: str,
    silicon: Silicon,
    kernel: MlaDecodeKernel,
    cached: bool = False,
) -> KernelTime:
    """Time of one absorbed latent-attention decode call, one query token per sequence.

    Parameters
    ----------
    batch, kv_length, num_heads : array_like
        Sequences, keys per sequence (the new one included), query heads on this rank [1].
    kv_lora_rank, rope_dim : float
        Elements of the latent and of the shared rope key [1].
    dtype, kv_dtype : str
        Arithmetic and storage of the latent cache.
    silicon, kernel
        The processor and the kernel's coefficients.
    cached : bool
        Whether the cache was read just before, as in a benchmark that repeats one call.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``stream``, ``memory``.

    Notes
    -----
    ``batch * ceil(heads / head_tile)`` tiles scan the latent cache. A key costs a tile the longer of its bytes and
    its ``2 head_tile (2 rank + rope)`` FLOP.

    Measured with latents of 512 + 64 elements, 1 to 128 heads and up to 131072 keys.

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V2: a strong, economical, and efficient mixture-of-experts language model", 2024,
       arXiv:2405.04434.
    .. [2] T. Dao, D. Haziza, F. Massa, G. Sizov, "Flash-Decoding for long-context inference", 2023.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "mla_decode.flash.bfloat16"
    >>> kernel = coefficients(MlaDecodeKernel, h100.kernels[name], name)
    >>> time = mla_decode_time(64, 4096, 128, kv_dtype="bfloat16", silicon=h100.silicon, kernel=kernel)
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.14 ms'
    """
    batch, keys, heads = (np.asarray(x, dtype=np.float64) for x in (batch, kv_length, num_heads))
    tiles = batch * np.ceil(heads / kernel.head_tile)
    element = dtype_bytes("bfloat16" if kernel.convert > 0.0 else kv_dtype)
    token_bytes = np.asarray((kv_lora_rank + rope_dim) * element)
    converted = batch * keys * (kv_lora_rank + rope_dim) * kernel.convert
    flops = 2.0 * kernel.head_tile * (2.0 * kv_lora_rank + rope_dim)
    query_bytes = batch * heads * (2.0 * kv_lora_rank + rope_dim) * 2.0
    key_time = flops * silicon.units / (matrix_peak(dtype, silicon) * kernel.compute)
    return streaming_time(
        tiles,
        keys,
        token_bytes * np.where(heads > 1, 1.0, kernel.lone),
        batch * keys * token_bytes,
        query_bytes,
        fixed=kernel.sequence * batch + converted / (silicon.memory_bandwidth * kernel.memory),
        silicon=silicon,
        kernel=kernel,
        cached=cached,
        key_time=key_time,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaPrefillShape:
    """Causal latent attention of new tokens: the arguments of :func:`mla_prefill_time`.

    ``dtype`` is that of the arithmetic and ``kv_dtype`` that of the latent cache.
    """

    batch: ArrayLike
    context: ArrayLike
    prefix: ArrayLike
    num_heads: ArrayLike
    kv_lora_rank: float
    rope_dim: float
    nope_dim: float
    v_dim: float
    dtype: str
    kv_dtype: str

    @property
    def kv_length(self) -> FloatArray:
        """Keys that the last new token attends to [tokens]."""
        return np.asarray(self.context, dtype=np.float64) + np.asarray(self.prefix, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaDecodeShape:
    """Latent attention of one token per sequence: the arguments of :func:`mla_decode_time`.

    ``dtype`` is that of the arithmetic and ``kv_dtype`` that of the latent cache.
    """

    batch: ArrayLike
    kv_length: ArrayLike
    num_heads: ArrayLike
    kv_lora_rank: float
    rope_dim: float
    dtype: str
    kv_dtype: str


def _prefill_time(shape: MlaPrefillShape, machine: Machine, kernel: MlaPrefillKernel) -> KernelTime:
    return mla_prefill_time(**arguments(shape, "batch", "context"), silicon=machine.silicon, kernel=kernel)


def _decode_time(shape: MlaDecodeShape, machine: Machine, kernel: MlaDecodeKernel) -> KernelTime:
    return mla_decode_time(**arguments(shape, "batch", "kv_length"), silicon=machine.silicon, kernel=kernel)


_REFERENCES = (
    "DeepSeek-AI, DeepSeek-V2, 2024, arXiv:2405.04434 (latent attention and its absorbed form)",
    "T. Dao, FlashAttention-2, ICLR 2024, arXiv:2307.08691",
)
MLA_PREFILL = Family(
    kinds=("mla_prefill",),
    shape=MlaPrefillShape,
    coefficients=MlaPrefillKernel,
    time=_prefill_time,
    axes=("batch", "context", "num_heads", "kv_length"),
    table_dtype="dtype",
    equation="max(host, launch + smooth_max(compute, memory)); compute = smooth_max(spread, critical) of blocks of "
    "block + hypot(matrix, softmax), memory = bytes of queries and of latent or expanded keys / bandwidth",
    validity="absorbed: up to 32768 tokens; expanded: not measured, the coefficients of grouped-query attention",
    references=_REFERENCES,
    theory="attention.md",
)
MLA_DECODE = Family(
    kinds=("mla_decode",),
    shape=MlaDecodeShape,
    coefficients=MlaDecodeKernel,
    time=_decode_time,
    axes=("batch", "num_heads", "kv_length"),
    table_dtype="kv_dtype",
    equation="max(host, launch + smooth_max(stream, memory + tile + first)); stream = rounds * (tile + first + "
    "(part - 1) * max(later, key_time)), memory = latent and query bytes / bandwidth, launch with the cast of it",
    validity="latents of 512 + 64 elements, 1 to 128 heads; all sequences of one length",
    references=_REFERENCES,
    theory="attention.md",
)
