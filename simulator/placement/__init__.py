"""Expert placement: which slot of which rank holds which expert, as pure functions of the load."""

from simulator.placement.bounds import lower_bound
from simulator.placement.policies import POLICIES, PlacementTask, place
from simulator.placement.slots import Placement, imbalance

__all__ = ["POLICIES", "Placement", "PlacementTask", "imbalance", "lower_bound", "place"]
