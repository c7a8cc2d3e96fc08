"""Which part of a run is measured: its steady state, where it has one and nothing else was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray

#: Parts of a run in which the requests in flight are averaged before the start of the steady state is looked for [1].
_PARTS = 200
#: Parts of the window over which a queue must grow all the time to count as one that grows without bound [1].
_QUARTERS = 4
#: Share of the requests in the window by which the queue must grow in it, likewise [1].
_GROWTH = 0.05

#: Requests that an open loop must have in its window, below which chance alone says what is in it [1].
_FEWEST = 10

#: What the window is: what was asked; the steady state; a run that never has one, from its first to its last arrival;
#: the time in which a queue grows; or all of a run that is too short to have any of these.
Kind = Literal["asked", "steady", "transient", "overloaded", "whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The measured part of a run.

    Attributes
    ----------
    requests : bool array, shape (requests,)
        Whose latencies count.
    begin, end : float
        Between which times tokens, steps and devices count [s].
    kind : {"asked", "steady", "transient", "overloaded", "whole"}
        What it is.
    """

    requests: NDArray[np.bool_]
    begin: float
    end: float
    kind: Kind = "asked"

    @property
    def duration(self) -> float:
        """Length of the window [s]."""
        return max(self.end - self.begin, 1e-12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a scenario says of the window; ``None`` leaves an end of it to what is found.

    Attributes
    ----------
    warmup : int or None
        First requests left out [1].
    drain : bool or None
        Whether the tail counts in which no new requests arrive.
    transient : bool
        Whether the scenario asks for changes in time, so that nothing of them may be left out.
    until : float
        When the last of them is due [s].
    """

    warmup: int | None = None
    drain: bool | None = None
    transient: bool = False
    until: float = 0.0


def whole_run(arrival: FloatArray, finish: FloatArray) -> Window:
    """Measure everything, from the first arrival to the last answer, as clients of a benchmark do."""
    everyone = np.ones(len(arrival), dtype=bool)
    return Window(requests=everyone, begin=float(arrival.min()), end=float(finish.max()), kind="whole")


def measured_window(
    arrival: FloatArray,
    first_token: FloatArray,
    finish: FloatArray,
    asked: Asked,
    concurrency: int | None = None,
    last: float | None = None,
) -> Window:
    """Choose which requests and which time count.

    Parameters
    ----------
    arrival, first_token, finish : array, shape (requests,)
        Times [s].
    asked : Asked
        What the scenario says of it.
    concurrency : int or None
        Requests in flight of a closed loop [1]; ``None`` for an open one.
    last : float or None
        When the load ends [s], where that is not with the last arrival: later turns of sessions come after the last
        session has begun, when there are fewer and fewer.

    Notes
    -----
    A closed loop is steady from the moment when as many requests have ended as are in flight, so that each place has
    been taken anew once on average, until the last request is sent. An open loop is steady from where the marginal
    standard error of the requests in flight is least (:func:`steady_part`) until the last arrival. Both ends of a
    closed loop's window are ends of requests, so that rounds of equal requests fit into it whole.

    Where a queue grows all the time (:func:`queue_grows`), devices are busy until the last request that came before the
    load ended has its first token, and the window ends there: what is served in it is the capacity.

    Wrong where the load drifts, as all of a change may be taken for a warm-up; where requests are so few that chance
    decides what is steady; and in closed loops of answers that differ widely, which take a few rounds more to mix.
    """
    last = float(arrival.max()) if last is None else last
    if asked.warmup is None and asked.drain is None:
        if asked.transient:
            return _changing(arrival, finish, asked.until, last)
        return _found(arrival, first_token, finish, concurrency, last)
    chosen, begin = _after_warmup(arrival, finish, asked, concurrency, last)
    brief = asked.drain is None and _too_brief(arrival, finish, begin, last)
    if asked.drain is not True and last > begin and not brief:
        kept = chosen & (finish <= last) if asked.drain is False else chosen
        if kept.any():
            return Window(requests=kept, begin=begin, end=last)
    return Window(requests=chosen, begin=begin, end=float(finish[chosen].max()))


def _after_warmup(
    arrival: FloatArray, finish: FloatArray, asked: Asked, concurrency: int | None, last: float
) -> tuple[NDArray[np.bool_], float]:
    """Return who comes after the warm-up, and when it ends [s]; the last request is always left."""
    if asked.warmup is None:
        begin = float(arrival.min()) if asked.transient else steady_begin(arrival, finish, concurrency, last)
        chosen = arrival >= begin
        return (chosen, begin) if chosen.any() else (np.ones(len(arrival), dtype=bool), float(arrival.min()))
    total, warmup = len(arrival), asked.warmup
    chosen = np.arange(total) >= min(warmup, total - 1)
    begin = float(arrival[chosen].min())
    if concurrency is not None and warmup:
        begin = max(begin, float(np.sort(finish)[min(warmup, total) - 1]))
        chosen &= arrival >= begin if (arrival >= begin).any() else chosen
        begin = float(arrival[chosen].min())
    return chosen, begin


def _changing(arrival: FloatArray, finish: FloatArray, until: float, last: float) -> Window:
    """Return the window of a run that has no steady state: all until the load ends, or all if changes come later."""
    everything = whole_run(arrival, finish)
    if until >= last or _too_brief(arrival, finish, everything.begin, last):
        return everything
    return Window(requests=everything.requests, begin=everything.begin, end=last, kind="transient")


def _found(
    arrival: FloatArray, first_token: FloatArray, finish: FloatArray, concurrency: int | None, last: float
) -> Window:
    """Find the window of a scenario that says nothing of it."""
    begin = steady_begin(arrival, finish, concurrency, last)
    chosen = (arrival >= begin) & (arrival <= last)
    if concurrency is None and begin < last and queue_grows(arrival, first_token, begin, last):
        return Window(requests=chosen, begin=begin, end=float(first_token[chosen].max()), kind="overloaded")
    few = concurrency is None and np.count_nonzero(chosen) < _FEWEST
    if few or _too_brief(arrival, finish, begin, last):
        return whole_run(arrival, finish)
    return Window(requests=chosen, begin=begin, end=last, kind="steady")


def _too_brief(arrival: FloatArray, finish: FloatArray, begin: float, end: float) -> bool:
    """Whether so little time passes that hardly any request which comes in it leaves it."""
    inside = (arrival >= begin) & (arrival <= end)
    return not begin < end or end - begin < float((finish - arrival)[inside].mean())


def steady_begin(arrival: FloatArray, finish: FloatArray, concurrency: int | None, last: float) -> float:
    """Return when the steady state of a load that ends at a time [s] begins [s]; infinite where there is none.

    Parameters
    ----------
    arrival, finish : array, shape (requests,)
        Times [s].
    concurrency : int or None
        Requests in flight of a closed loop [1].
    last : float
        When the load ends [s].
    """
    if concurrency is not None:
        return float(np.partition(finish, concurrency - 1)[concurrency - 1]) if len(finish) > concurrency else np.inf
    first = float(arrival.min())
    if not first < last:
        return np.inf
    edges = np.linspace(first, last, _PARTS + 1)
    return float(edges[steady_part(mean_number(arrival, finish, edges))])


def mean_number(begin: FloatArray, end: FloatArray, edges: FloatArray) -> FloatArray:
    """Return how many intervals are open on average between each two times.

    Parameters
    ----------
    begin, end : array, shape (intervals,)
        When each opens and closes [s].
    edges : array, shape (parts + 1,)
        Times, ascending [s].

    Returns
    -------
    array, shape (parts,)
        Mean numbers [1].

    Examples
    --------
    >>> mean_number(np.array([0.0, 1.0]), np.array([2.0, 4.0]), np.array([0.0, 1.0, 2.0, 4.0]))
    array([1., 2., 1.])
    """
    return np.asarray(np.diff(_since(begin, edges) - _since(end, edges)) / np.diff(edges))


def _since(events: FloatArray, times: FloatArray) -> FloatArray:
    """Return the time that has passed since all earlier events together [s]; shape of ``times``."""
    ordered = np.sort(events)
    # Sums of times since the first event, as those since the beginning may be so large that they lose digits.
    ordered -= (origin := float(ordered[0]))
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    count = np.searchsorted(ordered, times - origin, side="right")
    return np.asarray((times - origin) * count - sums[count])


def steady_part(values: FloatArray) -> int:
    """Return the first of equally long parts of a run from which it is steady.

    Parameters
    ----------
    values : array, shape (parts,)
        Mean of a quantity over each part, any unit.

    Returns
    -------
    int
        In 0..parts / 2.

    Notes
    -----
    MSER [1]_, [2]_: of all beginnings d, the one whose rest has the least marginal standard error, ::

        d = argmin sum_(i >= d) (y_i - mean_(j >= d) y_j)^2 / (n - d)^2

    Values are means over batches, as in MSER-5. A beginning in the second half is none, as then the rest is too short
    to know.

    References
    ----------
    .. [1] K. P. White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69(6),
       1997. :doi:`10.1177/003754979706900601`
    .. [2] K. P. White, M. J. Cobb, S. C. Spratt, "A comparison of five steady-state truncation heuristics for
       simulation", Winter Simulation Conference, 2000.

    Examples
    --------
    >>> steady_part(np.array([0.0, 5.0, 9.0, 10.0, 11.0, 9.0, 10.0, 10.0, 9.0, 11.0]))
    2
    """
    # Around their mean, as sums of large squares would lose what distinguishes them.
    rest = (values - values.mean())[::-1]
    left = np.arange(1, len(values) + 1)
    squares = np.maximum(np.cumsum(rest**2) - np.cumsum(rest) ** 2 / left, 0.0)
    error = (squares / left**2)[::-1]
    return int(np.argmin(error[: len(values) // 2 + 1]))


def queue_grows(arrival: FloatArray, first_token: FloatArray, begin: float, end: float) -> bool:
    """Tell whether requests without a first token become more and more between two times.

    Parameters
    ----------
    arrival, first_token : array, shape (requests,)
        Times [s].
    begin, end : float
        Between which [s].

    Notes
    -----
    They must become more from each quarter to the next, and by a twentieth of those that arrive, though some get their
    first token. Requests in flight would not tell, as they become more while a server fills. Wrong where so many
    requests decode at once that it takes longer than the run until one must wait.
    """
    quarters = np.linspace(begin, end, _QUARTERS + 1)
    if not (np.diff(mean_number(arrival, first_token, quarters)) > 0).all():
        return False
    arrived = np.count_nonzero((arrival > begin) & (arrival <= end))
    answered = np.count_nonzero((first_token > begin) & (first_token <= end))
    return bool(arrived - answered > _GROWTH * arrived and answered)
