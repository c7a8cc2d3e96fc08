"""The parts of a step."""

from __future__ import annotations

#: Parts of a step, in the order in which they are shown.
COMPONENTS = (
    "attention",
    "gemm",
    "experts",
    "dispatch",
    "combine",
    "all_reduce",
    "small_kernels",
    "imbalance_wait",
    "cpu_gap",
    "idle",
)
