"""Time of small memory-bound kernels: norms, rotary embedding, activations, quantisation, top-k, permutation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from simulator.kernels.kernel import KernelTime, Silicon


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
    """
    memory = np.asarray(bytes_moved, dtype=np.float64) / (silicon.memory_bandwidth * kernel.memory)
    return KernelTime(seconds=kernel.launch + memory, terms={"launch": kernel.launch + 0.0 * memory, "memory": memory})
