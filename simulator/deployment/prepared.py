"""Prices of experts from one process to the next: taken from the disk, and kept there once there are more of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from simulator.deployment.disk import Arrays, keep, recall
from simulator.deployment.prices import PRICES
from simulator.step.tables import ExpertTables, PricedLines, StepTables
from workloads.models.spec import Phase

if TYPE_CHECKING:
    from simulator.deployment.deployment import Deployment


def recall_experts(tables: StepTables, key: str, before: StepTables | None) -> None:
    """Let tables remember the expert lines that were priced before.

    Parameters
    ----------
    tables : StepTables
        Tables of which nothing has been asked yet.
    key : str
        Names all that the lines depend on.
    before : StepTables or None
        The tables that these replace, as they reach further; without any, earlier processes are asked.
    """
    experts = tables.experts
    if not isinstance(experts, ExpertTables):
        return
    if before is not None and isinstance(before.experts, ExpertTables):
        experts.remembered, experts.fresh = before.experts.priced(), before.experts.fresh
    else:
        experts.remembered = _lines(recall("experts", key) or {})


def keep_experts() -> None:
    """Keep the expert lines of all deployments that have priced some since they were kept last."""
    deployments: list[Deployment] = PRICES.made("deployment")
    for deployment in deployments:
        experts = deployment.tables.experts
        if isinstance(experts, ExpertTables) and experts.fresh:
            experts.fresh = 0
            keep("experts", deployment.fingerprint, _arrays(experts))


def _arrays(experts: ExpertTables) -> Arrays:
    """Put lines into arrays: of each order the indices of points, ``base`` and ``slope`` by point and layer."""
    arrays = {}
    for order, lines in experts.priced().items():
        if lines:
            arrays[f"{order}_points"] = np.array(list(lines))
            arrays[f"{order}_base"] = np.stack([line.base for line in lines.values()])
            arrays[f"{order}_slope"] = np.stack([line.slope for line in lines.values()])
            arrays[f"{order}_touched"] = np.array([line.touched for line in lines.values()])
    return arrays


def _lines(arrays: Arrays) -> dict[Phase, dict[int, PricedLines]]:
    orders: tuple[Phase, ...] = get_args(Phase)
    return {
        order: {
            point: PricedLines(base=base, slope=slope, touched=touched)
            for point, base, slope, touched in zip(
                arrays[f"{order}_points"].tolist(),
                arrays[f"{order}_base"],
                arrays[f"{order}_slope"],
                arrays[f"{order}_touched"].tolist(),
                strict=True,
            )
        }
        for order in orders
        if f"{order}_points" in arrays
    }
