"""Fits of measured tables, and profiles of measured machines."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hardware_profiles.errors import MoesimError, ProfileError
from hardware_profiles.loader import load_device, resolve_kernels
from hardware_profiles.residuals import load_residuals
from simulator.api import simulate
from simulator.cli.app import app
from simulator.hardware import load_hardware, silicon_of
from simulator.kernels.elementwise import ElementwiseKernel, elementwise_time
from simulator.kernels.gemm import GemmKernel, gemm_time
from simulator.kernels.kernel import coefficients
from simulator.scenario import Scenario
from validation.fit.calibrate import fit_measurements, write_calibration
from validation.fit.calibrate_machine import calibrate_here, make_profile
from validation.fit.fitting import FitError
from validation.fit.torch_starts import TORCH_STARTS
from validation.fit.user_profile import check_identifier, measured_device

H100 = load_device("h100-sxm")
SILICON = silicon_of(H100.main)
NOISE = 0.02


def gemm_rows(kernel: GemmKernel, silicon: Any = SILICON, count: int = 160, dtype: str = "bfloat16") -> pd.DataFrame:
    """Rows that a kernel model makes, with a little noise."""
    rng = np.random.default_rng(0)
    shape = {
        axis: 2 ** rng.integers(low, high, count) for axis, low, high in (("m", 0, 13), ("n", 8, 14), ("k", 8, 13))
    }
    seconds = gemm_time(**shape, dtype=dtype, silicon=silicon, kernel=kernel).seconds
    latency = seconds * 1e6 * np.exp(rng.normal(0.0, NOISE, count))
    return pd.DataFrame({"op": "gemm", "dtype": dtype, **shape, "latency_us": latency})


def h100_gemm() -> GemmKernel:
    return coefficients(GemmKernel, H100.main.kernels["gemm.cublas.bfloat16"], "h100-sxm")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of products as a machine like an H100 would make it."""
    folder = tmp_path_factory.mktemp("measured")
    gemm_rows(h100_gemm()).to_parquet(folder / "gemm.parquet")
    return folder


def tables(folder: Path, **frames: pd.DataFrame) -> Path:
    folder.mkdir(exist_ok=True)
    for op, frame in frames.items():
        frame.to_parquet(folder / f"{op}.parquet")
    return folder


def test_a_fit_predicts_rows_that_it_never_saw(measured: Path) -> None:
    calibration = fit_measurements("h100-sxm", measured)
    (fit,) = calibration.fits
    assert fit.table == "gemm.cublas.bfloat16"
    assert (fit.rows, fit.test.rows) == (160, 32)
    assert fit.test.median_ape < 0.06
    assert abs(fit.test.bias) < 0.04
    assert sum(result.rows for result in fit.regimes.values()) == 32
    assert fit.ranges["m"] == (1.0, 4096.0)


def test_fitted_kernels_come_before_the_catalogues_and_say_where_they_come_from(measured: Path, tmp_path: Path) -> None:
    files = write_calibration(fit_measurements("h100-sxm", measured), tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in files} == {
        "kernels/h100-sxm.toml",
        "residuals/h100-sxm.toml",
    }
    table = load_device("h100-sxm", tmp_path).main.kernels["gemm.cublas.bfloat16"]
    assert table["launch"].status == "fitted"
    assert "128 rows fitted; on 32 others median error" in table["launch"].note
    assert "m 1 to 4096" in table["launch"].note
    assert table["launch"].date
    residuals = load_residuals("h100-sxm", tmp_path)["gemm.cublas.bfloat16"]
    assert residuals.rows == 32
    assert 0.005 < residuals.spread["all"] < 0.1
    assert residuals.ranges["k"] == pytest.approx((256.0, 4096.0), rel=1e-3)


def test_other_tables_of_a_profile_stay_as_they_are(measured: Path, tmp_path: Path) -> None:
    own = '["moe.mine.bfloat16"]\n_provenance = { source = "me", status = "fitted" }\na = { value = 1.5, unit = "1" }\n'
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "h100-sxm.toml").write_text(own, encoding="utf-8")
    write_calibration(fit_measurements("h100-sxm", measured), tmp_path)
    kernels = load_device("h100-sxm", tmp_path).main.kernels
    assert kernels["moe.mine.bfloat16"]["a"].value == 1.5
    assert "gemm.cublas.bfloat16" in kernels


def test_a_table_is_replaced_in_the_file_where_it_stands(measured: Path, tmp_path: Path) -> None:
    calibration = fit_measurements("h100-sxm", measured)
    write_calibration(calibration, tmp_path)
    part = tmp_path / "kernels" / "h100-sxm.dense.toml"
    (tmp_path / "kernels" / "h100-sxm.toml").rename(part)
    write_calibration(calibration, tmp_path)
    assert not (tmp_path / "kernels" / "h100-sxm.toml").exists()
    assert load_device("h100-sxm", tmp_path).main.kernels["gemm.cublas.bfloat16"]


def test_too_few_rows_are_told_and_change_nothing(tmp_path: Path) -> None:
    folder = tables(tmp_path / "tables", gemm=gemm_rows(h100_gemm(), count=20))
    out = tmp_path / "profiles"
    answer = CliRunner().invoke(
        app, ["calibrate", "fit", "--device", "h100", "--measurements", str(folder), "--out", str(out)]
    )
    assert answer.exit_code == 2
    assert "nothing was changed" in answer.output
    assert "16 rows are too few for" in answer.output
    assert not out.exists()


def test_a_table_that_cannot_be_fitted_does_not_hold_up_the_others(tmp_path: Path) -> None:
    moved = 2.0 ** np.arange(12, 32)
    small = ElementwiseKernel(launch=3e-6, memory=0.8)
    latency = elementwise_time(moved, silicon=SILICON, kernel=small).seconds * 1e6
    elementwise = pd.DataFrame({"kernel": "add", "dtype": "bfloat16", "bytes_moved": moved, "latency_us": latency})
    folder = tables(tmp_path / "t", gemm=gemm_rows(h100_gemm(), count=20), elementwise=elementwise)
    calibration = fit_measurements("h100-sxm", folder)
    assert [fit.table for fit in calibration.fits] == ["elementwise.fused"]
    assert calibration.fits[0].kernel.memory == pytest.approx(0.8, rel=0.01)
    assert calibration.fits[0].kernel.launch == pytest.approx(3e-6, rel=0.01)
    assert "too few" in calibration.kept["gemm.cublas.bfloat16"]


def test_a_fit_of_noise_is_refused(tmp_path: Path) -> None:
    rows = gemm_rows(h100_gemm())
    rows["latency_us"] = np.exp(np.random.default_rng(1).uniform(0.0, 20.0, len(rows)))
    with pytest.raises(FitError, match="did not converge"):
        fit_measurements("h100-sxm", tables(tmp_path / "t", gemm=rows))


def test_a_fit_that_does_not_converge_changes_nothing(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scipy.optimize

    def hasty(*given: Any, **options: Any) -> Any:
        return solve(*given, **{**options, "max_nfev": 2})

    solve = scipy.optimize.least_squares
    monkeypatch.setattr(scipy.optimize, "least_squares", hasty)
    command = ["calibrate", "fit", "--device", "h100", "--measurements", str(measured), "--out", str(tmp_path / "p")]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 2
    assert "did not converge" in answer.output
    assert not (tmp_path / "p").exists()


def test_without_scipy_the_message_says_how_to_install_it(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validation.fit.calibrate.importlib.util.find_spec", lambda _: None)
    with pytest.raises(FitError, match=r"pip install '\.\[calibrate\]'"):
        fit_measurements("h100-sxm", measured)


def broken(rows: pd.DataFrame, how: str) -> pd.DataFrame:
    if how == "missing":
        return rows.drop(columns="n")
    if how == "empty":
        return rows.iloc[:0]
    if how == "dtype":
        return rows.assign(dtype="int4x")
    return rows.assign(latency_us=rows["latency_us"].mask(rows.index == 3, {"nan": np.nan, "negative": -2.0}[how]))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("missing", "missing column 'n'"),
        ("empty", "empty table"),
        ("nan", "row 3: latency_us is nan"),
        ("negative", "row 3: latency_us is -2"),
        ("dtype", "unknown dtype 'int4x'; did you mean 'int4'"),
    ],
)
def test_a_bad_table_is_one_message_and_exit_code_2(tmp_path: Path, how: str, told: str) -> None:
    folder = tables(tmp_path / "tables", gemm=broken(gemm_rows(h100_gemm(), count=8), how))
    command = ["calibrate", "fit", "--device", "h100", "--measurements", str(folder), "--out", str(tmp_path / "p")]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 2
    assert told in answer.output
    assert answer.output.count("error:") == 1
    assert not (tmp_path / "p").exists()


def test_a_device_without_the_dtype_is_named(tmp_path: Path) -> None:
    folder = tables(tmp_path / "t", gemm=gemm_rows(h100_gemm(), count=8).assign(dtype="fp8"))
    with pytest.raises(MoesimError, match=r"gemm\.parquet: a100-sxm: dtype 'fp8' needs fp8 arithmetic"):
        fit_measurements("a100-sxm", folder)


def test_a_csv_file_is_fitted_like_a_parquet_file(measured: Path, tmp_path: Path) -> None:
    pd.read_parquet(measured / "gemm.parquet").to_csv(tmp_path / "gemm.csv", index=False)
    assert [fit.table for fit in fit_measurements("h100-sxm", tmp_path).fits] == ["gemm.cublas.bfloat16"]


def test_the_command_answers_in_json(measured: Path, tmp_path: Path) -> None:
    command = [
        "calibrate",
        "fit",
        "--device",
        "h100",
        "--measurements",
        str(measured),
        "--out",
        str(tmp_path),
        "--json",
    ]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0
    document = json.loads(answer.output)
    assert document["tables"]["gemm.cublas.bfloat16"]["test"]["median_ape"] < 0.06
    assert document["kept"] == {}
    assert len(document["files"]) == 2


def machine_of(kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": "Test Processor (R)",
        "count": 1,
        "units": int(SILICON.units) if kind == "cuda" else 8,
        "clock": SILICON.clock,
        "cache": 50e6,
        "memory": 80e9,
        "dtypes": ["bfloat16"],
        "power": None,
        "versions": {"torch": "2.99", "capability": "9.0"} if kind == "cuda" else {"torch": "2.99"},
        "assumed": ["clock"],
    }


def benchmark_tables(folder: Path, kind: str) -> Path:
    """Tables and manifest as the microbenchmarks of a machine write them."""
    if kind == "cuda":
        products = gemm_rows(h100_gemm()).assign(framework="torch", version="2.99", kernel="cublas")
        bandwidth = 3e12
    else:
        start = TORCH_STARTS["gemm.torch"][0].kernel
        slow = dataclasses.replace(SILICON, units=8.0, peak={"bfloat16": 1e12}, memory_bandwidth=1e11)
        products = gemm_rows(start, slow).assign(framework="torch", version="2.99", kernel="torch")
        bandwidth = 1e11
    sizes = 2.0 ** np.arange(12, 28)
    copies = {"kernel": "device", "message_bytes": sizes, "latency_us": 2e6 * sizes / bandwidth + 0.1}
    pinned = {"kernel": "host_to_device_pinned", "message_bytes": sizes, "latency_us": 1e6 * sizes / 5e10 + 5.0}
    every = [pd.DataFrame(copies)] + ([pd.DataFrame(pinned)] if kind == "cuda" else [])
    tables(folder, gemm=products, copy=pd.concat(every, ignore_index=True))
    manifest = {"machine": machine_of(kind), "date": "2026-11-22T10:00:00+00:00"}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def test_a_gpu_gets_its_relatives_kernels_and_a_peak_on_their_footing(tmp_path: Path) -> None:
    made = make_profile(benchmark_tables(tmp_path / "t", "cuda"), tmp_path / "p", name="my-gpu")
    device = load_device("my-gpu", tmp_path / "p")
    assert made.relative == device.main.kernels_from == "h100-sxm"
    # The products were made with the H100's own kernel, so that its peak must come out.
    assert device.main.peak["bfloat16"].value == pytest.approx(SILICON.peak["bfloat16"], rel=0.05)
    assert device.main.peak["bfloat16"].status == "measured"
    assert device.main.memory_bandwidth.value == pytest.approx(3e12, rel=0.01)
    assert device.links["host"].bandwidth.value == pytest.approx(5e10, rel=0.01)
    assert device.main.clock.status == "assumption", "what the machine does not tell is not called measured"
    kernels, evidence = resolve_kernels(device.main, tmp_path / "p")
    assert evidence == "own; relative's kernels: h100-sxm"
    assert "moe.triton.bfloat16" in kernels
    assert "moe" in made.borrowed


def test_a_cpu_has_every_family_and_calls_what_it_borrows_an_assumption(tmp_path: Path) -> None:
    made = make_profile(benchmark_tables(tmp_path / "t", "cpu"), tmp_path / "p")
    device = load_device("test-processor-r-8-cores", tmp_path / "p")
    assert device.main.kernels_from is None
    families = {table.split(".")[0] for table in device.main.kernels}
    everything, _ = resolve_kernels(load_device(made.relative).main)
    assert {table.split(".")[0] for table in everything} <= families
    assert [table for table in device.main.kernels if table.startswith("gemm.")] == ["gemm.torch.bfloat16"]
    for table, values in device.main.kernels.items():
        borrowed = table.split(".")[0] in made.borrowed
        assert {quantity.status for quantity in values.values()} <= ({"assumption"} if borrowed else {"fitted"})
    assert device.main.peak["bfloat16"].value == pytest.approx(1e12 * 0.7, rel=0.1), "what the best product reaches"
    assert made.relative in device.note


def test_a_profile_needs_the_manifest_and_the_copies(tmp_path: Path) -> None:
    folder = benchmark_tables(tmp_path / "t", "cpu")
    (folder / "copy.parquet").unlink()
    with pytest.raises(MoesimError, match="needs the ops gemm and copy"):
        measured_device(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(MoesimError, match=r"no manifest\.json"):
        measured_device(folder)


@pytest.mark.parametrize(("name", "told"), [("My Box", "lower-case"), ("h100-sxm", "device of the catalogue")])
def test_an_id_that_cannot_be_taken_is_refused(name: str, told: str) -> None:
    with pytest.raises(ProfileError, match=told):
        check_identifier(name)


SMALL_MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "vocab_size": 8192,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
}


def small_scenario(folder: Path, device: str, profiles: Path) -> Scenario:
    (folder / "config.json").write_text(json.dumps(SMALL_MOE), encoding="utf-8")
    text = f"""
        seed = 0
        model.name = "{folder / "config.json"}"
        hardware.device = "{device}"
        hardware.profiles = "{profiles}"
        requests = {{ kind = "closed_loop", concurrency = 2, count = 4 }}
        requests.lengths = {{ kind = "fixed", input = 64, output = 8 }}
    """
    lines = [line.strip() for line in text.splitlines()]
    joined = "\n".join(lines).replace(
        'requests = { kind = "closed_loop", concurrency = 2, count = 4 }',
        'requests.kind = "closed_loop"\nrequests.concurrency = 2\nrequests.count = 4',
    )
    (folder / "scenario.toml").write_text(joined, encoding="utf-8")
    return Scenario.load(folder / "scenario.toml")


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed (extra 'calibrate')")
def test_a_machine_measures_itself_and_simulates_on_its_own_profile(tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    ops = ("copy", "gemm", "attention_decode", "elementwise")
    report, made = calibrate_here(
        folder=profiles, device="cpu", ops=ops, size="tiny", seconds=30.0, threads=1, name="this-box"
    )
    assert report.rows > 4 * len(ops)
    assert "gemm.torch.bfloat16" in {fit.table for fit in made.calibration.fits}
    hardware = load_hardware("this-box", folder=profiles)
    assert 1e8 < hardware.silicon.peak["bfloat16"] < 1e13
    assert 1e8 < hardware.silicon.memory_bandwidth < 1e12
    result = simulate(small_scenario(tmp_path, "this-box", profiles))
    assert result.whole_run.requests_completed == 4
    assert 1e-4 < result.summary.tpot_s.mean < 10.0
    assert not [warning for warning in result.warnings if "relative" in warning], "a CPU borrows from nobody silently"
