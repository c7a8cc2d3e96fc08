"""Expert placement: which slot of which rank holds which expert, as pure functions of the load."""

from simulator.placement.policies import Placement, balanced_placement, linear_placement, place

__all__ = ["Placement", "balanced_placement", "linear_placement", "place"]
