"""Random data for kernels to read, so much that no call finds what it needs in the cache.

Operands are views into one long buffer of random numbers. Successive calls get successive views, so that a call meets
its own data again only after the whole buffer has passed through the cache.
"""

from __future__ import annotations

import math
from typing import Any

from validation.measure.machine import Machine, import_torch

#: Length of the buffer in cache sizes.
CACHES = 2.0
#: Shortest buffer [bytes].
LEAST = 16 * 2**20
#: Start of every view [bytes]: what vectorised loads and matrix units ask for.
ALIGNMENT = 256
#: Most sets of operands that one shape is measured with [1].
MOST_SETS = 512
#: Bytes per element.
ELEMENT = {"float32": 4, "bfloat16": 2, "half": 2, "fp8": 1, "int8": 1}


def torch_dtype(dtype: str) -> Any:
    """Return PyTorch's dtype of our name."""
    torch = import_torch()
    names = {"half": "float16", "fp8": "float8_e4m3fn"}
    return getattr(torch, names.get(dtype, dtype))


class Pool:
    """Random operands and scratch space on the measured device.

    Parameters
    ----------
    machine : Machine
        Where the buffers lie; its cache sets their length.
    seed : int
        Of the random numbers.
    """

    def __init__(self, machine: Machine, seed: int = 0) -> None:
        torch = import_torch()
        self._kind = machine.kind
        self._length = max(int(CACHES * machine.cache), LEAST)
        generator = torch.Generator(device=self._kind).manual_seed(seed)
        self._drawn = torch.randn(self._length // ELEMENT["float32"], generator=generator, device=self._kind)
        self._random: dict[str, Any] = {}
        self._scratch: dict[str, Any] = {}
        self._next: dict[str, int] = {}

    def trim(self) -> None:
        """Give back what only a large point needed."""
        for buffers in (self._random, self._scratch):
            for dtype in [dtype for dtype, buffer in buffers.items() if buffer.nbytes > 4 * self._length]:
                del buffers[dtype]

    def sets(self, bytes_per_call: float) -> int:
        """Sets of operands [1] that together overflow the cache."""
        return max(1, min(MOST_SETS, math.ceil(self._length / max(bytes_per_call, 1.0))))

    def take(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return the next view of random numbers; those of an earlier call are not overwritten."""
        return self._view(self._random, shape, dtype)

    def scratch(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return the next view to write into."""
        return self._view(self._scratch, shape, dtype)

    def _view(self, buffers: dict[str, Any], shape: tuple[int, ...], dtype: str) -> Any:
        key = f"{dtype}-{'in' if buffers is self._random else 'out'}"
        elements, step = math.prod(shape), ALIGNMENT // ELEMENT[dtype]
        if dtype not in buffers or buffers[dtype].numel() < elements:
            length = max(self._length // ELEMENT[dtype], elements)
            buffers.pop(dtype, None)
            buffers[dtype] = self._numbers(length, dtype) if buffers is self._random else self._empty(length, dtype)
            self._next[key] = 0
        start = self._next[key]
        if start + elements > buffers[dtype].numel():
            start = 0
        self._next[key] = start + -(-elements // step) * step
        return buffers[dtype][start : start + elements].view(shape)

    def _empty(self, length: int, dtype: str) -> Any:
        return import_torch().empty(length, dtype=torch_dtype(dtype), device=self._kind)

    def _numbers(self, length: int, dtype: str) -> Any:
        """Fill a buffer with the normal numbers that were drawn once, over and over: drawing takes long."""
        scale = 32.0 if dtype == "int8" else 1.0
        block = (self._drawn * scale).to(torch_dtype(dtype))
        numbers = self._empty(length, dtype)
        for start in range(0, length, len(block)):
            part = numbers[start : start + len(block)]
            part.copy_(block[: len(part)])
        return numbers
