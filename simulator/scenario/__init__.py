"""A question: which model, on which hardware, split how, run by which stack, asked what."""

from simulator.scenario.scenario import Scenario

__all__ = ["Scenario"]
