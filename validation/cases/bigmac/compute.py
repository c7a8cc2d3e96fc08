"""FLOPs and all-to-all volume of an iteration with and without a projection before the exchange."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case
from workloads.models.work import flops_per_token


def figures(case: Case) -> Mapping[str, float]:
    """FLOPs [FLOP] and bytes sent [bytes] per iteration."""
    given, spec = case.inputs, case.models["fine_grained"]
    share, tokens = given["projection_share"], given["tokens"]
    # The paper leaves out the router and counts every pair of the score matrix, masked or not.
    parts = flops_per_token(spec, phase="decode", context=given["sequence"])
    forward = sum(parts.values()) - parts["router"]
    projections = len(spec.layers) * 2.0 * 2.0 * share * spec.hidden**2
    (moe,) = set(spec.moe_layers)
    payload = tokens * moe.top_k * spec.hidden * given["element_bytes"]
    remote = 1.0 - 1.0 / given["expert_parallel"]
    volume = payload * len(spec.moe_layers) * given["exchanges"] * remote
    return {
        "flops": given["passes"] * forward * tokens,
        "flops_projected": given["passes"] * (forward + projections) * tokens,
        "volume": volume,
        "volume_projected": share * volume,
    }
