"""All microbenchmarks of a machine, each within its share of the time, written as tables with a manifest."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hardware_profiles.errors import nearest
from hardware_profiles.outputs import not_writable, replacing, write_file
from validation.measure.attention import decode_cases, latent_decode_cases, latent_prefill_cases, prefill_cases
from validation.measure.buffers import CACHES, Pool
from validation.measure.case import Case, stratified
from validation.measure.collectives import group_sizes, measure_collectives
from validation.measure.dense import copy_cases, elementwise_cases, gemm_cases
from validation.measure.experts import grouped_gemm_cases, moe_cases
from validation.measure.machine import (
    Kind,
    Machine,
    MicrobenchmarkError,
    choose_kind,
    clocks_now,
    describe_machine,
    free_cores,
    import_torch,
    usable_cores,
)
from validation.measure.timing import measure

Progress = Callable[[float, str], None]
Cases = Callable[[Machine, str, tuple[str, ...]], Iterator[Case]]

#: Points of an op, and its share of the time [1].
OPS: Mapping[str, tuple[Cases | None, float]] = {
    "copy": (copy_cases, 0.5),
    "gemm": (gemm_cases, 5.0),
    "attention_prefill": (prefill_cases, 2.5),
    "attention_decode": (decode_cases, 2.5),
    "mla_prefill": (latent_prefill_cases, 2.0),
    "mla_decode": (latent_decode_cases, 2.0),
    "elementwise": (elementwise_cases, 1.5),
    # Grouped products have failed in graphs of some versions; what a failing GPU takes with it then stands before them.
    "moe": (moe_cases, 6.0),
    "grouped_gemm": (grouped_gemm_cases, 1.0),
    "collectives": (None, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much to measure: time in all and per point [s], and the largest point [FLOP, bytes]."""

    seconds: float
    point: float
    flops: float
    bytes: float


#: Sizes of the benchmark; ``full`` is meant for a GPU.
SIZES: Mapping[str, Size] = {
    "tiny": Size(seconds=20.0, point=0.02, flops=2e8, bytes=1.7e7),
    "small": Size(seconds=140.0, point=0.05, flops=1e9, bytes=1.4e8),
    "full": Size(seconds=400.0, point=0.03, flops=4e13, bytes=6e10),
}
#: Points of an op that are measured however long they take [1].
LEAST_POINTS = 4
#: Share of the device's memory that one call's operands may take [1].
MEMORY_SHARE = 0.4
#: How long a GPU works before the first measurement, to leave its idle clocks [s].
WAKING = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured: the machine, the rows of each table, what was left out and why, and the manifest."""

    machine: Machine
    tables: Mapping[str, list[dict[str, Any]]]
    left_out: tuple[str, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of all tables together [1]."""
        return sum(len(rows) for rows in self.tables.values())


def run_microbenchmarks(
    *,
    device: str | None = None,
    ops: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    size: str | None = None,
    out: Path | None = None,
    seconds: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure this machine.

    Parameters
    ----------
    device : {"cuda", "cpu"} or None
        What to measure; the first GPU where there is one, else the CPU.
    ops, dtypes : sequence of str
        What to measure with; everything that the machine has if empty.
    size : {"tiny", "small", "full"} or None
        How much; ``full`` on a GPU and ``small`` on a CPU if not given.
    out : Path or None
        Folder for one Parquet file per op and ``manifest.json``; nothing is written if not given.
    seconds : float or None
        Time in all [s] instead of that of the size.
    threads : int or None
        Cores of a CPU to use [1]; those that other work leaves free if not given.
    progress : callable or None
        Told the share done [1] and what is being measured.

    Raises
    ------
    MicrobenchmarkError
        No PyTorch or no GPU, an unknown op, size or dtype, or a folder that cannot be written.
    """
    kind = choose_kind(device)
    size = size or ("full" if kind == "cuda" else "small")
    chosen = tuple(_known("op", op, OPS) for op in ops) or tuple(OPS)
    limits = SIZES[_known("size", size, SIZES)]
    if kind == "cpu" and size == "full":
        raise MicrobenchmarkError("size 'full' would take a CPU hours; measure it with tiny or small")
    if out is not None:
        _check_folder(out)
    if kind == "cpu":
        import_torch().set_num_threads(threads or free_cores())
    machine = describe_machine(kind)
    wanted = _dtypes(machine, dtypes)
    begun, load, clocks = time.monotonic(), _load(), clocks_now(machine)
    end = begun + (limits.seconds if seconds is None else seconds)
    if kind == "cuda":
        _wake()
    tables: dict[str, list[dict[str, Any]]] = {}
    left_out: list[str] = []
    shares, pool = _shares(chosen), Pool(machine)
    for number, op in enumerate(chosen):
        tell = _part(progress, op, *shares[op])
        tell(0.0)
        cases, share = OPS[op]
        # What earlier ops left of their time goes to the later ones.
        budget = max(end - time.monotonic(), 0.0) * share / sum(OPS[later][1] for later in chosen[number:])
        if cases is None:
            tables |= _collectives(machine, size, budget, left_out)
        elif rows := _measure_op(op, cases(machine, size, wanted), machine, pool, limits, budget, left_out, tell):
            tables[op] = rows
    manifest = {
        "format": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": asdict(machine),
        "size": size,
        "dtypes": list(wanted),
        "seconds": round(time.monotonic() - begun, 1),
        "clocks_mhz": {"before": clocks, "after": clocks_now(machine)},
        "cores": {"used": machine.units, "usable": usable_cores()} if kind == "cpu" else {},
        "load_average": {"before": load, "after": _load()},
        "rows": {op: len(rows) for op, rows in tables.items()},
        "left_out": left_out,
        "buffers": f"operands rotate through {CACHES:g} x the last-level cache",
    }
    report = Report(machine=machine, tables=tables, left_out=tuple(left_out), manifest=manifest)
    if out is not None:
        write_report(report, out)
    if progress is not None:
        progress(1.0, "done")
    return report


def _measure_op(
    op: str,
    cases: Iterable[Case],
    machine: Machine,
    pool: Pool,
    limits: Size,
    seconds: float,
    left_out: list[str],
    tell: Callable[[float], None],
) -> list[dict[str, Any]]:
    largest = min(limits.bytes, MEMORY_SHARE * machine.memory)
    every = list(cases)
    within = [case for case in every if case.flops <= limits.flops and case.bytes <= largest]
    common = {"op": op, "framework": "torch", "version": machine.versions["torch"]}
    rows, refused = [], Counter[str]()
    begun = time.monotonic()
    for done, case in enumerate(stratified(within)):
        spent = time.monotonic() - begun
        if spent > seconds and done >= LEAST_POINTS:
            left_out.append(f"{op}: {len(within) - done} of {len(within)} points, for lack of time")
            break
        tell(max(spent / max(seconds, 1e-9), done / len(within)))
        try:
            rows.append(common | dict(case.row) | _measure_case(case, machine, pool, limits.point))
        except RuntimeError as error:
            # Kernels refuse shapes, and memory runs out: the other points are worth having all the same.
            refused[str(error).strip().partition("\n")[0][:200]] += 1
    pool.trim()
    left_out += [f"{op}: {count} of {len(within)} points: {reason}" for reason, count in refused.items()]
    if len(within) < len(every):
        left_out.append(f"{op}: {len(every) - len(within)} of {len(every)} points, too large for this size")
    return rows


def _measure_case(case: Case, machine: Machine, pool: Pool, seconds: float) -> dict[str, Any]:
    """Columns of one point's times; its operands are let go before those of the next point are taken."""
    with import_torch().inference_mode():
        calls = [case.prepare(pool) for _ in range(pool.sets(case.bytes))]
        sample = measure(calls, kind=machine.kind, seconds=seconds, graph=case.graph)
    return {
        "latency_us": sample.median * 1e6,
        "p10_us": sample.p10 * 1e6,
        "p90_us": sample.p90 * 1e6,
        "repeats": sample.repeats,
        "timing": sample.timing,
        "cached": False,
    }


def _collectives(machine: Machine, size: str, seconds: float, left_out: list[str]) -> dict[str, list[dict[str, Any]]]:
    if not group_sizes(machine):
        left_out.append("collectives: one GPU has nobody to talk to")
        return {}
    name = "nccl" if machine.kind == "cuda" else "gloo"
    common = {"op": name, "framework": "torch", "version": machine.versions["torch"]}
    return {name: [common | row for row in measure_collectives(machine, size, seconds)]}


def write_report(report: Report, folder: Path) -> None:
    """Write one Parquet file per table and the manifest; a file of an earlier run with that name is replaced."""
    import pandas as pd

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(folder, error, MicrobenchmarkError) from error
    for name, rows in report.tables.items():
        with replacing(folder / f"{name}.parquet", MicrobenchmarkError) as temporary:
            pd.DataFrame(rows).to_parquet(temporary, index=False)
    write_file(folder / "manifest.json", json.dumps(report.manifest, indent=2) + "\n", MicrobenchmarkError)


def _known(what: str, name: str, allowed: Iterable[str]) -> str:
    if name not in set(allowed):
        raise MicrobenchmarkError(f"unknown {what} {name!r} of the microbenchmarks; {nearest(name, allowed)}")
    return name


def _dtypes(machine: Machine, asked: Sequence[str]) -> tuple[str, ...]:
    for dtype in asked:
        if dtype not in machine.dtypes:
            has = ", ".join(machine.dtypes)
            raise MicrobenchmarkError(f"{machine.name} does not measure dtype {dtype!r}; it has {has}")
    return tuple(asked) or machine.dtypes


def _check_folder(folder: Path) -> None:
    """Find out before the run whether its results can be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MicrobenchmarkError(f"{folder}: cannot be made a folder: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise MicrobenchmarkError(f"{folder}: cannot be written")


def _wake() -> None:
    torch = import_torch()
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    end = time.monotonic() + WAKING
    while time.monotonic() < end:
        torch.mm(a, a)
        torch.cuda.synchronize()


def _load() -> float:
    """Processes that ran or waited over the last minute [1]."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else math.nan


def _shares(ops: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Begin and length of each op in the whole [1]."""
    total, before, shares = sum(OPS[op][1] for op in ops), 0.0, {}
    for op in ops:
        shares[op] = (before / total, OPS[op][1] / total)
        before += OPS[op][1]
    return shares


def _part(progress: Progress | None, op: str, begin: float, length: float) -> Callable[[float], None]:
    def tell(share: float) -> None:
        if progress is not None:
            progress(begin + length * min(share, 1.0), op)

    return tell


__all__ = ["OPS", "SIZES", "Kind", "Report", "Size", "run_microbenchmarks", "write_report"]
