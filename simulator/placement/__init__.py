"""Expert placement: which slot of which rank holds which expert, as pure functions of the load."""

from simulator.placement.bounds import lower_bound
from simulator.placement.policies import POLICIES, place, place_experts, placed_load
from simulator.placement.slots import Placement, imbalance

__all__ = [
    "POLICIES",
    "Placement",
    "imbalance",
    "lower_bound",
    "place",
    "place_experts",
    "placed_load",
]
