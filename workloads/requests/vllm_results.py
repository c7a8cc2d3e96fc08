"""Result files of ``vllm bench serve``: the request trace behind one, and what it measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.errors import nearest
from workloads.errors import TraceFormatError
from workloads.requests.trace import RequestTrace, first_fault

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRun:
    """What a benchmark run did and measured.

    Attributes
    ----------
    model : str
        The model, as the client called it.
    requests, concurrency : int
        Requests that were answered, and most in flight [1].
    input_tokens, output_tokens : int
        Mean lengths [tokens].
    tokens_per_s : float
        Input and output tokens per second of the run [1/s].
    ttft, tpot, e2el : float
        Latencies [s]; NaN where the file has none.
    statistic : {"mean", "p50"}
        What the latencies are: means where the file has them, else medians.
    """

    model: str
    requests: int
    concurrency: int
    input_tokens: int
    output_tokens: int
    tokens_per_s: float
    ttft: float
    tpot: float
    e2el: float
    statistic: str


def read_bench_run(file: Path) -> BenchRun:
    """Read what a result file measured, of vLLM itself (``mean_ttft_ms``) or in seconds (``median_ttft``).

    Raises
    ------
    TraceFormatError
        The file is not such a result, or a figure in it is not a positive number.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        msg = f"{file}: cannot be read as JSON: {error}"
        raise TraceFormatError(msg) from None
    if not isinstance(document, dict):
        msg = f"{file}: got a JSON {type(document).__name__}, expected the object that vllm bench serve saves"
        raise TraceFormatError(msg)
    requests = int(_positive(document, "completed", file))
    tokens = [_positive(document, f"total_{kind}_tokens", file) for kind in ("input", "output")]
    concurrency = int(_positive(document, "max_concurrency", file, default=requests))
    means = any(f"mean_tpot{unit}" in document for unit in ("_ms", ""))
    latencies = {name: _latency(document, "mean" if means else "median", name, file) for name in _LATENCIES}
    return BenchRun(
        model=str(document.get("model_id", "")),
        requests=requests,
        concurrency=min(concurrency, requests),
        input_tokens=max(round(tokens[0] / requests), 1),
        output_tokens=max(round(tokens[1] / requests), 1),
        tokens_per_s=sum(tokens) / _positive(document, "duration", file),
        statistic="mean" if means else "p50",
        **latencies,
    )


_LATENCIES = ("ttft", "tpot", "e2el")


def _latency(document: dict[str, Any], statistic: str, name: str, file: Path) -> float:
    """Read a latency [s], written in milliseconds where its key says so; NaN where there is none."""
    for key, unit in ((f"{statistic}_{name}_ms", 1e-3), (f"{statistic}_{name}", 1.0)):
        if document.get(key) is not None:
            return _positive(document, key, file) * unit
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
    if not isinstance(document, dict):
        msg = f"{file}: got a JSON {type(document).__name__}, expected the object that vllm bench serve saves"
        raise TraceFormatError(msg)
    notes: list[str] = []
    lengths, kept = _lengths(document, file, notes)
    requests = len(lengths["input_lens"])
    rate = _positive(document, "request_rate", file, default=math.inf)
    concurrency = None
    if document.get("max_concurrency") is not None:
        concurrency = int(_positive(document, "max_concurrency", file))
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
        msg = f"{file}: request {fault[0] + 1}: {fault[1]}"
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
    document: dict[str, Any], file: Path, notes: list[str]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Token counts per successful request, and which of the recorded requests succeeded."""
    if "input_lens" in document and "output_lens" in document:
        lengths = {name: _array(document, name, file) for name in ("input_lens", "output_lens")}
        sizes = {name: len(column) for name, column in lengths.items()}
        if len(set(sizes.values())) > 1:
            msg = f"{file}: input_lens has {sizes['input_lens']} entries and output_lens {sizes['output_lens']}"
            raise TraceFormatError(msg)
        kept = lengths["output_lens"] != 0
        if not kept.any():
            msg = f"{file}: output_lens: no request produced a token"
            raise TraceFormatError(msg)
        if not kept.all():
            notes.append(f"{file.name}: left out {int((~kept).sum())} failed requests (output_lens is 0)")
        return {name: column[kept] for name, column in lengths.items()}, kept
    requests = int(_positive(document, "completed", file))
    totals = {
        "input_lens": int(_positive(document, "total_input_tokens", file)),
        "output_lens": int(_positive(document, "total_output_tokens", file)),
    }
    notes.append(f"{file.name}: no lengths per request in the file; all {requests} requests get the mean length")
    spread = np.arange(requests)
    return {
        name: (total // requests + (spread < total % requests)).astype(np.float64) for name, total in totals.items()
    }, np.ones(requests, bool)


def _arrivals(
    document: dict[str, Any], file: Path, kept: NDArray[np.bool_], rate: float, notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Arrival times [s] in order, and the order."""
    requests = int(kept.sum())
    if "start_times" not in document:
        notes.append(f"{file.name}: no start_times in the file; arrivals are evenly spaced at {rate:g} requests/s")
        return np.arange(requests) / rate, np.arange(requests)
    start = _array(document, "start_times", file)
    queued = _array(document, "queue_times", file) if "queue_times" in document else np.zeros(len(start))
    if not len(start) == len(queued) == len(kept):
        msg = f"{file}: start_times has {len(start)} entries, queue_times {len(queued)}, the lengths {len(kept)}"
        raise TraceFormatError(msg)
    arrival = (start - queued)[kept]
    order = np.argsort(arrival, kind="stable")
    return arrival[order], order


def _array(document: dict[str, Any], key: str, file: Path) -> NDArray[np.float64]:
    values = document[key]
    if not isinstance(values, list) or not values:
        msg = f"{file}: {key}: got {str(values)[:40]}, expected a list with one number per request"
        raise TraceFormatError(msg)
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            msg = f"{file}: {key}: request {row + 1}: got {value!r}, expected a number"
            raise TraceFormatError(msg)
    return np.asarray(values, np.float64)


def _positive(document: dict[str, Any], key: str, file: Path, default: float | None = None) -> float:
    """Read a positive number; vLLM writes an infinite rate as the text "inf"."""
    if key not in document:
        if default is not None:
            return default
        msg = f"{file}: {key} is missing; {nearest(key, document).replace('allowed', 'found')}"
        raise TraceFormatError(msg)
    value = document[key]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number > 0 or (math.isinf(number) and key != "request_rate"):
        msg = f"{file}: {key}: got {value!r}, expected a number above 0"
        raise TraceFormatError(msg)
    return number
