"""What a benchmark of a server did and measured, whichever tool wrote it down, and the requests that it sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.edge import nearest_found, shown
from workloads.errors import TraceFormatError
from workloads.requests.generators import generate_requests
from workloads.requests.rows import fail, require_few, trace_of
from workloads.requests.trace import MOST_REQUESTS, RequestTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRun:
    """What a benchmark run did and measured.

    Attributes
    ----------
    tool : str
        What wrote it down.
    model : str
        The model, as the client called it.
    requests : int
        Requests that were answered [1].
    concurrency : int or None
        Most in flight [1]; ``None`` where only a rate bounds them.
    rate : float
        Requests that the client sent [1/s]; infinite where it sent one as soon as another ended.
    input_tokens, output_tokens : int
        Mean lengths [tokens], or the longest where ``range_ratio`` is below 1.
    range_ratio : float
        Shortest length over the longest, where lengths were drawn evenly between them [1].
    tokens_per_s, tokens_per_s_per_device : float
        Input and output tokens per second of the run, over all devices and for each [1/s]; NaN where unknown.
    ttft, tpot, e2el : float
        Latencies [s]; NaN where the file has none.
    statistic : {"mean", "p50"}
        What the latencies are: means where the file has them, else medians.
    sent : RequestTrace or None
        The requests one by one, where the file has them.
    stack, device : str
        What ran where, in the file's words; empty where it does not say.
    pools : tuple of mapping
        Degrees ``tp``, ``dp``, ``pp``, ``ep`` and ``workers`` of the workers, or of those that prefill and those that
        decode; empty where the file does not say.
    dtype : str
        Dtype of the linear weights, where the file says it.
    reason : str
        Why nobody can play it; empty where one can.
    notes : tuple of str
        What reading it had to assume.
    """

    tool: str
    model: str = ""
    requests: int
    concurrency: int | None
    rate: float = math.inf
    input_tokens: int
    output_tokens: int
    range_ratio: float = 1.0
    tokens_per_s: float = math.nan
    tokens_per_s_per_device: float = math.nan
    ttft: float = math.nan
    tpot: float = math.nan
    e2el: float = math.nan
    statistic: str = "mean"
    sent: RequestTrace | None = None
    stack: str = ""
    device: str = ""
    pools: tuple[Mapping[str, int], ...] = field(default=())
    dtype: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()


def run_trace(run: BenchRun, file: Path) -> RequestTrace:
    """Return the requests of a run: those that the file has, or such as its figures describe.

    Parameters
    ----------
    run : BenchRun
        The run.
    file : Path
        Where it was read, for messages.
    """
    if run.sent is not None:
        return replace(run.sent, notes=(*run.sent.notes, *run.notes))
    require_few(file, run.requests)
    notes = list(run.notes)
    if run.range_ratio < 1.0:
        spread = {"kind": "uniform", "ratio": run.range_ratio}
        arrivals = {"kind": "closed_loop", "concurrency": run.concurrency or run.requests}
        drawn = generate_requests(
            requests=run.requests,
            seed=0,
            arrivals=arrivals,
            input_tokens={**spread, "length": run.input_tokens},
            output_tokens={**spread, "length": run.output_tokens},
        )
        notes.append(f"{file.name}: no lengths per request in the file; drawn from {run.range_ratio:g} of the longest")
        return replace(drawn, source=str(file), notes=tuple(notes))
    notes.append(f"{file.name}: no lengths per request in the file; all {run.requests} requests get the mean length")
    rows = np.arange(run.requests, dtype=np.float64)
    arrival = np.zeros(run.requests)
    if math.isfinite(run.rate):
        arrival = rows / run.rate
        notes.append(f"{file.name}: no times per request in the file; evenly spaced at {run.rate:g} requests/s")
    trace = trace_of(
        file,
        arrival,
        {"input": np.full(len(rows), float(run.input_tokens)), "output": np.full(len(rows), float(run.output_tokens))},
        arrival_name="arrival",
    )
    return replace(trace, concurrency=None if math.isfinite(run.rate) else run.concurrency, notes=tuple(notes))


def positive(document: Mapping[str, Any], key: str, file: Path, default: float | None = None) -> float:
    """Read a positive number; an infinite rate may be written as the text "inf".

    Parameters
    ----------
    document : Mapping
        A result, or a part of one.
    key : str
        The key.
    file : Path
        Where it stands, for messages.
    default : float, optional
        What an absent key or a null stands for; either is an error without it.
    """
    value = document.get(key)
    if value is None and default is not None:
        return default
    if key not in document:
        fail(file, f"{key} is missing; {nearest_found(key, document)}")
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not number > 0 or (math.isinf(number) and key != "request_rate"):
        fail(file, f"{key}: got {shown(value)}, expected a number above 0")
    return number


def count_of(document: Mapping[str, Any], key: str, file: Path, default: int | None = None) -> int:
    """Read a number of requests or tokens: positive, and no more than anybody plays.

    Parameters
    ----------
    document : Mapping
        A result, or a part of one.
    key : str
        The key.
    file : Path
        Where it stands, for messages.
    default : int, optional
        What an absent key or a null stands for.
    """
    found = positive(document, key, file, default)
    if not 1 <= found <= MOST_REQUESTS:
        fail(file, f"{key}: got {shown(document.get(key))}, expected a number from 1 to {MOST_REQUESTS:,}")
    return int(found)


def mapping(value: object, file: Path, what: str) -> Mapping[str, Any]:
    """Return a value that must be a JSON object.

    Raises
    ------
    TraceFormatError
        It is another.
    """
    if not isinstance(value, dict):
        raise TraceFormatError(f"{file}: got {shown(value)}, expected {what}")
    return value
