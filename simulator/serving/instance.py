"""One instance of a server: its queues, its batch and its KV cache, advanced one engine step at a time.

Running requests are not touched step by step. All of them gain the same in a decode step, so the step counter at
which each will be done is known when it starts; KV use grows by the batch size. A step costs the same whether the
batch holds ten requests or a thousand.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from typing import Protocol

import simpy

from simulator.deployment.limits import Limits
from simulator.serving.answering import Answering
from simulator.serving.batch import Batch
from simulator.serving.clock import Clock, Notice
from simulator.serving.kv_pool import KVPool
from simulator.serving.prompt_queues import PromptQueues
from simulator.serving.rank_loads import RankLoads
from simulator.serving.scheduler import SCHEDULERS
from simulator.serving.state import Role, RunState
from simulator.serving.step_plan import DECODE, NOTHING, Chunk, StepPlan
from simulator.serving.timekeeper import FEW, Timekeeper
from simulator.serving.tokens_out import TokensOut
from simulator.step.timer import StepTimer


class Listener(Protocol):
    """Who is told what becomes of requests."""

    def on_finish(self, request: int) -> None:
        """A request is answered."""

    def on_prompt(self, request: int, source: Instance, rank: int) -> None:
        """A prompt is computed on an instance that computes prompts only; its KV cache stays until released."""


class Probe(Protocol):
    """Who watches instances at work, as tests and studies do; nobody does in an ordinary run."""

    def on_decode(self, instance: Instance) -> None:
        """A decode step ends on an instance, and nobody has left yet."""

    def on_loss(self, instance: Instance, request: int, tokens: int, *, answering: bool) -> None:
        """KV cache of a request is dropped.

        Parameters
        ----------
        instance : Instance
            Where.
        request : int
            Whose cache.
        tokens : int
            Tokens to be computed anew, if it goes on [tokens].
        answering : bool
            Whether its answer had begun.
        """


class Instance:
    """A server of ``dp`` attention ranks that step together.

    Parameters
    ----------
    env : Clock
        The clock.
    index : int
        Which instance this is.
    timer : StepTimer
        How long steps take; may be exchanged between steps.
    limits : Limits
        What bounds them.
    run_state : RunState
        The requests and the records.
    listener : Listener
        Told what becomes of requests.
    role : {"both", "prefill", "decode"}
        What of a request it does.
    probe : Probe, optional
        Watches it.

    Attributes
    ----------
    loads : RankLoads
        Requests by rank; ranks may be closed.
    slow : float
        Factor on the time of its steps, as a slow rank or a disturbed link causes [1].
    """

    def __init__(
        self,
        env: Clock,
        index: int,
        timer: StepTimer,
        limits: Limits,
        run_state: RunState,
        listener: Listener,
        role: Role = "both",
        probe: Probe | None = None,
    ) -> None:
        self.env, self.index, self.limits, self.role = env, index, limits, role
        self.timer, self.slow = timer, 1.0
        self._state, self._records = run_state.state, run_state.records
        self._listener, self._probe = listener, probe
        dp = limits.dp
        self.loads = RankLoads(dp)
        self._scheduler = SCHEDULERS[limits.scheduler](run_state, limits, timer)
        # Requests whose prompt was computed elsewhere, and what occurs when there is memory for them.
        self._arriving: list[deque[tuple[int, Notice]]] = [deque() for _ in range(dp)]
        # Requests whose KV cache is on its way out or in, by request, and those that have just arrived.
        self._moving: dict[int, int] = {}
        self._landed: list[int] = []
        self._log = run_state.log
        self._batch = Batch(dp, limits.accepted_per_step, self._log.moves if self._log is not None else None)
        self._times = Timekeeper(index, limits, self._batch, run_state.steps)
        self.kv = KVPool(limits, self._batch, run_state)
        self._prompts = PromptQueues(limits, run_state.state, self.kv.fits, self._admit)
        self._answering = Answering(run_state.state, run_state.records, index, dp)
        self._queued = 0
        self._out = TokensOut(run_state, limits.delivery_steps)
        self._stall = 0.0
        self._halted = self._stepping = False
        self._wake: simpy.Event | None = None
        self.process = env.process(self._run())

    @property
    def outstanding(self) -> int:
        """Requests that were given to it and that it has not done its part of [1]."""
        return self.loads.total

    def submit(self, request: int) -> None:
        """Queue a request whose prompt is to be computed here."""
        self._prompts.add(self._take_on(request), request)
        self._rouse()

    def reserve(self, request: int) -> simpy.Event:
        """Queue a request whose prompt was computed elsewhere; the event brings its rank once that has memory."""
        rank = self._take_on(request)
        reserved = Notice(self.env)
        self._arriving[rank].append((request, reserved))
        self._queued += 1
        self._reserve(rank)
        return reserved

    def land(self, request: int) -> None:
        """Let a request decode from the next step on, whose KV cache has arrived."""
        self._landed.append(request)
        self._rouse()

    def release(self, request: int, rank: int) -> None:
        """Free the KV cache of a prompt that another instance has received."""
        if self._moving.pop(request, None) is not None:
            prompt = self._state.prompt[request]
            self._batch.drop(rank, prompt)
            self.kv.release(rank, request, prompt, self._state.output[request])
            self._look_again(rank)

    def withdraw(self, request: int) -> None:
        """Forget a request whose KV cache will not come."""
        rank = self._records.rank[request]
        if request in self._moving:
            self.release(request, rank)
        else:
            self._arriving[rank] = deque(each for each in self._arriving[rank] if each[0] != request)
            self._queued -= 1
        self.loads.add(rank, -1)

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do and nothing of others to keep."""
        return not self.loads.total and not self._moving

    def counters(self) -> dict[str, float]:
        """Return all that it counts, by name; every count is zero when it has nothing to do."""
        prompts = self._prompts
        return {
            "outstanding": self.loads.total,
            "waiting": prompts.waiting,
            "unfinished prompts": prompts.unfinished,
            "arriving": self._queued,
            "moving": len(self._moving),
            "landed": len(self._landed),
            "paused": len(self._state.paused),
            **self._batch.counters(),
        }

    def halt(self) -> None:
        """Stop as a failure does: the step under way is lost, and nothing happens until :meth:`resume`."""
        self._halted = True
        self._interrupt()

    def resume(self) -> None:
        """Go on after a halt."""
        self._halted = False
        self._rouse()

    def _interrupt(self) -> None:
        if self._stepping:
            self._stepping = False
            self.process.interrupt()

    def stall(self, seconds: float) -> None:
        """Keep the instance from its next step for a time, as moving weights or KV cache does [s]."""
        self._stall += seconds

    def evict(self, ranks: Iterable[int] | None = None, *, close: bool = False) -> list[int]:
        """Lose all requests of some ranks, or of all, with their KV cache and the step under way.

        Returns the requests in order; what they had emitted is part of their prompts now. ``close`` keeps others away.
        """
        self._interrupt()
        self._deliver(self.env.now, everything=True)
        lost: list[int] = []
        for rank in range(self.limits.dp) if ranks is None else ranks:
            lost.extend(self._lose(rank))
            if close:
                self.loads.closed.add(rank)
        return sorted(lost)

    @property
    def waiting(self) -> int:
        """Requests that are here and not admitted yet [1]."""
        return self._prompts.waiting + self._queued

    def unqueue(self) -> list[int]:
        """Take back the requests that wait here for their turn and hold no KV cache, in order."""
        waiting = [self._prompts.clear(rank) for rank in range(self.limits.dp)]
        for rank, requests in enumerate(waiting):
            self.loads.add(rank, -len(requests))
        return sorted(request for requests in waiting for request in requests)

    def _lose(self, rank: int) -> list[int]:
        moving = [request for request, place in self._moving.items() if place == rank]
        lost = [*self._prompts.clear(rank), *(request for request, _ in self._arriving[rank])]
        self._queued -= len(self._arriving[rank])
        self._arriving[rank].clear()
        while (request := self._drop_prompt(rank)) is not None:
            lost.append(request)
        if self.role != "prefill":
            # A prompt that was computed here and is on its way out is no longer outstanding.
            lost.extend(moving)
        for request in moving:
            self.release(request, rank)
        self._landed = [request for request in self._landed if request not in moving]
        while self._batch.rows[rank]:
            lost.append(self._drop_running(rank))
        if self.kv.caches:
            self.kv.caches[rank].clear()
        self._state.swapped.difference_update(lost)
        self.loads.add(rank, -len(lost))
        return lost

    def _take_on(self, request: int) -> int:
        """Give a request to a rank: the one with most of its prefix in cache unless that is busy, else the idlest."""
        if self.kv.caches and self.limits.dp > 1:
            prompt = self._state.prompt[request]
            rank = self.loads.fitting([self.kv.match(each, request, prompt) for each in range(self.limits.dp)])
        else:
            rank = self.loads.idlest()
        self.loads.add(rank)
        self._records.instance[request] = self.index
        self._records.rank[request] = rank
        return rank

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.triggered:
            self._wake.succeed()

    def _run(self) -> Generator[simpy.Event, None, None]:
        """Ask the scheduler for the next step, time it, record it, let it pass and have its effect; for ever."""
        # NOTE: bound once, because this loop is what a long run does; ``now`` is the time of the clock throughout.
        env, kv, batch, prompts, out = self.env, self.kv, self._batch, self._prompts, self._out
        next_step, now = self._scheduler.next_step, env.now
        while True:
            if self._landed:
                self._join_landed()
            if self._halted or not (prompts.unfinished or batch.running):
                yield from self._rest()
                now = env.now
                continue
            if batch.index >= kv.check_at:
                self._make_room()
            plan = next_step(prompts, batch, self.limits)
            if kv.fuller:
                kv.look_ahead()
            if plan is NOTHING:
                # Everything that waits needs memory that requests on their way out still hold.
                yield from self._sleep()
                now = env.now
                continue
            if plan is DECODE and self._pass(now):
                now = env.now
                continue
            duration = self._begin(plan, now)
            chunks, steps = plan.chunks, 1 if self._log is None else int(duration)
            if env.skip(duration):
                now += duration
            else:
                self._stepping = True
                try:
                    yield env.timeout(duration)
                except simpy.Interrupt:
                    prompts.undo(chunks)
                    now = env.now
                    continue
                self._stepping = False
                now = env.now
            out.step += steps
            if plan.decodes:
                self._decode(now, plan.held, steps)
            if chunks:
                self._advance_prompts(chunks, now)
            if out.late:
                self._deliver(now)

    def _begin(self, plan: StepPlan, now: float) -> float:
        """Time and record a step, or log several of a unit of the clock each; return how long that takes [s]."""
        if self._log is None:
            duration = self._times.one(self.timer, plan, now, self.waiting, slow=self.slow, stall=self._stall)
        else:
            # A request that comes in changes what is done from the end of the step on during which it comes.
            duration = float(steps := int(min(self._steps_alike(plan), self.env.due - now + 1.0)))
            self._log.add(self._batch, plan, steps, now, self.waiting, self._stall)
        self._stall = 0.0
        return duration

    def _pass(self, now: float) -> bool:
        """Let decode steps pass at once in which nobody comes, goes or watches, where there are some; tell whether."""
        times, due, seen = self._times, self.env.due, self._log is not None or self._probe is not None
        if seen or self._stall or self.slow != 1.0 or now + times.several_take > due:
            return False
        steps = self._steps_alike(DECODE)
        if steps < FEW or (ends := times.several(self.timer, steps, now, due, self.waiting)) is None:
            return False
        now = float(ends[-1])
        self.env.go_to(now)
        self._out.step += len(ends)
        self._batch.step(len(ends))
        self._out.decoded_all(self._batch.running, ends)
        self._end_answers(now)
        self._deliver(now)
        return True

    def _steps_alike(self, plan: StepPlan) -> int:
        """Count the steps from this one on in which nobody comes, goes or is to be looked at [1]."""
        if plan is not DECODE or self._prompts.open:
            return 1
        steps, late = min(self._answering.next_end, self.kv.check_at) - self._batch.index, self._out.late
        return max(min(steps, late[0][0] - self._out.step) if late else steps, 1)

    def _rest(self) -> Generator[simpy.Event, None, None]:
        """Deliver what is late, now that nothing is left to overlap with; then sleep until there is something to do."""
        if self._out.late:
            self._deliver(self.env.now, everything=True)
            return
        yield from self._sleep()
        if not self._batch.running:
            self._out.last = self.env.now

    def _sleep(self) -> Generator[simpy.Event, None, None]:
        self._wake = self.env.event()
        yield self._wake
        self._wake = None

    def _admit(self, rank: int, request: int) -> int:
        """Reserve KV memory for a request, and return what of its prompt is cached [tokens]."""
        state, records = self._state, self._records
        prompt = state.prompt[request]
        cached = self.kv.admit(rank, request, prompt, state.output[request])
        if math.isnan(records.admitted[request]):
            records.admitted[request] = self.env.now
            records.cached[request] = cached
        if state.swapped and request in state.swapped:
            state.swapped.discard(request)
            self.stall(self.kv.swap_time(prompt))
            cached = prompt - 1
        return cached

    def _reserve(self, rank: int) -> None:
        """Take memory for requests that come from elsewhere, in order, as far as it goes."""
        arriving = self._arriving[rank]
        while arriving and self.kv.fits(rank, arriving[0][0]):
            request, reserved = arriving.popleft()
            self._queued -= 1
            self._admit(rank, request)
            self._moving[request] = rank
            reserved.give(rank)

    def _join_landed(self) -> None:
        now = self.env.now
        for request in self._landed:
            rank = self._moving.pop(request)
            self._out.emit(request, now)
            self._join(request, rank)
        self._landed.clear()

    def _decode(self, now: float, held: Sequence[int], steps: int) -> None:
        """All that run gain the tokens of a step, or of several as the clock counts them; those that are done leave."""
        batch = self._batch
        batch.step(steps)
        for request in held:
            batch.hold(self._records.rank[request])
            self._state.put_off(request)
            self._answering.note_end(request)
        if self._probe is not None:
            self._probe.on_decode(self)
        self._out.decoded(batch.running, now - (steps - 1), held)
        self._out.last = now
        self._end_answers(now)

    def _end_answers(self, now: float) -> None:
        index, due = self._batch.index, self._state.due
        if index == self._answering.next_end:
            for request in self._answering.ended(index):
                if due[request] == index:
                    self._finish(request, now)

    def _advance_prompts(self, chunks: Sequence[Chunk], now: float) -> None:
        """Finish chunks; the last of a prompt emits a token, and the request joins the batch or moves on."""
        state, kv, prompts = self._state, self.kv, self._prompts
        for chunk in chunks:
            request, rank = chunk.request, chunk.rank
            if chunk.prefix + chunk.tokens < state.prompt[request]:
                continue
            prompts.finish(rank, request)
            if kv.caches:
                kv.computed(rank, request)
            if self.role == "prefill" and state.output[request] - state.generated[request] > 1:
                self._moving[request] = rank
                self.loads.add(rank, -1)
                self._listener.on_prompt(request, self, rank)
                continue
            self._out.emit(request, now)
            self._join(request, rank)

    def _join(self, request: int, rank: int) -> None:
        """Let a request decode whose prompt is in the KV cache; one that needs no further token ends."""
        state, batch = self._state, self._batch
        steps = state.steps_left(request)
        state.joined[request] = batch.index
        state.due[request] = batch.index + steps
        batch.join(rank, state.prompt[request])
        if steps == 0:
            self._finish(request, self.env.now)
        else:
            self._answering.add(request, rank, batch.rows[rank])

    def _leave(self, request: int) -> int:
        """Take a running request out of the batch, free its KV cache, and return the steps that it decoded [1]."""
        state, rank, batch = self._state, self._records.rank[request], self._batch
        prompt, steps = state.prompt[request], batch.index - state.joined[request]
        state.due[request] = -1
        batch.leave(rank, prompt + steps * self.limits.accepted_per_step)
        if not self.kv.plain:
            self.kv.release(rank, request, prompt, state.output[request])
        return steps

    def _look_again(self, rank: int) -> None:
        """See whether others fit, now that memory is free."""
        if self._prompts.reopen(rank):
            self._rouse()
        if self._arriving[rank]:
            self._reserve(rank)

    def _finish(self, request: int, now: float) -> None:
        if self.kv.caches and self.role == "both":
            self.kv.answered(self._records.rank[request], request)
        self._leave(request)
        if self._prompts.waiting or self._queued:
            self._look_again(self._records.rank[request])
        if self._out.end(request):
            self._answer(request, now)

    def _answer(self, request: int, now: float) -> None:
        self._records.finish[request] = now
        self.loads.add(self._records.rank[request], -1)
        self._listener.on_finish(request)

    def _deliver(self, now: float, *, everything: bool = False) -> None:
        """Let users have what the steps before have generated."""
        for request in self._out.delivered(now, everything=everything):
            self._answer(request, now)

    def _make_room(self) -> None:
        """Preempt the youngest requests of ranks whose next decode step would overflow the pool."""
        batch, kv = self._batch, self.kv
        for rank in range(self.limits.dp):
            while kv.steps_left(rank, batch.rows[rank]) < 1.0 and batch.sequences[rank] > 1 and self._preempt(rank):
                pass
        kv.look_at_all()

    def _preempt(self, rank: int) -> bool:
        """Put the youngest request of a rank back at the head of its queue; its KV cache is lost or swapped."""
        request = self._drop_prompt(rank)
        if request is None:
            if not self._batch.rows[rank]:
                return False
            request = self._drop_running(rank)
            if self.limits.preemption == "swap":
                self.stall(self.kv.swap_time(self._state.prompt[request]))
                self._state.swapped.add(request)
        self._records.preemptions[request] += 1
        self._prompts.put_back(rank, request)
        return True

    def _drop_prompt(self, rank: int) -> int | None:
        """Drop the last prompt that is being computed on a rank, if there is one."""
        dropped = self._prompts.drop(rank)
        if dropped is None:
            return None
        request, done = dropped
        prompt = self._state.prompt[request]
        self._batch.drop(rank, prompt)
        self.kv.release(rank, request, prompt, self._state.output[request])
        if self._probe is not None:
            self._probe.on_loss(self, request, done, answering=False)
        return request

    def _drop_running(self, rank: int) -> int:
        state = self._state
        request = self._answering.pop_youngest(rank)
        emitted = min(
            int(self._leave(request) * self.limits.accepted_per_step),
            state.output[request] - state.generated[request] - 1,
        )
        state.generated[request] += emitted
        state.prompt[request] += emitted + 1
        self._out.pause(request)
        if self._probe is not None:
            self._probe.on_loss(self, request, state.prompt[request], answering=True)
        return request
