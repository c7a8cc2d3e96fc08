"""Capacity of models in float32."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case
from workloads.models.dtypes import DTYPE_BYTES
from workloads.models.sizes import total_parameters


def figures(case: Case) -> Mapping[str, float]:
    """Bytes of all parameters, by model [bytes]."""
    size = DTYPE_BYTES["float32"]
    return {f"{name}.bytes": total_parameters(spec) * size for name, spec in case.models.items()}
