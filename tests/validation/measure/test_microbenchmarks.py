"""Microbenchmarks measure what they say they measure, on a CPU, at the smallest size."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
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
from validation.kernels.formats import read_measured
from validation.measure import (
    OPS,
    SIZES,
    Machine,
    MicrobenchmarkError,
    Report,
    describe_machine,
    run_microbenchmarks,
)
from validation.measure.case import Case, stratified
from validation.measure.experts import route
from validation.measure.timing import _stream, measure

ROOT = Path(__file__).parents[3]
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed (extra 'calibrate')")
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
    with pytest.raises(MicrobenchmarkError, match=r"pip install 'moesim\[calibrate\]'"):
        run_microbenchmarks(device="cpu", size="tiny")


@needs_torch
def test_a_gpu_that_is_not_there_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MicrobenchmarkError, match="finds no GPU; measure with cpu"):
        run_microbenchmarks(device="cuda", size="tiny")


@needs_torch
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"ops": ["gem"]}, "did you mean 'gemm'"),
        ({"size": "tini"}, "did you mean 'tiny'"),
        ({"size": "full"}, "would take a CPU hours"),
        ({"dtypes": ["fp8"]}, "does not measure dtype 'fp8'; it has float32, bfloat16"),
        ({"device": "tpu"}, "allowed: cuda, cpu"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_measuring(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(MicrobenchmarkError, match=told):
        run_microbenchmarks(**{"device": "cpu", "size": "tiny", **asked})


@needs_torch
def test_a_folder_that_cannot_be_made_is_refused_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(MicrobenchmarkError, match="cannot be made a folder"):
        run_microbenchmarks(device="cpu", size="tiny", out=tmp_path / "file" / "tables")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """A few points of every op, really measured."""
    if find_spec("torch") is None:
        pytest.skip("PyTorch is not installed (extra 'calibrate')")
    folder = tmp_path_factory.mktemp("measured")
    return run_microbenchmarks(device="cpu", ops=ALONE, size="tiny", seconds=4.0, threads=1, out=folder), folder


@pytest.mark.parametrize("op", ALONE)
def test_every_op_is_measured_on_a_cpu(measured: tuple[Report, Path], op: str) -> None:
    rows = pd.DataFrame(measured[0].tables[op])
    assert len(rows) > 0
    assert ((rows["p10_us"] <= rows["latency_us"]) & (rows["latency_us"] <= rows["p90_us"])).all()
    assert (rows["latency_us"] > 0.1).all()
    assert (rows["repeats"] >= 3).all()
    assert set(rows["framework"]) == {"torch"}


@pytest.mark.parametrize("op", [op for op in ALONE if op not in {"copy", "grouped_gemm"}])
def test_the_tables_are_those_that_fits_and_validation_read(measured: tuple[Report, Path], op: str) -> None:
    frame = read_measured(measured[1] / f"{op}.parquet")
    assert len(frame) == len(measured[0].tables[op])


def test_the_manifest_says_what_was_measured_on_what(measured: tuple[Report, Path]) -> None:
    report, folder = measured
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["rows"] == {op: len(rows) for op, rows in report.tables.items()}
    assert manifest["machine"]["kind"] == "cpu"
    assert manifest["machine"]["units"] == 1
    assert manifest["machine"]["memory"] > 2**28
    assert {"torch", "python", "system"} <= set(manifest["machine"]["versions"])
    assert manifest["date"].endswith("+00:00")
    assert set(manifest["load_average"]) == {"before", "after"}


def test_an_expert_layer_says_which_experts_its_tokens_went_to(measured: tuple[Report, Path]) -> None:
    for row in measured[0].tables["moe"]:
        counts = json.loads(row["expert_counts"])
        assert len(counts) == row["num_experts"]
        assert sum(counts) == row["num_tokens"] * row["top_k"]


def test_a_cut_for_lack_of_time_is_told() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (extra 'calibrate')")
    report = run_microbenchmarks(device="cpu", ops=["gemm"], dtypes=["float32"], size="tiny", seconds=0.01, threads=1)
    told = [reason for reason in report.left_out if "for lack of time" in reason]
    assert len(told) == 1
    assert 0 < len(report.tables["gemm"]) < 25


@needs_torch
def test_points_that_a_kernel_refuses_are_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(*operands: Any, **options: Any) -> None:
        raise RuntimeError("no kernel for this shape\nand many more lines")

    monkeypatch.setattr(torch, "mm", refuse)
    report = run_microbenchmarks(device="cpu", ops=["gemm"], dtypes=["float32"], size="tiny", seconds=5.0, threads=1)
    assert "gemm" not in report.tables
    assert any(r.endswith("no kernel for this shape") for r in report.left_out)


@needs_torch
def test_operands_rotate_through_more_than_the_cache() -> None:
    from validation.measure.buffers import Pool

    machine = describe_machine("cpu")
    pool = Pool(machine)
    shape = (1024, 512)
    sets = [pool.take(shape, "float32") for _ in range(pool.sets(4 * 1024 * 512))]
    places = sorted(view.data_ptr() for view in sets)
    assert len(sets) * 4 * 1024 * 512 >= machine.cache
    assert np.diff(places).min() >= 4 * 1024 * 512, "no two sets share a byte"
    assert all(place % 64 == 0 for place in places)
    assert float(sets[0].std()) == pytest.approx(1.0, abs=0.02), "random numbers, not zeros"


@needs_torch
def test_the_loop_over_experts_computes_what_the_grouped_product_does() -> None:
    import torch

    from validation.measure.experts import _apply_grouped, _apply_loop

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(24, 64, generator=generator).to(torch.bfloat16)
    gate_up = torch.randn(4, 64, 64, generator=generator).to(torch.bfloat16)
    down = torch.randn(4, 64, 32, generator=generator).to(torch.bfloat16)
    stops = torch.tensor([10, 10, 17, 24])
    loop, grouped = (apply(torch, rows, stops, gate_up, down) for apply in (_apply_loop, _apply_grouped))
    assert float((loop - grouped).float().norm() / loop.float().norm()) < 1e-2
    # And by hand: the first expert's rows, in full precision.
    gate, up = (rows[:10].float() @ gate_up[0].float().t()).chunk(2, dim=-1)
    by_hand = (torch.nn.functional.silu(gate) * up) @ down[0].float().t()
    assert float((loop[:10].float() - by_hand).norm() / by_hand.norm()) < 2e-2


@needs_torch
def test_collectives_are_measured_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["validation.measure.collectives"]._ELEMENTS, "tiny", (256, 65536))
    report = run_microbenchmarks(device="cpu", ops=["collectives"], size="tiny", seconds=1.0, threads=1)
    rows = pd.DataFrame(report.tables["gloo"])
    assert set(rows["collective"]) == {"all_reduce", "all_gather", "reduce_scatter", "alltoall"}
    assert set(rows["message_elems"]) == {256, 65536}
    assert (rows["latency_us"] > 1.0).all()
    assert set(rows["num_gpus"]) == {2}


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


@needs_torch
@pytest.mark.parametrize(("capability", "fp8"), [((9, 0), True), ((8, 0), False)])
def test_a_gpu_says_what_it_is_and_what_it_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fp8: bool
) -> None:
    import torch

    properties = SimpleNamespace(name="a GPU", multi_processor_count=132, total_memory=80 * 10**9, L2_cache_size=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("validation.measure.machine.shutil.which", lambda _: None)
    machine = describe_machine("cuda")
    assert (machine.units, machine.memory, machine.count) == (132, 80 * 10**9, 2)
    assert ("fp8" in machine.dtypes) is fp8
    assert machine.assumed == ("clock", "cache")
