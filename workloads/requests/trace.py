"""A request trace: when requests arrive and how long their prompts and answers are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hardware_profiles.edge import shown
from workloads.errors import WorkloadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

# A length beyond this is a corrupt number, not a prompt; it also keeps sums of a million requests within int64.
LONGEST = 2**31 - 1
#: Most requests of a trace: a slip of the pen must not fill the memory [1].
MOST_REQUESTS = 20_000_000
#: Latest arrival that a trace may have [s]: beyond it a microsecond is lost in the rounding of a time.
LATEST = 1e10


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTrace:
    """Requests in order of arrival, as columns.

    Attributes
    ----------
    arrival : float64 array, shape (requests,)
        Time since the start of the trace [s], non-decreasing. All zero in a closed loop.
    input_tokens, output_tokens : int64 array, shape (requests,)
        Prompt and answer lengths, at least 1.
    concurrency : int or None
        In a closed loop, requests in flight at any time: the next starts when one ends. ``None`` = open loop.
    block_hashes : tuple of tuple of int, or None
        Prefix-cache block ids per request, where the trace has them.
    priority : int64 array, shape (requests,), or None
        Urgency of each request, 0 before 1; ``None`` where all are alike.
    block_tokens : int
        Tokens per hash block [tokens].
    after : int64 array, shape (requests,), or None
        Index of the request whose answer each one follows, as the next turn of a conversation; -1 for none. It stands
        before it. ``arrival`` is the earliest that such a request can be sent: its own time, else that of the other.
    delay : float64 array, shape (requests,), or None
        Time from the end of that answer to the request [s]; 0 where there is none.
    also : mapping of int to tuple of int, or None
        Further requests of the same session whose answers a request waits for, by its index; its delay counts from the
        last of them.
    source : str
        Where it came from: a path, or a generator with its parameters.
    notes : tuple of str
        What reading it had to assume or leave out; shown with the results.
    """

    arrival: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    concurrency: int | None = None
    block_hashes: tuple[tuple[int, ...], ...] | None = None
    priority: NDArray[np.int64] | None = None
    block_tokens: int = 512
    after: NDArray[np.int64] | None = None
    delay: NDArray[np.float64] | None = None
    also: Mapping[int, tuple[int, ...]] | None = None
    source: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the requests."""
        return len(self.arrival)


def first_fault(
    arrival: NDArray[np.float64], lengths: dict[str, NDArray[np.float64]], arrival_name: str = "arrival"
) -> tuple[int, str] | None:
    """Find the first row that no trace may have.

    Parameters
    ----------
    arrival : float64 array, shape (requests,)
        Arrival times [s].
    lengths : dict of str to float array, shape (requests,)
        Token counts [tokens] by column name.
    arrival_name : str
        Name of the arrival column, for the message.

    Returns
    -------
    (int, str) or None
        Index of the row and what is wrong with it.
    """
    faults: list[tuple[int, str]] = []
    backwards = arrival[1:] < arrival[:-1]
    if backwards.any():
        row = int(backwards.argmax()) + 1
        what = f"{arrival_name}: {arrival[row - 1] - arrival[row]:g} s earlier than the row before; rows must be in "
        faults.append((row, what + "order of arrival"))
    bad = ~((arrival >= 0) & (arrival <= LATEST))
    if bad.any():
        row = int(bad.argmax())
        faults.append((row, f"{arrival_name}: got {arrival[row]} s, expected a time from 0 to {LATEST:g} s"))
    for name, column in lengths.items():
        bad = ~((column >= 1) & (column <= LONGEST) & (column == np.floor(column)))
        if bad.any():
            row = int(bad.argmax())
            faults.append((row, f"{name}: got {column[row]:g}, expected a whole number of tokens of at least 1"))
    return min(faults, key=lambda fault: fault[0], default=None)


def fault_of_turns(
    after: NDArray[np.int64] | NDArray[np.float64] | None, delay: NDArray[np.float64] | None
) -> tuple[int, str] | None:
    """Find the first row that follows what it cannot; what is returned is as for :func:`first_fault`.

    Parameters
    ----------
    after : array, shape (requests,), or None
        Index of the request that each follows, -1 for none.
    delay : float64 array, shape (requests,), or None
        Time between its answer and the request [s].
    """
    if after is None:
        return (
            (0, "delay_s: says how long after an answer a request comes, but no column says after which")
            if (delay is not None and delay.any())
            else None
        )
    bad = ~((after >= -1) & (after < np.arange(len(after))) & (after == np.floor(after)))
    if bad.any():
        row = int(bad.argmax())
        return row, f"after: got {after[row]:g}, expected the index of an earlier request, from 0, or -1"
    if delay is None:
        return None
    bad = ~((delay >= 0) & (delay <= LATEST))
    if bad.any():
        row = int(bad.argmax())
        return row, f"delay_s: got {delay[row]:g}, expected a time from 0 to {LATEST:g} s"
    bad = (after < 0) & (delay > 0)
    if bad.any():
        row = int(bad.argmax())
        return row, f"delay_s: got {delay[row]:g}, but the request follows none (after is -1)"
    return None


def fault_of_joins(after: NDArray[np.int64] | None, also: Mapping[int, tuple[int, ...]]) -> tuple[int, str] | None:
    """Find the first row that waits for further answers as it cannot; what is returned is as for :func:`first_fault`.

    Parameters
    ----------
    after : int64 array, shape (requests,), or None
        Checked.
    also : mapping of int to tuple of int
        Further requests whose answers each waits for.
    """
    first = np.arange(0 if after is None else len(after))
    if after is not None:
        for row in np.flatnonzero(after >= 0).tolist():
            first[row] = first[after[row]]
    for row in sorted(also):
        if after is None or not 0 <= row < len(after) or after[row] < 0:
            return row, "also: names further answers for a request that follows none"
        if not all(0 <= other < row and first[other] == first[row] for other in also[row]):
            return row, f"also: got {list(also[row])[:8]}, expected earlier requests of the same session"
    return None


def check_requests(trace: RequestTrace) -> None:
    """Raise a ``WorkloadError`` that names the row where a trace breaks its own rules.

    Parameters
    ----------
    trace : RequestTrace
        A trace made by hand; the readers and generators return checked ones.
    """
    sizes = {len(trace.arrival), len(trace.input_tokens), len(trace.output_tokens)}
    sizes |= {
        len(column) for column in (trace.block_hashes, trace.priority, trace.after, trace.delay) if column is not None
    }
    if len(sizes) > 1:
        msg = f"request trace: its columns have different lengths {sorted(sizes)}"
        raise WorkloadError(msg)
    if not len(trace):
        msg = "request trace: it has no requests"
        raise WorkloadError(msg)
    if trace.concurrency is not None and trace.concurrency < 1:
        msg = f"request trace: concurrency: got {trace.concurrency}, expected at least 1"
        raise WorkloadError(msg)
    lengths = {name: np.asarray(getattr(trace, name), np.float64) for name in ("input_tokens", "output_tokens")}
    fault = first_fault(trace.arrival, lengths) or fault_of_turns(trace.after, trace.delay)
    fault = fault or fault_of_joins(trace.after, trace.also or {})
    if fault:
        msg = f"request trace: request {fault[0]}: {fault[1]}"
        raise WorkloadError(msg)


def in_closed_loop(trace: RequestTrace, concurrency: int) -> RequestTrace:
    """Play the requests of a trace with so many sessions in flight, and not at their times.

    Parameters
    ----------
    trace : RequestTrace
        The trace; a request that follows no other, and that no other follows, is a session.
    concurrency : int
        Sessions in flight at once, at least 1.
    """
    _check_count("in_closed_loop", "concurrency", concurrency)
    return replace(trace, arrival=np.zeros(len(trace)), concurrency=concurrency)


def scale_rate(trace: RequestTrace, factor: float) -> RequestTrace:
    """Speed a trace up: the same requests arrive ``factor`` times as fast; what users and tools take stays as it is.

    Parameters
    ----------
    trace : RequestTrace
        The trace.
    factor : float
        Ratio of the new arrival rate to the old one, above 0 [-].

    Examples
    --------
    >>> trace = RequestTrace(arrival=np.array([0.0, 4.0]), input_tokens=np.ones(2, int), output_tokens=np.ones(2, int))
    >>> scale_rate(trace, 2).arrival
    array([0., 2.])
    """
    if not (np.isfinite(factor) and factor > 0):
        msg = f"scale_rate: factor: got {factor}, expected a finite number above 0"
        raise WorkloadError(msg)
    return replace(trace, arrival=trace.arrival / factor)


def slice_time(trace: RequestTrace, start: float, stop: float) -> RequestTrace:
    """Keep the requests that arrive in ``[start, stop)`` and count time from ``start``.

    Parameters
    ----------
    trace : RequestTrace
        An open-loop trace.
    start, stop : float
        Bounds [s].
    """
    if trace.concurrency is not None:
        msg = "slice_time: a closed-loop trace has no arrival times; use head"
        raise WorkloadError(msg)
    if not start < stop:
        msg = f"slice_time: got start {start} and stop {stop} s, expected start before stop"
        raise WorkloadError(msg)
    first, last = np.searchsorted(trace.arrival, [start, stop], side="left")
    if first == last:
        msg = f"slice_time: no request arrives in [{start:g}, {stop:g}) s; the trace spans 0 to {trace.arrival[-1]:g} s"
        raise WorkloadError(msg)
    part = _rows(trace, int(first), int(last))
    return replace(part, arrival=part.arrival - start)


def head(trace: RequestTrace, requests: int) -> RequestTrace:
    """Keep the first ``requests`` requests (all, if there are fewer)."""
    _check_count("head", "requests", requests)
    return _rows(trace, 0, requests)


def repeat(trace: RequestTrace, times: int) -> RequestTrace:
    """Play a trace ``times`` times over, end to end, at its own mean rate.

    Parameters
    ----------
    trace : RequestTrace
        The trace.
    times : int
        Copies, at least 1.

    Notes
    -----
    One period lasts the trace's span plus its mean gap, so the mean rate stays. Each copy gets block hashes of its
    own: within a copy requests share prefixes as recorded, and no copy finds the cache warmed by an earlier one.
    """
    _check_count("repeat", "times", times)
    requests = len(trace)
    if requests * times > MOST_REQUESTS:
        msg = f"repeat: {requests:,} requests {times:,} times are more than the {MOST_REQUESTS:,} that a trace may have"
        raise WorkloadError(msg)
    span = float(trace.arrival[-1] - trace.arrival[0]) if requests else 0.0
    period = span * requests / (requests - 1) if requests > 1 else span
    hashes = trace.block_hashes
    if hashes is not None:
        offset = 1 + max((block for blocks in hashes for block in blocks), default=-1)
        hashes = tuple(
            tuple(block + copy * offset for block in blocks)
            for copy in range(times)
            for blocks in trace.block_hashes or ()
        )
    return replace(
        trace,
        arrival=(trace.arrival + period * np.arange(times)[:, None]).ravel(),
        input_tokens=np.tile(trace.input_tokens, times),
        output_tokens=np.tile(trace.output_tokens, times),
        block_hashes=hashes,
        priority=None if trace.priority is None else np.tile(trace.priority, times),
        after=None if trace.after is None else _repeated(trace.after, times),
        delay=None if trace.delay is None else np.tile(trace.delay, times),
        also=None if trace.also is None else _joins(trace.also, (copy * requests for copy in range(times)), 0),
    )


def _repeated(after: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """Repeat which request each one follows; those of a copy follow requests of the same copy."""
    copies = np.arange(times)[:, None] * len(after)
    return np.asarray(np.where(after < 0, -1, after + copies).ravel())


def _joins(also: Mapping[int, tuple[int, ...]], offsets: Iterable[int], least: int) -> dict[int, tuple[int, ...]]:
    """Shift which further answers requests wait for by each offset; what falls below the least index is left out."""
    return {
        request + offset: kept
        for offset in offsets
        for request, others in also.items()
        if request + offset >= least and (kept := tuple(each + offset for each in others if each + offset >= least))
    }


def _rows(trace: RequestTrace, first: int, last: int) -> RequestTrace:
    # A turn whose answer before it is cut off has nothing to follow.
    after = None if trace.after is None else np.maximum(trace.after[first:last] - first, -1)
    delay = None if trace.delay is None else trace.delay[first:last]
    if after is not None and delay is not None:
        delay = np.where(after < 0, 0.0, delay)
    also = None
    if trace.also is not None and after is not None:
        kept = _joins(trace.also, (-first,), 0)
        also = {each: others for each, others in kept.items() if each < len(after) and after[each] >= 0} or None
    return replace(
        trace,
        arrival=trace.arrival[first:last],
        input_tokens=trace.input_tokens[first:last],
        output_tokens=trace.output_tokens[first:last],
        block_hashes=None if trace.block_hashes is None else trace.block_hashes[first:last],
        priority=None if trace.priority is None else trace.priority[first:last],
        after=after,
        delay=delay,
        also=also,
    )


def _check_count(function: str, key: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = f"{function}: {key}: got {shown(value)}, expected a whole number of at least 1"
        raise WorkloadError(msg)
