"""Validate a device's kernel models against tables of measured latencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.outputs import replacing
from simulator.errors import OutputError
from simulator.hardware import Hardware, load_hardware
from validation.accuracy import Accuracy, accuracy
from validation.kernels.compare import borrowing, compare_op
from validation.kernels.formats import FORMATS, measured_files, read_measured
from validation.kernels.held_out import held_out

if TYPE_CHECKING:
    import pandas as pd

#: Worst rows that the text shows for each op [1].
WORST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OpAccuracy:
    """How the predictions of one op compare with its table.

    Attributes
    ----------
    overall : Accuracy
        Over all predicted figures.
    coverage_80 : float
        Share of them inside the 80 % interval [1].
    extrapolated : float
        Share of them beyond the shapes that the kernels were fitted on [1].
    evidence : tuple of str
        What the predictions rest on.
    parts : Mapping of str to (Accuracy, float)
        Accuracy and coverage of parts: ``balanced`` and ``power_law`` routing, ``dispatch`` and ``combine``.
    skipped : Mapping of str to int
        Rows that could not be predicted, by reason.
    worst : tuple of Mapping
        The rows with the largest errors: their shape, measured and predicted time [us].
    """

    overall: Accuracy
    coverage_80: float
    extrapolated: float
    evidence: tuple[str, ...]
    parts: Mapping[str, tuple[Accuracy, float]]
    skipped: Mapping[str, int]
    worst: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelReport:
    """Accuracy by op, what of the folder was left aside, and the rows behind it.

    ``rows`` holds, by op, the comparison (see :func:`validation.kernels.compare.compare_op`) and the describing columns
    of the table.
    """

    device: str
    ops: Mapping[str, OpAccuracy]
    unknown_ops: tuple[str, ...]
    rows: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]

    @property
    def skipped_rows(self) -> int:
        """Rows of known ops that could not be predicted [1]."""
        return sum(sum(op.skipped.values()) for op in self.ops.values())

    def document(self) -> dict[str, Any]:
        """The report as JSON; errors are fractions."""
        return {
            "device": self.device,
            "ops": {name: _op_document(op) for name, op in self.ops.items()},
            "unknown_ops": list(self.unknown_ops),
            "skipped_rows": self.skipped_rows,
        }


def validate_kernels(
    device: str,
    folder: Path,
    *,
    profiles: Path | None = None,
    kernels_of: str | None = None,
    only_held_out: bool = False,
) -> KernelReport:
    """Predict every row of a folder of tables and compare.

    Parameters
    ----------
    device : str
        Id or alias of the device that was measured.
    folder : Path
        One Parquet or CSV file per op.
    profiles : Path, optional
        The user's profiles.
    kernels_of : str, optional
        Predict with the kernels of this device, as if ``device`` had none of its own.
    only_held_out : bool
        Keep only the rows that a fit on this folder does not train on.

    Raises
    ------
    MoesimError
        The device is unknown, or a table cannot be used.
    """
    hardware = load_hardware(device, folder=profiles)
    if kernels_of is not None:
        hardware = borrowing(hardware, kernels_of, profiles)
    files, unknown = measured_files(folder)
    ops: dict[str, OpAccuracy] = {}
    tables: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {}
    for op, path in files.items():
        frame = read_measured(path)
        compared = _compared(op, frame, hardware, profiles, only_held_out)
        shape = frame[[c for c in frame.columns if c not in compared.columns and c not in FORMATS[op].figures.values()]]
        # Columns that nobody asked for may hold anything.
        known = FORMATS[op]
        asked = {*known.names, *known.sizes, *known.counts, *known.optional}
        ops[op] = judge_op(compared, shape[[c for c in shape.columns if c in asked]])
        tables[op] = compared, shape
    return KernelReport(device=hardware.device.id, ops=ops, unknown_ops=unknown, rows=tables)


def _compared(
    op: str, frame: pd.DataFrame, hardware: Hardware, profiles: Path | None, only_held_out: bool
) -> pd.DataFrame:
    compared = compare_op(op, frame, hardware, profiles)
    if only_held_out:
        compared = compared[held_out(op, frame)[compared["row"]]].reset_index(drop=True)
    return compared


def judge_op(compared: pd.DataFrame, shape: pd.DataFrame) -> OpAccuracy:
    """Sum up the comparison of one op.

    Parameters
    ----------
    compared : DataFrame
        As of :func:`validation.kernels.compare.compare_op`.
    shape : DataFrame
        The columns of the table that describe a row, for the list of the worst.
    """
    skipped = compared[compared["reason"] != ""]
    predicted = compared[compared["reason"] == ""]
    overall, coverage = _judge(predicted)
    parts: dict[str, tuple[Accuracy, float]] = {}
    if predicted["skewed"].any():
        for name, chosen in (("balanced", ~predicted["skewed"]), ("power_law", predicted["skewed"])):
            if chosen.any():
                parts[name] = _judge(predicted[chosen])
    for part in predicted["part"].unique():
        if part:
            parts[part] = _judge(predicted[predicted["part"] == part])
    return OpAccuracy(
        overall=overall,
        coverage_80=coverage,
        extrapolated=float(predicted["extrapolated"].mean()) if len(predicted) else float("nan"),
        evidence=tuple(predicted["evidence"].unique()),
        parts=parts,
        skipped={str(reason): int(rows["row"].nunique()) for reason, rows in skipped.groupby("reason")},
        worst=_worst(predicted, shape),
    )


def _judge(rows: pd.DataFrame) -> tuple[Accuracy, float]:
    measured = rows["measured_us"].to_numpy()
    inside = (rows["low_us"].to_numpy() <= measured) & (measured <= rows["high_us"].to_numpy())
    coverage = float(inside.mean()) if len(rows) else float("nan")
    return accuracy(rows["predicted_us"].to_numpy(), measured), coverage


def _worst(rows: pd.DataFrame, shape: pd.DataFrame) -> tuple[Mapping[str, Any], ...]:
    error = np.abs(np.log(rows["predicted_us"].to_numpy() / rows["measured_us"].to_numpy()))
    telling = [c for c in shape.columns if len(shape) and (shape[c].to_numpy() != shape[c].iloc[0]).any()]
    found = []
    for number in np.argsort(-error, kind="stable")[:WORST]:
        row = rows.iloc[int(number)]
        described = {} if not row["part"] else {"part": row["part"]}
        described |= {c: shape[c].iloc[int(row["row"])] for c in telling}
        figures = {"measured_us": float(row["measured_us"]), "predicted_us": float(row["predicted_us"])}
        found.append({"row": int(row["row"]), **described, **figures})
    return tuple(found)


def _figures(result: Accuracy, coverage: float) -> dict[str, float | int]:
    return {
        "rows": result.rows,
        "median_ape": result.median_ape,
        "p90_ape": result.p90_ape,
        "bias": result.bias,
        "coverage_80": coverage,
    }


def _op_document(op: OpAccuracy) -> dict[str, Any]:
    return {
        **_figures(op.overall, op.coverage_80),
        "extrapolated": op.extrapolated,
        "evidence": list(op.evidence),
        "parts": {name: _figures(*part) for name, part in op.parts.items()},
        "skipped": dict(op.skipped),
    }


def write_predictions(report: KernelReport, path: Path) -> None:
    """Write every figure with its prediction and interval as Parquet, beside the columns that describe its row.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    if path.suffix != ".parquet":
        raise OutputError(f"{path}: predictions are written as Parquet; name a file that ends in .parquet")
    import pandas as pd

    joined = [compared.join(shape, on="row") for compared, shape in report.rows.values()]
    rows = pd.concat(joined, ignore_index=True) if joined else pd.DataFrame()
    with replacing(path, OutputError) as temporary:
        rows.to_parquet(temporary, index=False)
