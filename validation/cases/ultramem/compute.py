"""Memory access of product-key memories: rows read times their width; and their size: keys squared times width."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Access and size of one variant over the other [1]."""
    one, other = case.inputs["values_only"], case.inputs["with_up_projection"]
    return {
        "access_ratio": one["rows"] * one["width"] / (other["rows"] * other["width"]),
        "size_ratio": one["keys"] ** 2 * one["width"] / (other["keys"] ** 2 * other["width"]),
    }
