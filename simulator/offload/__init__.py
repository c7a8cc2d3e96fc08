"""Experts that do not all fit a device: which are kept, and which must be fetched."""

from simulator.offload.cache import POLICIES, CachePolicy, ExpertCacheRun, future_uses, replay_cache
from simulator.offload.residency import Residency

__all__ = [
    "POLICIES",
    "CachePolicy",
    "ExpertCacheRun",
    "Residency",
    "future_uses",
    "replay_cache",
]
