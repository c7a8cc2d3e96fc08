"""The instances of a run as one live set: requests come in, instances come, go and fail, KV caches move."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import simpy

from simulator.deployment.limits import Limits
from simulator.serving.balancers import Pick
from simulator.serving.clock import Clock
from simulator.serving.instance import Instance, Probe
from simulator.serving.kv_link import KVLink
from simulator.serving.prefix_cache import Blocks, PrefixCache
from simulator.serving.sessions import Sessions, sessions_of
from simulator.serving.state import Role, RunState
from simulator.step.timer import StepTimer
from workloads.requests.trace import RequestTrace

#: Something that acts on the live server: a scaling policy, a fault, a rebalancing.
Control = Callable[["Server"], Generator[simpy.Event, None, None]]


@dataclass(slots=True, eq=False)
class _Transfer:
    """A KV cache on its way from a rank of one instance to another instance, once that is chosen."""

    source: Instance
    rank: int
    target: Instance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A pool of prefix blocks that all instances share.

    ``blocks`` holds them, up to ``tokens`` [tokens]; ``prompts`` are the blocks of every prompt; fetching one token
    takes ``per_token`` [s].
    """

    blocks: PrefixCache
    prompts: Blocks
    tokens: float
    per_token: float


class Server:
    """Routes requests to instances until all are answered.

    Parameters
    ----------
    env : Clock
        The clock.
    trace : RequestTrace
        Arrivals, or a closed loop; requests that follow others are sent when those are answered.
    run_state : RunState
        The requests and the records.
    pick, pick_decode : Pick
        Choose the instance that computes a prompt, and the one that decodes it where that is another.
    frontend : float
        Time from a request's arrival until an instance is chosen [s].
    link : KVLink or None
        How KV caches travel between instances that compute prompts and such that decode.
    store : Store or None
        Shared prefix blocks.
    progress : callable, optional
        Told the share of requests that are done.

    Attributes
    ----------
    done : simpy.Event
        Occurs when every request is answered.
    instances : list of Instance
        All that were ever added, by index.
    """

    def __init__(
        self,
        env: Clock,
        trace: RequestTrace,
        run_state: RunState,
        pick: Pick,
        pick_decode: Pick,
        *,
        frontend: float = 0.0,
        link: KVLink | None = None,
        store: Store | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.env, self.trace, self.run_state, self.done = env, trace, run_state, env.event()
        self.instances: list[Instance] = []
        self._pick, self._pick_decode = pick, pick_decode
        self._frontend, self._link, self._store, self._progress = frontend, link, store, progress
        # Instances that take prompts, and those that take computed ones.
        self._entries: list[Instance] = []
        self._decoders: list[Instance] = []
        self._backlog: list[int] = []
        # Requests that the frontend handles, and when each leaves it: in the order in which they came.
        self._entering: deque[tuple[float, int]] = deque()
        self._decoder_opened = env.event()
        self._transfers: dict[int, _Transfer] = {}
        self._emptied: dict[int, simpy.Event] = {}
        self._sessions = sessions_of(trace)
        # Requests that wait for no answer; in a closed loop, how many of them were sent.
        self._first: Sequence[int] = range(len(trace)) if self._sessions is None else self._sessions.first
        self._started = self.finished = 0
        self._total = len(trace)
        self._report_every = max(self._total // 200, 1)

    @property
    def open_instances(self) -> Sequence[Instance]:
        """Instances that take new requests, or the prompts of new requests."""
        return self._entries

    @property
    def queued(self) -> int:
        """Requests that no instance has taken yet [1]."""
        return len(self._backlog)

    def add(self, timer: StepTimer, limits: Limits, role: Role = "both", probe: Probe | None = None) -> Instance:
        """Add an instance that takes requests from now on, also those that found none before.

        Parameters
        ----------
        timer : StepTimer
            How long its steps take.
        limits : Limits
            What bounds them.
        role : {"both", "prefill", "decode"}
            What of a request it does.
        probe : Probe, optional
            Watches it.
        """
        instance = Instance(self.env, len(self.instances), timer, limits, self.run_state, self, role, probe)
        self.instances.append(instance)
        self.reopen(instance)
        return instance

    def reopen(self, instance: Instance) -> None:
        """Let an instance take requests (again), and give it those that found none."""
        if instance.role == "decode":
            self._decoders.append(instance)
            self._decoder_opened.succeed()
            self._decoder_opened = self.env.event()
            return
        self._entries.append(instance)
        requests, self._backlog = self._backlog, []
        for request in requests:
            self.route(request)

    def restore(self, instance: Instance) -> None:
        """Let an instance take requests again if it does not."""
        if instance not in self._entries and instance not in self._decoders:
            self.reopen(instance)

    def close(self, instance: Instance) -> simpy.Event:
        """Send an instance no further requests; the event occurs when it has done its last."""
        for group in (self._entries, self._decoders):
            if instance in group:
                group.remove(instance)
        event = self._emptied[instance.index] = self.env.event()
        self._check_empty(instance)
        return event

    def recall(self, instance: Instance) -> None:
        """Send the requests that wait on an instance, without having begun there, to those that are open."""
        for request in instance.unqueue():
            self.route(request)
        self._check_empty(instance)

    def lose(
        self,
        instance: Instance,
        ranks: Sequence[int] | None = None,
        *,
        close: bool = False,
        retry: Literal["resume", "restart"] = "resume",
    ) -> list[int]:
        """Lose what an instance, or some of its ranks, is doing; the requests are sent in again.

        Parameters
        ----------
        instance : Instance
            Which one.
        ranks : sequence of int, optional
            Which of its ranks; all where absent.
        close : bool
            Whether those ranks take no more requests.
        retry : {"resume", "restart"}
            Whether a request goes on after the tokens that it has emitted, or answers all over again.

        Returns
        -------
        list of int
            The requests.
        """
        lost = instance.evict(ranks, close=close)
        for request, transfer in list(self._transfers.items()):
            if transfer.source is instance and (ranks is None or transfer.rank in ranks):
                if transfer.target is not None:
                    transfer.target.withdraw(request)
                lost.append(request)
        for request in lost:
            if request in self._transfers:
                moved = self._transfers.pop(request)
                moved.source.release(request, moved.rank)
            self.run_state.records.retries[request] += 1
            if retry == "restart":
                self._forget(request)
            self.route(request)
        self._check_empty(instance)
        return lost

    def _forget(self, request: int) -> None:
        state, records = self.run_state.state, self.run_state.records
        state.prompt[request], state.generated[request] = int(self.trace.input_tokens[request]), 0
        records.first_token[request] = float("nan")
        state.paused.pop(request, None)

    def begin(self) -> None:
        """Let the requests come."""
        if self.trace.concurrency is None:
            self.env.process(self._arrive())
            return
        self._started = min(self.trace.concurrency, len(self._first))
        for request in self._first[: self._started]:
            self._start(request)

    def _arrive(self) -> Generator[simpy.Event, None, None]:
        env, arrival = self.env, self.trace.arrival
        if self._sessions is not None:
            arrival = arrival[self._sessions.first]
        # NOTE: array('d') yields plain floats one by one, without a list of a million of them.
        for request, at in zip(self._first, array("d", arrival.tobytes()), strict=True):
            if at > env.now:
                yield env.timeout(at - env.now)
            self._start(request)

    def _start(self, request: int) -> None:
        now = self.run_state.records.arrival[request] = self.env.now
        if self._frontend <= 0.0:
            self.route(request)
            return
        # NOTE: all take as long, so one event for the first of them does for those that leave with it.
        if not self._entering:
            self.env.at(now + self._frontend, self._leave_frontend)
        self._entering.append((now + self._frontend, request))

    def _leave_frontend(self) -> None:
        entering, now = self._entering, self.env.now
        while entering and entering[0][0] <= now:
            self.route(entering.popleft()[1])
        if entering:
            self.env.at(entering[0][0], self._leave_frontend)

    def route(self, request: int) -> None:
        """Give a request to an instance, or keep it until there is one."""
        if not self._entries:
            self._backlog.append(request)
            return
        instance = self._pick(self._entries, request)
        if self._store is not None and (seconds := self._fetch(self._store, instance, request)) > 0.0:
            self.env.later(seconds, instance.submit, request)
        else:
            instance.submit(request)

    def _fetch(self, store: Store, instance: Instance, request: int) -> float:
        """Bring shared blocks of a prompt to the instance that lacks them, and return how long that takes [s]."""
        blocks = store.prompts[request]
        stored = blocks[: store.blocks.match(blocks)]
        missing = len(stored) * store.blocks.block_tokens - instance.kv.cached_tokens(request)
        if missing < store.blocks.block_tokens:
            return 0.0
        instance.kv.take(instance.loads.idlest(), stored)
        store.blocks.add_idle(stored)
        return missing * store.per_token

    def on_finish(self, request: int) -> None:
        """Count an answered request; what follows it comes in time, and in a closed loop the next session."""
        self.finished += 1
        total = self._total
        if self._progress is not None and self.finished % self._report_every == 0:
            self._progress(self.finished / total)
        over = self._sessions is None or self._go_on(self._sessions, request)
        if over and self.trace.concurrency is not None and self._started < len(self._first):
            self._started += 1
            self._start(self._first[self._started - 1])
        if self._emptied:
            self._check_empty(self.instances[self.run_state.records.instance[request]])
        if self.finished == total:
            self.done.succeed()

    def _go_on(self, sessions: Sessions, request: int) -> bool:
        """Let the turns that follow an answer come in their time; return whether there will be none in its session."""
        env = self.env
        for turn, at in sessions.after(request, env.now):
            if at <= env.now:
                self._start(turn)
            else:
                env.at(at, partial(self._start, turn))
        return sessions.over(request)

    def on_prompt(self, request: int, source: Instance, rank: int) -> None:
        """Bring what an instance has computed to one that decodes it."""
        transfer = self._transfers[request] = _Transfer(source, rank)
        self.run_state.records.computed[request] = self.env.now
        self.env.follow(self._hand_over(request, transfer))

    def _hand_over(self, request: int, transfer: _Transfer) -> Generator[simpy.Event, int, None]:
        """Find an instance that decodes, wait for memory there and for the link, and let the request decode.

        A transfer may be lost while it waits: then it is not listed any more, and all that it held is free.
        """
        env, records, source = self.env, self.run_state.records, transfer.source
        while not self._decoders and self._transfers.get(request) is transfer:
            yield self._decoder_opened
        if self._transfers.get(request) is not transfer:
            return
        target = transfer.target = self._pick_decode(self._decoders, request)
        rank = yield target.reserve(request)
        if self._transfers.get(request) is not transfer:
            return
        records.sent[request] = env.now
        if self._link is not None:
            prompt, begun = self.run_state.state.prompt[request], records.admitted[request]
            ways = (source.index, transfer.rank), (target.index, rank)
            yield env.timeout(self._link.arrival(env.now, begun, prompt, *ways) - env.now)
            if self._transfers.get(request) is not transfer:
                return
        del self._transfers[request]
        source.release(request, transfer.rank)
        target.land(request)
        self._check_empty(source)

    def _check_empty(self, instance: Instance) -> None:
        if instance.index in self._emptied and instance.idle:
            self._emptied.pop(instance.index).succeed()
