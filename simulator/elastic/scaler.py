"""Changes of size on the live engine: looks at the load, carries plans out, and writes down what happened."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.closed_form.load import mean_load
from simulator.closed_form.steady import solve
from simulator.deployment.deployment import Deployment
from simulator.elastic.fleet import Fleet
from simulator.elastic.mechanisms import ScalingPlan
from simulator.elastic.policies import Governor, Observation, forecast_rate
from simulator.results.summary import meets, request_latencies
from simulator.scenario.sections import Slo
from simulator.serving.instance import Instance
from simulator.serving.plan import PoolPlan
from simulator.serving.recorder import RequestRecorder, column
from simulator.serving.server import Server
from workloads.requests.trace import RequestTrace

if TYPE_CHECKING:
    import simpy

#: Factor on the steps of two instances that share devices [1].
_TURNS = 2.0


@dataclass(slots=True, kw_only=True)
class Change:
    """One change of size: sizes [ranks] and times [s] since the start of the run.

    ``ready`` is when the new instance could serve, ``switched`` when it began to, ``released`` when the old one's
    devices were free; ``downtime`` how long nobody served [s].
    """

    before: int
    after: int
    plan: ScalingPlan
    command: float
    ready: float = math.nan
    switched: float = math.nan
    released: float = math.nan
    downtime: float = 0.0


@dataclass(slots=True, kw_only=True)
class Span:
    """What an instance did from one time to another [s]: ``starting``, ``serving``, ``draining``; its ranks."""

    instance: int
    size: int
    state: str
    start: float
    end: float = math.nan


@dataclass(slots=True, kw_only=True)
class ScalingLog:
    """What a run of scaling wrote down.

    ``sizes`` are the times [s] and attention ranks that take requests; ``held`` times [s], devices [1] and memory
    [bytes] that are held from then on. ``ranks`` is the size [ranks] of every instance by its index.
    """

    changes: list[Change] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    sizes: list[tuple[float, int]] = field(default_factory=list)
    held: list[tuple[float, int, float]] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)

    def close(self, now: float) -> None:
        """End what goes on when a run ends [s]."""
        for span in self.spans:
            if math.isnan(span.end):
                span.end = now

    def served(self, begin: float, end: float) -> float:
        """Time of all instances together in which they could serve, between two times of a run that has ended [s]."""
        up = (span for span in self.spans if span.state != "starting")
        return sum(max(min(span.end, end) - max(span.start, begin), 0.0) for span in up)


class Scaler:
    """A process on the engine's clock that keeps the deployment at the size that its policy wants.

    Parameters
    ----------
    fleet : Fleet
        The sizes and how they change.
    capacity : float
        Requests that one rank can serve [1/s].
    arrival : array
        Arrivals of the trace, sorted, for a policy that looks ahead [s].
    """

    def __init__(self, fleet: Fleet, capacity: float, arrival: FloatArray) -> None:
        self.fleet, self.log, self.size = fleet, ScalingLog(), fleet.start
        self._capacity, self._arrival = capacity, arrival
        choice = fleet.scenario.elastic
        self._governor = Governor(
            choice=choice.model_copy(update={"step": fleet.step}),
            base=fleet.start,
            smallest=fleet.smallest,
            largest=fleet.largest,
        )
        self._serving: list[Instance] = []
        self._open: dict[int, Span] = {}
        self._env: simpy.Environment
        # Requests that were answered when work was lost the last time.
        self._finished = -1

    def pools(self) -> tuple[PoolPlan, ...]:
        """Return every instance that ever served as a pool of its own, by index."""
        return tuple(
            PoolPlan(role="both", deployment=self.fleet.deployment(size), instances=1, first=index)
            for index, size in enumerate(self.log.ranks)
        )

    def control(self, server: Server) -> Generator[simpy.Event, None, None]:
        """Act on the live server until the run ends."""
        self._env = env = server.env
        choice = self.fleet.scenario.elastic
        self._serving = list(server.open_instances)
        each = self.size // len(self._serving)
        for instance in self._serving:
            self._enter(instance, each, env.now)
        self.log.sizes.append((env.now, self.size))
        self._hold(env.now)
        looks = iter(sorted({event.at for event in choice.events}))
        while True:
            if choice.policy != "schedule":
                yield env.timeout(choice.interval)
            elif (at := next(looks, None)) is None:
                return
            elif at > env.now:
                yield env.timeout(at - env.now)
            target = self._governor.settle(self._observe(server))
            if target != self.size and self._may_restart(server, target):
                yield from self._change(server, target)
                self._governor.changed(env.now)

    def _may_restart(self, server: Server, target: int) -> bool:
        """Whether a change that loses work may begin: a policy that restarts again and again would answer nobody."""
        scheduled = self.fleet.scenario.elastic.policy == "schedule"
        if scheduled or self.fleet.plan(self.size, target).old != "stops":
            return True
        progress = server.finished > self._finished
        if progress:
            self._finished = server.finished
        return progress

    def _observe(self, server: Server) -> Observation:
        choice, records, now = self.fleet.scenario.elastic, server.run_state.records, server.env.now
        outstanding = sum(instance.outstanding for instance in server.instances)
        waiting = sum(instance.waiting for instance in server.instances)
        arrived = column(records.arrival)
        span = min(choice.window, max(now, choice.interval))
        return Observation(
            now=now,
            size=self.size,
            waiting=waiting + server.queued,
            running=outstanding - waiting,
            slots=self.fleet.deployment(self.size).limits.max_running,
            attainment=recent_attainment(
                records, server.trace.output_tokens, self.fleet.scenario.slo, now, choice.window
            ),
            rate=float(np.count_nonzero(arrived > now - span)) / span,
            forecast=forecast_rate(self._arrival, now, choice.lookahead),
            capacity=self._capacity,
        )

    def _change(self, server: Server, target: int) -> Generator[simpy.Event, None, None]:
        env, plan = server.env, self.fleet.plan(self.size, target)
        change = Change(before=self.size, after=target, plan=plan, command=env.now)
        self.log.changes.append(change)
        self.log.held.append((env.now, plan.devices, plan.memory))
        if plan.old == "stays":
            yield from self._change_count(server, change)
        else:
            yield from self._replace(server, change)
        change.released = env.now
        self.size = target
        self._hold(env.now)

    def _replace(self, server: Server, change: Change) -> Generator[simpy.Event, None, None]:
        """Put one instance of another size in the place of the present one."""
        env, plan, old = server.env, change.plan, self._serving[0]
        draining: tuple[simpy.Event, Span] | None = None
        stopped = env.now
        if plan.old == "stops":
            draining = self._retire(server, old)
            server.lose(old, retry="restart")
        old.slow = plan.contention
        yield from self._start_up(len(server.instances), change.after, change)
        old.slow = 1.0
        if plan.old == "stops":
            change.downtime = env.now - stopped
        elif plan.waits:
            draining = self._retire(server, old)
            yield draining[0]
        change.switched = env.now
        after = self.fleet.deployment(change.after)
        new = server.add(after.timer(), after.limits)
        self._serving = [new]
        self._enter(new, change.after, env.now)
        self.log.sizes.append((env.now, change.after))
        if draining is None:
            emptied, _ = self._retire(server, old)
            # Two instances on the same devices take turns until the old one is empty.
            old.slow = new.slow = _TURNS if plan.shares else 1.0
            yield emptied
            new.slow = 1.0

    def _change_count(self, server: Server, change: Change) -> Generator[simpy.Event, None, None]:
        """Add instances beside those that serve, or let the last ones go."""
        env, fleet = server.env, self.fleet
        each = fleet.base.split.dp
        count, most = (change.after - change.before) // each, fleet.largest // each
        if count > 0:
            yield from self._start_up(len(server.instances), change.after - change.before, change)
            for _ in range(count):
                place = len(server.instances) % most
                new = server.add(fleet.base.timer(place, most), fleet.base.limits)
                self._serving.append(new)
                self._enter(new, each, env.now)
        change.ready = change.switched = env.now
        self.log.sizes.append((env.now, change.after))
        leaving = [self._serving.pop() for _ in range(-count)]
        yield from [self._retire(server, instance)[0] for instance in leaving]

    def _start_up(self, index: int, size: int, change: Change) -> Generator[simpy.Event, None, None]:
        """Let the phases of the plan pass."""
        span = Span(instance=index, size=size, state="starting", start=change.command)
        self.log.spans.append(span)
        yield self._env.timeout(change.plan.ready)
        change.ready = span.end = self._env.now

    def _retire(self, server: Server, old: Instance) -> tuple[simpy.Event, Span]:
        """Let an instance finish what it has admitted; return the event of its last answer, and the span until then."""
        emptied = server.close(old)
        if not server.open_instances:
            self.log.sizes.append((server.env.now, 0))
        serving = self._open.pop(old.index)
        serving.end = server.env.now
        span = Span(instance=old.index, size=serving.size, state="draining", start=server.env.now)
        self.log.spans.append(span)

        def note(_event: simpy.Event) -> None:
            span.end = server.env.now

        if emptied.callbacks is not None:
            emptied.callbacks.append(note)
        server.recall(old)
        return emptied, span

    def _enter(self, instance: Instance, size: int, now: float) -> None:
        """Note that an instance serves from now on."""
        span = self._open[instance.index] = Span(instance=instance.index, size=size, state="serving", start=now)
        self.log.spans.append(span)
        self.log.ranks += [0] * (instance.index + 1 - len(self.log.ranks))
        self.log.ranks[instance.index] = size

    def _hold(self, now: float) -> None:
        """Note what the present size holds."""
        self.log.held.append((now, *self.fleet.held(self.size)))


def recent_attainment(
    records: RequestRecorder, output_tokens: NDArray[np.int64], slo: Slo, now: float, window: float
) -> float:
    """Share of the requests of the last window that met the objective; NaN where none can be judged.

    Judged are requests that ended in the window, and those that still wait for a first token that is already late.

    Parameters
    ----------
    records : RequestRecorder
        Times of all requests so far.
    output_tokens : int array, shape (requests,)
        Lengths of the answers [tokens].
    slo : Slo
        The objective.
    now, window : float
        The present, and how far back it is looked [s].
    """
    arrival, first, finish = (column(each) for each in (records.arrival, records.first_token, records.finish))
    # Requests that have not come yet have no arrival.
    ended = finish > now - window
    late = np.zeros(len(arrival), dtype=bool)
    limit = slo.ttft if slo.ttft is not None else slo.e2el
    if limit is not None:
        late = np.isnan(first) & (now - arrival > limit)
    judged = int(ended.sum() + late.sum())
    if not judged:
        return math.nan
    latencies = request_latencies(arrival[ended], first[ended], finish[ended], output_tokens[ended])
    return float(meets(latencies, slo).sum()) / judged


def rank_capacity(deployment: Deployment, trace: RequestTrace) -> float:
    """Requests per second that one attention rank serves when it is full, in the closed-form steady state [1/s].

    Prompts count whole, whatever a prefix cache would find of them; answers take as many steps as drafts leave them.
    """
    limits, load = deployment.limits, mean_load(trace, 1)
    full = replace(
        load,
        concurrency=float(limits.max_running * limits.dp),
        rate=0.0,
        think=0.0,
        outputs=1.0 + load.decodes / limits.accepted_per_step,
        # Requests come as they do; only where nobody decodes do those of a full instance keep step.
        equal_outputs=load.decodes <= 0.0,
    )
    return solve(deployment, full).rate / limits.dp
