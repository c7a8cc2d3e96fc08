"""One step of a model as a list of ops: the single representation that cost, breakdown and explanation all read.

An op names the kind of kernel, its shape (arrays over any number of steps at once), how often the step repeats it,
and what it moves and computes. Nothing here knows how long anything takes.
"""

from simulator.ops.build import build_experts, build_ops, draft_ops, moe_kinds
from simulator.ops.ir import Driver, Op, StepShape

__all__ = ["Driver", "Op", "StepShape", "build_experts", "build_ops", "draft_ops", "moe_kinds"]
