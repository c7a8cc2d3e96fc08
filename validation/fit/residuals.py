"""Measure how far predictions are off, by kernel table and regime, and write it beside the kernels.

Run as ``python -m validation.fit.residuals MEASUREMENTS [--write]``, where MEASUREMENTS holds one folder per device. A
spread comes from rows that no fit has seen; what borrowing adds comes from predicting one device with the kernels of
another.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.errors import MoesimError
from hardware_profiles.outputs import write_file
from hardware_profiles.residuals import Residuals
from simulator.arrays import FloatArray
from simulator.cost.uncertainty import REGIMES, Z80, family_of, regime_numbers
from simulator.hardware import Hardware, load_hardware
from validation.kernels.compare import axes_of, borrowing, compare_op
from validation.kernels.formats import measured_files, read_measured
from validation.kernels.held_out import held_out

if TYPE_CHECKING:
    import pandas as pd

#: Fewest rows from which the spread of a regime is taken; smaller ones take that of all rows [1].
FEWEST = 25
SOURCE = "aiconfigurator kernel tables (Apache-2.0), held-out rows"
#: Share of the spread between architectures that borrowing within one is taken to add [1]: an assumption.
WITHIN_ARCHITECTURE = 0.3


def spread_of(ratios: FloatArray) -> float:
    """Standard deviation [1] of the normal distribution around 0 whose 80 % interval holds 80 % of the log ratios.

    Examples
    --------
    >>> round(spread_of(np.array([-0.1, 0.1, -0.1, 0.1])), 3)
    0.078
    """
    # The conformal quantile: with few rows, the next larger error, so that a new row is inside with 80 %.
    errors = np.sort(np.abs(ratios))
    rank = min(math.ceil(0.8 * (len(errors) + 1)), len(errors))
    return float(errors[rank - 1]) / Z80


def residuals_of(folder: Path, hardware: Hardware, source: str = SOURCE) -> dict[str, Residuals]:
    """Residuals of every kernel table of a device that a folder measures, from the rows held out of its fits.

    Parameters
    ----------
    folder : Path
        One table per op.
    hardware : Hardware
        The device that was measured; only its own kernel tables count.
    source : str
        Where the measurements come from.
    """
    found: dict[str, Residuals] = {}
    for table, rows, ranges in _by_table(folder, hardware):
        if table in hardware.device.main.kernels:
            found[table] = _residuals(rows, ranges, source)
    return found


def _by_table(folder: Path, hardware: Hardware) -> Iterator[tuple[str, pd.DataFrame, dict[str, tuple[float, float]]]]:
    for op, path in measured_files(folder)[0].items():
        frame = read_measured(path)
        compared = compare_op(op, frame, hardware)
        compared["held_out"] = held_out(op, frame)[compared["row"]]
        axes = axes_of(op, frame)
        for table, rows in compared[compared["reason"] == ""].groupby("table"):
            numbers = rows["row"].to_numpy()
            ranges = {axis: (float(v[numbers].min()), float(v[numbers].max())) for axis, v in axes.items()}
            yield str(table), rows[rows["held_out"]], ranges


def _residuals(rows: pd.DataFrame, ranges: Mapping[str, tuple[float, float]], source: str) -> Residuals:
    ratios = _ratios(rows)
    regimes, uneven = regime_numbers(rows["predicted_us"].to_numpy() * 1e-6), rows["skewed"].to_numpy()
    spread = {"all": spread_of(ratios)}
    for kind, chosen in (("", ~uneven), ("skewed", uneven)):
        if kind and chosen.sum() >= FEWEST:
            spread[f"{kind} all"] = spread_of(ratios[chosen])
        for number, regime in enumerate(REGIMES):
            inside = chosen & (regimes == number)
            if inside.sum() >= FEWEST:
                spread[f"{kind} {regime}".strip()] = spread_of(ratios[inside])
    return Residuals(
        spread=spread,
        ranges=dict(ranges),
        rows=len(rows),
        source=source,
        status="measured",
        date=datetime.now(UTC).date().isoformat(),
    )


def transfer_of(folder: Path, hardware: Hardware, lender: str) -> dict[str, float]:
    """Return what borrowing a lender's kernels adds to the spread [1], by family.

    Parameters
    ----------
    folder : Path
        Measurements of ``hardware``.
    hardware : Hardware
        A device with kernels of its own, which are set aside.
    lender : str
        The device whose kernels are used instead.
    """
    own = {table: spread_of(_ratios(rows)) for table, rows, _ in _by_table(folder, hardware)}
    added: dict[str, list[float]] = {}
    for table, rows, _ in _by_table(folder, borrowing(hardware, lender)):
        # A table that the device lacks runs another library, whose difference is not one of silicon.
        if table in own:
            wider = spread_of(_ratios(rows)) ** 2 - own[table] ** 2
            added.setdefault(family_of(table), []).append(float(np.sqrt(max(wider, 0.0))))
    return {family: float(np.median(values)) for family, values in added.items()}


def _ratios(rows: pd.DataFrame) -> FloatArray:
    measured, predicted = (rows[name].to_numpy(dtype=np.float64) for name in ("measured_us", "predicted_us"))
    return np.asarray(np.log(measured / predicted), dtype=np.float64)


def write_residuals(path: Path, tables: Mapping[str, Residuals]) -> None:
    """Write residuals as TOML, one table per kernel table."""
    lines: list[str] = []
    for name in sorted(tables):
        r = tables[name]
        provenance = {"source": r.source, "status": r.status, "date": r.date, "rows": r.rows, "note": r.note}
        lines += [
            f"[{json.dumps(name)}]",
            f"_provenance = {_inline({key: value for key, value in provenance.items() if value != ''})}",
            f"spread = {_inline(r.spread)}",
            f"range = {_inline({axis: list(limits) for axis, limits in r.ranges.items()})}",
            "",
        ]
    write_file(path, "\n".join(lines), MoesimError)


def write_transfer(path: Path, other: Mapping[str, float], source: str) -> None:
    """Write what borrowing adds to the spread; within an architecture it is taken as a share of that between two."""
    same = {family: WITHIN_ARCHITECTURE * value for family, value in other.items()}
    note = f"{WITHIN_ARCHITECTURE:g} times what borrowing between architectures adds"
    lines = []
    for kind, values, provenance in (
        ("same_architecture", same, {"source": "no published figure", "status": "assumption", "note": note}),
        ("other_architecture", other, {"source": source, "status": "measured"}),
    ):
        lines += [f"[{kind}]", f"_provenance = {_inline(provenance)}"]
        lines += [f"{family} = {_number(value)}" for family, value in sorted({**values}.items())]
        lines += [f"all = {_number(float(np.median(list(values.values()))))}", ""]
    write_file(path, "\n".join(lines), MoesimError)


def _number(value: float) -> str:
    return repr(float(f"{value:.3g}"))


def _inline(mapping: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(_number(v) for v in value) + "]"
        return _number(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

    return "{ " + ", ".join(f"{json.dumps(key)} = {text(value)}" for key, value in mapping.items()) + " }"


def main() -> None:
    """Measure the residuals of every device that has a folder, and what borrowing from the first one adds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurements", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    out = Path(__file__).parents[2] / "hardware_profiles" / "residuals"
    other: dict[str, float] = {}
    lent: list[str] = []
    for folder in sorted(p for p in options.measurements.iterdir() if p.is_dir()):
        hardware = load_hardware(folder.name.replace("_", "-"))
        tables = residuals_of(folder, hardware)
        for name, residuals in sorted(tables.items()):
            regimes = ", ".join(f"{key} {value:.3f}" for key, value in residuals.spread.items())
            print(f"  {hardware.device.id} {name:44s} {residuals.rows:6d} rows  {regimes}")
        if options.write:
            write_residuals(out / f"{hardware.device.id}.toml", tables)
        lender = hardware.device.main.kernels_from
        if lender is not None:
            other |= transfer_of(folder, hardware, lender)
            lent.append(f"{hardware.device.id} predicted with the kernels of {lender}")
    print("  borrowing adds " + ", ".join(f"{family} {value:.2f}" for family, value in sorted(other.items())))
    if options.write and other:
        write_transfer(out / "_transfer.toml", other, "; ".join(lent))


if __name__ == "__main__":
    main()
