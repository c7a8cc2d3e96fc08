"""Read measured serving runs: tables with a row per run, and folders of ``vllm bench serve`` results.

Either becomes the same value, a :class:`Point`: the scenario as the benchmark ran it, and what was measured.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from hardware_profiles.loader import device_names, load_device
from simulator.errors import MoesimError, ProfileError, ScenarioError, nearest
from simulator.stack import load_stack, stack_names
from workloads.models.library import load_model
from workloads.requests.vllm_results import BenchRun, read_bench_run

#: Metrics that are compared; latencies in seconds, throughput in input and output tokens per second and device.
METRICS = ("ttft", "tpot", "e2el", "throughput")
#: Shortest over longest length, and requests per client in flight, of the benchmark that the tables come from.
RANGE_RATIO, ROUNDS = 0.8, 10
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
    profiles: Path | None = None


def read_points(path: Path, named: Named) -> tuple[Point, ...]:
    """Read measured runs from a CSV file, a JSON result, or a folder of either.

    Raises
    ------
    MoesimError
        Nothing is there, or a table or a result cannot be used.
    """
    if not path.exists():
        raise ScenarioError(f"{path}: no such file or folder of serving measurements")
    _check_names(named)
    files = sorted(path.glob("*.csv")) + sorted(path.glob("*.json")) if path.is_dir() else [path]
    points: list[Point] = []
    for file in files:
        if file.suffix == ".csv":
            points.extend(_table(file, named))
        elif file.suffix == ".json":
            points.append(_bench_point(file, named))
        else:
            raise ScenarioError(f"{file}: expected a .csv table, a .json result of vllm bench serve, or a folder")
    if not points:
        raise ScenarioError(f"{path}: no serving measurements (.csv or .json) in it")
    return tuple(points)


def _check_names(named: Named) -> None:
    """Refuse a name that the caller gave and nobody knows; one in a row only leaves that row out."""
    if named.device is not None:
        load_device(named.device, named.profiles)
    if named.stack is not None:
        load_stack(named.stack)
    if named.model is not None:
        load_model(named.model)


def _table(file: Path, named: Named) -> list[Point]:
    try:
        with file.open(encoding="utf-8", newline="") as text:
            reader = csv.DictReader(text)
            rows = list(reader)
            columns = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(f"{file}: cannot be read: {error}") from None
    if not columns:
        raise ScenarioError(f"{file}: the file is empty; expected a table whose first line names its columns")
    given = {name for name in ("stack", "model", "device") if getattr(named, name)}
    for name in _NEEDED:
        if name not in columns and name not in given:
            raise ScenarioError(
                f"{file}: column {name} is missing; {nearest(name, columns).replace('allowed', 'found')}"
            )
    return [_row_point(row, f"{file}: row {number}", number, named) for number, row in enumerate(rows, start=1)]


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
    if not (value >= 1 and value == int(value)):
        raise ScenarioError(f"{where}: {key}: got {text!r}, expected a whole number of at least 1")
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
                raise ScenarioError(f"{where}: {column}: got {text!r}, expected a number above 0")
            return value * unit
    return math.nan


def _bench_point(file: Path, named: Named) -> Point:
    run = read_bench_run(file)
    words = re.split(r"[_\-\s]+", file.stem.lower())
    folder = re.split(r"[_\s]+", file.parent.name.lower())
    split = _split_of(words, file)
    stack = named.stack or next((word for word in (*words, *folder) if word in stack_names()), None)
    if stack is None:
        raise ScenarioError(f"{file}: the name holds no serving stack; say --stack, one of {', '.join(stack_names())}")
    device = named.device or next((word for word in (*words, *folder) if _is_device(word, named.profiles)), None)
    if device is None:
        raise ScenarioError(f"{file}: neither file nor folder name a device; say --device, as in --device h100-sxm")
    stack, device, reason = _known(stack, device, named.profiles)
    return Point(
        id=file.stem,
        stack=stack,
        model=named.model or run.model,
        device=device,
        isl=run.input_tokens,
        osl=run.output_tokens,
        concurrency=run.concurrency,
        requests=run.requests,
        range_ratio=1.0,
        pools=(Pool(**split),),
        measured=_bench_figures(run, Pool(**split).devices),
        statistic=run.statistic,
        reason=reason,
    )


def _bench_figures(run: BenchRun, devices: int) -> dict[str, float]:
    throughput = run.tokens_per_s / devices
    return {"ttft": run.ttft, "tpot": run.tpot, "e2el": run.e2el, "throughput": throughput}


def _split_of(words: list[str], file: Path) -> dict[str, int]:
    """Read the split from the words of a file name: ``tp8``, ``tep8`` (tp and ep), ``dep8`` (dp and ep)."""
    split: dict[str, int] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        for degree in _SPLITS.get(match["name"], ()) if match else ():
            split[degree] = int(match["value"]) if match else 1
    if not split:
        raise ScenarioError(f"{file}: the name says no split; expected a word such as tp8, tp8_ep8, tep8 or dep8")
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
        reasons.append(f"unknown device {device!r}; {nearest(wanted, device_names(profiles))}")
    return stack, device, "; ".join(reasons)
