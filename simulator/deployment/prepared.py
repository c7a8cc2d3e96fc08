"""What a deployment rests on, from one process to the next: slots of tokens, and prices of experts once there are more.

All of it is taken from the disk where it is there, made where it is not, and the same either way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

import numpy as np

from simulator.deployment.disk import Arrays, keep, kept_on_disk, recall
from simulator.deployment.prices import PRICES
from simulator.placement.replay import RoutingReplay, ServedTokens, summed
from simulator.placement.slots import Placement
from simulator.step.tables import ExpertTables, PricedLines
from workloads.models.spec import Phase

if TYPE_CHECKING:
    from simulator.deployment.deployment import Deployment


def kept_replay(key: str, make: Callable[[], RoutingReplay]) -> RoutingReplay:
    """Take a replay of a routing trace from the disk, or make it and keep it.

    Parameters
    ----------
    key : str
        Names all that it depends on.
    make : callable
        Makes it.
    """
    fresh: list[RoutingReplay] = []

    def arrays() -> Arrays:
        fresh.append(make())
        placement = fresh[0].placement
        return {
            "slot_expert": placement.slot_expert,
            "ranks": np.asarray(placement.ranks),
            "num_experts": np.asarray(placement.num_experts),
            "slot_ids": fresh[0].slot_ids,
            "decode_order": fresh[0].decode_order,
            "turn": fresh[0].turn,
        }

    kept = kept_on_disk("replay", key, arrays)
    if fresh:
        return fresh[0]
    placement = Placement(
        slot_expert=kept["slot_expert"], ranks=int(kept["ranks"]), num_experts=int(kept["num_experts"])
    )
    return summed(
        ServedTokens(
            placement=placement, slot_ids=kept["slot_ids"], decode_order=kept["decode_order"], turn=kept["turn"]
        )
    )


def recall_experts(experts: ExpertTables, key: str) -> None:
    """Let experts of whom nothing has been asked yet remember the lines that earlier processes priced.

    Parameters
    ----------
    experts : ExpertTables
        Whose lines.
    key : str
        Names all that the lines depend on.
    """
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
