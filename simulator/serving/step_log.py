"""Runs whose decisions need no clock: their steps are logged as they are decided, and timed all at once afterwards.

In a closed loop on one instance nothing from outside comes in between: what a step holds follows from the steps before
it, and not from when they end. Such a run is played on a clock that counts steps. Steps in a row in which nobody comes
or goes are logged as one; how long all of them take is looked up at the end, and the records then get their times.

A frontend that is quicker than any step lets a request in during the step that begins as it comes, so that it is half
a step away on such a clock. Whether it was as quick shows at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray, IntArray
from simulator.deployment.limits import Limits
from simulator.results.packed import PART, PackedColumns
from simulator.serving.batch import Batch
from simulator.serving.recorder import ColumnRecorder, RequestRecorder, column
from simulator.serving.step_plan import StepPlan
from simulator.serving.step_rows import add_prompts
from simulator.step.columns import STEP_COLUMNS
from simulator.step.timer import TableTimer
from simulator.step.work import StepSeries, StepWork

#: On a clock that counts steps, the time from a request's arrival until the scheduler sees it [1].
FRONTEND = 0.5
#: What is logged of steps in a row that do the same: how many there are, and the count at which they begin; at the
#: first of them the decode steps so far, the tokens that all who run would have held before any; how many run and
#: whether they decode; prompts; and the rest.
_SPAN = (
    "steps",
    "begin",
    "index",
    "origin",
    "running",
    "decodes",
    "rows",
    "prompt_rows",
    "prompt_sequences",
    "prompt_prefix",
    "prompt_total",
    "stall",
    "queue_length",
    "prompts",
    "held",
)
#: Contexts of ranks that are held at once: few enough to stay in the cache of a core [1].
_CONTEXTS = 1 << 16


class StepLog:
    """What the steps of one instance do.

    Parameters
    ----------
    limits : Limits
        Its ranks, and tokens of a decoded sequence.

    Attributes
    ----------
    moves : ColumnRecorder or None
        What ranks hold each time it changes, where there are several: after how many decode steps, on which rank, the
        tokens that those who decode there would have held before any, and their number.
    """

    __slots__ = ("_limits", "_spans", "_work", "moves")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._spans = ColumnRecorder(_SPAN)
        self._work = StepWork(query_tokens=limits.query_tokens)
        self.moves = ColumnRecorder(("index", "rank", "origin", "rows")) if limits.dp > 1 else None

    def add(self, batch: Batch, plan: StepPlan, steps: int, begin: float, queue_length: int, stall: float) -> None:
        """Log steps that do the same.

        Parameters
        ----------
        batch : Batch
            Who runs before the first of them.
        plan : StepPlan
            What they hold.
        steps : int
            How many, one where they hold prompts [1].
        begin : float
            The count at which they begin [1].
        queue_length : int
            Requests that wait [1].
        stall : float
            By how much the first is lengthened [s].
        """
        work, most = self._work, batch.most_rows
        if plan.chunks:
            if plan.decodes:
                # Which rank attends to most is found out later, from the moves.
                work.set_decode(running=batch.running, most=most, sequences=most, context=0.0)
            else:
                work.clear(running=batch.running)
            add_prompts(work, batch, plan.chunks, decodes=plan.decodes)
            prompts = work.prompt_rows, work.prompt_sequences, work.prompt_prefix, work.prompt_total
            rows = work.rows
        else:
            prompts, rows = (0, 0, 0.0, 0), most * work.query_tokens
        begun = steps, begin, batch.index, batch.origin, batch.running, plan.decodes, rows
        self._spans.add((*begun, *prompts, stall, queue_length, batch.prompts, batch.held))

    def timed(
        self, timer: TableTimer, requests: RequestRecorder, gaps: dict[str, FloatArray], end: float, frontend: float
    ) -> tuple[PackedColumns, PackedColumns, float] | None:
        """Time all steps, and put times where steps were counted.

        Parameters
        ----------
        timer : TableTimer
            How long steps take.
        requests : RequestRecorder
            Its times are changed in place.
        gaps : dict of array
            Gaps between tokens, those within steps in a row left out but for the first.
        end : float
            The count at which the run ends [1].
        frontend : float
            What ``FRONTEND`` stands for [s].

        Returns
        -------
        steps : PackedColumns
            Columns of ``STEP_COLUMNS``.
        gaps : PackedColumns
            All of them, in the order of their time.
        end : float
            When the run ends [s].

        ``None``, and neither times nor the timer have changed, where a request comes at the beginning of a step that
        the frontend outlasts.
        """
        places, steps = timer.places, PackedColumns(STEP_COLUMNS)
        moves = None if self.moves is None else self.moves.arrays()
        count = self._spans.columns()["steps"].astype(np.int64)
        line = _TimeLine.of(int(count.sum()))
        for part, spans, since in self._parts(count):
            found = self._steps(spans, since, timer, moves)
            for name in ("duration_s", "gap"):
                found[name] += np.where(since == 0, spans["stall"], 0.0)
            line.lay(part, spans["begin"] + since, found["duration_s"], frontend)
            found["start_s"] = line.times[1 + 2 * part.start : 1 + 2 * part.stop : 2]
            steps.append([found[name] for name in STEP_COLUMNS])
        if not line.lets_in(column(requests.arrival), frontend):
            timer.go_to(places)
            return None
        for values in (requests.arrival, requests.admitted, requests.first_token, requests.finish):
            counted = column(values)
            known = np.flatnonzero(~np.isnan(counted))
            counted[known] = line.at(counted[known])
        packed, done = PackedColumns(tuple(gaps)), 0
        for part, spans, since in self._parts(count):
            begin, later = spans["begin"] + since, since > 0
            last = begin[-1] + 1.0 if part.stop < steps.rows else np.inf
            until = int(gaps["at_s"].searchsorted(last, side="right"))
            recorded = {name: values[done:until] for name, values in gaps.items()}
            packed.append(list(_gaps(recorded, begin[later], spans["running"][later], line).values()))
            done = until
        return steps, packed, float(line.at(np.array([end]))[0])

    def _parts(self, count: IntArray) -> Iterator[tuple[slice, dict[str, FloatArray], IntArray]]:
        """Yield steps part by part: which they are, the columns of their spans, and steps since those began [1].

        Parameters
        ----------
        count : int array, shape (spans,)
            Steps of each span [1].
        """
        spans, after = self._spans.columns(), np.cumsum(count)
        first = after - count
        for part in _parts(int(after[-1]) if len(after) else 0, PART):
            step = np.arange(part.start, part.stop)
            span = after.searchsorted(step, side="right")
            between = spans.between(int(span[0]), int(span[-1]) + 1)
            yield part, {name: values[span - span[0]] for name, values in between.items()}, step - first[span]

    def _steps(
        self, spans: dict[str, FloatArray], since: IntArray, timer: TableTimer, moves: dict[str, FloatArray] | None
    ) -> dict[str, FloatArray]:
        """Describe and time steps.

        Parameters
        ----------
        spans : dict of array, shape (steps,)
            Columns of the span that each belongs to.
        since : int array, shape (steps,)
            Steps since that began [1].
        timer : TableTimer
            How long they take.
        moves : dict of array or None
            Columns of ``moves``.
        """
        limits, steps = self._limits, len(since)
        decodes = spans["decodes"] > 0
        # Tokens that a request has gained which decoded from the beginning.
        position = (spans["index"] + since) * limits.accepted_per_step
        context = spans["origin"] + spans["running"] * position
        sequences, longest = np.zeros(steps), np.zeros(steps)
        if moves is None:
            sequences[decodes], longest[decodes] = spans["running"][decodes], context[decodes]
        else:
            index = spans["index"][decodes].astype(np.int64)
            sequences[decodes], longest[decodes] = self._busiest(moves, index, position[decodes])
        prompting, tokens = spans["prompt_total"] > 0, sequences * limits.query_tokens
        each = np.divide(longest, sequences, out=np.zeros(steps), where=decodes) + limits.query_tokens
        total = np.where(decodes, spans["running"] * limits.query_tokens, 0.0)
        logits = np.where(prompting, spans["prompt_sequences"] + tokens, spans["rows"])
        names = ("rows", "prompt_rows", "prompt_sequences", "prompt_total")
        counts = {"decode_rows": sequences, "decode_total": total, "logits": logits, **{n: spans[n] for n in names}}
        times = timer.series(
            StepSeries(
                decode_context=each,
                prompt_prefix=spans["prompt_prefix"],
                **{name: values.astype(np.int64) for name, values in counts.items()},
            )
        )
        pools = limits.pool * limits.dp
        taken = (context + spans["prompts"]) * (limits.kv_per_token / pools)
        return {
            "instance": np.zeros(steps),
            "start_s": np.zeros(steps),
            "duration_s": times.duration,
            "rows": spans["rows"],
            "decode_rows": sequences,
            "prompt_total": spans["prompt_total"],
            "decode_total": total,
            "logits": logits,
            "attention": times.attention,
            "prompt_projections": times.prompt_projections,
            "experts": times.experts,
            "imbalance_wait": times.imbalance_wait,
            "gap": times.gap,
            "imbalance": times.imbalance,
            "saved": np.zeros(steps),
            "offload_stall": np.zeros(steps),
            "queue_length": spans["queue_length"],
            "running": spans["running"],
            "kv_use": taken + spans["held"] * (limits.kv_per_sequence / pools),
            "context_total": np.where(decodes, context, 0.0),
        }

    def _busiest(
        self, moves: dict[str, FloatArray], index: IntArray, position: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Find the rank with most context in every decode step; return its sequences [1] and its context [tokens].

        Parameters
        ----------
        moves : dict of array
            Columns of ``moves``.
        index : int array, shape (decode steps,)
            Decode steps before the first of those in a row that each belongs to, ascending [1].
        position : array, shape (decode steps,)
            Tokens that a request has gained before each which decoded from the beginning [tokens].
        """
        dp, found = self._limits.dp, np.empty((2, len(index)))
        # The last entry stands for a rank on which nobody has decoded yet.
        origin, rows = (np.append(moves[name], 0.0) for name in ("origin", "rows"))
        rank, move = moves["rank"].astype(np.int64), np.searchsorted(moves["index"], index, side="right")
        last = np.full(dp, -1)
        for part in _parts(len(index), max(_CONTEXTS // dp, 1)):
            # Moves up to each step; those between two steps belong to the latter.
            before, until = (move[part.start - 1] if part.start else 0), move[part.stop - 1]
            known = np.full((part.stop - part.start, dp), -1)
            known[0] = last
            moved = np.arange(before, until)
            known[np.searchsorted(move[part], moved, side="right"), rank[before:until]] = moved
            np.maximum.accumulate(known, axis=0, out=known)
            last = known[-1]
            contexts = origin[known] + rows[known] * position[part, None]
            busiest = np.arange(len(known)), contexts.argmax(axis=1)
            found[:, part] = rows[known[busiest]], contexts[busiest]
        return found[0], found[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimeLine:
    """When what is.

    ``counts`` are those at the beginning of the run, and at the beginning and the end of every step; ``times`` are
    their times [s]; both of shape (1 + 2 steps,).
    """

    counts: FloatArray
    times: FloatArray

    @classmethod
    def of(cls, steps: int) -> _TimeLine:
        """Return a line for so many steps, none of which has its place yet."""
        return cls(counts=np.zeros(1 + 2 * steps), times=np.zeros(1 + 2 * steps))

    def lay(self, part: slice, begin: FloatArray, duration: FloatArray, frontend: float) -> None:
        """Lay steps out which begin at such counts: one after the other, or once a request has passed the frontend.

        Those before them have their places.
        """
        places = slice(2 * part.start, 1 + 2 * part.stop)
        counts, passed = self.counts[places], self.times[places]
        counts[1::2], counts[2::2] = begin, begin + 1.0
        passed[1::2], passed[2::2] = np.where(counts[1::2] > counts[:-1:2], frontend, 0.0), duration
        np.cumsum(passed, out=passed)

    def at(self, counts: FloatArray) -> FloatArray:
        """Return the times of beginnings and ends [s]."""
        return np.asarray(self.times[self.counts.searchsorted(counts, side="right") - 1])

    def lets_in(self, arrival: FloatArray, frontend: float) -> bool:
        """Whether the frontend lets those in who come at such counts, before the step ends that begins as they come."""
        begin, place = self.counts[1::2], self.counts[1::2].searchsorted(arrival)
        during = place[begin[np.minimum(place, len(begin) - 1)] == arrival]
        return not frontend or bool((self.times[1::2][during] + frontend < self.times[2::2][during]).all())


def _gaps(
    gaps: dict[str, FloatArray], begin: FloatArray, running: FloatArray, line: _TimeLine
) -> dict[str, FloatArray]:
    """Give gaps their times, and add those of steps which so many run in and which follow others in a row.

    Parameters
    ----------
    gaps : dict of array
        Those that were recorded.
    begin, running : array
        At which counts these steps begin, and who runs in them [1].
    line : _TimeLine
        When counts are.

    Returns
    -------
    dict of array, shape (gaps,)
    """
    at = gaps["at_s"]
    since = np.concatenate((at - gaps["gap_s"], begin))
    tokens, at = np.concatenate((gaps["tokens"], running)), np.concatenate((at, begin + 1.0))
    order = np.argsort(at, kind="stable")
    ends = line.at(at[order])
    return {"gap_s": ends - line.at(since[order]), "tokens": tokens[order], "at_s": ends}


def _parts(total: int, size: int) -> Iterator[slice]:
    """Cut a range into parts of at most a size."""
    return (slice(first, min(first + size, total)) for first in range(0, total, size))
