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

from simulator.metrics.recorder import ColumnRecorder, RequestRecorder
from simulator.serving.batch import Batch
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
        self._prefilling: list[deque[list[int]]] = [deque() for _ in range(dp)]
        self._open_ranks: set[int] = set()
        self._batch = Batch(dp)
        self._order: list[list[int]] = [[] for _ in range(dp)]
        self._queued = self._pending = 0
        self._finish_at: dict[int, list[int]] = {}
        self._check_at = 1_000_000
        self._fresh: dict[int, float] = {}
        self._paused: dict[int, float] = {}
        self._last_decode = 0.0
        self._work = StepWork()
        self._wake: simpy.Event | None = None
        self.process = env.process(self._run())

    def submit(self, request: int) -> None:
        """Queue a request on the rank with the fewest outstanding ones."""
        rank = self._outstanding.index(min(self._outstanding))
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
        env, limits, batch = self.env, self.limits, self._batch
        prompts_alone = limits.scheduler == "prefill_first"
        per_token, per_sequence = (
            each / (limits.pool * limits.dp) for each in (limits.kv_per_token, limits.kv_per_sequence)
        )
        now = env.now
        while True:
            if not self._pending and not batch.running:
                self._wake = env.event()
                yield self._wake
                self._wake = None
                self._last_decode = now = env.now
                continue
            if batch.index >= self._check_at:
                self._make_room()
            chunks = self._take_prompts() if self._open_ranks else []
            decodes = batch.running > 0 and not (prompts_alone and chunks)
            work = self._fill(chunks, decodes=decodes)
            step = self._timer.time(work)
            context = batch.context
            use = (context + batch.prompts) * per_token + batch.held * per_sequence
            self._steps.add(_row(self.index, now, work, step, self._queued, use, context))
            yield env.timeout(step.duration)
            now = env.now
            if decodes:
                self._decode(now)
            for chunk in chunks:
                self._advance_prompt(chunk, now)

    def _take_prompts(self) -> list[_Chunk]:
        """Give every open rank prompt tokens within its budget, admitting waiting requests that fit."""
        chunks: list[_Chunk] = []
        mixed = self.limits.scheduler == "mixed"
        for rank in sorted(self._open_ranks):
            budget = self.limits.token_budget - (self._batch.rows[rank] if mixed else 0)
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
        limits, batch, prompt = self.limits, self._batch, self._state.prompt[request]
        batch.admit(rank, prompt)
        growth = batch.sequences[rank] * limits.kv_per_token
        soon = batch.index + int(self._left(rank) / (growth + 1e-9)) - 1
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
        sequences = self._batch.sequences[rank] + 1
        if sequences > limits.max_running:
            return False
        if not limits.chunked and prompt > budget and not (fresh and budget >= limits.token_budget):
            return False
        # Beside the prompt, every sequence needs room for the token that it decodes next.
        need = (self._batch.tokens_on(rank) + prompt + sequences) * limits.kv_per_token
        return need + sequences * limits.kv_per_sequence <= limits.pool

    def _fill(self, chunks: list[_Chunk], *, decodes: bool) -> StepWork:
        """Describe the step by its busiest rank and its totals."""
        work, batch = self._work, self._batch
        work.running = batch.running
        work.decode_total = work.decode_rows = 0
        if decodes:
            work.decode_total = batch.running
            work.decode_rows, context = batch.longest()
            work.decode_context = context / work.decode_rows + 1.0
        if not chunks:
            work.prompt_rows = work.prompt_sequences = work.prompt_total = 0
            work.rows = work.logits = batch.most_rows if decodes else 0
            return work
        tokens: dict[int, int] = {}
        for chunk in chunks:
            tokens[chunk.rank] = tokens.get(chunk.rank, 0) + chunk.tokens
        busiest = max(tokens, key=tokens.__getitem__)
        own = [chunk for chunk in chunks if chunk.rank == busiest]
        work.rows = max(tokens.values())
        if decodes:
            work.rows = max(batch.most_rows, max(count + batch.rows[rank] for rank, count in tokens.items()))
        work.prompt_rows = tokens[busiest]
        work.prompt_sequences = len(own)
        work.prompt_prefix = sum(chunk.prefix * chunk.tokens for chunk in own) / work.prompt_rows
        work.prompt_total = sum(tokens.values())
        work.logits = len(own) + work.decode_rows
        return work

    def _decode(self, now: float) -> None:
        """Every running request gains one token; those that are done leave."""
        batch, fresh = self._batch, self._fresh
        batch.step()
        if batch.running > len(fresh):
            self._gaps.add((now - self._last_decode, batch.running - len(fresh), now))
        if fresh:
            for since in fresh.values():
                self._gaps.add((now - since, 1, now))
            fresh.clear()
        self._last_decode = now
        for request in self._finish_at.pop(batch.index, ()):
            if self._state.due[request] == batch.index:
                self._leave(request)
                self._finish(request, now)

    def _advance_prompt(self, chunk: _Chunk, now: float) -> None:
        """Finish a chunk; the last of a prompt emits a token and the request joins the batch."""
        request, rank, state, batch = chunk.request, chunk.rank, self._state, self._batch
        prompt = state.prompt[request]
        if chunk.prefix + chunk.tokens < prompt:
            return
        self._prefilling[rank].popleft()
        self._pending -= 1
        state.generated[request] += 1
        if state.generated[request] == 1:
            self._records.first_token[request] = now
        else:
            self._gaps.add((now - self._paused.pop(request), 1, now))
        remaining = state.output[request] - state.generated[request]
        state.joined[request] = batch.index
        state.due[request] = batch.index + remaining
        batch.join(rank, prompt)
        if remaining == 0:
            self._leave(request)
            self._finish(request, now)
            return
        self._finish_at.setdefault(batch.index + remaining, []).append(request)
        self._fresh[request] = now
        order = self._order[rank]
        order.append(request)
        if len(order) > 64 + 4 * batch.rows[rank]:
            self._order[rank] = [r for r in order if state.due[r] >= 0 and self._records.rank[r] == rank]

    def _leave(self, request: int) -> None:
        """Take a running request out of the batch and free its KV cache."""
        state, rank, batch = self._state, self._records.rank[request], self._batch
        state.due[request] = -1
        batch.leave(rank, state.prompt[request] + batch.index - state.joined[request])
        if self._waiting[rank]:
            self._open_ranks.add(rank)

    def _finish(self, request: int, now: float) -> None:
        self._records.finish[request] = now
        self._outstanding[self._records.rank[request]] -= 1
        self.outstanding -= 1
        self._on_finish(request)

    def _make_room(self) -> None:
        """Preempt the youngest requests of ranks whose next decode step would overflow the pool."""
        each, batch = self.limits.kv_per_token, self._batch
        spare = 1e6
        for rank, sequences in enumerate(batch.sequences):
            while self._left(rank) < batch.rows[rank] * each and batch.sequences[rank] > 1:
                self._preempt(rank)
            if sequences:
                spare = min(spare, self._left(rank) / max(batch.sequences[rank] * each, 1e-9))
        self._check_at = batch.index + max(int(spare) - 1, 1)

    def _left(self, rank: int) -> float:
        """KV memory that is free on a rank [bytes]."""
        limits, batch = self.limits, self._batch
        taken = batch.tokens_on(rank) * limits.kv_per_token + batch.sequences[rank] * limits.kv_per_sequence
        return limits.pool - taken

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
        self._batch.drop(rank, self._state.prompt[request])
        return request

    def _drop_running(self, rank: int) -> int:
        state, order = self._state, self._order[rank]
        request = order.pop()
        while state.due[request] < 0 or self._records.rank[request] != rank:
            request = order.pop()
        emitted = self._batch.index - state.joined[request]
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
