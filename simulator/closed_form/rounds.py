"""Closed loops whose answers have one length: requests start together, stay together and end together, in rounds.

Where endings are not independent, as the fixed point of ``steady.py`` takes them to be, but fall on the same steps for
ever, the rounds are followed themselves: their steps with prompts one by one, and all decode steps in between at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np

from simulator.arrays import FloatArray
from simulator.closed_form.load import Load
from simulator.closed_form.schedulers import STEADY_SCHEDULERS
from simulator.closed_form.steps import MeanStep, MeanTimer, columns
from simulator.deployment.deployment import Deployment
from simulator.deployment.limits import Limits
from simulator.step.work import StepWork

#: Rounds that are followed before anything is counted, in which groups of requests find their places (mixed steps take
#: up to a dozen), and those that are counted [1].
_SETTLING, _COUNTED = 16, 4
#: Parts of the routing trace over which equal decode steps are averaged [1].
_WINDOWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What the rounds of one instance come to.

    ``running`` is the mean batch of a decode step, 0 where there is none [1]; ``ttft_s`` and ``e2el_s`` are means [s];
    ``rate`` is in requests per second; ``steps`` holds different steps in ``STEP_COLUMNS``, such without prompts first,
    and ``weights`` how many of each there are per second [1/s].
    """

    running: float
    ttft_s: float
    e2el_s: float
    rate: float
    steps: dict[str, FloatArray]
    weights: FloatArray


def keeps_step(limits: Limits, load: Load) -> bool:
    """Whether requests of such a load stay in lock step: a closed loop of equal answers for which there is memory."""
    if not load.in_lock_step:
        return False
    whole = limits.kv_per_sequence + (max(load.prompts) + load.outputs) * limits.kv_per_token
    # Where admission reserves whole answers, those that do not fit wait; otherwise they would be preempted.
    return limits.reserved_output >= 1.0 or math.ceil(load.concurrency / limits.dp) * whole <= limits.pool


def play_rounds(deployment: Deployment, load: Load) -> Rounds:
    """Follow the busiest rank of an instance through its rounds.

    Parameters
    ----------
    deployment : Deployment
        What prices steps and bounds them.
    load : Load
        A closed loop of equal answers.

    Notes
    -----
    All ranks are taken to do at the same time what the busiest does. Prompts have one length, the mean on the rank with
    most prompt tokens in a round. Where instances cannot have equally many requests, some have one more than others,
    and the mean of both is taken.
    """
    few, more = math.floor(load.concurrency), load.concurrency % 1.0
    kinds = [
        (share, _played(deployment, load, each)) for share, each in ((1.0 - more, few), (more, few + 1)) if share * each
    ]
    rate = sum(share * kind.rate for share, kind in kinds)
    return Rounds(
        running=sum(share * kind.running for share, kind in kinds),
        ttft_s=sum(share * kind.rate * kind.ttft_s for share, kind in kinds) / rate,
        e2el_s=sum(share * kind.rate * kind.e2el_s for share, kind in kinds) / rate,
        rate=rate,
        steps={name: np.concatenate([kind.steps[name] for _, kind in kinds]) for name in kinds[0][1].steps},
        weights=np.concatenate([share * kind.weights for share, kind in kinds]),
    )


def _played(deployment: Deployment, load: Load, requests: int) -> Rounds:
    """Follow the rounds of an instance with so many requests."""
    rank = _Rank(deployment, load, requests)
    while rank.answered < rank.settled + _COUNTED * rank.requests:
        rank.step()
    return rank.rounds()


@dataclass(slots=True)
class _Prompts:
    """Equal prompts of one arrival time [s] in order: how many are left, and how much of the first is computed."""

    count: int
    arrival: float
    done: int = 0


@dataclass(slots=True)
class _Late:
    """What users have not got yet: from which step on they do, the first token or the last, of how many requests."""

    step: int
    what: Literal["first", "last"]
    count: int
    arrival: float


@dataclass(slots=True)
class _Counts:
    """Latencies of requests in order [s], each so many times."""

    values: list[tuple[int, float]] = field(default_factory=list)

    def mean(self, begin: int, end: int) -> float:
        """Mean of the requests from one to another [s]."""
        counts, values = np.array(self.values).T
        upto = np.cumsum(counts)
        return float(np.average(values, weights=np.diff(np.clip(upto, begin, end), prepend=begin)))


def _busiest_prompt(limits: Limits, load: Load, requests: int) -> float:
    """Mean length of the prompts of a round on the rank where that is longest [tokens].

    The largest of ``dp`` sums of so many lengths, taken to be normal; its order statistic by Blom's formula.
    """
    deviations = NormalDist().inv_cdf((limits.dp - 0.375) / (limits.dp + 0.25))
    spread = float(np.std(load.prompts)) / math.sqrt(requests)
    return min(load.inputs + max(deviations, 0.0) * spread, max(load.prompts))


class _Rank:
    """One rank with its share of the requests, advanced step by step."""

    def __init__(self, deployment: Deployment, load: Load, requests: int) -> None:
        limits = self._limits = deployment.limits
        self._timer, self._policy = MeanTimer(deployment), STEADY_SCHEDULERS[limits.scheduler]
        self._load, self._frontend = load, deployment.stack.number("frontend")
        self._decodes = round(load.decodes)
        self.requests = math.ceil(requests / limits.dp)
        self._prompt = max(round(_busiest_prompt(limits, load, self.requests)), 1)
        # Requests of all ranks per request of the busiest, and prompt tokens likewise.
        self._all = requests / self.requests
        self._all_tokens = self._all * load.inputs / self._prompt
        self._most = min(limits.max_running, self._fitting())
        self._now, self._index, self._decoded = 0.0, 0, 0
        self._coming = deque([(self._frontend, self.requests, 0.0)])
        self._waiting: deque[_Prompts] = deque()
        # Requests that decode: the decode step after which they end, how many, and when they arrived.
        self._running: deque[tuple[int, int, float]] = deque()
        self._decoding = 0
        self._context = 0.0
        self._late: deque[_Late] = deque()
        self.answered = 0
        # Answers before anything is counted.
        self.settled = _SETTLING * self.requests
        self._rounds = 0
        # States in which rounds began: which round that was, and where in the routing trace.
        self._states: dict[tuple[object, ...], tuple[int, tuple[int, int]]] = {}
        self._first, self._last = _Counts(), _Counts()
        self._steps: list[tuple[MeanStep, int]] = []
        # Where counting begins: the time [s], the steps so far, and the requests answered.
        self._begin: tuple[float, int, int] | None = None

    def _fitting(self) -> int:
        limits, load = self._limits, self._load
        whole = limits.kv_per_sequence + (load.inputs + load.outputs) * limits.kv_per_token
        return max(int(limits.pool / whole), 1) if whole > 0.0 else limits.max_running

    def step(self) -> None:
        """Take one step with prompts, or all decode steps until something else happens."""
        self._arrive()
        if not self._waiting and not self._running:
            if self._late:
                self._deliver(everything=True)
            else:
                self._now = max(self._now, self._coming[0][0])
            return
        chunks, done = self._chunks()
        if chunks:
            self._prefill(chunks, done)
        else:
            self._decode()
        self._deliver()

    def _arrive(self) -> None:
        while self._coming and self._coming[0][0] <= self._now:
            _, count, started = self._coming.popleft()
            self._waiting.append(_Prompts(count, started))

    def _chunks(self) -> tuple[list[tuple[int, int]], list[tuple[int, float]]]:
        """Give prompts the budget of a step: chunks as tokens and prefix, and who is done as count and arrival."""
        budget = int(self._policy.budget(self._limits, float(self._decoding)))
        chunks: list[tuple[int, int]] = []
        done: list[tuple[int, float]] = []
        places = self._most - self._decoding
        while budget > 0 and self._waiting and places > 0:
            prompts = self._waiting[0]
            rest = self._prompt - prompts.done
            whole = self._limits.chunked or rest <= budget or (not chunks and budget >= self._limits.token_budget)
            if not whole:
                break
            tokens = min(rest, budget)
            chunks.append((tokens, prompts.done))
            budget -= tokens
            prompts.done += tokens
            if tokens < rest:
                break
            places -= 1
            alike = done.pop()[0] if done and done[-1][1] == prompts.arrival else 0
            done.append((alike + 1, prompts.arrival))
            prompts.count, prompts.done = prompts.count - 1, 0
            if not prompts.count:
                self._waiting.popleft()
        return chunks, done

    def _prefill(self, chunks: Sequence[tuple[int, int]], done: Sequence[tuple[int, float]]) -> None:
        decoding = round(self._policy.decoding(self._decoding))
        self._take(self._timer.time(self._work(chunks, decoding)), 1, decoding)
        for count, arrival in done:
            self._late.append(_Late(self._index + self._limits.delivery_steps, "first", count, arrival))
            self._join(count, arrival)

    def _decode(self) -> None:
        """Decode until the first requests end, others come, or users get what is late."""
        most = self._running[0][0] - self._decoded
        if self._late:
            most = min(most, max(self._late[0].step - self._index, 1))
        step = self._timer.time(self._work((), self._decoding, ahead=(most - 1) / 2), min(most, _WINDOWS))
        count = most
        if self._coming and self._decoding < self._most:
            count = min(most, max(math.ceil((self._coming[0][0] - self._now) / step.duration), 1))
        self._take(step, count, self._decoding)

    def _take(self, step: MeanStep, count: int, decoding: int) -> None:
        """Let so many equal steps pass; those that decode in them and are done leave."""
        self._now += count * step.duration
        self._index += count
        self._steps.append((step, count))
        if not decoding:
            return
        self._decoded += count
        self._context += count * self._decoding
        while self._running and self._running[0][0] == self._decoded:
            _, ended, arrival = self._running.popleft()
            self._decoding -= ended
            self._context -= ended * (self._prompt + self._decodes)
            self._late.append(_Late(self._index + self._limits.delivery_steps, "last", ended, arrival))

    def _join(self, count: int, arrival: float) -> None:
        if not self._decodes:
            self._late.append(_Late(self._index + self._limits.delivery_steps, "last", count, arrival))
            return
        self._running.append((self._decoded + self._decodes, count, arrival))
        self._decoding += count
        self._context += count * self._prompt

    def _deliver(self, *, everything: bool = False) -> None:
        """Let users have what is due; one who has an answer sends the next request."""
        while self._late and (everything or self._late[0].step <= self._index):
            late = self._late.popleft()
            (self._first if late.what == "first" else self._last).values.append((late.count, self._now - late.arrival))
            if late.what == "last":
                self._coming.append((self._now + self._frontend, late.count, self._now))
                self.answered += late.count
        if self._begin is None:
            self._settle()

    def _settle(self) -> None:
        """Begin to count where rounds have settled; do not follow rounds that repeat others, but go past their tokens.

        A state that has been there before comes back after as many rounds again, whatever the tokens of the trace ask.
        """
        begun = self.answered // self.requests
        if begun > self._rounds and self.answered < self.settled:
            self._rounds = begun
            before, places = self._states.setdefault(self._state(), (begun, self._timer.places))
            if before < begun:
                times = (_SETTLING - begun) // (begun - before)
                self.settled -= times * (begun - before) * self.requests
                now = self._timer.places
                self._timer.places = now[0] + times * (now[0] - places[0]), now[1] + times * (now[1] - places[1])
                # What is left of the settling rounds is followed.
                self._rounds = _SETTLING
        if self.answered >= self.settled:
            self._begin = (self._now, len(self._steps), self.answered)

    def _state(self) -> tuple[object, ...]:
        """Return all that the next steps depend on but times: who is where, and after how many steps goes on."""
        return (
            self.answered % self.requests,
            tuple((prompts.count, prompts.done) for prompts in self._waiting),
            tuple((end - self._decoded, count) for end, count, _ in self._running),
            tuple((late.step - self._index, late.what, late.count) for late in self._late),
            tuple(count for _, count, _ in self._coming),
        )

    def _work(self, chunks: Sequence[tuple[int, int]], decoding: int, ahead: float = 0.0) -> StepWork:
        """Describe a step, or the middle of several that are so many steps ahead."""
        work = StepWork(query_tokens=self._limits.query_tokens)
        own = sum(tokens for tokens, _ in chunks)
        if decoding:
            context = self._context / decoding + ahead + work.query_tokens
            work.set_decode(running=round(decoding * self._all), most=decoding, sequences=decoding, context=context)
        else:
            work.clear(running=round(self._decoding * self._all))
        if chunks:
            work.add_prompts(
                rows=work.rows + own,
                prompt_rows=own,
                sequences=len(chunks),
                prefix=sum(tokens * prefix for tokens, prefix in chunks) / own,
                total=round(own * self._all_tokens),
            )
        return work

    def rounds(self) -> Rounds:
        """Condense the rounds that are counted."""
        begin, first, answered = self._begin or (0.0, 0, 0)
        counted = sorted(self._steps[first:], key=lambda step: step[0].prompts)
        span = self._now - begin
        counts = np.array([count for _, count in counted], dtype=np.float64)
        steps = columns(step for step, _ in counted)
        decoding = counts * (steps["decode_total"] > 0)
        return Rounds(
            running=float(decoding @ steps["decode_total"] / max(decoding.sum(), 1e-9)),
            ttft_s=self._first.mean(answered, self.answered),
            e2el_s=self._last.mean(answered, self.answered),
            rate=(self.answered - answered) * self._all / span,
            steps=steps,
            weights=counts / span,
        )
