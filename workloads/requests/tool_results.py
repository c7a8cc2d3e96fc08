"""Results of aiperf, genai-perf, GuideLLM and InferenceX, read as what a benchmark run did and measured."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.edge import json_lines, nearest_found, shown
from workloads.errors import TraceFormatError
from workloads.requests.bench import BenchRun, count_of, mapping, positive
from workloads.requests.links import Request, add_history, whole_prompts
from workloads.requests.rows import fail, fail_row, require_few, trace_of
from workloads.requests.trace import RequestTrace

#: Seconds of the units that tools write beside their figures.
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}
#: Requests of an InferenceX run for each that is in flight, and shortest over longest length.
_ROUNDS, _RANGE_RATIO = 10, 0.8
#: Factor that latency and throughput of one run may be apart by Little's law.
_APART = 10.0
#: Share of the time in which a closed loop has all its requests in flight.
_FULL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """One request of aiperf: its row, when it began and ended [ns], lengths [tokens] and latencies [s].

    ``session`` is the conversation that it is a ``turn`` of, counted from 0.
    """

    row: int
    start: int
    end: int
    prompt: float
    answer: float
    ttft: float
    tpot: float
    session: Hashable | None
    turn: int


def aiperf_records(file: Path) -> BenchRun:
    """Read ``profile_export.jsonl`` of aiperf, a record per request.

    Notes
    -----
    Requests that failed, were cancelled or warmed up are left out. Where all but the first few begin as others end, the
    client kept so many in flight: the run is a closed loop of them. Else requests come when they came. Turns of a
    conversation come as long after the answer before them as they did; sessions are then what is in flight.
    """
    records = list(json_lines(file, TraceFormatError))
    found = [each for row, record in records if (each := _answered(file, row, record)) is not None]
    if not found:
        fail(file, "no request was answered")
    require_few(file, len(found))
    found.sort(key=lambda each: each.start)
    left = len(records) - len(found)
    notes = [f"left out {left} requests that failed, were cancelled or warmed up"] if left else []
    began = np.array([each.start - found[0].start for each in found], np.float64) * 1e-9
    ended = np.array([each.end - found[0].start for each in found], np.float64) * 1e-9
    turns = any(each.turn for each in found)
    first, links = _conversations(file, found, notes) if turns else (np.arange(len(found)), [])
    last_of = np.zeros(len(found))
    np.maximum.at(last_of, first, ended)
    alone = first == np.arange(len(found))
    loop = _closed_loop(began[alone], last_of[alone])
    if loop is None:
        notes.append("arrivals are those recorded: the file does not say how the client sent them")
    else:
        what = "sessions" if turns else "requests"
        notes.append(f"{loop} {what} are in flight from first to last: played as a closed loop")
    prompts = np.array([each.prompt for each in found], np.float64)
    answers = np.array([each.answer for each in found], np.float64)
    if links:
        prompts = np.array([each.tokens[0] for each in links], np.float64)
    # Turns stand where their sessions begin, in their order.
    order = np.lexsort((np.array([each.depth for each in links]), first)) if links else np.arange(len(found))
    trace = trace_of(
        file,
        began[first][order],
        {"input_sequence_length": prompts[order], "output_sequence_length": answers[order]},
        arrival_name="request_start_ns",
        rows=[found[at].row for at in order.tolist()],
        notes=notes,
    )
    if links:
        trace = replace(
            trace,
            after=np.where(alone[order], -1, np.arange(len(found)) - 1),
            delay=np.array([links[at].delay for at in order.tolist()]),
        )
    span, last = float(ended.max()), float(began[-1])
    return BenchRun(
        tool="aiperf",
        requests=len(found),
        concurrency=loop,
        rate=(len(found) - 1) / last if loop is None and last > 0 else math.inf,
        input_tokens=max(round(float(prompts.mean())), 1),
        output_tokens=max(round(float(answers.mean())), 1),
        tokens_per_s=float(prompts.sum() + answers.sum()) / span if span > 0 else math.nan,
        ttft=_mean([each.ttft for each in found]),
        tpot=_mean([each.tpot for each in found]),
        e2el=float((ended - began).mean()),
        sent=_as_sent(trace, loop),
    )


def _answered(file: Path, row: int, record: object) -> _Answered | None:
    """Read a record; ``None`` where its request was not answered, or not measured."""
    whole = mapping(record, file, "a record of aiperf")
    about = mapping(whole.get("metadata"), file, "metadata of a request")
    if whole.get("error") is not None or about.get("was_cancelled") or about.get("benchmark_phase") == "warmup":
        return None
    figures = mapping(whole.get("metrics"), file, f"metrics in row {row}")
    start, end = (_nanoseconds(file, row, about, f"request_{edge}_ns") for edge in ("start", "end"))
    if end < start:
        fail_row(file, row, "request_end_ns is before request_start_ns")
    latency, apart = _duration(file, row, figures, "request_latency"), (end - start) * 1e-9
    if math.isfinite(latency) and not 0.5 * latency <= apart + 0.1 <= 2.0 * latency + 1.0:
        fail_row(file, row, f"request_latency is {latency:g} s, but its start and end are {apart:g} s apart")
    return _Answered(
        row=row,
        start=start,
        end=end,
        prompt=_value(file, row, figures, "input_sequence_length"),
        answer=_value(file, row, figures, "output_sequence_length"),
        ttft=_duration(file, row, figures, "time_to_first_token"),
        tpot=_duration(file, row, figures, "inter_token_latency"),
        session=_session(file, row, about),
        turn=_turn(file, row, about),
    )


def _session(file: Path, row: int, about: Mapping[str, Any]) -> Hashable | None:
    """Read which conversation a request is part of: its own name, or that of the entry of the data set."""
    session = next((about[key] for key in ("x_correlation_id", "conversation_id") if about.get(key) is not None), None)
    if isinstance(session, dict | list):
        fail_row(file, row, f"conversation_id: got {shown(session)}, expected text or a number")
    return session


def _turn(file: Path, row: int, about: Mapping[str, Any]) -> int:
    turn = about.get("turn_index")
    if turn is None:
        return 0
    if isinstance(turn, bool) or not isinstance(turn, int) or not 0 <= turn < 2**31:
        fail_row(file, row, f"turn_index: got {shown(turn)}, expected a whole number of at least 0")
    return turn


def _conversations(file: Path, found: Sequence[_Answered], notes: list[str]) -> tuple[NDArray[np.int64], list[Request]]:
    """Link the turns of conversations; return the first request of each one's session, and what it is as a line.

    A turn whose answer before it is not among those that were answered begins anew.
    """
    links = [Request(row=each.row, time=None, tokens=(each.prompt, each.answer), blocks=(), unit="s") for each in found]
    first, cut = np.arange(len(found)), 0
    # The last request of each turn that no other follows yet: an entry of the data set may be sent again and again.
    open_turns: dict[tuple[Hashable | None, int], int] = {}
    for at, each in enumerate(found):
        before = open_turns.pop((each.session, each.turn - 1), -1) if each.turn and each.session is not None else -1
        open_turns[each.session, each.turn] = at
        cut += each.turn > 0 and before < 0
        if before < 0:
            continue
        if each.start < found[before].end:
            fail_row(
                file, each.row, f"begins before the answer to turn {each.turn - 1} has ended (row {found[before].row})"
            )
        first[at] = first[before]
        links[at].after, links[at].depth = before, links[before].depth + 1
        links[at].delay = (each.start - found[before].end) * 1e-9
    if cut:
        notes.append(f"{cut} turns follow one that was not answered; they begin anew")
    whole, why = whole_prompts(file, links, None)
    notes.append(why)
    if not whole:
        add_history(links, None)
    return first, links


def _closed_loop(began: NDArray[np.float64], ended: NDArray[np.float64]) -> int | None:
    """Tell how many requests a client kept in flight; ``None`` where their number changes."""
    edges = np.concatenate([ended, began])
    change = np.concatenate([-np.ones(len(ended)), np.ones(len(began))])
    # An end counts before a start at the same time.
    order = np.argsort(edges, kind="stable")
    times, running = edges[order], np.cumsum(change[order])
    most = int(running.max())
    if len(began) < 2 * most:
        return None
    from_, to = float(began[most - 1]), float(began[-1])
    if to <= from_:
        return None
    width = np.diff(np.clip(times, from_, to))
    mean = float((running[:-1] * width).sum() / (to - from_))
    return most if mean >= _FULL * most else None


def _nanoseconds(file: Path, row: int, about: Mapping[str, Any], key: str) -> int:
    value = about.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        fail_row(file, row, f"{key}: got {shown(value)}, expected a whole number of nanoseconds")
    return value


def _value(file: Path, row: int, figures: Mapping[str, Any], key: str) -> float:
    """Read the value of a metric of a record; output_token_count stands in for the length of an answer."""
    found = figures.get(key, figures.get("output_token_count") if key == "output_sequence_length" else None)
    value = found.get("value") if isinstance(found, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        fail_row(file, row, f"{key}: got {shown(found)}, expected an object with its value and unit")
    return value


def _duration(file: Path, row: int, figures: Mapping[str, Any], key: str) -> float:
    """Read a time of a record [s], in the unit that stands beside it; NaN where there is none."""
    if figures.get(key) is None:
        return math.nan
    unit = figures[key].get("unit") if isinstance(figures[key], dict) else None
    value = _value(file, row, figures, key)
    if not isinstance(unit, str) or unit not in _SECONDS or not (value >= 0 and math.isfinite(value)):
        fail_row(file, row, f"{key}: got {shown(figures[key])}, expected a time with one of {', '.join(_SECONDS)}")
    return value * _SECONDS[unit]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def perf_summary(document: Mapping[str, Any], file: Path) -> BenchRun:
    """Read the summary of aiperf (``profile_export_aiperf.json``) or genai-perf (``profile_export_genai_perf.json``).

    Parameters
    ----------
    document : Mapping
        The summary; in some versions its metrics stand under ``records``.
    file : Path
        Where it came from, for messages.
    """
    figures = {**mapping(document.get("records", {}), file, "records as an object"), **document}
    config = document.get("input_config")
    prompt, answer = (_average(figures, f"{kind}_sequence_length", file) for kind in ("input", "output"))
    latency = _average(figures, "request_latency", file, seconds=True)
    throughput = _average(figures, "request_throughput", file)
    concurrency, rate = _found(config, ("concurrency",)), _found(config, ("request_rate",))
    notes = []
    if rate is not None and concurrency is not None:
        notes.append(
            f"{file.name}: requests come at {rate:g} a second; the client's cap of {concurrency} is not played"
        )
        concurrency = None
    if concurrency is None and rate is None:
        concurrency = max(round(latency * throughput), 1)
        notes.append(
            f"{file.name}: says neither concurrency nor rate; {concurrency} in flight follow from its throughput and "
            "latency"
        )
    count = figures.get("request_count")
    requests = round(_average(figures, "request_count", file)) if count is not None else 0
    if not requests:
        requests = _ROUNDS * int(concurrency or 10)
        notes.append(f"{file.name}: no number of requests in the file; {requests} are played")
    tool = "aiperf" if "aiperf_version" in document or "aiperf" in file.name else "genai-perf"
    return BenchRun(
        tool=tool,
        model=_model(config) or "",
        requests=count_of({"request_count": requests}, "request_count", file),
        concurrency=None if concurrency is None else count_of({"concurrency": concurrency}, "concurrency", file),
        rate=math.inf if concurrency is not None else positive({"request_rate": rate}, "request_rate", file),
        input_tokens=max(round(prompt), 1),
        output_tokens=max(round(answer), 1),
        tokens_per_s=throughput * (prompt + answer),
        ttft=_average(figures, "time_to_first_token", file, seconds=True, needed=False),
        tpot=_average(figures, "inter_token_latency", file, seconds=True, needed=False),
        e2el=latency,
        notes=tuple(notes),
    )


def _average(figures: Mapping[str, Any], key: str, file: Path, *, seconds: bool = False, needed: bool = True) -> float:
    """Read the mean of a metric, times in seconds by the unit that stands beside it."""
    block = figures.get(key)
    if block is None and not needed:
        return math.nan
    if not isinstance(block, dict):
        fail(file, f"{key}: got {shown(block)}, expected an object with unit and avg")
    value = positive({key: block.get("avg")}, key, file)
    if not seconds:
        return value
    unit = block.get("unit")
    if not isinstance(unit, str) or unit not in _SECONDS:
        fail(file, f"{key}.unit: got {shown(unit)}, expected one of {', '.join(_SECONDS)}")
    return value * _SECONDS[unit]


def _found(config: object, keys: Sequence[str]) -> float | None:
    """Return the first number under one of some keys, wherever it stands in a configuration."""
    for name, value in _leaves(config):
        if name in keys and isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _model(config: object) -> str | None:
    """Return the first name of a model, wherever it stands in a configuration."""
    names = ("model", "model_name", "model_names", "models", "backend_model", "name")
    return next((value for name, value in _leaves(config) if name in names and isinstance(value, str) and value), None)


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of nested objects and lists by the name of the key above them."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(each, key)
    elif isinstance(value, list):
        for each in value[:100]:
            yield from _leaves(each, name)
    else:
        yield name, value


def guidellm_runs(document: Mapping[str, Any], file: Path) -> list[BenchRun]:
    """Read ``benchmarks.json`` of GuideLLM: a run for each of its benchmarks.

    Parameters
    ----------
    document : Mapping
        The report.
    file : Path
        Where it came from, for messages.
    """
    found = document.get("benchmarks")
    if not isinstance(found, list) or not found:
        fail(file, "benchmarks: expected a list with at least one benchmark")
    return [_guidellm(mapping(each, file, "a benchmark as an object"), document, file) for each in found]


def _guidellm(benchmark: Mapping[str, Any], document: Mapping[str, Any], file: Path) -> BenchRun:
    if benchmark.get("metrics") is None:
        fail(file, f"a benchmark has no metrics; {nearest_found('metrics', benchmark)}")
    figures = mapping(benchmark["metrics"], file, "metrics of a benchmark as an object")
    prompt, answer = (_successful(figures, f"{kind}_token_count", file) for kind in ("prompt", "output"))
    strategy: Mapping[str, Any] = next(
        (
            part["strategy"]
            for part in (benchmark.get("config"), benchmark.get("args"), benchmark.get("scheduler"))
            if isinstance(part, dict) and isinstance(part.get("strategy"), dict)
        ),
        {},
    )
    kind, notes = strategy.get("type_"), []
    concurrency, rate = None, math.inf
    if kind == "synchronous":
        concurrency = 1
    elif kind in ("concurrent", "throughput"):
        key = "streams" if kind == "concurrent" else "max_concurrency"
        stated = strategy.get(key)
        concurrency = count_of(strategy, key, file) if stated is not None else None
    elif kind in ("constant", "async", "poisson"):
        rate = positive(strategy, "rate", file)
    if concurrency is None and math.isinf(rate):
        mean = _successful(figures, "request_concurrency", file)
        concurrency = max(round(mean), 1)
        notes.append(f"{file.name}: says no number of streams; {concurrency} in flight are its mean")
    counted = figures.get("request_totals")
    requests = counted.get("successful") if isinstance(counted, dict) else None
    sent = _guidellm_requests(benchmark, file)
    if requests is None:
        requests = len(sent) if sent is not None else _ROUNDS * (concurrency or 10)
    return BenchRun(
        tool="GuideLLM",
        model=_model([benchmark.get("worker"), benchmark.get("config"), document.get("args")]) or "",
        requests=count_of({"request_totals.successful": requests}, "request_totals.successful", file),
        concurrency=concurrency,
        rate=rate,
        input_tokens=max(round(prompt), 1),
        output_tokens=max(round(answer), 1),
        tokens_per_s=_successful(figures, "requests_per_second", file) * (prompt + answer),
        ttft=_successful(figures, "time_to_first_token_ms", file, needed=False) * 1e-3,
        tpot=_successful(figures, "inter_token_latency_ms", file, needed=False) * 1e-3,
        e2el=_successful(figures, "request_latency", file, needed=False),
        sent=None if sent is None else _as_sent(sent, concurrency if math.isinf(rate) else None),
        notes=tuple(notes),
    )


def _as_sent(trace: RequestTrace, concurrency: int | None) -> RequestTrace:
    if concurrency is None:
        return trace
    return replace(trace, arrival=np.zeros(len(trace)), concurrency=concurrency)


def _guidellm_requests(benchmark: Mapping[str, Any], file: Path) -> RequestTrace | None:
    """Read the requests of a benchmark one by one; ``None`` where the report has only figures."""
    group = benchmark.get("requests")
    listed = group.get("successful") if isinstance(group, dict) else None
    if not isinstance(listed, list) or not listed:
        return None
    found = []
    for row, request in enumerate(listed, start=1):
        about = mapping(request, file, f"request {row} as an object")
        began = about.get("request_start_time", about.get("start_time"))
        values = (began, about.get("prompt_tokens"), about.get("output_tokens"))
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
            return None
        found.append(values)
    found.sort(key=lambda each: float(each[0]))
    table = np.array(found, np.float64)
    return trace_of(
        file,
        table[:, 0] - table[0, 0],
        {"prompt_tokens": table[:, 1], "output_tokens": table[:, 2]},
        arrival_name="request_start_time",
    )


def _successful(figures: Mapping[str, Any], key: str, file: Path, *, needed: bool = True) -> float:
    """Read the mean of a metric over the requests that succeeded."""
    part = figures.get(key)
    block = part.get("successful") if isinstance(part, dict) else None
    value = block.get("mean") if isinstance(block, dict) else None
    if value is None and not needed:
        return math.nan
    return positive({f"{key}.successful.mean": value}, f"{key}.successful.mean", file)


def inferencex_run(document: Mapping[str, Any], file: Path) -> BenchRun:
    """Read an aggregate of InferenceX: one row of its tables as JSON.

    Parameters
    ----------
    document : Mapping
        The row; in some versions its metrics stand under ``metrics``.
    file : Path
        Where it came from, for messages.
    """
    figures = {**mapping(document.get("metrics", {}), file, "metrics as an object"), **document}
    concurrency = count_of(figures, "conc", file)
    split, reason = _inferencex_pools(figures, file)
    drafts = figures.get("spec_decoding", figures.get("spec_method"))
    if drafts not in (None, "", "none", False):
        reason = f"speculative = {shown(drafts)}: its draft acceptance is not known"
    mean = figures.get("mean_tpot") is not None
    statistic = "mean" if mean else "median"
    latencies = {name: positive(figures, f"{statistic}_{name}", file, math.nan) for name in ("ttft", "tpot", "e2el")}
    prompt, answer = (count_of(figures, key, file) for key in ("isl", "osl"))
    throughput = positive(figures, "tput_per_gpu", file, math.nan)
    devices = sum(pool["tp"] * pool["dp"] * pool["workers"] for pool in split)
    by_little = concurrency * (prompt + answer) / latencies["e2el"] / devices
    if not 1.0 / _APART < throughput / by_little < _APART and math.isfinite(throughput * by_little):
        told = f"{statistic}_e2el = {latencies['e2el']:g} s with conc = {concurrency} would be {by_little:.3g} tokens/s"
        fail(file, f"{told} and GPU, but tput_per_gpu says {throughput:.3g}; latencies are expected in seconds")
    return BenchRun(
        tool="InferenceX",
        model=str(figures.get("model") or figures.get("infmax_model_prefix") or ""),
        requests=_ROUNDS * concurrency,
        concurrency=concurrency,
        input_tokens=prompt,
        output_tokens=answer,
        range_ratio=_RANGE_RATIO,
        tokens_per_s_per_device=throughput,
        ttft=latencies["ttft"],
        tpot=latencies["tpot"],
        e2el=latencies["e2el"],
        statistic="mean" if mean else "p50",
        stack=str(figures.get("framework") or ""),
        device=str(figures.get("hw") or figures.get("hardware") or ""),
        pools=split,
        dtype=str(figures.get("precision") or ""),
        reason=reason,
    )


def _inferencex_pools(figures: Mapping[str, Any], file: Path) -> tuple[tuple[Mapping[str, int], ...], str]:
    """Read the split: attention is data parallel over all devices where ``dp_attention`` says so."""
    apart = _true(figures.get("disagg")) or (figures.get("disagg") is None and "prefill_tp" in figures)
    prefixes = ("prefill_", "decode_") if apart else ("" if "tp" in figures else "decode_",)
    pools, reason = [], ""
    for prefix in prefixes:
        tp = count_of(figures, f"{prefix}tp", file)
        ep = count_of(figures, f"{prefix}ep", file, 1)
        spread = _true(figures.get(f"{prefix}dp_attention"))
        workers = count_of(figures, f"{prefix}num_workers", file, 1)
        pools.append({"tp": 1 if spread else tp, "dp": tp if spread else 1, "ep": ep, "workers": workers})
    return tuple(pools), reason


def _true(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")
