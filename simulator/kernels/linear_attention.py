"""Time of linear-attention kernels: causal convolution, gated delta rule and Mamba2 scans, by phase."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray
from simulator.kernels.family import Family, arguments
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

    Measured with up to 64 sequences of 32768 tokens, or one token of 1024 sequences, and filters of four taps.

    References
    ----------
    .. [1] T. Dao, A. Gu, "Transformers are SSMs: generalized models and efficient algorithms through structured
       state space duality", ICML 2024, arXiv:2405.21060.
    .. [2] S. Yang, J. Kautz, A. Hatamizadeh, "Gated Delta Networks: improving Mamba2 with delta rule", ICLR 2025,
       arXiv:2412.06464.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "gated_delta_net.causal_conv1d_fn"
    >>> kernel = coefficients(ConvolutionKernel, h100.kernels[name], name)
    >>> time = causal_convolution_time(8, 4096, 8192, silicon=h100.silicon, kernel=kernel)
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.43 ms'
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

    Measured as the convolution; the scans of Mamba2 take the coefficients of the gated delta rule.

    References
    ----------
    .. [1] T. Dao, A. Gu, "Transformers are SSMs: generalized models and efficient algorithms through structured
       state space duality", ICML 2024, arXiv:2405.21060.
    .. [2] S. Yang, J. Kautz, A. Hatamizadeh, "Gated Delta Networks: improving Mamba2 with delta rule", ICLR 2025,
       arXiv:2412.06464.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "gated_delta_net.chunk_gated_delta_rule"
    >>> kernel = coefficients(ScanKernel, h100.kernels[name], name)
    >>> time = scan_time(8, 4096, 16, 32, 128, 128, silicon=h100.silicon, kernel=kernel)
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '2 ms'
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


def _moving(moved: FloatArray, silicon: Silicon, share: float, *, cached: bool) -> FloatArray:
    """Time to move bytes at a share of the bandwidth [s], faster for the part that the cache holds."""
    memory = moved / (silicon.memory_bandwidth * share)
    return memory * (1.0 - (1.0 - 1.0 / CACHE_SPEED) * found_in_cache(moved, silicon)) if cached else memory


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
    return causal_convolution_time(**arguments(shape), silicon=machine.silicon, kernel=kernel)


def _scan(shape: ScanShape, machine: Machine, kernel: ScanKernel) -> KernelTime:
    return scan_time(**arguments(shape), silicon=machine.silicon, kernel=kernel)


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
    backends=frozenset({"causal_conv1d_fn", "causal_conv1d_update"}),
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
