"""Steps as the closed form sees them: priced from the engine's tables, averaged over windows of the routing trace."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import FloatArray
from simulator.closed_form.load import Load, Loads
from simulator.deployment.deployment import Deployment
from simulator.deployment.limits import Limits
from simulator.deployment.prices import PRICES
from simulator.placement.replay import RoutingReplay
from simulator.step.attention import AttentionTimes
from simulator.step.columns import STEP_COLUMNS, step_row
from simulator.step.work import StepTime, StepWork
from workloads.models.spec import Phase

#: Windows of either phase whose experts are remembered, for one deployment [1].
_KNOWN = 1 << 13
_DURATION, _PROMPTS = STEP_COLUMNS.index("duration_s"), STEP_COLUMNS.index("prompt_total")


@dataclass(frozen=True, slots=True)
class MeanStep:
    """The mean of some steps: its row in ``STEP_COLUMNS``."""

    row: tuple[float, ...]

    @property
    def duration(self) -> float:
        """How long it takes [s]."""
        return self.row[_DURATION]

    @property
    def prompts(self) -> bool:
        """Whether it holds prompt tokens."""
        return self.row[_PROMPTS] > 0


class MeanTimer:
    """Times steps as :class:`~simulator.step.timer.TableTimer` does, several windows of the routing trace at once.

    What only the numbers of a step decide is looked up once for all its windows, and what tokens ask of the
    experts is remembered for all loads of the deployment: their solutions begin at the same place of the trace.

    Parameters
    ----------
    deployment : Deployment
        What prices steps and bounds them.

    Attributes
    ----------
    limits : Limits
        What bounds them.
    places : (int, int)
        Where in the trace the next step begins, and all turns before: of prompts, and of decoded tokens [tokens].
    """

    def __init__(self, deployment: Deployment) -> None:
        self.limits = deployment.limits
        self._totals, self._routing, self._tables = deployment.totals, deployment.routing, deployment.tables
        self._pp = deployment.split.pp
        self._timer = deployment.timer()
        self._host = self._timer.host
        self._attention = AttentionTimes(deployment.tables, self._pp)
        # Rounds repeat their prompt chunks: by rows, sequences and prefix.
        self._chunks: dict[tuple[float, float, float], tuple[float, float]] = {}
        self._share = self._routing.mean_load if self._routing is not None else 0.0
        # Where tokens change nothing, all windows are the same.
        self._alike = self._routing is None or self._routing.alike
        key = ("experts of windows", deployment.fingerprint)
        self._known: Mapping[Phase, dict[tuple[int, int, int, int], tuple[float, float, float]]] = PRICES.kept(
            "derived", key, lambda: {"prefill": {}, "decode": {}}
        )
        self.places = 0, 0

    def restart(self) -> None:
        """Go back to the beginning of the trace."""
        self.places = 0, 0

    def time(self, work: StepWork, windows: int = 1) -> MeanStep:
        """Average a step over the next windows of the trace."""
        prompt, decode = -(-work.prompt_total // self._pp), -(-work.decode_total // self._pp)
        if self._timer.takes_series:
            mean = self._mean(work, prompt, decode, windows)
        else:
            mean = self._overlapping(work, windows)
        self.places = self.places[0] + windows * prompt, self.places[1] + windows * decode
        context = work.decode_total * work.decode_context
        return MeanStep(step_row(work, mean, instance=0, start=0.0, queue_length=0, kv_use=0.0, context=context))

    def mean(self, running: float, load: Load, *, tokens: float = 0.0, own: float = 0.0, windows: int = 1) -> MeanStep:
        """Average a step over windows of the routing trace, between the whole batch sizes around ``running``.

        Parameters
        ----------
        running : float
            Requests that decode in it, over all ranks [1].
        load : Load
            Lengths and contexts.
        tokens, own : float
            Prompt tokens in it over all ranks, and on the busiest [tokens].
        windows : int
            Parts of the routing trace [1].
        """
        # Fewer requests than ranks: the busiest rank holds one as soon as there is one.
        limits, dp = self.limits, self.limits.dp
        each = min(running / dp, limits.max_running) if running >= dp else min(running, 1.0)
        low = math.floor(each)
        row = [0.0] * len(STEP_COLUMNS)
        for size, weight in ((low, 1.0 - (each - low)), (low + 1, each - low)):
            total = max(round(running), size) if dp > 1 else size
            if weight > 0.0 and (size or tokens > 0.0):
                step = self.time(_work(size, total, load, tokens, own, limits), windows)
                row = [value + weight * part for value, part in zip(row, step.row, strict=True)]
        return MeanStep(tuple(row))

    def _overlapping(self, work: StepWork, windows: int) -> StepTime:
        """Average a step whose overlap is chosen window by window."""
        mean, share = StepTime(imbalance=0.0), 1.0 / windows
        if self._routing is not None:
            trace = self._routing.tokens
            self._timer.go_to((self.places[0] % trace, self.places[1] % trace))
        for _ in range(windows):
            step = self._timer.time(work)
            mean.duration += share * step.duration
            mean.attention += share * step.attention
            mean.prompt_projections += share * step.prompt_projections
            mean.experts += share * step.experts
            mean.imbalance_wait += share * step.imbalance_wait
            mean.gap += share * step.gap
            mean.imbalance += share * step.imbalance
            mean.saved += share * step.saved
        return mean

    def _mean(self, work: StepWork, prompt: int, decode: int, windows: int) -> StepTime:
        """Average a step that runs as one batch, and asks so many tokens of either order of a window."""
        mean, totals, pp = StepTime(), self._totals, self._pp
        rows = -(-work.rows // pp)
        if work.decode_rows:
            mean.attention = self._attention.decode(work.decode_rows, work.decode_context)
        if work.prompt_total:
            prompts, mean.prompt_projections = self._prompts(
                work.prompt_rows, work.prompt_sequences, work.prompt_prefix
            )
            mean.attention += prompts
            logits, decoded = -(-work.logits // pp), -(-work.decode_rows // pp)
            fixed = totals.tokens[rows] + totals.logits[logits] + totals.absorbed[decoded] + totals.drafting[decoded]
            exchange = totals.prompt_exchange[rows]
        else:
            fixed, exchange = totals.alone[rows], totals.exchange[rows]
        fixed += mean.attention + mean.prompt_projections
        launching, least_gap = self._host.launching(work), self._host.gap(work, 0.0, 0.0)
        experts = wait = uneven = duration = 0.0
        count = 1 if self._alike else windows
        each, late, imbalance = 0.0, 0.0, 1.0
        for window in range(count):
            if self._routing is not None:
                at = self.places[0] + window * prompt, self.places[1] + window * decode
                each, late, imbalance = self._experts(self._routing, at, prompt, decode)
            busy = fixed + exchange * (imbalance - 1.0) + each + late
            duration += least_gap + max(busy, launching)
            experts, wait, uneven = experts + each, wait + late, uneven + imbalance
            mean.gap += least_gap + max(launching - busy, 0.0)
        mean.duration, mean.gap = duration / count, mean.gap / count
        mean.experts, mean.imbalance_wait, mean.imbalance = experts / count, wait / count, uneven / count
        return mean

    def _prompts(self, rows: float, sequences: float, prefix: float) -> tuple[float, float]:
        """Attention and projections of prompt chunks [s]."""
        known = self._chunks.get((rows, sequences, prefix))
        if known is None:
            if len(self._chunks) >= _KNOWN:
                self._chunks.clear()
            known = self._chunks[rows, sequences, prefix] = self._attention.prompts(rows, sequences, prefix)
        return known

    def _experts(
        self, routing: RoutingReplay, at: tuple[int, int], prompt: int, decode: int
    ) -> tuple[float, float, float]:
        """Time the experts on so many tokens from two places on: mean rank, what the slowest adds [s], imbalance."""
        prompt_at, decode_at = at[0] % routing.tokens if prompt else 0, at[1] % routing.tokens
        known, key = self._known["prefill" if prompt else "decode"], (prompt_at, prompt, decode_at, decode)
        found = known.get(key)
        if found is None:
            load = routing.prefill.load(prompt_at, prompt) if prompt else routing.decode.load(decode_at, decode)
            if prompt and decode:
                load = load + routing.decode.load(decode_at, decode)
            line = self._tables.experts["prefill" if prompt else "decode"].at(prompt + decode)
            hottest = np.maximum.reduce(load, axis=0).astype(np.float64)
            if len(known) >= _KNOWN:
                known.clear()
            found = known[key] = line.time(hottest, (prompt + decode) * self._share)
        return found


class ManyTimer:
    """Averages the steps of many loads of one deployment, each as :class:`MeanTimer` does.

    Parameters
    ----------
    deployment : Deployment
        What prices steps; its tables reach as far as those of all loads.
    limits : sequence of Limits
        What bounds the steps of each load.
    loads : sequence of Load
        The loads.
    """

    def __init__(self, deployment: Deployment, limits: Sequence[Limits], loads: Sequence[Load]) -> None:
        self._timer = MeanTimer(deployment)
        self._sites = list(zip(limits, loads, strict=True))
        self._chosen = list(range(len(loads)))
        self._places = [(0, 0)] * len(loads)

    def choose(self, chosen: Sequence[int]) -> None:
        """Go on with some of the loads."""
        self._chosen = list(chosen)

    def restart(self) -> None:
        """Go back to the beginning of the trace with all loads that are chosen."""
        for index in self._chosen:
            self._places[index] = 0, 0

    def mean(
        self,
        running: ArrayLike,
        load: Loads,  # noqa: ARG002
        *,
        tokens: ArrayLike = 0.0,
        own: ArrayLike = 0.0,
        windows: int = 1,
    ) -> ManySteps:
        """Average a step of each load that is chosen.

        Parameters
        ----------
        running, tokens, own : array_like
            As for :meth:`MeanTimer.mean`, of each load or of all.
        load : Loads
            Those that are chosen.
        windows : int
            Parts of the routing trace [1].
        """
        rows = []
        asked = (np.broadcast_to(part, len(self._chosen)).tolist() for part in (running, tokens, own))
        for index, each, prompts, busiest in zip(self._chosen, *asked, strict=True):
            self._timer.limits, load_of = self._sites[index]
            self._timer.places = self._places[index]
            rows.append(self._timer.mean(each, load_of, tokens=prompts, own=busiest, windows=windows).row)
            self._places[index] = self._timer.places
        return ManySteps(np.array(rows))


@dataclass(frozen=True, slots=True)
class ManySteps:
    """The mean steps of many loads: their rows in ``STEP_COLUMNS``, shape (loads, columns)."""

    row: FloatArray

    @property
    def duration(self) -> FloatArray:
        """How long each takes [s]."""
        return self.row[:, _DURATION]


def columns(steps: Iterable[MeanStep]) -> dict[str, FloatArray]:
    """Return mean steps as arrays of ``STEP_COLUMNS``, one row each."""
    table = np.array([step.row for step in steps])
    return dict(zip(STEP_COLUMNS, table.T, strict=True))


def _work(size: int, total: int, load: Load, tokens: float, own: float, limits: Limits) -> StepWork:
    """One step: ``size`` decoding and ``own`` prompt tokens on the busiest rank."""
    work = StepWork(query_tokens=limits.query_tokens)
    if size:
        work.set_decode(running=total, most=size, sequences=size, context=load.context)
    if tokens:
        work.add_prompts(
            rows=work.rows + round(own),
            prompt_rows=round(own),
            sequences=max(round(own / load.inputs), 1),
            # Chunks of a prompt follow half of the rest of it on average.
            prefix=max(load.inputs - own, 0.0) / 2,
            total=round(tokens),
        )
    return work
