"""Fit every kernel that a folder of measurements covers, judge the fits on rows that they never saw, and write them.

Nothing is written until everything is fitted and judged. A kernel whose rows are too few, or whose fit fails, is left
as it was, and the result says so.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hardware_profiles.edge import is_file, read_json, read_toml, shown
from hardware_profiles.errors import MoesimError
from hardware_profiles.residuals import Residuals, load_residuals
from hardware_profiles.schema import Device, Quantity
from simulator.cost.uncertainty import REGIMES, regime_numbers
from simulator.errors import ProfileError
from simulator.hardware import Hardware, load_hardware
from simulator.kernels.families import FAMILIES
from simulator.kernels.kernel import matrix_peak, quantities
from validation.accuracy import Accuracy, accuracy
from validation.fit.fitting import FitError, write_kernels
from validation.fit.residuals import residuals_of, write_residuals
from validation.fit.tables import FITTERS, Fitted
from validation.kernels.compare import axes_of, compare_op
from validation.kernels.formats import MeasurementError, measured_files, read_measured
from validation.kernels.held_out import held_out

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[float], None]
#: Factor by which predictions of held-out rows are off in the median when a fit says nothing about its kernel [1].
USELESS = 2.0
#: Tables whose rows are multiplied in the arithmetic of their dtype.
_ARITHMETIC = tuple(kind for kind, family in FAMILIES.items() if family.table_dtype != "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFit:
    """One kernel table: its coefficients and how they do on rows that they were not fitted to.

    Attributes
    ----------
    op, table : str
        The measured op and the kernel table.
    kernel : dataclass instance
        The coefficients.
    rows : int
        Measured rows [1]; four fifths were fitted.
    test : Accuracy
        On the rest.
    factor : float
        Factor by which predictions of those are off in the median [1].
    regimes : Mapping of str to Accuracy
        The same by regime of the call's time, uneven routing by itself.
    ranges : Mapping of str to (float, float)
        Least and largest value of each axis of the measured shapes.
    at_bound : tuple of str
        Coefficients that stopped at a bound.
    source : str
        What was measured with.
    """

    op: str
    table: str
    kernel: Any
    rows: int
    test: Accuracy
    factor: float
    regimes: Mapping[str, Accuracy]
    ranges: Mapping[str, tuple[float, float]]
    at_bound: tuple[str, ...]
    source: str

    def provenance(self) -> dict[str, Any]:
        """Where the coefficients come from, as a profile says it."""
        shapes = "; ".join(f"{axis} {low:g} to {high:g}" for axis, (low, high) in self.ranges.items())
        return {
            "source": self.source,
            "status": "fitted",
            "date": datetime.now(UTC).date().isoformat(),
            "note": f"{self.rows - self.test.rows} rows fitted; on {self.test.rows} others median error "
            f"{self.test.median_ape:.1%}, p90 {self.test.p90_ape:.1%}, bias {self.test.bias:+.1%}; {shapes}",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a folder of measurements says about a device.

    ``fits`` were made; ``kept`` says why other tables stay as they were; ``derived`` are kernels that follow from
    fitted ones, with a note each; ``residuals`` are for the 80 % intervals.
    """

    device: str
    fits: tuple[TableFit, ...]
    kept: Mapping[str, str]
    derived: Mapping[str, tuple[Any, str]]
    residuals: Mapping[str, Residuals]
    unknown_ops: tuple[str, ...]
    spread: float

    def document(self) -> dict[str, Any]:
        """The calibration as JSON; errors are fractions."""
        return {
            "device": self.device,
            "tables": {
                fit.table: {
                    "op": fit.op,
                    "rows": fit.rows,
                    "test": dataclasses.asdict(fit.test),
                    "regimes": {name: dataclasses.asdict(result) for name, result in fit.regimes.items()},
                    "at_bound": list(fit.at_bound),
                    "coefficients": dataclasses.asdict(fit.kernel),
                    "source": fit.source,
                }
                for fit in self.fits
            },
            "kept": dict(self.kept),
            "derived": {name: note for name, (_, note) in self.derived.items()},
            "unknown_ops": list(self.unknown_ops),
            "spread": self.spread,
        }


def fit_measurements(
    device: str | Hardware, folder: Path, *, profiles: Path | None = None, progress: Progress | None = None
) -> Calibration:
    """Fit every kernel that a folder of tables measures.

    Parameters
    ----------
    device : str or Hardware
        Id or alias of the device that was measured, or the hardware itself.
    folder : Path
        One Parquet or CSV file per op, and the manifest of the microbenchmarks if they made it.
    profiles : Path, optional
        The user's profiles.
    progress : callable, optional
        Told the share done [1].

    Raises
    ------
    MoesimError
        The device is unknown, a table cannot be used, or no kernel could be fitted.
    """
    if importlib.util.find_spec("scipy") is None:
        raise FitError("SciPy is not installed; in moesim's folder: pip install '.[calibrate]'")
    hardware = load_hardware(device, folder=profiles) if isinstance(device, str) else device
    files, unknown = measured_files(folder)
    frames = {op: read_measured(path) for op, path in files.items()}
    for op, frame in frames.items():
        _check_dtypes(op, files[op], frame, hardware)
    fitted, kept = _fit_all(frames, hardware, progress)
    fits, residuals = _judge_all(frames, fitted, hardware, folder)
    kept |= {table: "none of its rows could be predicted" for table in fitted if table not in fits}
    for table in [table for table, fit in fits.items() if fit.factor > USELESS]:
        factor = fits.pop(table).factor
        kept[table] = f"the fit did not converge: held-out rows are off by a factor of {factor:.1f} in the median"
    if not fits:
        reasons = "; ".join(f"{table}: {reason}" for table, reason in kept.items()) or "no known op was measured"
        raise FitError(f"{folder}: nothing could be fitted, and nothing was changed: {reasons}")
    derived = {
        name: found
        for fit in fitted.values()
        if fit.table in fits
        for name, found in fit.derived.items()
        if name not in fits
    }
    return Calibration(
        device=hardware.device.id,
        fits=tuple(fits.values()),
        kept=kept,
        derived=derived,
        residuals={table: residuals[table] for table in fits if table in residuals},
        unknown_ops=unknown,
        spread=_spread(frames),
    )


def _fit_all(
    frames: Mapping[str, pd.DataFrame], hardware: Hardware, progress: Progress | None
) -> tuple[dict[str, Fitted], dict[str, str]]:
    fitted: dict[str, Fitted] = {}
    kept: dict[str, str] = {}
    total, done = sum(len(frame) for frame in frames.values()), 0
    for op in (op for op in FITTERS if op in frames):
        for table, rows, solve in FITTERS[op](op, frames[op], hardware, fitted):
            try:
                fitted[table] = solve()
            except FitError as error:
                kept[table] = str(error)
            done += rows
            if progress is not None:
                progress(min(done / max(total, 1), 1.0))
    return fitted, kept


def _judge_all(
    frames: Mapping[str, pd.DataFrame], fitted: Mapping[str, Fitted], hardware: Hardware, folder: Path
) -> tuple[dict[str, TableFit], dict[str, Residuals]]:
    """Predict all rows with the fitted kernels and compare the held-out ones with what was measured."""
    origin = _source(folder)
    updated = with_kernels(
        hardware, {fit.table: quantities(fit.kernel, source="this fit", status="fitted") for fit in fitted.values()}
    )
    fits: dict[str, TableFit] = {}
    for op, frame in frames.items():
        compared, axes = compare_op(op, frame, updated), axes_of(op, frame)
        compared["held_out"] = held_out(op, frame)[compared["row"]]
        for table, rows in compared[compared["reason"] == ""].groupby("table"):
            if table not in fitted:
                continue
            numbers = rows["row"].to_numpy()
            fits[str(table)] = TableFit(
                op=op,
                table=str(table),
                kernel=fitted[str(table)].kernel,
                rows=len(rows),
                test=_accuracy(rows[rows["held_out"]]),
                factor=_factor(rows[rows["held_out"]]),
                regimes=dict(_by_regime(rows[rows["held_out"]])),
                ranges={axis: (float(v[numbers].min()), float(v[numbers].max())) for axis, v in axes.items()},
                at_bound=fitted[str(table)].at_bound,
                source=origin or _framework(frame.iloc[numbers], folder),
            )
    source = origin or f"tables of {folder.name}, held-out rows"
    return fits, residuals_of(folder, updated, source)


def _accuracy(rows: pd.DataFrame) -> Accuracy:
    return accuracy(rows["predicted_us"].to_numpy(), rows["measured_us"].to_numpy())


def _factor(rows: pd.DataFrame) -> float:
    ratios = np.abs(np.log(rows["predicted_us"].to_numpy() / rows["measured_us"].to_numpy()))
    return float(np.exp(np.median(ratios))) if len(ratios) else float("nan")


def _by_regime(rows: pd.DataFrame) -> Iterator[tuple[str, Accuracy]]:
    regimes = regime_numbers(rows["measured_us"].to_numpy() * 1e-6)
    for uneven, kind in ((False, ""), (True, ", uneven")):
        for number, regime in enumerate(REGIMES):
            chosen = rows[(regimes == number) & (rows["skewed"].to_numpy() == uneven)]
            if len(chosen):
                yield regime + kind, _accuracy(chosen)


def _check_dtypes(op: str, path: Path, frame: pd.DataFrame, hardware: Hardware) -> None:
    if not op.startswith(_ARITHMETIC):
        return
    for dtype in dict.fromkeys(frame["dtype"]):
        try:
            matrix_peak(str(dtype), hardware.silicon)
        except ProfileError as error:
            raise MeasurementError(f"{path}: {hardware.device.id}: {error}") from None


def with_kernels(hardware: Hardware, tables: Mapping[str, Mapping[str, Quantity]]) -> Hardware:
    """Return the hardware with some kernel tables replaced by its own."""
    device = hardware.device
    main = dataclasses.replace(device.main, kernels={**device.main.kernels, **tables})
    updated: Device = dataclasses.replace(device, processors={**device.processors, main.name: main})
    return dataclasses.replace(hardware, device=updated, kernels={**hardware.kernels, **tables})


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """Read what the microbenchmarks say about their machine; empty where other tools made the tables."""
    path = folder / "manifest.json"
    if not is_file(path):
        return {}
    manifest = read_json(path, MeasurementError)
    machine = manifest.get("machine") if isinstance(manifest, dict) else None
    if not isinstance(machine, dict) or not isinstance(machine.get("versions"), dict) or "name" not in machine:
        raise MeasurementError(f"{path}: no manifest of 'calibrate run': it states no machine: {shown(manifest)}")
    return cast("Mapping[str, Any]", manifest)


def _source(folder: Path) -> str:
    manifest = read_manifest(folder)
    if not manifest:
        return ""
    machine, date = manifest["machine"], str(manifest.get("date", ""))[:10]
    return f"moesim calibrate run on {machine['name']}, torch {machine['versions'].get('torch', 'unknown')}, {date}"


def _framework(rows: pd.DataFrame, folder: Path) -> str:
    named = [f"{name} {version}".strip() for name, version in _pairs(rows) if name]
    return f"tables of {folder.name}" + (f": {', '.join(named)}" if named else "")


def _pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    if not {"framework", "version"} <= set(rows.columns):
        return []
    return [(str(a), str(b)) for a, b in rows[["framework", "version"]].drop_duplicates().itertuples(index=False)]


def _spread(frames: Mapping[str, pd.DataFrame]) -> float:
    """Median over rows of the 90th over the 10th percentile of the repeats [1]; nan where nobody kept them."""
    ratios = [
        (frame["p90_us"] / frame["p10_us"]).to_numpy(dtype=np.float64)
        for frame in frames.values()
        if {"p10_us", "p90_us"} <= set(frame.columns)
    ]
    return float(np.median(np.concatenate(ratios))) if ratios else float("nan")


def write_calibration(calibration: Calibration, folder: Path) -> list[Path]:
    """Write kernels and residuals into a folder of profiles; return the files.

    A table that already stands in one of the device's kernel files is replaced there, the others go to
    ``kernels/<id>.toml``.

    Raises
    ------
    MoesimError
        The folder cannot be written.
    """
    device, date = calibration.device, datetime.now(UTC).date().isoformat()
    tables = {fit.table: (fit.kernel, fit.provenance()) for fit in calibration.fits}
    for name, (kernel, note) in calibration.derived.items():
        tables[name] = kernel, {"source": "derived", "status": "assumption", "date": date, "note": note}
    homes: dict[Path, dict[str, tuple[Any, Mapping[str, Any]]]] = {}
    for name, table in tables.items():
        homes.setdefault(_home(folder, device, name), {})[name] = table
    residuals = folder / "residuals" / f"{device}.toml"
    try:
        for path, part in homes.items():
            write_kernels(path, part)
        write_residuals(residuals, {**_own_residuals(residuals, device, folder), **calibration.residuals})
    except OSError as error:
        raise MoesimError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return [*homes, residuals]


def _home(folder: Path, device: str, table: str) -> Path:
    for path in sorted((folder / "kernels").glob(f"{device}*.toml")):
        if path.name.split(".")[0] == device and table in read_toml(path, ProfileError):
            return path
    return folder / "kernels" / f"{device}.toml"


def _own_residuals(path: Path, device: str, folder: Path) -> dict[str, Residuals]:
    """Residuals that the folder itself already holds."""
    if not is_file(path):
        return {}
    named = read_toml(path, ProfileError)
    return {table: residuals for table, residuals in load_residuals(device, folder).items() if table in named}
