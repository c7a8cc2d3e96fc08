"""The array types that function signatures name, as :mod:`workloads.arrays` has them."""

from __future__ import annotations

from workloads.arrays import FloatArray, IdArray, IntArray

__all__ = ["FloatArray", "IdArray", "IntArray"]
