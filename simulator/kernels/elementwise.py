"""Time of small memory-bound kernels: norms, rotary embedding, activations, quantisation, top-k, permutation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from simulator.kernels.family import Family
from simulator.kernels.kernel import KernelTime, Machine, Silicon


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementwiseKernel:
    """Coefficients of a memory-bound kernel.

    Attributes
    ----------
    launch : float
        Time of the smallest call [s].
    memory : float
        Share of the datasheet memory bandwidth that large calls reach [1].
    """

    launch: float = field(metadata={"unit": "s"})
    memory: float


def elementwise_time(bytes_moved: ArrayLike, *, silicon: Silicon, kernel: ElementwiseKernel) -> KernelTime:
    """Time of a kernel that only moves data.

    Parameters
    ----------
    bytes_moved : array_like
        Bytes read plus bytes written [bytes].
    silicon, kernel
        The processor and the kernel's coefficients.

    Returns
    -------
    KernelTime
        Terms: ``launch``, ``memory``.

    Notes
    -----
    ``t = launch + bytes / (bandwidth * memory)``. A kernel whose operands lie in the last-level cache is faster.

    References
    ----------
    .. [1] S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
       architectures", Communications of the ACM 52(4), 2009, doi:10.1145/1498765.1498785.

    Examples
    --------
    >>> from simulator.hardware import load_hardware
    >>> from simulator.kernels.kernel import coefficients
    >>> h100 = load_hardware("h100-sxm")
    >>> name = "elementwise.fused"
    >>> kernel = coefficients(ElementwiseKernel, h100.kernels[name], name)
    >>> time = elementwise_time(1e9, silicon=h100.silicon, kernel=kernel)
    >>> f"{float(time.seconds) * 1e3:.2g} ms"
    '0.38 ms'
    """
    memory = np.asarray(bytes_moved, dtype=np.float64) / (silicon.memory_bandwidth * kernel.memory)
    return KernelTime(seconds=kernel.launch + memory, terms={"launch": kernel.launch + 0.0 * memory, "memory": memory})


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementwiseShape:
    """Bytes read plus bytes written [bytes]."""

    bytes_moved: ArrayLike


def _time(shape: ElementwiseShape, machine: Machine, kernel: ElementwiseKernel) -> KernelTime:
    return elementwise_time(shape.bytes_moved, silicon=machine.silicon, kernel=kernel)


ELEMENTWISE = Family(
    kinds=("elementwise",),
    shape=ElementwiseShape,
    coefficients=ElementwiseKernel,
    time=_time,
    axes=("bytes_moved",),
    equation="launch + bytes_moved / (memory_bandwidth * memory)",
    validity="operands in memory: those that lie in the last-level cache come faster",
    references=("S. Williams, A. Waterman, D. Patterson, Roofline, CACM 52(4), 2009, doi:10.1145/1498765.1498785",),
    theory="elementwise.md",
)
