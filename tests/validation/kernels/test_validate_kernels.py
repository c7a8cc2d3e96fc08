"""Tables of measurements beside predictions: what is read, what is refused, what is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from simulator.cli.app import app
from simulator.errors import OutputError, ProfileError
from simulator.hardware import load_hardware
from validation.fit import moe as fit_moe
from validation.kernels.dense_rows import FAMILIES
from validation.kernels.formats import FORMATS, MeasurementError, measured_files, read_measured
from validation.kernels.grids import grid_frames
from validation.kernels.held_out import DENSE_SEED, held_out, split
from validation.kernels.moe_rows import backend_of
from validation.kernels.rows import predict_op
from validation.kernels.validate import validate_kernels, write_predictions

SAMPLES = Path(__file__).parents[2] / "data" / "kernels"
GEMM = pd.DataFrame(
    {
        "dtype": ["bfloat16", "bfloat16", "fp8"],
        "m": [1, 512, 64],
        "n": [4096, 8192, 2048],
        "k": [4096, 1024, 7168],
        "latency_us": [20.0, 40.0, 15.0],
    }
)


def as_predicted(device: str, *ops: str, factor: float = 1.0) -> dict[str, pd.DataFrame]:
    """The grid of kernels, measured as ``factor`` times what is predicted; of all ops if none is named."""
    hardware, tables = load_hardware(device), {}
    for op, frame in grid_frames().items():
        if ops and op not in ops:
            continue
        frame = frame.drop(columns="latency_us")
        for part, column in FORMATS[op].figures.items():
            frame[column] = 1.0
            for block in predict_op(op, frame, hardware):
                if block.part == part and not block.reason:
                    frame.loc[block.rows, column] = block.seconds * 1e6 * factor
        tables[op] = frame
    return tables


def written(folder: Path, tables: dict[str, pd.DataFrame], suffix: str = "parquet") -> Path:
    for op, frame in tables.items():
        frame.to_csv(folder / f"{op}.csv", index=False) if suffix == "csv" else frame.to_parquet(
            folder / f"{op}.parquet"
        )
    return folder


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_of_predictions_has_no_error(tmp_path: Path, suffix: str) -> None:
    report = validate_kernels("h100-sxm", written(tmp_path, as_predicted("h100-sxm"), suffix))
    assert report.ops.keys() == set(FORMATS) - {"gloo"}
    for op in report.ops.values():
        assert op.overall.rows > 0
        assert op.overall.p90_ape == pytest.approx(0.0, abs=1e-6)
        assert op.coverage_80 == 1.0


def test_errors_are_fractions_of_what_was_measured(tmp_path: Path) -> None:
    gemm = as_predicted("h100-sxm", "gemm", factor=1.25)["gemm"]
    op = validate_kernels("h100-sxm", written(tmp_path, {"gemm": gemm})).ops["gemm"]
    assert (op.overall.median_ape, op.overall.p90_ape, op.overall.bias) == pytest.approx((0.2, 0.2, -0.2))
    assert op.coverage_80 < 0.5


def test_power_law_and_balanced_rows_are_told_apart(tmp_path: Path) -> None:
    report = validate_kernels("h100-sxm", written(tmp_path, {"moe": as_predicted("h100-sxm", "moe")["moe"]}))
    parts = report.ops["moe"].parts
    assert parts["balanced"][0].rows + parts["power_law"][0].rows == report.ops["moe"].overall.rows


def test_every_figure_of_an_exchange_counts(tmp_path: Path) -> None:
    frame = as_predicted("h100-sxm", "deepep_normal")["deepep_normal"]
    frame["combine_us"] *= 2.0
    op = validate_kernels("h100-sxm", written(tmp_path, {"deepep_normal": frame})).ops["deepep_normal"]
    assert op.overall.rows == 2 * len(frame)
    assert op.parts["dispatch"][0].median_ape == pytest.approx(0.0, abs=1e-6)
    assert op.parts["combine"][0].median_ape == pytest.approx(0.5)


def test_unknown_ops_are_listed_and_further_columns_ignored(tmp_path: Path) -> None:
    written(tmp_path, {"gemm": GEMM.assign(weather="rain"), "teleport": GEMM})
    report = validate_kernels("h100-sxm", tmp_path)
    assert report.unknown_ops == ("teleport",)
    assert report.ops["gemm"].overall.rows == len(GEMM)


def test_rows_of_a_dtype_that_the_device_lacks_are_skipped_with_the_reason(tmp_path: Path) -> None:
    report = validate_kernels("a100-sxm", written(tmp_path, {"gemm": GEMM}))
    assert report.skipped_rows == 1
    assert report.ops["gemm"].overall.rows == 2
    assert "fp8" in next(iter(report.ops["gemm"].skipped))


def test_rows_of_an_unknown_dtype_are_skipped(tmp_path: Path) -> None:
    report = validate_kernels("h100-sxm", written(tmp_path, {"gemm": GEMM.assign(dtype="float7")}))
    assert report.skipped_rows == len(GEMM)
    assert report.document()["ops"]["gemm"]["rows"] == 0


@pytest.mark.parametrize("device", ["h200-sxm", "b200-sxm", "h20", "ascend-910c"])
def test_any_device_is_predicted_with_the_kernels_of_its_relatives(tmp_path: Path, device: str) -> None:
    report = validate_kernels(device, written(tmp_path, {"gemm": GEMM[:2]}))
    assert report.ops["gemm"].overall.rows == 2
    assert report.ops["gemm"].evidence == ("relative's kernels",)


def test_names_and_frameworks_are_optional(tmp_path: Path) -> None:
    frame = as_predicted("h100-sxm", "attention_decode")["attention_decode"]
    plain = frame[frame["kv_dtype"] == "bfloat16"].drop(columns=["kernel", "kv_dtype", "framework", "version"])
    op = validate_kernels("h100-sxm", written(tmp_path, {"attention_decode": plain})).ops["attention_decode"]
    assert op.overall.p90_ape == pytest.approx(0.0, abs=1e-6)


def test_predictions_are_written_row_by_row(tmp_path: Path) -> None:
    report = validate_kernels("h100-sxm", written(tmp_path, {"gemm": GEMM}))
    write_predictions(report, tmp_path / "rows.parquet")
    rows = pd.read_parquet(tmp_path / "rows.parquet").sort_values("row")
    assert rows["measured_us"].tolist() == GEMM["latency_us"].tolist()
    assert rows["n"].tolist() == GEMM["n"].tolist()
    assert (rows["low_us"] < rows["predicted_us"]).all()
    assert (rows["predicted_us"] < rows["high_us"]).all()


def test_predictions_are_parquet(tmp_path: Path) -> None:
    report = validate_kernels("h100-sxm", written(tmp_path, {"gemm": GEMM}))
    with pytest.raises(OutputError, match=r"ends in \.parquet"):
        write_predictions(report, tmp_path / "rows.csv")


def spoilt(column: str, value: Any) -> pd.DataFrame:
    frame = GEMM.astype({column: object})
    frame.loc[1, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (GEMM.drop(columns="n"), "missing column 'n'"),
        (GEMM.rename(columns={"latency_us": "latency_ms"}), "'latency_ms' instead of 'latency_us'.*microseconds"),
        (GEMM.assign(latency_us=[2e-5, 4e-5, 1e-5]), "another unit than microseconds"),
        (GEMM[:0], "empty table"),
        (spoilt("latency_us", -3.0), "row 1: latency_us is -3"),
        (spoilt("latency_us", None), "row 1: latency_us is nan"),
        (spoilt("latency_us", "fast"), "'latency_us' holds text"),
        (spoilt("m", 0), "row 1: m is 0; it must be at least 1"),
        (spoilt("dtype", None), "row 1: dtype is missing"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(tmp_path: Path, frame: pd.DataFrame, told: str) -> None:
    frame.to_csv(tmp_path / "gemm.csv", index=False)
    with pytest.raises(MeasurementError, match=told) as caught:
        validate_kernels("h100-sxm", tmp_path)
    assert str(tmp_path / "gemm.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gemm.parquet").write_text("no parquet")
    with pytest.raises(MeasurementError, match="not a readable Parquet file"):
        validate_kernels("h100-sxm", tmp_path)
    (tmp_path / "gemm.parquet").unlink()
    (tmp_path / "gemm.csv").write_text("")
    with pytest.raises(MeasurementError, match="empty file"):
        validate_kernels("h100-sxm", tmp_path)


def test_a_folder_without_tables_or_with_two_of_one_op_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="no table"):
        measured_files(tmp_path)
    with pytest.raises(MeasurementError, match="no such folder"):
        measured_files(tmp_path / "absent")
    written(tmp_path, {"gemm": GEMM})
    written(tmp_path, {"gemm": GEMM}, "csv")
    with pytest.raises(MeasurementError, match="keep one"):
        measured_files(tmp_path)


def test_an_unknown_device_names_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="h100"):
        validate_kernels("h10", written(tmp_path, {"gemm": GEMM}))


def test_the_command_answers_in_json(tmp_path: Path) -> None:
    written(tmp_path, {"gemm": GEMM, "teleport": GEMM})
    options = ["validate", "kernels", "--device", "a100", "--measurements", str(tmp_path)]
    answer = CliRunner().invoke(app, [*options, "--json"])
    document = json.loads(answer.stdout)
    assert answer.exit_code == 0
    assert {"device", "ops", "unknown_ops", "skipped_rows"} <= document.keys()
    assert {"rows", "median_ape", "p90_ape", "bias", "coverage_80"} <= document["ops"]["gemm"].keys()
    assert (document["device"], document["unknown_ops"], document["skipped_rows"]) == ("a100-sxm", ["teleport"], 1)


def test_the_command_prints_a_table_and_the_worst_rows(tmp_path: Path) -> None:
    written(tmp_path, {"gemm": GEMM.assign(latency_us=[20.0, 9000.0, 15.0])})
    options = ["validate", "kernels", "--device", "h100", "--measurements", str(tmp_path)]
    answer = CliRunner().invoke(app, options)
    assert answer.exit_code == 0
    assert "median error" in answer.stdout
    assert "worst: gemm: measured 9,000 us" in answer.stdout


def test_the_command_exits_with_2_and_one_message(tmp_path: Path) -> None:
    written(tmp_path, {"gemm": GEMM.drop(columns="m")})
    options = ["validate", "kernels", "--device", "h100", "--measurements", str(tmp_path)]
    answer = CliRunner().invoke(app, options)
    assert answer.exit_code == 2
    assert answer.stderr.count("error:") == 1
    assert "missing column 'm'" in answer.stderr


def test_held_out_rows_are_those_that_the_fits_leave_out() -> None:
    frame = read_measured(SAMPLES / "a100_sxm" / "attention_prefill.parquet")
    (name,) = FAMILIES["attention_prefill"].table(frame).unique()
    assert name == "attention_prefill.flash.bfloat16"
    assert np.flatnonzero(held_out("attention_prefill", frame)).tolist() == split(len(frame), DENSE_SEED)[1].tolist()


def test_no_held_out_row_of_a_moe_table_is_in_training() -> None:
    folder = SAMPLES / "a100_sxm"
    frame = read_measured(folder / "moe.parquet")
    chosen = frame[held_out("moe", frame)]
    assert 0.15 < len(chosen) / len(frame) < 0.25
    for name, (rows, _) in fit_moe.tables(folder).items():
        training = rows.iloc[split(len(rows), 0)[0]]
        backend = [kernel for kernel in chosen["kernel"].unique() if backend_of(kernel, "fused") in name]
        mine = chosen[chosen["kernel"].isin(backend)]
        keys = [c for c in mine.columns if c in training.columns]
        assert len(mine) > 100
        assert mine[keys].merge(training[keys], on=keys).empty
