"""Read measured serving runs: tables with a row per run, and results of the tools that benchmark servers.

Either becomes the same value, a :class:`Point`: the scenario as the benchmark ran it, and what was measured.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from hardware_profiles.edge import exists, nearest_found, read_text, reason, shown, shown_path
from hardware_profiles.loader import device_names, load_device
from simulator.errors import MoesimError, ProfileError, ScenarioError, nearest
from simulator.stack import load_stack, stack_names
from workloads.models.library import load_model
from workloads.requests.bench import BenchRun
from workloads.requests.results import read_bench_runs
from workloads.requests.tables import TABLES

#: Metrics that are compared; latencies in seconds, throughput in input and output tokens per second and device.
METRICS = ("ttft", "tpot", "e2el", "throughput")
#: Shortest over longest length, and requests per client in flight, of the benchmark that the tables come from.
RANGE_RATIO, ROUNDS = 0.8, 10
#: Largest count or length of a row [1].
_MOST = 1e8
#: Extensions of results that tools of benchmarks write.
_RESULTS = (".json", ".jsonl")
#: Dtypes that a tool's word for a precision asks for.
_DTYPES: Mapping[str, Mapping[str, str]] = {
    "fp8": {"dense": "fp8", "experts": "fp8"},
    "fp4": {"dense": "nvfp4", "experts": "nvfp4"},
    "int4": {"dense": "int4", "experts": "int4"},
}
_NEEDED = ("stack", "model", "device", "isl", "osl", "concurrency")
#: What a folder's files say in their names: degrees by their letters, lengths, and clients in flight.
_SPLITS: Mapping[str, tuple[str, ...]] = {
    "tp": ("tp",),
    "dp": ("dp",),
    "pp": ("pp",),
    "ep": ("ep",),
    "tep": ("tp", "ep"),
    "dep": ("dp", "ep"),
}
_WORD = re.compile(r"(?P<name>[a-z]+)(?P<value>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Identical workers of a run: attention split ``tp`` ways and repeated ``dp`` times, experts spread over ``ep``."""

    tp: int = 1
    dp: int = 1
    pp: int = 1
    ep: int = 1
    workers: int = 1

    @property
    def devices(self) -> int:
        """Devices of all workers [1]."""
        return self.tp * self.dp * self.pp * self.workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured run.

    Attributes
    ----------
    id, stack, model, device : str
        What ran where, by moesim's names for stack and device.
    isl, osl : int
        Longest prompt and answer [tokens]; lengths are uniform from ``range_ratio`` of them.
    concurrency, requests : int
        Requests in flight, and in all [1].
    pools : tuple of Pool
        One where prompts and answers share workers, else prefill and decode.
    dtypes : Mapping of str to str
        Dtypes that the table asks for: ``dense``, ``experts``, ``kv_cache``.
    measured : Mapping of str to float
        What was measured of :data:`METRICS` [s], [tokens/s].
    statistic : str
        ``mean`` or ``p50``: what the latencies are.
    trace : Path or None
        File that has the requests one by one, or says when they came; lengths and concurrency are means then.
    reason : str
        Why the run cannot be played; empty where it can.
    """

    id: str
    stack: str
    model: str
    device: str
    isl: int
    osl: int
    concurrency: int
    requests: int
    pools: tuple[Pool, ...] = (Pool(),)
    range_ratio: float = RANGE_RATIO
    dtypes: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, float]
    statistic: str = "mean"
    trace: Path | None = None
    reason: str = ""

    @property
    def devices(self) -> int:
        """Devices that the run takes [1]."""
        return sum(pool.devices for pool in self.pools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What the caller says about runs, over what they say themselves; ``profiles`` is the user's hardware folder."""

    device: str | None = None
    stack: str | None = None
    model: str | None = None
    split: str | None = None
    profiles: Path | None = None


def read_points(path: Path, named: Named) -> tuple[Point, ...]:
    """Read measured runs from a CSV file, a JSON result, or a folder of either.

    Raises
    ------
    MoesimError
        Nothing is there, or a table or a result cannot be used.
    """
    if not exists(path):
        raise ScenarioError(f"{shown_path(path)}: no such file or folder of serving measurements")
    _check_names(named)
    files = _files(path) if path.is_dir() else [path]
    points: list[Point] = []
    for file in files:
        if file.suffix == ".csv":
            points.extend(_table(file, named))
        elif file.suffix in _RESULTS:
            points.extend(_bench_points(file, named))
        else:
            raise ScenarioError(f"{file}: expected a .csv table, a .json or .jsonl result of a benchmark, or a folder")
    if not points:
        raise ScenarioError(f"{path}: no serving measurements (.csv, .json or .jsonl) in it")
    return tuple(points)


def _files(folder: Path) -> list[Path]:
    """List tables and results of a folder, tables first."""
    found = sorted(file for file in folder.iterdir() if file.suffix in (".csv", *_RESULTS))
    return sorted(found, key=lambda file: file.suffix != ".csv")


def _check_names(named: Named) -> None:
    """Refuse a name that the caller gave and nobody knows; one in a row only leaves that row out."""
    if named.device is not None:
        load_device(named.device, named.profiles)
    if named.stack is not None:
        load_stack(named.stack)
    if named.model is not None:
        load_model(named.model)


def _table(file: Path, named: Named) -> list[Point]:
    text = read_text(file, ScenarioError)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = list(reader)
        columns = list(reader.fieldnames or ())
    except csv.Error as error:
        raise ScenarioError(f"{shown_path(file)}: cannot be read as CSV: {reason(error)}") from None
    if not columns:
        raise ScenarioError(f"{file}: the file is empty; expected a table whose first line names its columns")
    for name, trace in TABLES.items():
        if set(trace.names) <= set(columns):
            raise ScenarioError(
                f"{file}: holds requests ({name}) and nothing measured; simulate plays it (requests.trace)"
            )
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise ScenarioError(f"{file}: column {shown(twice)} is there twice")
    given = {name for name in ("stack", "model", "device") if getattr(named, name)}
    for name in _NEEDED:
        if name not in columns and name not in given:
            raise ScenarioError(f"{shown_path(file)}: column {name} is missing; {nearest_found(name, columns)}")
    return [
        _row_point(row, f"{shown_path(file)}: row {number}", number, named) for number, row in enumerate(rows, start=1)
    ]


def _row_point(row: Mapping[str, str | None], where: str, number: int, named: Named) -> Point:
    cells = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    requests = _count(cells, "concurrency", where, 0)
    stack, device, unknown = _known(named.stack or cells["stack"], named.device or cells["device"], named.profiles)
    pools, reason = _pools(cells, where)
    reason = unknown or reason
    if not requests:
        reason = reason or "the table gives no concurrency"
    if cells.get("speculative", "none") not in {"", "none"}:
        reason = reason or f"speculative = {cells['speculative']}: its draft acceptance is not known"
    measured = {
        "ttft": _figure(cells, ("mean_ttft_ms", "median_ttft_ms"), where, 1e-3),
        "tpot": _figure(cells, ("mean_tpot_ms", "median_tpot_ms"), where, 1e-3),
        "e2el": _figure(cells, ("mean_e2el_ms", "median_e2el_ms"), where, 1e-3),
        "throughput": _figure(cells, ("tokens_per_s_per_gpu",), where, 1.0),
    }
    only_medians = not cells.get("mean_tpot_ms") and bool(cells.get("median_tpot_ms"))
    asked = {"dense": "gemm_quant_mode", "experts": "moe_quant_mode", "kv_cache": "kvcache_quant_mode"}
    osl = _count(cells, "osl", where)
    if math.isnan(measured["e2el"]) and not only_medians:
        # Exact but for the spread of answer lengths, which are independent of the pace at which they come.
        measured["e2el"] = measured["ttft"] + measured["tpot"] * ((1 + RANGE_RATIO) / 2 * osl - 1)
    return Point(
        id=cells.get("id") or str(number),
        stack=stack,
        model=named.model or cells["model"],
        device=device,
        isl=_count(cells, "isl", where),
        osl=osl,
        concurrency=max(requests, 1),
        requests=ROUNDS * max(requests, 1),
        pools=pools,
        dtypes={part: cells[column] for part, column in asked.items() if cells.get(column)},
        measured=measured,
        statistic="p50" if only_medians else "mean",
        reason=reason,
    )


def _pools(cells: Mapping[str, str], where: str) -> tuple[tuple[Pool, ...], str]:
    """Read the split of a run, and what is wrong with it."""
    prefixes = ("prefill_", "decode_") if cells.get("mode") == "disagg" else ("",)
    pools, reason = [], ""
    for prefix in prefixes:
        tp, dp, pp, moe_tp, ep, workers = (
            _count(cells, prefix + name, where, default)
            for name, default in (
                ("tp_size", 1),
                ("attention_dp_size", 1),
                ("pp_size", 1),
                ("moe_tp_size", 0),
                ("moe_ep_size", 1),
                ("num_workers", 1),
            )
        )
        if moe_tp and moe_tp * ep != tp * dp:
            reason = f"experts on {moe_tp} x {ep} devices, attention on {tp} x {dp}"
        pools.append(Pool(tp=tp, dp=dp, pp=pp, ep=ep, workers=workers))
    return tuple(pools), reason


def _count(cells: Mapping[str, str], key: str, where: str, default: int | None = None) -> int:
    text = cells.get(key, "")
    if not text and default is not None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value <= _MOST or value != int(value):
        raise ScenarioError(f"{where}: {key}: got {shown(text)}, expected a whole number of at least 1")
    return int(value)


def _figure(cells: Mapping[str, str], columns: tuple[str, ...], where: str, unit: float) -> float:
    """Read the first of several columns that is filled; NaN where none is."""
    for column in columns:
        text = cells.get(column, "")
        if text:
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not (math.isfinite(value) and value > 0):
                raise ScenarioError(f"{where}: {column}: got {shown(text)}, expected a number above 0")
            return value * unit
    return math.nan


def _bench_points(file: Path, named: Named) -> list[Point]:
    """Read the runs of a result; what its tool does not say stands in the names of file and folder, or was given."""
    runs = read_bench_runs(file)
    alone = len(runs) == 1
    return [
        _bench_point(file, run, named, file.stem if alone else f"{file.stem}:{number}", alone=alone)
        for number, run in enumerate(runs, start=1)
    ]


def _bench_point(file: Path, run: BenchRun, named: Named, label: str, *, alone: bool) -> Point:
    words = re.split(r"[_\-\s]+", file.stem.lower())
    folder = re.split(r"[_\s]+", file.parent.name.lower())
    pools = tuple(Pool(**pool) for pool in run.pools) or (Pool(**_split_of(words, file, named.split)),)
    told = _stack_of(run.stack)
    stack = named.stack or told or next((word for word in (*words, *folder) if word in stack_names()), None)
    if stack is None:
        raise ScenarioError(f"{file}: the name holds no serving stack; say --stack, one of {', '.join(stack_names())}")
    device = named.device or next(
        (word for word in (*_device_words(run.device), *words, *folder) if _is_device(word, named.profiles)), run.device
    )
    if not device:
        raise ScenarioError(f"{file}: neither file nor folder name a device; say --device, as in --device h100-sxm")
    stack, device, reason = _known(stack, device, named.profiles)
    open_loop = math.isfinite(run.rate)
    if open_loop and not alone:
        reason = (
            reason or f"{run.tool} sent {run.rate:g} requests/s; a run with a rate is played from a file of its own"
        )
    per_device = run.tokens_per_s_per_device
    return Point(
        id=label,
        stack=stack,
        model=named.model or run.model,
        device=device,
        isl=run.input_tokens,
        osl=run.output_tokens,
        concurrency=run.concurrency or _in_flight(run),
        requests=run.requests,
        range_ratio=run.range_ratio,
        pools=pools,
        dtypes=_DTYPES.get(run.dtype.lower(), {}),
        # Requests one by one are played as they were sent; a file of several runs does not say which are whose.
        trace=file if alone and (open_loop or run.sent is not None) else None,
        measured={
            "ttft": run.ttft,
            "tpot": run.tpot,
            "e2el": run.e2el,
            "throughput": run.tokens_per_s / sum(pool.devices for pool in pools)
            if math.isnan(per_device)
            else per_device,
        },
        statistic=run.statistic,
        reason=reason or run.reason or ("" if named.model or run.model else "the file names no model; say --model"),
    )


def _in_flight(run: BenchRun) -> int:
    """Mean requests in flight of an open loop, by Little's law."""
    found = run.rate * run.e2el
    return max(round(found), 1) if math.isfinite(found) else 1


def _stack_of(framework: str) -> str | None:
    """Return the stack that a tool's word for it means, such as ``dynamo-trt`` or ``sglang-oai``."""
    for word in re.split(r"[_\-\s]+", framework.lower()):
        if word in stack_names():
            return word
        if word in ("trt", "tensorrt"):
            return "trtllm"
    return None


def _device_words(name: str) -> tuple[str, ...]:
    """Words that a tool's name of a device may mean, the longest first: ``h200-nv`` is an ``h200``."""
    word = name.lower().replace("_", "-")
    return (word, word.partition("-")[0]) if word else ()


def _split_of(words: list[str], file: Path, named: str | None) -> dict[str, int]:
    """Read the split from words: ``tp8``, ``tep8`` (tp and ep), ``dep8`` (dp and ep), of a name or as given."""
    if named is not None:
        words = re.split(r"[_\-\s,]+", named.lower())
    split: dict[str, int] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        for degree in _SPLITS.get(match["name"], ()) if match else ():
            split[degree] = int(match["value"]) if match else 1
    if not split:
        expected = "expected a word such as tp8, tp8_ep8, tep8 or dep8"
        if named is not None:
            raise ScenarioError(f"--split: got {shown(named)}, {expected}")
        raise ScenarioError(f"{shown_path(file)}: the name says no split; {expected}, or say --split")
    return split


@lru_cache(maxsize=256)
def _is_device(word: str, profiles: Path | None) -> bool:
    try:
        load_device(word, profiles)
    except MoesimError:
        return False
    return True


def _known(stack: str, device: str, profiles: Path | None) -> tuple[str, str, str]:
    """Return stack and device by moesim's names, and what is unknown of them."""
    reasons = []
    if not stack.endswith(".toml"):
        try:
            stack = load_stack(stack).id
        except ProfileError as error:
            reasons.append(str(error))
    wanted = device.lower().replace("_", "-")
    try:
        device = load_device(wanted, profiles).id
    except ProfileError:
        reasons.append(f"unknown device {shown(device)}; {nearest(wanted, device_names(profiles))}")
    return stack, device, "; ".join(reasons)
