"""Experts that do not all fit a device: which are kept, and what fetching the others costs."""

from simulator.offload.cache import POLICIES, CachePolicy, ExpertCacheRun, future_uses, replay_cache
from simulator.offload.pregated_cost import PregatedCosts, pregated_costs

__all__ = [
    "POLICIES",
    "CachePolicy",
    "ExpertCacheRun",
    "PregatedCosts",
    "future_uses",
    "pregated_costs",
    "replay_cache",
]
