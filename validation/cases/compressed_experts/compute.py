"""Active parameters when half of the experts of a token are replaced by vectors."""

from __future__ import annotations

from collections.abc import Mapping

from validation.papers.papers import Case
from workloads.models.sizes import active_parameters


def figures(case: Case) -> Mapping[str, float]:
    """Active parameters [1], their reduction and the added time [1]."""
    given = case.inputs
    phi = active_parameters(case.models["phi"])["routed_experts"]
    stated = phi + given["phi_outside_experts"]
    olmoe = active_parameters(case.models["olmoe"])
    found = {
        "phi.active_stated": stated,
        "phi.active_halved": stated - phi / 2.0,
        "phi.reduction": phi / 2.0 / stated,
        "olmoe.reduction": olmoe["routed_experts"] / 2.0 / sum(olmoe.values()),
    }
    return found | {f"{m}.overhead": given["compressed_s"][m] / given["halved_s"][m] - 1.0 for m in given["halved_s"]}
