"""One engine step drawn op by op on the streams of its ranks: the timeline fidelity.

The blocks of the step last as long as the engine says, and the list scheduler places them, so that the timeline ends
when the engine's step does. Inside a block, ops follow one another in proportion to their own prices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from simulator.arrays import FloatArray
from simulator.deployment.deployment import Deployment
from simulator.errors import ScenarioError
from simulator.explanation.priced import asked_step
from simulator.ops import Op
from simulator.results.trace import Slice
from simulator.schedule.mechanisms import COMMUNICATION, COMPUTE, Overlap, layer_tasks
from simulator.schedule.streams import Schedule, Task, exposure, list_schedule
from simulator.step.components import component_words
from simulator.step.overlap import StepLayers
from simulator.step.timer import TableTimer
from simulator.step.work import StepTime, StepWork, step_ops
from workloads.models.spec import Phase

#: Name and share of its block of every op of a block, in order.
_Parts = Mapping[str, list[tuple[str, float]]]
HOST = "host"
#: Blocks before the first MoE layer and after the last.
BEFORE, AFTER = "before the MoE layers", "after the MoE layers"
#: Components whose ops send messages.
_COLLECTIVES = ("dispatch", "combine", "all_reduce")
SLOWEST, MEAN = "slowest rank", "mean rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeline:
    """A drawn step.

    Attributes
    ----------
    phase, sequences, length
        The step: its kind, its sequences over all data-parallel ranks [1], and their length [tokens].
    overlap : {"none", "shared_expert", "two_batch"}
        What the stack chose for this step.
    step_s, saved_s : float
        Length of the step, and what overlap takes off one batch whose ops follow each other; below zero where it makes
        the step longer [s].
    schedule : Schedule
        Blocks on streams, of the slowest rank at every layer.
    beside : Mapping of (str, str) to float
        Time of each kind of communication by what its rank computes meanwhile; ``nothing`` is exposed [s].
    rank_experts : array, shape (batches, layers, ranks)
        Routed experts of every rank [s]; no ranks without routed experts.
    parts : Mapping of str to list of (str, float)
        The ops of every block and their shares of it [1].
    warnings : tuple of str
        What the answer rests on or leaves out.
    """

    phase: Phase
    sequences: int
    length: int
    overlap: Overlap
    step_s: float
    saved_s: float
    schedule: Schedule
    beside: Mapping[tuple[str, str], float]
    rank_experts: FloatArray
    parts: _Parts
    warnings: tuple[str, ...] = ()

    @property
    def host_s(self) -> float:
        """Host time of the step that nothing hides [s]."""
        return self.schedule.tasks[0].seconds

    @property
    def exposed_s(self) -> float:
        """Time of communication beside which nothing is computed [s]."""
        return sum(seconds for (_, work), seconds in self.beside.items() if work == "nothing")

    @property
    def exchanged_s(self) -> float:
        """Time of all communication: exchanges of tokens, all-reduces and other collectives [s]."""
        return sum(self.beside.values())

    def slices(self, ranks: int) -> Iterator[Slice]:
        """Draw the slowest rank, the mean rank and the first ``ranks`` ranks, each with its streams."""
        yield from self._track(SLOWEST, None)
        if self.rank_experts.shape[2]:
            yield from self._track(MEAN, self.rank_experts.mean(axis=2))
        for rank in range(min(ranks, self.rank_experts.shape[2])):
            yield from self._track(f"rank {rank}", self.rank_experts[:, :, rank])

    def _track(self, track: str, experts: FloatArray | None) -> Iterator[Slice]:
        schedule = self.schedule
        for task, start, end in zip(schedule.tasks, schedule.start.tolist(), schedule.end.tolist(), strict=True):
            drawn = Slice(
                track=track,
                thread=task.stream,
                name=task.name,
                start_s=start,
                duration_s=end - start,
                arguments=task.arguments,
            )
            if task.name == "experts" and experts is not None and task.seconds > 0.0:
                own = float(experts[_place(task)]) / task.seconds
                yield from self._with_ops(replace(drawn, duration_s=(end - start) * min(own, 1.0)))
                if own < 1.0:
                    gone = start + (end - start) * own
                    yield replace(drawn, name="wait for the slowest rank", start_s=gone, duration_s=end - gone)
            else:
                yield from self._with_ops(drawn)

    def _with_ops(self, block: Slice) -> Iterator[Slice]:
        yield block
        parts, start = self.parts.get(block.name, []), 0.0
        if len(parts) < 2:
            return
        for name, share in parts:
            begin, end = block.start_s + start * block.duration_s, block.start_s + (start + share) * block.duration_s
            end = min(end, block.start_s + block.duration_s)
            yield Slice(track=block.track, thread=block.thread, name=name, start_s=begin, duration_s=end - begin)
            start += share


def draw_step(deployment: Deployment, phase: Phase, sequences: int, length: int) -> StepTimeline:
    """Place one step on its streams, replaying the first tokens of the routing trace.

    Parameters
    ----------
    deployment : Deployment
        What runs.
    phase : {"prefill", "decode"}
        Whether the step computes prompts or decodes.
    sequences : int
        Sequences of the step over all data-parallel ranks [1].
    length : int
        Prompt length (prefill) or KV length (decode) [tokens].

    Raises
    ------
    ScenarioError
        The deployment never runs a step so large.
    """
    _require_priced(deployment, phase, sequences, length)
    timer, work = deployment.timer(), asked_step(deployment, phase, sequences, length)
    step = timer.time(work)
    layers = _layers(timer, work, step)
    ops = _block_ops(deployment, _batch(deployment, phase, sequences, length, batches=len(layers.tokens)))
    before = _share_before(_block_ops(deployment, work))
    schedule = list_schedule(_step_tasks(layers, step.overlap, step.gap, before))
    return StepTimeline(
        phase=phase,
        sequences=sequences,
        length=length,
        overlap=step.overlap,
        step_s=step.duration,
        saved_s=step.saved,
        schedule=schedule,
        beside=_communication(schedule, ops),
        rank_experts=_rank_experts(timer, layers),
        parts={block: [(op.name, share) for op, share in _shares(found)] for block, found in ops.items()},
    )


def _batch(deployment: Deployment, phase: Phase, sequences: int, length: int, *, batches: int) -> StepWork:
    """Describe one of so many batches that a step runs as, a prompt that is alone being cut."""
    if phase == "decode" or sequences >= batches * deployment.split.dp:
        return asked_step(deployment, phase, max(sequences // batches, 1), length)
    return asked_step(deployment, phase, sequences, max(length // batches, 1))


def _require_priced(deployment: Deployment, phase: Phase, sequences: int, length: int) -> None:
    """Refuse what lies beyond the tables of the engine, whose edges are the largest step and the longest request."""
    dp, most, longest = deployment.split.dp, deployment.limits.max_running, deployment.longest
    rows, most_rows = -(-sequences // dp) * length, deployment.most_tokens
    if phase == "decode" and sequences > most * dp:
        msg = f"batch: got {sequences}; this deployment decodes at most {most} requests on each of {dp} ranks at once"
        raise ScenarioError(msg)
    if phase == "prefill" and rows > most_rows:
        msg = f"batch: got {sequences} prompts of {length} tokens; a rank takes at most {most_rows} tokens in one step"
        raise ScenarioError(msg)
    if length > longest:
        msg = f"context: got {length}; the longest request of this scenario has {longest} tokens (requests.lengths)"
        raise ScenarioError(msg)


def _layers(timer: TableTimer, work: StepWork, step: StepTime) -> StepLayers:
    overlapper = timer.overlapper
    return overlapper.halves(work, step) if step.overlap == "two_batch" else overlapper.whole(work, step)


def _step_tasks(layers: StepLayers, overlap: Overlap, gap: float, before: float) -> list[Task]:
    """Put the ends of the model and the host around the MoE layers."""
    first = Task(name="host", stream=HOST, seconds=gap)
    head = Task(name=BEFORE, stream=COMPUTE, seconds=layers.outside * before, after=(0,))
    tasks = [first, head]
    for task in layer_tasks(layers.times, overlap):
        waits = tuple(index + 2 for index in task.after) or (1,)
        tasks.append(replace(task, after=waits))
    last = tuple(range(max(len(tasks) - 8, 1), len(tasks)))
    tail = Task(name=AFTER, stream=COMPUTE, seconds=layers.outside * (1.0 - before), after=last)
    return [*tasks, tail]


def _rank_experts(timer: TableTimer, layers: StepLayers) -> FloatArray:
    """Time of the routed experts on every rank, none above that of the slowest; shape (batches, layers, ranks) [s]."""
    slowest = layers.times.experts
    if not layers.loads.size:
        return np.zeros((*slowest.shape, 0))
    ranks = layers.loads.shape[1]
    by_rank = np.stack([timer.overlapper.expert_layers(layers, layers.loads[:, rank]) for rank in range(ranks)], axis=2)
    return np.clip(by_rank, 0.0, slowest[:, :, None])


def _block_ops(deployment: Deployment, work: StepWork) -> dict[str, list[tuple[Op, float]]]:
    """Ops of every block in order, with their time in it [s]."""
    inside, seconds = deployment.tables.inside, dict[str, list[tuple[Op, float]]]()
    ops = step_ops(work, deployment.model, deployment.split, deployment.stack, drafts=deployment.drafts)
    for time in deployment.cost.times(ops):
        op, own = time.op, float(time.seconds)
        share = inside.share(op.block)
        block = {"dense": "attention", "router": "attention"}.get(op.block, op.block)
        if share > 0.0 and own > 0.0:
            seconds.setdefault(block, []).append((op, own * share))
        if share < 1.0 and own > 0.0:
            end = AFTER if op.block == "ends" and op.name != "embedding" else BEFORE
            seconds.setdefault(end, []).append((op, own * (1.0 - share)))
    return seconds


def _shares(ops: list[tuple[Op, float]]) -> list[tuple[Op, float]]:
    """Divide the times of the ops of a block by their sum."""
    whole = sum(seconds for _, seconds in ops)
    return [(op, seconds / whole) for op, seconds in ops]


def _share_before(ops: dict[str, list[tuple[Op, float]]]) -> float:
    """Share of what lies outside the MoE layers that comes before them [1]."""
    before, after = (sum(seconds for _, seconds in ops.get(block, [])) for block in (BEFORE, AFTER))
    return before / max(before + after, 1e-30)


def _communication(schedule: Schedule, ops: dict[str, list[tuple[Op, float]]]) -> dict[tuple[str, str], float]:
    """Time of every kind of communication by what is computed meanwhile [s].

    Collectives that stand between kernels, as all-reduces do, run on the stream of these kernels: nothing is computed
    beside them.
    """
    found = exposure(schedule, COMMUNICATION, COMPUTE)
    shares = {block: _shares(each) for block, each in ops.items()}
    for task, start, end in zip(schedule.tasks, schedule.start.tolist(), schedule.end.tolist(), strict=True):
        for op, share in shares.get(task.name, []) if task.stream == COMPUTE else []:
            if op.component in _COLLECTIVES:
                key = component_words(op.component), "nothing"
                found[key] = found.get(key, 0.0) + share * (end - start)
    return found


def _place(task: Task) -> tuple[int, int]:
    batch, layer = task.arguments["batch"], task.arguments["layer"]
    if not isinstance(batch, int) or not isinstance(layer, int):
        raise TypeError(f"task '{task.name}' has no place in the model")
    return batch, layer
