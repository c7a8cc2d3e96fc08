"""Storage formats of weights, caches and activations: their size per element."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware_profiles.errors import nearest
from workloads.errors import ModelError

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

#: Outputs and inputs of a matrix that share one scale where no file says otherwise.
USUAL_BLOCKS: Mapping[str, tuple[int, int]] = {
    "fp8_block": (128, 128),
    "mxfp4": (1, 32),
    "nvfp4": (1, 16),
    "int4": (1, 32),
}

#: Elements that share one scale along the inner axis of a matrix; a shard holds whole blocks.
BLOCK_ELEMENTS: Mapping[str, int] = {"mxfp4": 32, "nvfp4": 16, "int4": 32}

#: Other spellings of these formats, in lower case and without separators. float16 counts as bfloat16, which has its
#: size and its rate on every device here.
SPELLINGS: Mapping[str, str] = {
    "bf16": "bfloat16",
    "fp16": "bfloat16",
    "float16": "bfloat16",
    "f16": "bfloat16",
    "half": "bfloat16",
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "float8": "fp8",
    "fp8e4m3": "fp8",
    "fp8e4m3fn": "fp8",
    "fp8e5m2": "fp8",
    "float8e4m3fn": "fp8",
    "float8e5m2": "fp8",
    "e4m3": "fp8",
    "e5m2": "fp8",
    "fp8blockwise": "fp8_block",
    "w8a8int8": "int8",
    "w4a16": "int4",
    "mxfp4moe": "mxfp4",
}


def dtype_name(text: str) -> str:
    """Return the name that a storage format has here, whatever its spelling.

    Examples
    --------
    >>> [dtype_name(text) for text in ("bf16", "FP8_E4M3", "fp8-block", "torch.float16")]
    ['bfloat16', 'fp8', 'fp8_block', 'bfloat16']

    Raises
    ------
    ModelError
        No format is called so; the nearest are named.
    """
    plain = "".join(letter for letter in text.lower().removeprefix("torch.") if letter.isalnum())
    known = {**{name.replace("_", ""): name for name in DTYPE_BYTES}, **SPELLINGS}
    if plain not in known:
        raise ModelError(f"unknown dtype {text!r}; {nearest(text.lower(), DTYPE_BYTES)}")
    return known[plain]
