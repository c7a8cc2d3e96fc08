"""One step on named resources: ops that overlap, and messages that share links."""

from __future__ import annotations

from simulator.schedule.makespan import (
    LayerTimes,
    beside,
    two_batch_floor,
    two_batch_makespan,
)
from simulator.schedule.mechanisms import (
    COMMUNICATION,
    COMPUTE,
    ChunkTimes,
    HybridTimes,
    Overlap,
    PassTimes,
    best_degree,
    chunked_seconds,
    chunked_tasks,
    co_scheduled_tasks,
    dual_pipe_tasks,
    layer_tasks,
    single_batch_tasks,
    two_batch_tasks,
)
from simulator.schedule.streams import Schedule, Task, exposure, list_schedule

__all__ = [
    "COMMUNICATION",
    "COMPUTE",
    "ChunkTimes",
    "HybridTimes",
    "LayerTimes",
    "Overlap",
    "PassTimes",
    "Schedule",
    "Task",
    "beside",
    "best_degree",
    "chunked_seconds",
    "chunked_tasks",
    "co_scheduled_tasks",
    "dual_pipe_tasks",
    "exposure",
    "layer_tasks",
    "list_schedule",
    "single_batch_tasks",
    "two_batch_floor",
    "two_batch_makespan",
    "two_batch_tasks",
]
