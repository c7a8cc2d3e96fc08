"""Time of linear-attention kernels: causal convolution, gated delta rule and Mamba2 scans, by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from hardware_profiles.errors import ProfileError, nearest
from simulator.arrays import FloatArray
from simulator.kernels.family import Family
from simulator.kernels.kernel import CACHE_SPEED, KernelTime, Machine, Silicon, found_in_cache

#: Tokens of one chunk of the chunked scans [1].
CHUNK = 64.0
#: Bytes per element of activations, and of the snapshots of the state between chunks [bytes].
ACTIVATION, SNAPSHOT = 2.0, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionKernel:
    """Coefficients of a causal depthwise convolution.

    Attributes
    ----------
    launch : float
        Time of the smallest call [s].
    memory : float
        Share of the datasheet memory bandwidth that is reached [1].
    sequence : float
        Tokens that a shorter sequence costs nevertheless: its blocks are launched and its state kept [1].
    """

    launch: float = field(metadata={"unit": "s"})
    memory: float
    sequence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanKernel:
    """Coefficients of a scan over a matrix-valued state (gated delta rule, state-space dual).

    Attributes
    ----------
    launch : float
        Time of the smallest call, all its sub-kernels together [s].
    memory : float
        Share of the datasheet memory bandwidth that is reached [1].
    passes : float
        Times that a token's vectors go through memory: gates, triangular solve, intermediate values [1].
    state : float
        Bytes moved per state element of a sequence, reading and writing together [bytes].
    chunk : float
        Time of one chunk in the sequential part that hands the state on [s].
    """

    launch: float = field(metadata={"unit": "s"})
    memory: float
    passes: float
    state: float = field(metadata={"unit": "B"})
    chunk: float = field(metadata={"unit": "s"})


def causal_convolution_time(
    batch: ArrayLike,
    seq_len: ArrayLike,
    channels: ArrayLike,
    *,
    width: float = 4.0,
    silicon: Silicon,
    kernel: ConvolutionKernel,
    cached: bool = False,
) -> KernelTime:
    """Time of a causal depthwise convolution over ``batch`` sequences of ``seq_len`` tokens [s].

    Parameters
    ----------
    batch, seq_len, channels : array_like
        Sequences, tokens per sequence (1 in decode), channels [1].
    width : float
        Taps of the filter [1]; its last inputs are kept as the state.
    silicon, kernel
        The processor and the kernel's coefficients.
    cached : bool
        Whether the data was used just before, as in a benchmark that repeats one call: what fits in the last-level
        cache then comes from there.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``memory``.

    Notes
    -----
    Per channel and sequence ``2 max(tokens, sequence) + 2 width`` elements of two bytes move.
    """
    batch, seq_len, channels = (np.asarray(x, dtype=np.float64) for x in (batch, seq_len, channels))
    elements = 2.0 * np.maximum(seq_len, kernel.sequence) + 2.0 * width
    memory = _moving(batch * channels * elements * ACTIVATION, silicon, kernel.memory, cached=cached)
    return KernelTime(seconds=kernel.launch + memory, terms={"launch": kernel.launch + 0.0 * memory, "memory": memory})


def scan_time(
    batch: ArrayLike,
    seq_len: ArrayLike,
    key_heads: ArrayLike,
    value_heads: ArrayLike,
    key_dim: ArrayLike,
    value_dim: ArrayLike,
    *,
    silicon: Silicon,
    kernel: ScanKernel,
    cached: bool = False,
) -> KernelTime:
    """Time of a scan with one ``key_dim x value_dim`` state per value head and sequence [s].

    Parameters
    ----------
    batch, seq_len : array_like
        Sequences and tokens per sequence [1]; a single token is a recurrent step.
    key_heads, value_heads, key_dim, value_dim : array_like
        Heads and elements per head of keys and of values [1].
    silicon, kernel
        The processor and the kernel's coefficients.
    cached : bool
        As in :func:`causal_convolution_time`.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``memory``, ``sequential``.

    Notes
    -----
    Memory: the tokens' vectors ``passes`` times, one snapshot of the state per chunk written and read, and the
    state of each sequence. Sequential: ``ceil(tokens / 64)`` chunks, one after another.
    """
    batch, seq_len, key_heads, value_heads, key_dim, value_dim = (
        np.asarray(x, dtype=np.float64) for x in (batch, seq_len, key_heads, value_heads, key_dim, value_dim)
    )
    tokens = batch * seq_len
    vectors = kernel.passes * tokens * ACTIVATION * (key_heads * key_dim + value_heads * value_dim)
    states = value_heads * key_dim * value_dim
    chunks = np.ceil(seq_len / CHUNK)
    snapshots = 2.0 * SNAPSHOT * batch * (chunks - 1.0) * states
    moved = vectors + snapshots + batch * states * kernel.state
    memory = _moving(moved, silicon, kernel.memory, cached=cached)
    sequential = kernel.chunk * (chunks - 1.0)
    seconds = kernel.launch + memory + sequential
    launch = kernel.launch + 0.0 * seconds
    return KernelTime(seconds=seconds, terms={"launch": launch, "memory": memory, "sequential": sequential})


def gated_delta_net_time(
    operation: str,
    batch: ArrayLike,
    seq_len: ArrayLike,
    num_k_heads: ArrayLike,
    head_k_dim: ArrayLike,
    num_v_heads: ArrayLike,
    head_v_dim: ArrayLike,
    *,
    d_conv: float = 4.0,
    silicon: Silicon,
    kernels: Mapping[str, ConvolutionKernel | ScanKernel],
    cached: bool = False,
) -> KernelTime:
    """Time of one kernel of a gated-delta-net layer.

    Parameters
    ----------
    operation : str
        ``causal_conv1d_fn`` and ``chunk_gated_delta_rule`` in prefill, ``causal_conv1d_update`` and
        ``fused_recurrent_gated_delta_rule`` in decode. The convolution is that of one projection of
        ``num_k_heads * head_k_dim`` channels; for all of queries, keys and values call
        :func:`causal_convolution_time` with their sum.
    batch, seq_len : array_like
        Sequences and tokens per sequence [1].
    num_k_heads, head_k_dim, num_v_heads, head_v_dim : array_like
        Heads and elements per head [1].
    d_conv : float
        Taps of the convolution [1].
    silicon, kernels
        The processor and coefficients by operation.
    cached : bool
        As in :func:`causal_convolution_time`.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``memory`` and, for scans, ``sequential``.
    """
    kernel = _kernel(operation, kernels)
    if isinstance(kernel, ConvolutionKernel):
        channels = np.asarray(num_k_heads, dtype=np.float64) * np.asarray(head_k_dim, dtype=np.float64)
        return causal_convolution_time(
            batch, seq_len, channels, width=d_conv, silicon=silicon, kernel=kernel, cached=cached
        )
    return scan_time(
        batch, seq_len, num_k_heads, num_v_heads, head_k_dim, head_v_dim, silicon=silicon, kernel=kernel, cached=cached
    )


def mamba2_time(
    operation: str,
    batch: ArrayLike,
    seq_len: ArrayLike,
    nheads: ArrayLike,
    head_dim: ArrayLike,
    n_groups: ArrayLike,
    d_state: ArrayLike,
    *,
    d_conv: float = 4.0,
    silicon: Silicon,
    kernels: Mapping[str, ConvolutionKernel | ScanKernel],
    cached: bool = False,
) -> KernelTime:
    """Time of one kernel of a Mamba2 layer.

    Parameters
    ----------
    operation : str
        ``causal_conv1d_fn`` and ``chunk_scan`` in prefill, ``causal_conv1d_update`` and ``state_update`` in decode.
    batch, seq_len : array_like
        Sequences and tokens per sequence [1].
    nheads, head_dim, n_groups, d_state : array_like
        Heads, elements per head, groups that share their input and output matrices, state size [1].
    d_conv : float
        Taps of the convolution [1].
    silicon, kernels
        The processor and coefficients by operation.
    cached : bool
        As in :func:`causal_convolution_time`.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``memory`` and, for scans, ``sequential``.

    Notes
    -----
    The convolution covers ``nheads head_dim + 2 n_groups d_state`` channels. The scan keeps a
    ``d_state x head_dim`` state per head; keys are the groups' input and output matrices.
    """
    kernel = _kernel(operation, kernels)
    if isinstance(kernel, ConvolutionKernel):
        heads, dim, groups, state = (np.asarray(x, dtype=np.float64) for x in (nheads, head_dim, n_groups, d_state))
        channels = heads * dim + 2.0 * groups * state
        return causal_convolution_time(
            batch, seq_len, channels, width=d_conv, silicon=silicon, kernel=kernel, cached=cached
        )
    return scan_time(batch, seq_len, n_groups, nheads, d_state, head_dim, silicon=silicon, kernel=kernel, cached=cached)


def _moving(moved: FloatArray, silicon: Silicon, share: float, *, cached: bool) -> FloatArray:
    """Time to move bytes at a share of the bandwidth [s], faster for the part that the cache holds."""
    memory = moved / (silicon.memory_bandwidth * share)
    return memory * (1.0 - (1.0 - 1.0 / CACHE_SPEED) * found_in_cache(moved, silicon)) if cached else memory


def _kernel(operation: str, kernels: Mapping[str, ConvolutionKernel | ScanKernel]) -> ConvolutionKernel | ScanKernel:
    if operation not in kernels:
        raise ProfileError(f"unknown linear-attention kernel {operation!r}; {nearest(operation, kernels)}")
    return kernels[operation]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionShape:
    """A causal depthwise convolution: the arguments of :func:`causal_convolution_time`."""

    batch: ArrayLike
    seq_len: ArrayLike
    channels: ArrayLike
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanShape:
    """A scan over matrix-valued states: the arguments of :func:`scan_time`."""

    batch: ArrayLike
    seq_len: ArrayLike
    key_heads: ArrayLike
    value_heads: ArrayLike
    key_dim: ArrayLike
    value_dim: ArrayLike


def _convolution(shape: ConvolutionShape, machine: Machine, kernel: ConvolutionKernel) -> KernelTime:
    return causal_convolution_time(
        shape.batch, shape.seq_len, shape.channels, width=shape.width, silicon=machine.silicon, kernel=kernel
    )


def _scan(shape: ScanShape, machine: Machine, kernel: ScanKernel) -> KernelTime:
    return scan_time(
        shape.batch,
        shape.seq_len,
        shape.key_heads,
        shape.value_heads,
        shape.key_dim,
        shape.value_dim,
        silicon=machine.silicon,
        kernel=kernel,
    )


_REFERENCES = (
    "T. Dao, A. Gu, Transformers are SSMs (Mamba-2), ICML 2024, arXiv:2405.21060",
    "S. Yang, J. Kautz, A. Hatamizadeh, Gated Delta Networks, ICLR 2025, arXiv:2412.06464",
)
CAUSAL_CONVOLUTION = Family(
    kinds=("causal_convolution",),
    shape=ConvolutionShape,
    coefficients=ConvolutionKernel,
    time=_convolution,
    axes=("batch", "seq_len"),
    equation="launch + batch * channels * (2 max(seq_len, sequence) + 2 width) * 2 bytes / bandwidth",
    validity="up to 64 sequences of 32768 tokens, or one token of 1024; filters of four taps",
    references=_REFERENCES,
    theory="linear-attention.md",
    substitutes=False,
)
SCAN = Family(
    kinds=("gated_delta_net", "mamba2"),
    shape=ScanShape,
    coefficients=ScanKernel,
    time=_scan,
    axes=("batch", "seq_len"),
    equation="launch + (vectors + snapshots + batch * states * state) / bandwidth + chunk * (chunks - 1)",
    validity="up to 64 sequences of 32768 tokens, or one token of 1024; the scans of Mamba2 were not measured",
    references=_REFERENCES,
    theory="linear-attention.md",
    substitutes=False,
)
