"""Collectives between processes: gloo between processes of this host, NCCL between its GPUs.

Sizes follow NCCL's convention: an all-gather and a reduce-scatter name the elements over all ranks, an all-reduce and
an all-to-all those of one rank.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from validation.measure.buffers import torch_dtype
from validation.measure.machine import Machine, MicrobenchmarkError, import_torch

#: Elements of the message by size of the benchmark.
_ELEMENTS: Mapping[str, tuple[int, ...]] = {
    "tiny": tuple(2**power for power in range(8, 21)),
    "small": tuple(2**power for power in range(6, 23)),
    "full": tuple(2**power for power in range(8, 28)),
}
_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")
#: Processes on a CPU [1].
_PROCESSES = 2
#: Calls before the clock starts, and repeats [1].
_WARM_UP, _LEAST_REPEATS, _MOST_REPEATS = 3, 7, 50
#: NCCL calls in a row between two events [1].
_IN_A_ROW = 10


def group_sizes(machine: Machine) -> tuple[int, ...]:
    """Numbers of ranks to measure [1]; none where there is nobody to talk to."""
    torch = import_torch()
    if not torch.distributed.is_available():
        return ()
    if machine.kind == "cpu":
        return (_PROCESSES,)
    return tuple(n for n in (2, 4, 8, 16) if n <= machine.count)


def measure_collectives(machine: Machine, size: str, seconds: float) -> list[dict[str, Any]]:
    """Measure every collective over every number of ranks within about ``seconds`` [s]; rows of the table."""
    torch = import_torch()
    sizes = group_sizes(machine)
    rows: list[dict[str, Any]] = []
    for ranks in sizes:
        with tempfile.TemporaryDirectory() as folder:
            job = {
                "folder": folder,
                "ranks": ranks,
                "kind": machine.kind,
                "elements": _ELEMENTS[size],
                "seconds": seconds / len(sizes),
            }
            try:
                torch.multiprocessing.spawn(_rank, args=(json.dumps(job),), nprocs=ranks, join=True)
            except torch.multiprocessing.ProcessRaisedException as error:
                reason = str(error).strip().splitlines()[-1]
                raise MicrobenchmarkError(f"collectives between {ranks} ranks failed: {reason}") from error
            rows += json.loads(Path(folder, "rows.json").read_text(encoding="utf-8"))
    return rows


def _rank(rank: int, text: str) -> None:
    """One rank of a group, in a process of its own; the first one writes down what the slowest took."""
    job = json.loads(text)
    torch = import_torch()
    distributed, cuda = torch.distributed, job["kind"] == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
        # Between processes of one host no name needs to be looked up.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = distributed.FileStore(str(Path(job["folder"], "store")), job["ranks"])
    distributed.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=job["ranks"])
    points = [(collective, elements) for elements in job["elements"] for collective in _COLLECTIVES]
    rows = []
    for collective, elements in points:
        call = _call(torch, collective, elements, job["ranks"], f"cuda:{rank}" if cuda else "cpu")
        times = (_times_on_gpu if cuda else _times_on_host)(torch, call, job["seconds"] / len(points))
        p10, median, p90 = np.quantile(times, [0.1, 0.5, 0.9]).tolist()
        slowest = torch.tensor([median, p10, p90], dtype=torch.float64, device="cuda" if cuda else "cpu")
        distributed.all_reduce(slowest, op=distributed.ReduceOp.MAX)
        columns = ("latency_us", "p10_us", "p90_us")
        rows.append(
            {"kernel": "nccl" if cuda else "gloo", "collective": collective, "dtype": "half"}
            | {"num_gpus": job["ranks"], "message_elems": elements}
            | dict(zip(columns, (slowest * 1e6).tolist(), strict=True))
            | {"repeats": len(times), "timing": "events" if cuda else "host"}
        )
    if rank == 0:
        Path(job["folder"], "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    distributed.destroy_process_group()


def _call(torch: Any, collective: str, elements: int, ranks: int, device: str) -> Callable[[], object]:
    distributed = torch.distributed
    whole, share = (
        torch.randn(length, device=device).to(torch_dtype("half")) for length in (elements, elements // ranks)
    )
    received = torch.empty_like(whole)
    # PyTorch 2.13 gave two of them new names.
    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    scatter = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
    calls: dict[str, Callable[[], object]] = {
        # Sums of sums overflow after some repeats, which takes no longer.
        "all_reduce": lambda: distributed.all_reduce(whole),
        "all_gather": lambda: gather(received, share),
        "reduce_scatter": lambda: scatter(share, whole),
        "alltoall": lambda: distributed.all_to_all_single(received, whole),
    }
    return calls[collective]


def _agreed(torch: Any, estimate: float, seconds: float, device: str) -> int:
    """Repeats that all ranks make [1]: each must take part in every call."""
    wanted = int(np.clip(seconds / max(estimate, 1e-6), _LEAST_REPEATS, _MOST_REPEATS))
    count = torch.tensor([wanted], device=device)
    torch.distributed.broadcast(count, 0)
    return int(count.item())


def _times_on_host(torch: Any, call: Callable[[], object], seconds: float) -> list[float]:
    def once() -> float:
        torch.distributed.barrier()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    estimate = statistics.median(once() for _ in range(_WARM_UP))
    return [once() for _ in range(_agreed(torch, estimate, seconds, "cpu"))]


def _times_on_gpu(torch: Any, call: Callable[[], object], seconds: float) -> list[float]:
    def row() -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(_IN_A_ROW):
            call()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) * 1e-3 / _IN_A_ROW

    estimate = [row() for _ in range(_WARM_UP)][-1] * _IN_A_ROW
    return [row() for _ in range(_agreed(torch, estimate, seconds, "cuda"))]
