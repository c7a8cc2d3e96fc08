"""Say a simulated run in the words of ``vllm bench serve``, so that scripts which compare its results read ours.

Keys, units (summaries in milliseconds, arrays in seconds) and meanings are those of vLLM's ``--save-result``; what
a frame of requests cannot tell (generated texts, the peak output rate) is left out.

References
----------
vLLM, ``vllm/benchmarks/serve.py``, function ``calculate_metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.errors import OutputError, nearest
from simulator.results.percentiles import Counted, weighted_percentiles
from simulator.results.trace import TokenGaps

if TYPE_CHECKING:
    import pandas as pd


_COLUMNS = ("arrival_s", "first_token_s", "finish_s", "input_tokens", "output_tokens")
_TARGETS = ("ttft", "tpot", "e2el")


def vllm_bench_result(
    requests: pd.DataFrame,
    *,
    model_id: str,
    date: datetime,
    tokenizer_id: str | None = None,
    backend: str = "moesim",
    request_rate: float = float("inf"),
    burstiness: float = 1.0,
    max_concurrency: int | None = None,
    goodput_targets_s: Mapping[str, float] | None = None,
    token_gaps: TokenGaps | None = None,
    percentiles: tuple[float, ...] = (99.0,),
    detailed: bool = True,
) -> dict[str, Any]:
    """Summarise requests as ``vllm bench serve --save-result`` does.

    Parameters
    ----------
    requests : DataFrame
        One row per request: arrival_s, first_token_s, finish_s [s, absolute], input_tokens, output_tokens [1]. A
        request without a finish time has failed.
    model_id, tokenizer_id : str
        Name of the model; the tokenizer's name is the model's unless given.
    date : datetime
        When the run was made.
    backend : str
        Who served the requests.
    request_rate : float
        Offered load [1/s]; infinite where all requests were sent at once or in a closed loop.
    burstiness : float
        Shape of the gamma-distributed arrivals [1]; 1 is a Poisson process.
    max_concurrency : int, optional
        Requests in flight at once, where the load was a closed loop.
    goodput_targets_s : Mapping of str to float, optional
        Upper limits of ``ttft``, ``tpot`` and ``e2el`` [s]; a request that meets all is good.
    token_gaps : TokenGaps, optional
        Measured inter-token latencies. Without them each request's gaps are taken as equal to its TPOT, which
        leaves the mean exact and the spread too narrow.
    percentiles : tuple of float
        Percentiles beside the median.
    detailed : bool
        Add one array entry per request.

    Returns
    -------
    dict
        The document; encode with :func:`simulator.export.files.encode_json`.

    Raises
    ------
    OutputError
        If a column is missing or a goodput target has an unknown name.

    Notes
    -----
    For a request that sends n > 1 tokens, TPOT = (E2EL - TTFT) / (n - 1); requests of one token have no TPOT and
    count as 0 against a goodput target. The duration runs from the first arrival to the last finish. Where nothing
    finished, summaries are 0 as in vLLM.
    """
    _check_columns(requests)
    arrival, first, finish = (requests[name].to_numpy(np.float64) for name in _COLUMNS[:3])
    inputs, outputs = (requests[name].to_numpy(np.int64) for name in _COLUMNS[3:])
    done = np.isfinite(first) & np.isfinite(finish)
    ttft, e2el = (first - arrival)[done], (finish - arrival)[done]
    gaps_in = np.maximum(outputs[done] - 1, 0)
    tpot = np.divide(e2el - ttft, gaps_in, out=np.zeros_like(e2el), where=gaps_in > 0)
    duration = float(finish[done].max() - arrival.min()) if done.any() else 0.0
    if token_gaps is None:
        token_gaps = TokenGaps(columns={"gap_s": tpot[gaps_in > 0], "tokens": gaps_in[gaps_in > 0]})
    total_in, total_out = int(inputs[done].sum()), int(outputs[done].sum())
    good = _good(goodput_targets_s, {"ttft": ttft, "tpot": tpot, "e2el": e2el})
    document: dict[str, Any] = {
        "date": date.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": backend,
        "backend": backend,
        "label": None,
        "model_id": model_id,
        "tokenizer_id": tokenizer_id or model_id,
        "num_prompts": len(requests),
        "request_rate": request_rate if np.isfinite(request_rate) else "inf",
        "burstiness": burstiness,
        "max_concurrency": max_concurrency,
        "duration": duration,
        "completed": int(done.sum()),
        "failed": int((~done).sum()),
        "total_input_tokens": total_in,
        "total_output_tokens": total_out,
        "request_throughput": _rate(float(done.sum()), duration),
        "request_goodput": None if good is None else _rate(good, duration),
        "output_throughput": _rate(total_out, duration),
        "total_token_throughput": _rate(total_in + total_out, duration),
        "max_concurrent_requests": _peak_concurrency(arrival[done], finish[done]),
    }
    document |= _summary("ttft", lambda: _each_once(ttft), percentiles)
    document |= _summary("tpot", lambda: _each_once(tpot[gaps_in > 0]), percentiles)
    document |= _summary("itl", token_gaps.parts, percentiles)
    document |= _summary("e2el", lambda: _each_once(e2el), percentiles)
    return document | (_arrays(arrival, first, inputs, outputs, done) if detailed else {})


def _each_once(values: FloatArray) -> list[Counted]:
    return [(values, np.ones(values.size, np.int64))]


def _summary(name: str, parts: Callable[[], Iterable[Counted]], percentiles: tuple[float, ...]) -> dict[str, float]:
    """Return mean, median, population standard deviation and percentiles of times [s], in milliseconds."""
    total = sum(int(counts.sum()) for _, counts in parts())
    mean = sum(float((values * counts).sum()) for values, counts in parts()) / total if total else 0.0
    squares = sum(float((counts * (values - mean) ** 2).sum()) for values, counts in parts())
    median, *others = weighted_percentiles(parts, (50.0, *percentiles))
    return {
        f"mean_{name}_ms": mean * 1e3,
        f"median_{name}_ms": median * 1e3,
        f"std_{name}_ms": (squares / total if total else 0.0) ** 0.5 * 1e3,
        **{f"p{each:g}_{name}_ms": value * 1e3 for each, value in zip(percentiles, others, strict=True)},
    }


def _check_columns(requests: pd.DataFrame) -> None:
    for name in _COLUMNS:
        if name not in requests.columns:
            msg = f"the frame of requests has no column '{name}'; {nearest(name, map(str, requests.columns))}"
            raise OutputError(msg)


def _good(targets: Mapping[str, float] | None, measured: Mapping[str, FloatArray]) -> float | None:
    """Count the requests that meet every target; None where there is none."""
    if not targets:
        return None
    good = np.ones(measured["e2el"].shape, dtype=bool)
    for name, limit in targets.items():
        if name not in measured:
            msg = f"unknown goodput target '{name}'; {nearest(name, _TARGETS)}"
            raise OutputError(msg)
        good &= measured[name] <= limit
    return float(good.sum())


def _rate(count: float, duration: float) -> float:
    return count / duration if duration > 0 else 0.0


def _peak_concurrency(start: FloatArray, end: FloatArray) -> int:
    """Count the most requests in flight at one moment; one that ends as another starts does not overlap it."""
    if start.size == 0:
        return 0
    started = np.arange(1, start.size + 1)
    ended = np.searchsorted(np.sort(end), np.sort(start), side="right")
    return int((started - ended).max())


def _arrays(
    arrival: FloatArray,
    first: FloatArray,
    inputs: NDArray[np.int64],
    outputs: NDArray[np.int64],
    done: NDArray[np.bool_],
) -> dict[str, Any]:
    return {
        "input_lens": inputs.tolist(),
        "output_lens": np.where(done, outputs, 0).tolist(),
        "ttfts": np.where(done, first - arrival, 0.0).tolist(),
        "start_times": arrival.tolist(),
        "errors": ["" if finished else "unfinished" for finished in done.tolist()],
    }
