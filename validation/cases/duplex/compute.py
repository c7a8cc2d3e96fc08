"""Arithmetic of the Logic-PIM, from its printed parts."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case


def figures(case: Case) -> Mapping[str, float]:
    """Peak [FLOP/s], area [m2] and its share of the logic die [1]."""
    given = case.inputs
    area = sum(given["area_mm2"])
    return {
        "stack_peak": 2.0 * given["gemm_modules"] * given["macs_per_module"] * given["module_clock"],
        "area": area * 1e-6,
        "area_share": area / given["logic_die_mm2"],
    }
