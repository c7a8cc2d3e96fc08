"""Overlap as a transformation of a step: the same work, listed in another order or on other streams.

Blocks on the ``compute`` stream need all compute units; an exchange is firm and holds the share that its kernel takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from simulator.schedule.makespan import LayerTimes
from simulator.schedule.streams import Task, list_schedule

COMPUTE, COMMUNICATION = "compute", "communication"
INTRA, INTER = "intra-node link", "inter-node link"
UNITS = "compute units"
Overlap = Literal["none", "shared_expert", "two_batch"]


def layer_tasks(times: LayerTimes, overlap: Overlap) -> list[Task]:
    """List the MoE layers of a step as one of the mechanisms runs them.

    Parameters
    ----------
    times : LayerTimes
        Blocks of one batch, or of both halves for ``two_batch``.
    overlap : {"none", "shared_expert", "two_batch"}
        What runs beside what.
    """
    if overlap == "two_batch":
        return two_batch_tasks(times)
    return single_batch_tasks(times, beside_dispatch=overlap == "shared_expert")


def single_batch_tasks(times: LayerTimes, *, beside_dispatch: bool) -> list[Task]:
    """One batch: everything in turn, or the shared experts beside the dispatch."""
    tasks: list[Task] = []
    before: tuple[int, ...] = ()
    for layer in range(times.layers):
        attention = _add(tasks, _compute("attention", times.compute, layer, 0, before))
        dispatch = _add(tasks, _exchange(times, "dispatch", layer, 0, (attention,)))
        shared = _compute("shared", times.shared, layer, 0, (attention,) if beside_dispatch else (dispatch,))
        waits = (dispatch, _add(tasks, shared))
        experts = _add(tasks, _compute("experts", float(times.experts[0, layer]), layer, 0, waits))
        before = (_add(tasks, _exchange(times, "combine", layer, 0, (experts,))),)
    return tasks


def two_batch_tasks(times: LayerTimes) -> list[Task]:
    """Two batches in turn, so that one computes while the other communicates.

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.4, and its published profiles: two
       micro-batches hide each other's all-to-all in prefill and decode.
    .. [2] LMSYS, "Deploying DeepSeek with PD Disaggregation and Large-Scale Expert Parallelism", 2025: two-batch
       overlap.
    """
    tasks: list[Task] = []
    before: list[tuple[int, ...]] = [(), ()]
    for layer in range(times.layers):
        sent = []
        for batch in (0, 1):
            attention = _add(tasks, _compute("attention", times.compute, layer, batch, before[batch]))
            sent.append(_add(tasks, _exchange(times, "dispatch", layer, batch, (attention,))))
        for batch in (0, 1):
            shared = _add(tasks, _compute("shared", times.shared, layer, batch, (sent[batch],)))
            work = _compute("experts", float(times.experts[batch, layer]), layer, batch, (shared,))
            before[batch] = (_add(tasks, _exchange(times, "combine", layer, batch, (_add(tasks, work),))),)
    return tasks


def chunked_tasks(dispatch: float, work: float, combine: float, degree: int, units: float = 0.0) -> list[Task]:
    """One MoE layer whose tokens go through in ``degree`` chunks: exchanges on one stream, experts on another.

    Parameters
    ----------
    dispatch, work, combine : float
        One chunk of each [s].
    degree : int
        Chunks [1].
    units : float
        Share of the compute units that an exchange takes [1].

    References
    ----------
    .. [1] Hwang et al., "Tutel: Adaptive Mixture-of-Experts at Scale", MLSys 2023, section 3.3: all dispatches are
       issued first, then each combine as its chunk is done.
    """
    tasks = [_message("dispatch", COMMUNICATION, dispatch, units, chunk) for chunk in range(degree)]
    tasks += [_kernel("experts", work, chunk, (chunk,)) for chunk in range(degree)]
    back = [_message("combine", COMMUNICATION, combine, units, chunk) for chunk in range(degree)]
    return tasks + [replace(message, after=(degree + chunk,)) for chunk, message in enumerate(back)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTimes:
    """One MoE layer cut into ``degree`` chunks: the time of one chunk of each part [s]; ``units`` as above [1]."""

    degree: int
    dispatch: float
    work: float
    combine: float
    units: float = 0.0


def best_degree(candidates: Iterable[ChunkTimes]) -> tuple[ChunkTimes, float]:
    """Search the pipelining degree: the candidate with the shortest layer, the smaller degree where two tie.

    Returns
    -------
    ChunkTimes, float
        The best candidate and its time [s].

    Raises
    ------
    ValueError
        There is no candidate.
    """
    timed = [(chunked_seconds(c), c.degree, c) for c in candidates]
    if not timed:
        raise ValueError("best_degree: needs at least one candidate")
    seconds, _, best = min(timed, key=lambda row: row[:2])
    return best, seconds


def chunked_seconds(c: ChunkTimes) -> float:
    """Time of a layer in chunks [s]."""
    return list_schedule(chunked_tasks(c.dispatch, c.work, c.combine, c.degree, c.units)).makespan


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridTimes:
    """One chunk of a layer whose experts are sharded inside the node and spread between nodes [s].

    ``gather`` and ``scatter`` use the intra-node link, ``dispatch`` and ``combine`` the inter-node link; ``gradient``
    is a further all-reduce of the whole layer between nodes, which may be cut into the gaps [s].
    """

    dispatch: float
    gather: float
    work: float
    scatter: float
    combine: float
    gradient: float = 0.0


def co_scheduled_tasks(t: HybridTimes, degree: int, *, separate_links: bool = True) -> list[Task]:
    """One layer in ``degree`` chunks, with intra-node and inter-node messages side by side.

    Parameters
    ----------
    t : HybridTimes
        One chunk, and the gradient of a whole layer.
    degree : int
        Chunks [1].
    separate_links : bool
        Whether the two kinds of link have streams of their own; where not, all messages share one.

    Notes
    -----
    The gradient is cut so that its slices fill the time in which the inter-node link waits for the next chunk to
    combine; what does not fit follows the last combine.

    References
    ----------
    .. [1] Pan et al., "FSMoE: A Flexible and Scalable Training System for Sparse Mixture-of-Experts Models", ASPLOS
       2025, sections 4 and 5.
    """
    whole = _co_scheduled(t, degree, [0.0] * (degree + 1), separate_links=separate_links)
    if t.gradient <= 0.0:
        return whole
    schedule = list_schedule(whole)
    inter = [i for i, task in enumerate(whole) if task.name in ("dispatch", "combine")]
    slices, left = [], t.gradient
    for before, after in zip(inter[degree - 1 : -1], inter[degree:], strict=True):
        slices.append(min(left, float(schedule.start[after] - schedule.end[before])) if separate_links else 0.0)
        left -= slices[-1]
    return _co_scheduled(t, degree, [*slices, left], separate_links=separate_links)


def _co_scheduled(t: HybridTimes, degree: int, slices: Sequence[float], *, separate_links: bool) -> list[Task]:
    """List the layer with a slice of the gradient before each combine and one after the last."""
    intra, inter = (INTRA, INTER) if separate_links else (COMMUNICATION, COMMUNICATION)
    tasks = [_message("dispatch", inter, t.dispatch, 0.0, chunk) for chunk in range(degree)]
    gathers = [
        _add(tasks, replace(_message("gather", intra, t.gather, 0.0, chunk), after=(chunk,))) for chunk in range(degree)
    ]
    works = [_add(tasks, _kernel("experts", t.work, chunk, (gathers[chunk],))) for chunk in range(degree)]
    for chunk in range(degree):
        if slices[chunk] > 0.0:
            tasks.append(_message("gradient", inter, slices[chunk], 0.0, chunk))
        scatter = replace(_message("scatter", intra, t.scatter, 0.0, chunk), after=(works[chunk],))
        combine = replace(_message("combine", inter, t.combine, 0.0, chunk), after=(_add(tasks, scatter),))
        tasks.append(combine)
    if slices[degree] > 0.0:
        tasks.append(_message("gradient", inter, slices[degree], 0.0, degree))
    return tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTimes:
    """The blocks of one pass of a layer of one micro-batch in training [s]."""

    attention: float
    dispatch: float
    experts: float
    combine: float


def dual_pipe_tasks(forward: PassTimes, backward: PassTimes, layers: int, units: float = 0.0) -> list[Task]:
    """The forward pass of one micro-batch beside the backward pass of another, as DualPipe pairs them.

    Parameters
    ----------
    forward, backward : PassTimes
        One layer of each pass.
    layers : int
        Layers of the stage [1].
    units : float
        Share of the compute units that an exchange takes [1].

    Notes
    -----
    The backward pass meets the layer in reverse: the gradient of the combine is a dispatch. The streams run
    ``E(b) A(f) | D(b)...`` so that every exchange has a block of the other micro-batch beside it.

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.2.1, figure 4.
    """
    tasks: list[Task] = []
    ready: dict[str, tuple[int, ...]] = {"forward": (), "backward": ()}

    def compute(side: str, name: str, seconds: float, layer: int) -> None:
        task = replace(_kernel(f"{side} {name}", seconds, layer, ready[side]), arguments={"layer": layer})
        ready[side] = (_add(tasks, task),)

    def send(side: str, name: str, seconds: float, layer: int) -> None:
        message = replace(_message(f"{side} {name}", COMMUNICATION, seconds, units, layer), after=ready[side])
        ready[side] = (_add(tasks, message),)

    for layer in range(layers):
        send("backward", "combine", backward.combine, layer)
        compute("forward", "attention", forward.attention, layer)
        send("forward", "dispatch", forward.dispatch, layer)
        compute("backward", "experts", backward.experts, layer)
        send("backward", "dispatch", backward.dispatch, layer)
        compute("forward", "experts", forward.experts, layer)
        send("forward", "combine", forward.combine, layer)
        compute("backward", "attention", backward.attention, layer)
    return tasks


def _add(tasks: list[Task], task: Task) -> int:
    tasks.append(task)
    return len(tasks) - 1


def _compute(block: str, seconds: float, layer: int, batch: int, after: tuple[int, ...]) -> Task:
    return Task(
        name=block,
        stream=COMPUTE,
        seconds=seconds,
        after=after,
        uses={UNITS: 1.0},
        arguments={"layer": layer, "batch": batch},
    )


def _exchange(times: LayerTimes, block: str, layer: int, batch: int, after: tuple[int, ...]) -> Task:
    dispatch = block == "dispatch"
    return Task(
        name=block,
        stream=COMMUNICATION,
        seconds=times.dispatch[batch] if dispatch else times.combine[batch],
        after=after,
        uses={UNITS: times.dispatch_units if dispatch else times.combine_units},
        firm=True,
        stretch=times.dispatch_stretch if dispatch else times.combine_stretch,
        arguments={"layer": layer, "batch": batch},
    )


def _kernel(name: str, seconds: float, chunk: int, after: tuple[int, ...]) -> Task:
    return Task(name=name, stream=COMPUTE, seconds=seconds, after=after, uses={UNITS: 1.0}, arguments={"chunk": chunk})


def _message(name: str, stream: str, seconds: float, units: float, chunk: int) -> Task:
    return Task(name=name, stream=stream, seconds=seconds, uses={UNITS: units}, firm=True, arguments={"chunk": chunk})
