"""Sizes, compression and its limit by entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping

from validation.papers.papers import Case
from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.sizes import total_parameters


def figures(case: Case) -> Mapping[str, float]:
    """Bytes in bfloat16 [bytes], compression [1], bits per parameter, GPUs that hold the largest model."""
    size = DTYPE_BYTES["bfloat16"]
    found = {f"{name}.bytes": total_parameters(spec) * size for name, spec in case.models.items()}
    for name, (plain, compressed) in case.inputs["sizes_gb"].items():
        found[f"{name}.compression"] = plain / compressed
        found[f"{name}.bits"] = 8.0 * size * compressed / plain
    zeros = case.inputs["zeros"]
    # Ternary weights: zero, and plus and minus one alike.
    either = (1.0 - zeros) / 2.0
    entropy = -zeros * math.log2(zeros) - 2.0 * either * math.log2(either)
    found["entropy_limit"] = 8.0 * size / entropy
    for gpu, memory in case.inputs["gpu_gb"].items():
        found[gpu] = found["c2048.bytes"] / (memory * 1e9)
    return found
