"""Results of ``vllm bench serve`` and of SGLang's ``bench_serving``: the requests behind one, and what it measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.edge import shown, shown_path
from workloads.errors import TraceFormatError
from workloads.requests.bench import BenchRun, count_of, mapping, positive
from workloads.requests.trace import MOST_REQUESTS, RequestTrace, first_fault

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: What the object is that an error expects.
_OBJECT = "the object that vllm bench serve saves"


def vllm_run(document: Any, file: Path, tool: str) -> BenchRun:
    """Read what a result measured, of vLLM and SGLang (``mean_ttft_ms``) or in seconds (``median_ttft``).

    Parameters
    ----------
    document : dict
        The result.
    file : Path
        Where it came from, for messages.
    tool : str
        What wrote it.

    Raises
    ------
    TraceFormatError
        It is not such a result, or a figure in it is not a positive number.
    """
    found = mapping(document, file, _OBJECT)
    requests = count_of(found, "completed", file)
    tokens = [positive(found, f"total_{kind}_tokens", file) for kind in ("input", "output")]
    rate = positive(found, "request_rate", file, math.inf)
    means = any(found.get(f"mean_tpot{unit}") is not None for unit in ("_ms", ""))
    latencies = {name: _latency(found, "mean" if means else "median", name, file) for name in _LATENCIES}
    one_by_one = math.isfinite(rate) or {"input_lens", "output_lens"} <= found.keys()
    return BenchRun(
        tool=tool,
        model=str(found.get("model_id") or ""),
        requests=requests,
        concurrency=min(count_of(found, "max_concurrency", file, requests), requests),
        rate=rate,
        input_tokens=max(round(tokens[0] / requests), 1),
        output_tokens=max(round(tokens[1] / requests), 1),
        tokens_per_s=sum(tokens) / positive(found, "duration", file),
        statistic="mean" if means else "p50",
        sent=vllm_trace(document, file) if one_by_one else None,
        stack=str(found.get("backend") or ""),
        ttft=latencies["ttft"],
        tpot=latencies["tpot"],
        e2el=latencies["e2el"],
    )


_LATENCIES = ("ttft", "tpot", "e2el")


#: Further names of a latency: SGLang calls the whole one so.
_ALSO = {"e2el": "e2e_latency"}


def _latency(document: Mapping[str, Any], statistic: str, name: str, file: Path) -> float:
    """Read a latency [s], written in milliseconds where its key says so; NaN where there is none."""
    for known in (name, _ALSO.get(name, name)):
        for key, unit in ((f"{statistic}_{known}_ms", 1e-3), (f"{statistic}_{known}", 1.0)):
            if document.get(key) is not None:
                return positive(document, key, file) * unit
    return math.nan


def vllm_trace(document: Any, file: Path) -> RequestTrace:
    """Recover the requests of a benchmark run from its result.

    Parameters
    ----------
    document : dict
        The result, as saved by ``vllm bench serve --save-result`` (``--save-detailed`` adds the arrays).
    file : Path
        Where it came from, for messages.

    Returns
    -------
    RequestTrace
        A closed loop of ``max_concurrency`` where the request rate is infinite, else open loop.

    Notes
    -----
    Without ``input_lens`` and ``output_lens`` only the totals are known: every request gets the mean length, the
    remainder spread one token each, so that the totals are kept. Requests whose ``output_lens`` is 0 failed and are
    left out. With a finite rate, arrivals are ``start_times`` less ``queue_times`` where recorded, else evenly spaced.
    ``notes`` of the trace states each of these.
    """
    document = mapping(document, file, _OBJECT)
    notes: list[str] = []
    lengths, kept = _lengths(document, file, notes)
    requests = len(lengths["input_lens"])
    rate = positive(document, "request_rate", file, math.inf)
    concurrency = None
    if document.get("max_concurrency") is not None:
        concurrency = count_of(document, "max_concurrency", file)
    if math.isinf(rate):
        arrival = np.zeros(requests)
    else:
        arrival, order = _arrivals(document, file, kept, rate, notes)
        lengths = {name: column[order] for name, column in lengths.items()}
        if concurrency is not None:
            notes.append(f"{file.name}: arrivals are replayed open loop; the client's cap of {concurrency} is not")
            concurrency = None
    fault = first_fault(arrival, lengths)
    if fault:
        msg = f"{shown_path(file)}: request {fault[0] + 1}: {fault[1]}"
        raise TraceFormatError(msg)
    return RequestTrace(
        arrival=arrival - arrival[0],
        input_tokens=lengths["input_lens"].astype(np.int64),
        output_tokens=lengths["output_lens"].astype(np.int64),
        concurrency=concurrency,
        source=str(file),
        notes=tuple(notes),
    )


def _lengths(
    document: Mapping[str, Any], file: Path, notes: list[str]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Token counts per successful request, and which of the recorded requests succeeded."""
    if "input_lens" in document and "output_lens" in document:
        lengths = {name: _array(document, name, file) for name in ("input_lens", "output_lens")}
        sizes = {name: len(column) for name, column in lengths.items()}
        if len(set(sizes.values())) > 1:
            have = f"input_lens has {sizes['input_lens']} entries and output_lens {sizes['output_lens']}"
            msg = f"{shown_path(file)}: {have}"
            raise TraceFormatError(msg)
        kept = lengths["output_lens"] != 0
        if not kept.any():
            msg = f"{shown_path(file)}: output_lens: no request produced a token"
            raise TraceFormatError(msg)
        if not kept.all():
            notes.append(f"{file.name}: left out {int((~kept).sum())} failed requests (output_lens is 0)")
        return {name: column[kept] for name, column in lengths.items()}, kept
    requests = count_of(document, "completed", file)
    totals = {
        "input_lens": int(positive(document, "total_input_tokens", file)),
        "output_lens": int(positive(document, "total_output_tokens", file)),
    }
    notes.append(f"{file.name}: no lengths per request in the file; all {requests} requests get the mean length")
    spread = np.arange(requests)
    return {
        name: (total // requests + (spread < total % requests)).astype(np.float64) for name, total in totals.items()
    }, np.ones(requests, bool)


def _arrivals(
    document: Mapping[str, Any], file: Path, kept: NDArray[np.bool_], rate: float, notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Arrival times [s] in order, and the order."""
    requests = int(kept.sum())
    if "start_times" not in document:
        notes.append(f"{file.name}: no start_times in the file; arrivals are evenly spaced at {rate:g} requests/s")
        return np.arange(requests) / rate, np.arange(requests)
    start = _array(document, "start_times", file)
    queued = _array(document, "queue_times", file) if "queue_times" in document else np.zeros(len(start))
    if not len(start) == len(queued) == len(kept):
        have = f"start_times has {len(start)} entries, queue_times {len(queued)}, the lengths {len(kept)}"
        msg = f"{shown_path(file)}: {have}"
        raise TraceFormatError(msg)
    span, duration = float(np.ptp(start)), document.get("duration")
    if duration is not None and span > 1.05 * positive(document, "duration", file) + 1.0:
        msg = f"{shown_path(file)}: start_times span {span:g} s, but duration says {duration:g} s"
        raise TraceFormatError(msg)
    arrival = (start - queued)[kept]
    order = np.argsort(arrival, kind="stable")
    return arrival[order], order


def _array(document: Mapping[str, Any], key: str, file: Path) -> NDArray[np.float64]:
    values = document[key]
    if not isinstance(values, list) or not values:
        msg = f"{shown_path(file)}: {key}: got {shown(values)}, expected a list with one number per request"
        raise TraceFormatError(msg)
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            msg = f"{shown_path(file)}: {key}: request {row + 1}: got {shown(value)}, expected a number"
            raise TraceFormatError(msg)
    if len(values) > MOST_REQUESTS:
        msg = f"{shown_path(file)}: {key}: has {len(values):,} entries, expected at most {MOST_REQUESTS:,}"
        raise TraceFormatError(msg)
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        row = int((~np.isfinite(found)).argmax())
        msg = f"{shown_path(file)}: {key}: request {row + 1}: got {found[row]}, expected a finite number"
        raise TraceFormatError(msg)
    return found
