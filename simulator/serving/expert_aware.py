"""Serving a model whose router runs before the step: batches are made of requests that need the same experts.

Because the router has named the expert of every token that is ready, a scheduler may put tokens of one expert into a
step and leave the others for later; the step then reads fewer weights. All running requests advance together in the
engine of :mod:`simulator.serving.instance`; here each advances when its expert's turn comes.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import simpy
from numpy.typing import NDArray

from simulator.arrays import FloatArray, IntArray
from simulator.cost.model import CostModel
from simulator.errors import ScenarioError, nearest
from simulator.offload.pregated_cost import PregatedCosts
from simulator.parallelism import Parallelism
from simulator.step.tables import compile_tables
from simulator.step.timer import TableTimer
from simulator.step.totals import row_totals
from simulator.step.work import StepWork
from workloads.requests.trace import RequestTrace
from workloads.routing.trace import RoutingTrace

Batching = Literal["decode_first", "prompt_first", "expert_aware"]
Opening = Literal["one", "worthwhile", "all"]
BATCHINGS: tuple[Batching, ...] = get_args(Batching)
OPENINGS: tuple[Opening, ...] = get_args(Opening)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestExperts:
    """The expert of every token of every request, prompt and answer.

    Attributes
    ----------
    ids : int64 array, shape (tokens,)
        Experts, request after request.
    start : int64 array, shape (requests,)
        First token of each request.
    run_end : int64 array, shape (tokens,)
        For each token the end of its run: the first later token of the request with another expert, or its end.
    """

    ids: IntArray
    start: IntArray
    run_end: IntArray
    num_experts: int


def request_experts(requests: RequestTrace, routing: RoutingTrace) -> RequestExperts:
    """Deal the tokens of a routing trace out to requests, in order and from its beginning again where it ends.

    Raises
    ------
    ScenarioError
        The trace has several layers or several experts per token: a pre-gating router names one for all layers.
    """
    if routing.layers != 1 or routing.top_k != 1 or routing.padded:
        raise ScenarioError(
            f"routing trace {routing.source}: {routing.layers} layers, top-{routing.top_k}; a router before the step "
            "names one expert for all layers of a token"
        )
    lengths = (requests.input_tokens + requests.output_tokens).astype(np.int64)
    end = np.cumsum(lengths)
    ids = np.resize(routing.expert_ids[:, 0, 0].astype(np.int64), int(end[-1]))
    changes = np.append(ids[1:] != ids[:-1], True)
    changes[end - 1] = True
    at = np.flatnonzero(changes)
    run_end = at[np.searchsorted(at, np.arange(len(ids)))] + 1
    return RequestExperts(ids=ids, start=end - lengths, run_end=run_end, num_experts=routing.num_experts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PregatedLimits:
    """What bounds the server.

    Attributes
    ----------
    token_budget : int
        Tokens of one step [tokens].
    max_running : int
        Requests that hold KV cache at once [1].
    opening : {"one", "worthwhile", "all"}
        ``expert_aware``: whether a step takes the longest queue alone, goes on to the next as long as that serves more
        requests per time than the step does so far (one with prompts always goes on), or as long as the budget lasts.
    patience : int
        ``expert_aware``: steps that a ready request waits before it goes first whatever its expert [1].
    resident : int or None
        Experts that the device holds; all where absent [1].
    lookahead : bool
        Whether missing experts are fetched while the step before runs, which the router before the step allows.
    """

    token_budget: int
    max_running: int
    opening: Opening = "all"
    patience: int = 8
    resident: int | None = None
    lookahead: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PregatedRun:
    """What became of the requests, and the steps.

    Attributes
    ----------
    arrival, first_token, finish : float64 array, shape (requests,)
        Times [s].
    start, duration, tokens, experts, fetched, stall : array, shape (steps,)
        Of each step: when it began and how long it took [s], its tokens [tokens], experts that ran and that were
        fetched [1], and how long it waited for them, which ``duration`` includes [s].
    """

    arrival: FloatArray
    first_token: FloatArray
    finish: FloatArray
    start: FloatArray
    duration: FloatArray
    tokens: IntArray
    experts: IntArray
    fetched: IntArray
    stall: FloatArray

    @property
    def latency(self) -> FloatArray:
        """From arrival to the last token, shape (requests,) [s]."""
        return self.finish - self.arrival


class PregatedTimer:
    """Times steps whose tokens by expert are known.

    Parameters
    ----------
    cost : CostModel
        Kernels of the device.
    costs : PregatedCosts
        Prices of experts and router.
    limits : PregatedLimits
        Largest step and batch.
    longest : int
        Longest request [tokens].
    """

    def __init__(self, cost: CostModel, costs: PregatedCosts, limits: PregatedLimits, longest: int) -> None:
        tables = compile_tables(
            cost,
            costs.backbone,
            Parallelism(),
            None,
            most_tokens=limits.token_budget,
            most_sequences=min(limits.max_running, limits.token_budget),
            most_context=longest,
        )
        totals = row_totals(tables, cost.stack)
        self._timer = TableTimer(tables, totals, None, cost.stack)
        self._expert: list[float] = costs.expert.tolist()
        self._router: list[float] = costs.router.tolist()
        self._padded = totals.padded

    def expert(self, tokens: int) -> float:
        """Return the time of one expert for so many tokens [s]."""
        return self._expert[tokens]

    def time(self, work: StepWork, tokens_by_expert: IntArray) -> float:
        """Return the duration of a step without any wait for experts [s]."""
        rows = work.rows if work.prompt_total else int(self._padded[work.rows])
        experts: float = sum(self._expert[tokens] for tokens in tokens_by_expert.tolist())
        return self._timer.time(work).duration - self._expert[rows] + experts + self._router[work.rows]


def serve_pregated(
    requests: RequestTrace,
    experts: RequestExperts,
    timer: PregatedTimer,
    limits: PregatedLimits,
    batching: Batching,
    *,
    fetch: float = 0.0,
) -> PregatedRun:
    """Play requests through one server.

    Parameters
    ----------
    requests : RequestTrace
        An open loop.
    experts : RequestExperts
        What the router says of every token.
    timer : PregatedTimer
        How long steps take.
    limits : PregatedLimits
        What bounds them.
    batching : {"decode_first", "prompt_first", "expert_aware"}
        Who is in a step: requests that answer and then prompts; prompts and then requests that answer; or the longest
        queue of tokens that need the same expert, and so on.
    fetch : float
        Time to bring an expert that is not resident [s].

    Returns
    -------
    PregatedRun

    Raises
    ------
    ScenarioError
        A limit is not positive, the loop is closed, or the batching is unknown.
    """
    if batching not in BATCHINGS:
        raise ScenarioError(f"batching: unknown {batching!r}; {nearest(batching, BATCHINGS)}")
    if limits.opening not in OPENINGS:
        raise ScenarioError(f"opening: unknown {limits.opening!r}; {nearest(limits.opening, OPENINGS)}")
    if requests.concurrency is not None:
        raise ScenarioError("expert-aware batching: requests of a closed loop are not supported; give arrivals")
    for name in ("token_budget", "max_running", "patience", "resident"):
        value = getattr(limits, name)
        if value is not None and value < 1:
            raise ScenarioError(f"expert-aware batching: {name}: got {value}, expected at least 1")
    env = simpy.Environment()
    server = _Server(env, requests, experts, timer, limits, batching, fetch)
    env.run(until=server.process)
    steps = np.array(server.steps, dtype=np.float64).reshape(-1, 6).T
    return PregatedRun(
        arrival=requests.arrival,
        first_token=server.first_token,
        finish=server.finish,
        start=steps[0],
        duration=steps[1],
        tokens=steps[2].astype(np.int64),
        experts=steps[3].astype(np.int64),
        fetched=steps[4].astype(np.int64),
        stall=steps[5],
    )


class _Server:
    """The running requests as columns, and the loop that advances them.

    ``at`` is the next token of a request to be computed, in the numbering of the experts; a request is in its prompt
    while that lies before ``prompt_end``, and done when it reaches ``end``: the last answer token is emitted, not read.
    """

    def __init__(
        self,
        env: simpy.Environment,
        requests: RequestTrace,
        experts: RequestExperts,
        timer: PregatedTimer,
        limits: PregatedLimits,
        batching: Batching,
        fetch: float,
    ) -> None:
        self._env, self._requests, self._experts, self._timer = env, requests, experts, timer
        self._limits, self._batching, self._fetch = limits, batching, fetch
        count = len(requests)
        self._at = experts.start.copy()
        self._prompt_end = experts.start + requests.input_tokens
        self._end = self._prompt_end + requests.output_tokens - 1
        self._since = np.zeros(count, dtype=np.int64)
        self._running = np.zeros(0, dtype=np.int64)
        self._arrived = self._admitted = self._done = 0
        self.first_token, self.finish = np.full((2, count), np.nan)
        resident = limits.resident or experts.num_experts
        self._resident: list[int] = list(range(min(resident, experts.num_experts)))
        # What the step before took beside its experts [s].
        self._rest = 0.0
        self.steps: list[tuple[float, ...]] = []
        self.process = env.process(self._run())

    def _run(self) -> Generator[simpy.Event, None, None]:
        env, arrival, total = self._env, self._requests.arrival, len(self._requests)
        before = 0.0
        while self._done < total:
            self._admit(env.now)
            if not len(self._running):
                yield env.timeout(max(arrival[self._arrived] - env.now, 0.0))
                before = float("inf")
                continue
            taken = self._choose()
            work, by_expert = self._describe(taken)
            missing = self._bring(np.flatnonzero(by_expert))
            load = missing * self._fetch
            stall = max(load - before, 0.0) if self._limits.lookahead else load
            before = self._timer.time(work, by_expert)
            self._rest = before - sum(map(self._timer.expert, by_expert.tolist()))
            self.steps.append((env.now, before + stall, work.rows, int(np.count_nonzero(by_expert)), missing, stall))
            yield env.timeout(before + stall)
            self._advance(taken, env.now)

    def _admit(self, now: float) -> None:
        """Take requests in order of arrival while there is room for their KV cache."""
        self._arrived = max(self._arrived, int(np.searchsorted(self._requests.arrival, now, side="right")))
        new = min(self._arrived - self._admitted, self._limits.max_running - len(self._running))
        if new > 0:
            fresh = np.arange(self._admitted, self._admitted + new)
            self._since[fresh] = len(self.steps)
            self._running = np.concatenate([self._running, fresh])
            self._admitted += new

    def _choose(self) -> tuple[IntArray, IntArray]:
        """Return the requests of the next step and how many tokens each has in it."""
        running, at = self._running, self._at[self._running]
        prompting = at < self._prompt_end[running]
        if self._batching == "expert_aware":
            return self._by_expert(running, at, prompting)
        wanted = np.where(prompting, self._prompt_end[running] - at, 1)
        order = np.argsort(prompting if self._batching == "decode_first" else ~prompting, kind="stable")
        upto = np.cumsum(wanted[order])
        tokens = np.clip(wanted[order] - np.maximum(upto - self._limits.token_budget, 0), 0, None)
        kept = tokens > 0
        return running[order][kept], tokens[kept]

    def _by_expert(self, running: IntArray, at: IntArray, prompting: NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
        """Take queue after queue, the longest first and those that waited too long before all."""
        limits, experts = self._limits, self._experts
        limit = np.where(prompting, self._prompt_end[running], at + 1)
        late = len(self.steps) - self._since[running] >= limits.patience
        tokens, room = np.zeros(len(running), dtype=np.int64), limits.token_budget
        active = np.zeros(experts.num_experts, dtype=bool)
        active[experts.ids[at[late]]] = True
        turns = 0
        # A prompt needs most experts before it is done, and every step that holds a part of it pays its host time anew.
        opening = "all" if limits.opening == "worthwhile" and prompting.any() else limits.opening
        while room > 0:
            place = at + tokens
            left = np.flatnonzero(place < limit)
            if not len(left):
                break
            place = place[left]
            expert = experts.ids[place]
            ready = np.minimum(experts.run_end[place], limit[left]) - place
            going = active[expert]
            if not going.any():
                # Requests are counted, not tokens: else a prompt with a long run would outweigh those that answer.
                queue = np.bincount(expert, minlength=experts.num_experts)
                longest = int(np.argmax(queue))
                if turns and not self._opens(opening, turns, min(int(queue[longest]), room), active):
                    break
                active[longest] = True
                going = expert == longest
            # Those that wait too long before others, then in order of arrival.
            order = np.flatnonzero(going)[np.argsort(~late[left[going]], kind="stable")]
            upto = np.cumsum(ready[order])
            more = np.clip(ready[order] - np.maximum(upto - room, 0), 0, None)
            tokens[left[order]] += more
            room -= int(more.sum())
            turns += int(np.count_nonzero(more))
        kept = tokens > 0
        return running[kept], tokens[kept]

    def _opens(self, opening: Opening, turns: int, more: int, active: NDArray[np.bool_]) -> bool:
        """Whether a step in which so many requests had their turn takes more of them, with a further expert."""
        if opening != "worthwhile":
            return opening == "all"
        opened = int(np.count_nonzero(active))
        so_far = self._rest + opened * self._timer.expert(turns // opened or 1)
        return more * so_far >= turns * self._timer.expert(more)

    def _describe(self, taken: tuple[IntArray, IntArray]) -> tuple[StepWork, IntArray]:
        """Describe a step to the timer: its totals, and its tokens by expert."""
        chosen, tokens = taken
        at, start = self._at[chosen], self._experts.start[chosen]
        prompting = at < self._prompt_end[chosen]
        ends = np.cumsum(tokens)
        every = np.repeat(at - ends + tokens, tokens) + np.arange(int(ends[-1]))
        by_expert = np.bincount(self._experts.ids[every], minlength=self._experts.num_experts)
        work = StepWork(rows=int(ends[-1]), running=len(self._running))
        work.decode_rows = work.decode_total = int(np.count_nonzero(~prompting))
        if work.decode_rows:
            work.decode_context = float((at - start)[~prompting].mean()) + 1.0
        if work.decode_rows < len(chosen):
            own = tokens[prompting]
            work.prompt_rows = work.prompt_total = int(own.sum())
            work.prompt_sequences = len(own)
            work.prompt_prefix = float(((at - start)[prompting] * own).sum() / own.sum())
        work.logits = len(chosen)
        return work, by_expert

    def _bring(self, needed: IntArray) -> int:
        """Make experts resident and return how many were not: those go first that the fewest ready tokens need."""
        wanted = set(needed.tolist())
        missing = [expert for expert in needed.tolist() if expert not in self._resident]
        if missing:
            waiting = np.bincount(self._experts.ids[self._at[self._running]], minlength=self._experts.num_experts)
            room = len(self._resident)
            others = sorted((e for e in self._resident if e not in wanted), key=lambda e: -int(waiting[e]))
            self._resident = [*needed.tolist(), *others][:room]
        return len(missing)

    def _advance(self, taken: tuple[IntArray, IntArray], now: float) -> None:
        chosen, tokens = taken
        prompting = self._at[chosen] < self._prompt_end[chosen]
        self._at[chosen] += tokens
        self._since[chosen] = len(self.steps)
        self.first_token[chosen[prompting & (self._at[chosen] == self._prompt_end[chosen])]] = now
        ended = chosen[self._at[chosen] == self._end[chosen]]
        if len(ended):
            self.finish[ended] = now
            self._done += len(ended)
            self._running = self._running[self._at[self._running] < self._end[self._running]]
