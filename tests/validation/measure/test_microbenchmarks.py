"""Microbenchmarks measure what they say they measure, on a CPU, at the smallest size."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.fit.dense_starts import starts_of
from validation.fit.fitting import ROWS_PER_COEFFICIENT
from validation.fit.torch_starts import torch_starts
from validation.kernels.dense_rows import FAMILIES
from validation.measure.case import Case, stratified
from validation.measure.experts import route
from validation.measure.machine import Machine, MicrobenchmarkError
from validation.measure.suite import OPS, SIZES, run_microbenchmarks
from validation.measure.timing import _stream, measure

ROOT = Path(__file__).parents[3]
#: Ops of one process; the collectives start others, which takes longer than all of these together.
ALONE = tuple(op for op in OPS if op != "collectives")


def case(size: float) -> Case:
    return Case(row={}, bytes=size, flops=0.0, prepare=lambda _: lambda: None)


@given(st.lists(st.floats(1.0, 1e12), min_size=1, max_size=70))
def test_a_stratified_order_visits_every_point_once(sizes: list[float]) -> None:
    assert sorted(c.bytes for c in stratified([case(size) for size in sizes])) == sorted(sizes)


@given(st.integers(2, 200), st.integers(2, 200))
def test_every_beginning_of_a_stratified_order_spans_the_sizes(points: int, taken: int) -> None:
    taken = min(taken, points)
    begun = sorted(round(c.bytes) for c in stratified([case(float(n)) for n in range(points)])[:taken])
    gaps = np.diff([*begun, points])
    assert begun[0] == 0
    assert gaps.max() <= 4 * points / taken + 1


@given(st.sampled_from(["uniform", "zipf_1", "zipf_2"]), st.integers(1, 40), st.integers(1, 8), st.integers(8, 64))
def test_a_token_goes_to_different_experts(way: str, tokens: int, top_k: int, experts: int) -> None:
    ids = route(way, tokens, top_k, experts)
    assert ids.shape == (tokens, top_k)
    assert all(len(set(row)) == top_k for row in ids.tolist())
    assert ids.min() >= 0
    assert ids.max() < experts


def test_zipf_routing_loads_its_hottest_expert_more_than_uniform_routing() -> None:
    hottest = [np.bincount(route(way, 2000, 4, 64).ravel()).max() for way in ("uniform", "zipf_1", "zipf_2")]
    assert hottest[0] < 1.5 * 2000 * 4 / 64
    assert hottest[0] < hottest[1] < hottest[2]


def test_recorded_routing_is_that_of_its_file_and_of_no_other_layer() -> None:
    with np.load(ROOT / "workloads" / "samples" / "routing_24x32_top4.npz") as stored:
        assert np.array_equal(route("recorded", 5, 4, 32), stored["expert_ids"][:5, 0])
    with pytest.raises(MicrobenchmarkError, match="32 experts, 4 of them per token"):
        route("recorded", 5, 2, 8)


def test_a_bare_gpu_machine_can_import_the_microbenchmarks() -> None:
    code = (
        "import sys\n"
        "for name in ('simpy', 'pydantic', 'plotly', 'networkx', 'streamlit', 'typer', 'rich', 'scipy', 'tomli_w'):\n"
        "    sys.modules[name] = None\n"
        "import validation.measure.__main__\n"
        "print([name for name in ('torch', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert answer.stderr == ""
    assert answer.stdout.strip() == "[]", "not even what it needs is loaded before it is needed"


def test_without_pytorch_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validation.measure.machine.importlib.util.find_spec", lambda _: None)
    with pytest.raises(MicrobenchmarkError, match=r"pip install '\.\[calibrate\]'"):
        run_microbenchmarks(device="cpu", size="tiny")


class FakeGpu:
    """As much of ``torch.cuda`` as timing needs, on a clock of its own; each launch from the host takes ``launch``."""

    def __init__(self, launch: float) -> None:
        self.now, self.launch, self.capturing = 0.0, launch, None
        self.cuda = self

    def call(self, work: float, made: list[float]) -> Any:
        def run() -> None:
            made.append(work)
            if self.capturing is None:
                self.now += work + self.launch
            else:
                self.capturing.works.append(work)

        return run

    def synchronize(self) -> None:
        pass

    def Stream(self) -> FakeGpu:  # noqa: N802
        return self

    def current_stream(self) -> FakeGpu:
        return self

    @contextlib.contextmanager
    def stream(self, _: FakeGpu) -> Iterator[None]:
        yield

    def Event(self, **_: bool) -> Any:  # noqa: N802
        gpu = self

        class Event:
            def record(self) -> None:
                self.at = gpu.now

            def elapsed_time(self, other: Event) -> float:
                return (other.at - self.at) * 1e3

        return Event()

    def CUDAGraph(self) -> Any:  # noqa: N802
        gpu = self

        class Graph:
            def __init__(self) -> None:
                self.works: list[float] = []

            def replay(self) -> None:
                gpu.now += sum(self.works)

        return Graph()

    @contextlib.contextmanager
    def graph(self, graph: Any, **_: FakeGpu) -> Iterator[None]:
        self.capturing = graph
        yield
        self.capturing = None


@pytest.mark.parametrize(
    ("work", "graph", "timing", "seconds"),
    [(20e-6, True, "graph", 20e-6), (20e-6, False, "events", 50e-6), (5e-3, True, "events", 5.03e-3)],
)
def test_a_gpus_short_kernels_are_timed_without_their_launches(
    monkeypatch: pytest.MonkeyPatch, work: float, graph: bool, timing: str, seconds: float
) -> None:
    gpu, made = FakeGpu(launch=30e-6), list[float]()
    monkeypatch.setattr("validation.measure.timing.import_torch", lambda: gpu)
    calls = [gpu.call(work * (1.0 + 0.1 * (number % 2)), made) for number in range(10)]
    _stream.cache_clear()
    sample = measure(calls, kind="cuda", seconds=0.01, graph=graph)
    _stream.cache_clear()
    assert sample.timing == timing
    assert sample.median == pytest.approx(seconds, rel=0.11)
    assert sample.repeats >= 5
    assert len(set(made)) == 2, "the calls take turns"


GPU = Machine(
    kind="cuda",
    name="a GPU",
    count=8,
    units=132,
    clock=1.8e9,
    cache=50 * 2**20,
    memory=80 * 10**9,
    dtypes=("bfloat16", "fp8"),
    versions={"torch": "2.99"},
)
CPU = dataclasses.replace(GPU, kind="cpu", units=8, dtypes=("float32", "bfloat16"))


@pytest.mark.parametrize("machine", [GPU, CPU], ids=["cuda", "cpu"])
@pytest.mark.parametrize("op", [op for op in OPS if op in FAMILIES])
def test_every_kernel_that_is_measured_can_be_fitted(op: str, machine: Machine) -> None:
    cases, _ = OPS[op]
    assert cases is not None
    size = "full" if machine.kind == "cuda" else "small"
    rows = pd.DataFrame([{"framework": "torch", **c.row} for c in cases(machine, size, machine.dtypes)])
    for table, part in rows.groupby(FAMILIES[op].table(rows)):
        starts = torch_starts(str(table)) or starts_of(str(table))
        assert len(part) * 0.8 >= ROWS_PER_COEFFICIENT * max(len(start.bounds) for start in starts)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_points_small_enough_for_it(size: str) -> None:
    machine = GPU if size == "full" else CPU
    for op in (op for op in OPS if OPS[op][0] is not None and op not in {"moe", "grouped_gemm"}):
        points = list(OPS[op][0](machine, size, machine.dtypes))
        within = [p for p in points if p.flops <= SIZES[size].flops and p.bytes <= SIZES[size].bytes]
        assert len(within) > 0.6 * len(points) > 0, op
