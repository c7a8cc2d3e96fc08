"""The closed form of efficiency leverage.

``EL = A^ (a + d log10 C + gamma (log2 G)^2 + beta log2 G)`` with ``A^ = 1 / (1 / (A + s) + 1 / m)``, where ``s`` is
``1 / (1 / A_start - 1 / A_max)``: the saturating activation ratio of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Leverage [1] and the ratio of active parameters [1]."""
    x = case.inputs
    start = 1.0 / (1.0 / x["ratio_start"] - 1.0 / x["ratio_max"])
    saturating = 1.0 / (1.0 / (x["activation_ratio"] + start) + 1.0 / x["ratio_max"])
    fine = math.log2(x["granularity"])
    exponent = x["a"] + x["d"] * math.log10(x["compute"]) + x["gamma"] * fine**2 + x["beta"] * fine
    return {
        "leverage": saturating**exponent,
        "compute_ratio": x["dense_active_billion"] / x["mini_active_billion"],
    }
