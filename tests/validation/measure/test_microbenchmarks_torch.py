"""Microbenchmarks with PyTorch, on a CPU, at the smallest size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from validation.kernels.formats import read_measured
from validation.measure.machine import MicrobenchmarkError, describe_machine
from validation.measure.suite import OPS, Report, run_microbenchmarks

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'calibrate')")
#: Ops of one process; the collectives start others, which takes longer than all of these together.
ALONE = tuple(op for op in OPS if op != "collectives")


def test_a_gpu_that_is_not_there_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MicrobenchmarkError, match="finds no GPU; measure with cpu"):
        run_microbenchmarks(device="cuda", size="tiny")


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


def test_a_folder_that_cannot_be_made_is_refused_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(MicrobenchmarkError, match="cannot be made a folder"):
        run_microbenchmarks(device="cpu", size="tiny", out=tmp_path / "file" / "tables")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """A few points of every op, really measured."""
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
    report = run_microbenchmarks(device="cpu", ops=["gemm"], dtypes=["float32"], size="tiny", seconds=0.01, threads=1)
    told = [reason for reason in report.left_out if "for lack of time" in reason]
    assert len(told) == 1
    assert 0 < len(report.tables["gemm"]) < 25


def test_points_that_a_kernel_refuses_are_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*operands: Any, **options: Any) -> None:
        raise RuntimeError("no kernel for this shape\nand many more lines")

    monkeypatch.setattr(torch, "mm", refuse)
    report = run_microbenchmarks(device="cpu", ops=["gemm"], dtypes=["float32"], size="tiny", seconds=5.0, threads=1)
    assert "gemm" not in report.tables
    assert any(r.endswith("no kernel for this shape") for r in report.left_out)


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


def test_the_loop_over_experts_computes_what_the_grouped_product_does() -> None:
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


def test_collectives_are_measured_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["validation.measure.collectives"]._ELEMENTS, "tiny", (256, 65536))
    report = run_microbenchmarks(device="cpu", ops=["collectives"], size="tiny", seconds=1.0, threads=1)
    rows = pd.DataFrame(report.tables["gloo"])
    assert set(rows["collective"]) == {"all_reduce", "all_gather", "reduce_scatter", "alltoall"}
    assert set(rows["message_elems"]) == {256, 65536}
    assert (rows["latency_us"] > 1.0).all()
    assert set(rows["num_gpus"]) == {2}


@pytest.mark.parametrize(("capability", "fp8"), [((9, 0), True), ((8, 0), False)])
def test_a_gpu_says_what_it_is_and_what_it_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fp8: bool
) -> None:
    properties = SimpleNamespace(name="a GPU", multi_processor_count=132, total_memory=80 * 10**9, L2_cache_size=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("validation.measure.machine.shutil.which", lambda _: None)
    machine = describe_machine("cuda")
    assert (machine.units, machine.memory, machine.count) == (132, 80 * 10**9, 2)
    assert ("fp8" in machine.dtypes) is fp8
    assert machine.assumed == ("clock", "cache")
