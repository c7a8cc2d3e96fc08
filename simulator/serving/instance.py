"""One instance of a server: its queues, its batch and its KV cache, advanced one engine step at a time.

Running requests are not touched step by step. All of them gain one token in a decode step, so the step counter at
which each will be done is known when it starts; KV use grows by the batch size. A step costs the same whether the
batch holds ten requests or a thousand.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from simulator.metrics.recorder import ColumnRecorder, RequestRecorder
from simulator.serving.timer import StepTime, StepTimer, StepWork

if TYPE_CHECKING:
    import simpy


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a step and a batch, per data-parallel rank.

    Attributes
    ----------
    dp : int
        Data-parallel attention ranks, each with its own requests and KV pool [1].
    token_budget : int
        Tokens of one step on one rank [tokens].
    max_running : int
        Requests that a rank runs at once [1].
    pool : float
        KV pool of a rank, on one of its devices [bytes].
    kv_per_token, kv_per_sequence : float
        What a sequence takes of the pool [bytes].
    scheduler : {"mixed", "prefill_first"}
        Whether prompt chunks share steps with decoding.
    chunked : bool
        Whether a prompt may be split over steps; otherwise only one longer than the budget is.
    """

    dp: int
    token_budget: int
    max_running: int
    pool: float
    kv_per_token: float
    kv_per_sequence: float
    scheduler: Literal["mixed", "prefill_first"]
    chunked: bool


@dataclass(slots=True)
class RequestState:
    """State of all requests as arrays of shape (requests,), shared by all instances.

    ``prompt`` is what must be computed before the next token (the input, and after a preemption the answer so far);
    ``generated`` counts emitted tokens; ``due`` is the decode step at which the request ends, -1 while not running.
    """

    output: array[int]
    prompt: array[int]
    generated: array[int]
    joined: array[int]
    due: array[int]


@dataclass(slots=True)
class _Chunk:
    rank: int
    request: int
    tokens: int
    prefix: int


class Instance:
    """A server of ``dp`` attention ranks that step together.

    Parameters
    ----------
    env : simpy.Environment
        The clock.
    index : int
        Which instance this is.
    timer : StepTimer
        How long steps take.
    limits : Limits
        What bounds them.
    state : RequestState
        The requests.
    records, steps, gaps : RequestRecorder, ColumnRecorder, ColumnRecorder
        Where requests, steps and inter-token gaps are recorded.
    on_finish : callable
        Told the request when one ends.
    """

    def __init__(
        self,
        env: simpy.Environment,
        index: int,
        timer: StepTimer,
        limits: Limits,
        state: RequestState,
        records: RequestRecorder,
        steps: ColumnRecorder,
        gaps: ColumnRecorder,
        on_finish: Callable[[int], None],
    ) -> None:
        self.env, self.index, self.limits = env, index, limits
        self._timer, self._state, self._records = timer, state, records
        self._steps, self._gaps, self._on_finish = steps, gaps, on_finish
        dp = limits.dp
        self.outstanding = 0
        self._outstanding = [0] * dp
        self._waiting: list[deque[int]] = [deque() for _ in range(dp)]
        self._prefilling: list[list[list[int]]] = [[] for _ in range(dp)]
        self._open_ranks: set[int] = set()
        self._running = np.zeros(dp, dtype=np.int64)
        self._context = np.zeros(dp, dtype=np.int64)
        self._reserved = np.zeros(dp, dtype=np.int64)
        self._sequences = np.zeros(dp, dtype=np.int64)
        self._sequences_total = 0
        self._order: list[list[int]] = [[] for _ in range(dp)]
        self._queued = self._running_total = self._context_total = self._reserved_total = 0
        self._pending = 0
        self._finish_at: dict[int, list[int]] = {}
        self._decode_index = 0
        self._check_at = 1_000_000
        self._fresh: dict[int, float] = {}
        self._paused: dict[int, float] = {}
        self._last_decode = 0.0
        self._work = StepWork()
        self._wake: simpy.Event | None = None
        self.process = env.process(self._run())

    def submit(self, request: int) -> None:
        """Queue a request on the rank with the fewest outstanding ones."""
        rank = min(range(self.limits.dp), key=self._outstanding.__getitem__) if self.limits.dp > 1 else 0
        self._outstanding[rank] += 1
        self.outstanding += 1
        self._waiting[rank].append(request)
        self._open_ranks.add(rank)
        self._queued += 1
        self._pending += 1
        self._records.instance[request] = self.index
        self._records.rank[request] = rank
        if self._wake is not None and not self._wake.triggered:
            self._wake.succeed()

    def _run(self) -> Generator[simpy.Event, None, None]:
        env, limits = self.env, self.limits
        pool = limits.pool * limits.dp
        while True:
            if not self._pending and not self._running_total:
                self._wake = env.event()
                yield self._wake
                self._wake = None
                self._last_decode = env.now
                continue
            start = env.now
            if self._decode_index >= self._check_at:
                self._make_room()
            chunks = self._take_prompts() if self._open_ranks else []
            decodes = self._running_total > 0 and (limits.scheduler == "mixed" or not chunks)
            work = self._fill(chunks, decodes=decodes)
            step = self._timer.time(work)
            use = self._reserved_total * limits.kv_per_token + self._sequences_total * limits.kv_per_sequence
            self._steps.add(_row(self.index, start, work, step, self._queued, use / pool, self._context_total))
            yield env.timeout(step.duration)
            if decodes:
                self._decode(env.now)
            for chunk in chunks:
                self._advance_prompt(chunk, env.now)

    def _take_prompts(self) -> list[_Chunk]:
        """Give every open rank prompt tokens within its budget, admitting waiting requests that fit."""
        chunks: list[_Chunk] = []
        mixed = self.limits.scheduler == "mixed"
        for rank in sorted(self._open_ranks):
            budget = self.limits.token_budget - (int(self._running[rank]) if mixed else 0)
            before = len(chunks)
            for item in self._prefilling[rank]:
                budget -= self._take(chunks, rank, item, budget)
            while budget > 0 and self._waiting[rank] and self._admits(rank, budget, fresh=len(chunks) == before):
                request = self._waiting[rank].popleft()
                self._queued -= 1
                item = [request, 0]
                self._prefilling[rank].append(item)
                self._admit(request, rank)
                budget -= self._take(chunks, rank, item, budget)
            if not self._prefilling[rank]:
                # Nothing fits, or nothing waits: look again when a request ends or arrives.
                self._open_ranks.discard(rank)
        return chunks

    def _admit(self, request: int, rank: int) -> None:
        """Reserve KV memory for a prompt, and look again before its rank could run out."""
        limits, prompt = self.limits, self._state.prompt[request]
        self._reserved[rank] += prompt
        self._reserved_total += prompt
        self._sequences[rank] += 1
        self._sequences_total += 1
        sequences = int(self._sequences[rank])
        left = limits.pool - sequences * limits.kv_per_sequence - int(self._reserved[rank]) * limits.kv_per_token
        soon = self._decode_index + int(left / (sequences * limits.kv_per_token + 1e-9)) - 1
        self._check_at = min(self._check_at, soon)
        if self._records.preemptions[request] == 0:
            self._records.admitted[request] = self.env.now

    def _take(self, chunks: list[_Chunk], rank: int, item: list[int], budget: int) -> int:
        request, done = item
        tokens = min(self._state.prompt[request] - done, budget)
        if tokens > 0:
            chunks.append(_Chunk(rank, request, tokens, done))
            item[1] = done + tokens
        return max(tokens, 0)

    def _admits(self, rank: int, budget: int, *, fresh: bool) -> bool:
        """Whether the next waiting request of a rank fits its batch, its step and its KV pool."""
        limits = self.limits
        prompt = self._state.prompt[self._waiting[rank][0]]
        if self._sequences[rank] >= limits.max_running:
            return False
        if not limits.chunked and prompt > budget and not (fresh and budget >= limits.token_budget):
            return False
        sequences = int(self._sequences[rank]) + 1
        # Beside the prompt, every sequence needs room for the token that it decodes next.
        need = (int(self._reserved[rank]) + prompt + sequences) * limits.kv_per_token
        return need + sequences * limits.kv_per_sequence <= limits.pool

    def _fill(self, chunks: list[_Chunk], *, decodes: bool) -> StepWork:
        """Describe the step by its busiest rank and its totals."""
        work, running = self._work, self._running
        work.running = self._running_total
        work.decode_total = self._running_total if decodes else 0
        if self.limits.dp == 1:
            rank, work.decode_rows = 0, work.decode_total
        else:
            rank = int(self._context.argmax())
            work.decode_rows = int(running[rank]) if decodes else 0
        work.decode_context = float(self._context[rank]) / work.decode_rows + 1.0 if work.decode_rows else 0.0
        if not chunks:
            work.prompt_rows = work.prompt_sequences = work.prompt_total = 0
            work.rows = work.decode_total if self.limits.dp == 1 else int(running.max())
            work.logits = work.rows
            return work
        tokens = np.bincount([c.rank for c in chunks], [c.tokens for c in chunks], minlength=self.limits.dp)
        rows = tokens + (running if decodes else 0)
        busiest = int(tokens.argmax())
        own = [c for c in chunks if c.rank == busiest]
        work.rows = int(rows.max())
        work.prompt_rows = int(tokens[busiest])
        work.prompt_sequences = len(own)
        work.prompt_prefix = sum(c.prefix * c.tokens for c in own) / max(work.prompt_rows, 1)
        work.prompt_total = sum(c.tokens for c in chunks)
        work.logits = len(own) + work.decode_rows
        return work

    def _decode(self, now: float) -> None:
        """Every running request gains one token; those that are done leave."""
        self._decode_index += 1
        running = self._running
        if self._running_total > len(self._fresh):
            self._gaps.add((now - self._last_decode, self._running_total - len(self._fresh), now))
        for since in self._fresh.values():
            self._gaps.add((now - since, 1, now))
        self._fresh.clear()
        self._last_decode = now
        self._context += running
        self._reserved += running
        self._context_total += self._running_total
        self._reserved_total += self._running_total
        for request in self._finish_at.pop(self._decode_index, ()):
            if self._state.due[request] == self._decode_index:
                self._leave(request)
                self._finish(request, now)

    def _advance_prompt(self, chunk: _Chunk, now: float) -> None:
        """Finish a chunk; the last of a prompt emits a token and the request joins the batch."""
        request, rank, state = chunk.request, chunk.rank, self._state
        prompt = state.prompt[request]
        if chunk.prefix + chunk.tokens < prompt:
            return
        self._prefilling[rank] = [item for item in self._prefilling[rank] if item[0] != request]
        self._pending -= 1
        state.generated[request] += 1
        if state.generated[request] == 1:
            self._records.first_token[request] = now
        else:
            self._gaps.add((now - self._paused.pop(request), 1, now))
        remaining = state.output[request] - state.generated[request]
        state.joined[request] = self._decode_index
        state.due[request] = self._decode_index + remaining
        self._running[rank] += 1
        self._running_total += 1
        self._context[rank] += prompt
        self._context_total += prompt
        if remaining == 0:
            self._leave(request)
            self._finish(request, now)
            return
        self._finish_at.setdefault(self._decode_index + remaining, []).append(request)
        self._fresh[request] = now
        order = self._order[rank]
        order.append(request)
        if len(order) > 64 + 4 * int(self._running[rank]):
            self._order[rank] = [r for r in order if state.due[r] >= 0 and self._records.rank[r] == rank]

    def _leave(self, request: int) -> None:
        """Take a running request out of the batch and free its KV cache."""
        state, rank = self._state, self._records.rank[request]
        held = state.prompt[request] + self._decode_index - state.joined[request]
        state.due[request] = -1
        self._running[rank] -= 1
        self._running_total -= 1
        self._sequences[rank] -= 1
        self._sequences_total -= 1
        self._context[rank] -= held
        self._context_total -= held
        self._reserved[rank] -= held
        self._reserved_total -= held
        if self._waiting[rank]:
            self._open_ranks.add(rank)

    def _finish(self, request: int, now: float) -> None:
        self._records.finish[request] = now
        self._outstanding[self._records.rank[request]] -= 1
        self.outstanding -= 1
        self._on_finish(request)

    def _make_room(self) -> None:
        """Preempt the youngest requests of ranks whose next decode step would overflow the pool."""
        each = self.limits.kv_per_token
        for rank in np.flatnonzero(self._left() < self._running * each).tolist():
            while self._left()[rank] < self._running[rank] * each and self._sequences[rank] > 1:
                self._preempt(rank)
        growth = np.maximum(self._sequences * each, 1e-9)
        self._check_at = self._decode_index + max(int(min(float((self._left() / growth).min()), 1e6)) - 1, 1)

    def _left(self) -> NDArray[np.float64]:
        """KV memory that is free on each rank, shape (dp,) [bytes]."""
        limits = self.limits
        left: NDArray[np.float64] = (
            limits.pool - self._reserved * limits.kv_per_token - self._sequences * limits.kv_per_sequence
        )
        return left

    def _preempt(self, rank: int) -> None:
        """Put the youngest request of a rank back at the head of its queue, to be computed again from the start."""
        request = self._drop_prompt(rank) if self._prefilling[rank] else self._drop_running(rank)
        self._records.preemptions[request] += 1
        self._waiting[rank].appendleft(request)
        self._queued += 1
        # The freed memory is for those that stay: admit again only when one of them ends.
        if not self._prefilling[rank]:
            self._open_ranks.discard(rank)

    def _drop_prompt(self, rank: int) -> int:
        request = self._prefilling[rank].pop()[0]
        prompt = self._state.prompt[request]
        self._reserved[rank] -= prompt
        self._reserved_total -= prompt
        self._sequences[rank] -= 1
        self._sequences_total -= 1
        return request

    def _drop_running(self, rank: int) -> int:
        state, order = self._state, self._order[rank]
        request = order.pop()
        while state.due[request] < 0 or self._records.rank[request] != rank:
            request = order.pop()
        emitted = self._decode_index - state.joined[request]
        self._leave(request)
        state.generated[request] += emitted
        state.prompt[request] += emitted + 1
        self._paused[request] = self._fresh.pop(request, self._last_decode)
        self._pending += 1
        return request


def _row(
    index: int, start: float, work: StepWork, step: StepTime, queued: int, kv_use: float, context: int
) -> tuple[float, ...]:
    """One row of ``STEP_COLUMNS``."""
    return (
        index,
        start,
        step.duration,
        work.rows,
        work.decode_rows,
        work.prompt_total,
        work.decode_total,
        work.logits,
        step.attention,
        step.prompt_projections,
        step.experts,
        step.wait,
        step.gap,
        step.imbalance,
        queued,
        work.running,
        kv_use,
        context if work.decode_total else 0,
    )
