"""Deterministic list scheduling of tasks on streams that share a device.

A stream is a queue, as a CUDA stream is: its tasks run one at a time, in the order in which they were listed. A task
at the head of its stream starts as soon as everything it waits for has ended. Tasks of different streams run side by
side and may use the same resource (compute units, memory bandwidth, a link); how much each then slows down follows
from the shares that they need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from simulator.arrays import FloatArray

#: Work that is left by rounding counts as done; relative to the work of the task.
_DONE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A piece of work on a stream.

    Attributes
    ----------
    name, stream : str
        What it is, and the queue that it stands in.
    seconds : float
        How long it takes alone [s].
    after : tuple of int
        Positions in the list of the tasks that must have ended before it starts.
    uses : Mapping of str to float
        Share of each shared resource that it needs to run at full speed [1].
    firm : bool
        Whether it holds its shares, as a persistent kernel does; others live on what it leaves.
    stretch : float
        How much longer a firm task takes while others that are not firm run, a factor of at least 1 [1].
    arguments : Mapping of str to object
        What to show on click.
    """

    name: str
    stream: str
    seconds: float
    after: tuple[int, ...] = ()
    uses: Mapping[str, float] = field(default_factory=dict)
    firm: bool = False
    stretch: float = 1.0
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When each task runs: ``start`` and ``end``, shape (tasks,) [s]."""

    tasks: tuple[Task, ...]
    start: FloatArray
    end: FloatArray

    @property
    def makespan(self) -> float:
        """Time from the first start to the last end [s]."""
        return float(self.end.max(initial=0.0))

    def busy(self, stream: str) -> float:
        """Time during which a stream runs something [s]."""
        return float(sum(e - s for t, s, e in zip(self.tasks, self.start, self.end, strict=True) if t.stream == stream))


def exposure(schedule: Schedule, messages: str, work: str) -> dict[tuple[str, str], float]:
    """Split the time of every task of one stream by what another stream does meanwhile.

    Parameters
    ----------
    schedule : Schedule
        A schedule.
    messages, work : str
        The stream that is split, and the other.

    Returns
    -------
    dict
        Seconds by name of the message and name of the work beside it, ``nothing`` where there is none [s].
    """
    both = [
        [
            (t.name, s, e)
            for t, s, e in zip(schedule.tasks, schedule.start, schedule.end, strict=True)
            if t.stream == one
        ]
        for one in (messages, work)
    ]
    found: dict[tuple[str, str], float] = {}
    first = 0
    for name, start, end in both[0]:
        alone = end - start
        while first < len(both[1]) and both[1][first][2] <= start:
            first += 1
        for other, begin, stop in both[1][first:]:
            if begin >= end:
                break
            shared = min(end, stop) - max(start, begin)
            found[name, other] = found.get((name, other), 0.0) + float(shared)
            alone -= shared
        found[name, "nothing"] = found.get((name, "nothing"), 0.0) + float(max(alone, 0.0))
    return found


def list_schedule(tasks: Sequence[Task]) -> Schedule:
    """Run tasks on their streams.

    Parameters
    ----------
    tasks : sequence of Task
        In the order in which the host issues them; a task may only wait for earlier ones.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        A task waits for one that is not listed before it, or has a negative duration.

    Notes
    -----
    Between two events (a start or an end) all rates are constant. Firm tasks run at rate 1, or at ``1 / stretch``
    beside others. With ``left`` of a resource beyond what firm tasks hold, and ``need`` the sum of the shares of the
    others, each of these runs at ``min(1, left / need)``, the smallest over its resources. Because streams are queues
    and a task waits only for earlier ones, no order of events can block, and one list gives one schedule.
    """
    _check(tasks)
    queues: dict[str, list[int]] = {}
    for index, task in enumerate(tasks):
        queues.setdefault(task.stream, []).append(index)
    heads = dict.fromkeys(queues, 0)
    start, end = np.full(len(tasks), np.nan), np.full(len(tasks), np.nan)
    left: dict[int, float] = {}
    done = [False] * len(tasks)
    now = 0.0
    while True:
        for stream, queue in queues.items():
            index = queue[heads[stream]] if heads[stream] < len(queue) else -1
            if index >= 0 and index not in left and all(done[other] for other in tasks[index].after):
                start[index], left[index] = now, tasks[index].seconds
        if not left:
            break
        rates = _rates(tasks, left)
        step = min(work / rates[index] if rates[index] > 0.0 else np.inf for index, work in left.items())
        now += step
        for index in list(left):
            left[index] -= step * rates[index]
            if left[index] <= _DONE * tasks[index].seconds:
                del left[index]
                end[index], done[index] = now, True
                heads[tasks[index].stream] += 1
    return Schedule(tasks=tuple(tasks), start=start, end=end)


def _check(tasks: Sequence[Task]) -> None:
    for index, task in enumerate(tasks):
        if task.seconds < 0.0 or not np.isfinite(task.seconds):
            msg = f"task {index} '{task.name}': seconds must be finite and not negative, got {task.seconds}"
            raise ValueError(msg)
        if any(not 0 <= other < index for other in task.after):
            msg = f"task {index} '{task.name}': can only wait for tasks listed before it, got {task.after}"
            raise ValueError(msg)


def _rates(tasks: Sequence[Task], running: Mapping[int, float]) -> dict[int, float]:
    """Speed of each running task, 1 where it is alone."""
    held: dict[str, float] = {}
    need: dict[str, float] = {}
    for index in running:
        totals = held if tasks[index].firm else need
        for resource, share in tasks[index].uses.items():
            totals[resource] = totals.get(resource, 0.0) + share
    crowded = any(not tasks[index].firm for index in running)
    rates = {}
    for index in running:
        rate = 1.0 / tasks[index].stretch if crowded and tasks[index].firm else 1.0
        if not tasks[index].firm:
            for resource, share in tasks[index].uses.items():
                if share > 0.0:
                    rate = min(rate, max(1.0 - held.get(resource, 0.0), 0.0) / need[resource])
        rates[index] = rate
    return rates
