"""Storage formats of weights, caches and activations: their size per element."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bytes per element by storage dtype, scales included [bytes].
#: fp8_block: one float32 scale per 128x128 weights; mxfp4: one byte per 32; nvfp4: one byte per 16; int4: 2 per 32.
DTYPE_BYTES: Mapping[str, float] = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4.0 / 128**2,
    "int8": 1.0,
    "mxfp4": 0.5 + 1.0 / 32,
    "nvfp4": 0.5 + 1.0 / 16,
    "int4": 0.5 + 2.0 / 32,
}

#: Elements that share one scale along the inner axis of a matrix; a shard holds whole blocks.
BLOCK_ELEMENTS: Mapping[str, int] = {"mxfp4": 32, "nvfp4": 16, "int4": 32}
