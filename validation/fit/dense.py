"""Fit the dense kernel families (GEMM, attention, latent attention, linear attention) and report their accuracy."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from simulator.hardware import load_hardware
from simulator.kernels.elementwise import ElementwiseKernel
from simulator.kernels.kernel import Silicon
from simulator.kernels.mla import MlaPrefillKernel
from validation.accuracy import Accuracy, accuracy
from validation.fit.dense_starts import Start, starts_of, values_of
from validation.fit.fitting import fit
from validation.kernels.dense_rows import FAMILIES, Family
from validation.kernels.held_out import DENSE_SEED, split

#: What quantising A to one byte moves: two bytes read and one written for the values, about one for the scale pass
#: [bytes per element].
QUANTISE_TRAFFIC = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTable:
    """A fitted kernel table with its accuracy on rows that it was not fitted to, overall and by regime."""

    name: str
    kernel: Any
    test: Accuracy
    regimes: Mapping[str, Accuracy]
    at_bound: tuple[str, ...]


def fit_table(
    op: str,
    name: str,
    rows: pd.DataFrame,
    silicon: Silicon,
    seed: int = DENSE_SEED,
    starts: Sequence[Start] | None = None,
) -> FittedTable:
    """Fit one kernel table on a training split of its rows and judge it on the rest.

    Parameters
    ----------
    op, name : str
        The measured op and the kernel table.
    rows : DataFrame
        Rows of this table only, columns as in the measurements.
    silicon : Silicon
        The processor that was measured.
    seed : int
        Which split.
    starts : sequence of Start, optional
        Where to start instead of :data:`~validation.fit.dense_starts.STARTS`; the best counts.
    """
    family = FAMILIES[op]
    train_rows, test_rows = split(len(rows), seed)
    train, test = rows.iloc[train_rows], rows.iloc[test_rows]
    results = [
        fit(
            type(start.kernel),
            lambda kernel: family.predict(train, silicon, kernel),
            train["latency_us"].to_numpy() * 1e-6,
            start=start.kernel,
            bounds=start.bounds,
        )
        for start in starts or starts_of(name)
    ]
    result = min(results, key=lambda fitted: fitted.cost)
    overall, regimes = judge(family, test, silicon, result.coefficients)
    return FittedTable(
        name=name,
        kernel=result.coefficients,
        test=overall,
        regimes=regimes,
        at_bound=result.at_bound,
    )


def judge(family: Family, rows: pd.DataFrame, silicon: Silicon, kernel: Any) -> tuple[Accuracy, dict[str, Accuracy]]:
    """Accuracy of a kernel's predictions on rows, overall and by regime.

    Parameters
    ----------
    family : Family
        What predicts rows, and names their regimes.
    rows : DataFrame
        Measured rows.
    silicon : Silicon
        The processor that was measured.
    kernel : object
        Coefficients to be judged.
    """
    predicted, measured = family.predict(rows, silicon, kernel), rows["latency_us"].to_numpy() * 1e-6
    regime = family.regime(rows)
    return accuracy(predicted, measured), {
        str(name): accuracy(predicted[regime == name], measured[regime == name]) for name in dict.fromkeys(regime)
    }


def tables_of(op: str, folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of an op by kernel table; none where the folder does not measure it."""
    path = folder / f"{op}.parquet"
    if path.is_file():
        rows = pd.read_parquet(path)
        yield from ((str(name), group) for name, group in rows.groupby(FAMILIES[op].table(rows)))


def borrowed(fitted: Sequence[FittedTable]) -> dict[str, tuple[Any, str]]:
    """Kernels that no table measures, from the fitted ones that resemble them, with a note each.

    Returns
    -------
    dict of str to (coefficients, note)
        By kernel table; only where the resembling kernel was fitted.
    """
    kernels = {table.name: table.kernel for table in fitted}
    found: dict[str, tuple[Any, str]] = {}
    if quantising := kernels.get("gemm.cutlass.fp8"):
        share = quantising.memory * QUANTISE_TRAFFIC / quantising.quantise_bytes
        small = ElementwiseKernel(launch=quantising.quantise, memory=min(share, 1.0))
        found["elementwise.fused"] = small, "as the kernel that quantises A in the fp8 GEMM rows"
    if prefill := kernels.get("attention_prefill.flash.bfloat16"):
        expanded = MlaPrefillKernel(**values_of(prefill) | {"packs": False}, absorbed=False)
        found["mla_prefill.expanded.bfloat16"] = expanded, "as attention_prefill.flash on the expanded heads"
    if scan := kernels.get("gated_delta_net.chunk_gated_delta_rule"):
        found["mamba2.chunk_scan"] = scan, "as gated_delta_net.chunk_gated_delta_rule"
    if step := kernels.get("gated_delta_net.fused_recurrent_gated_delta_rule"):
        found["mamba2.state_update"] = step, "as gated_delta_net.fused_recurrent_gated_delta_rule"
    return found


def report(fitted: FittedTable) -> None:
    """Print a fitted table's accuracy on rows that it was not fitted to."""
    print(f"{fitted.name:52s} {fitted.test}  at bound: {', '.join(fitted.at_bound) or '-'}")
    for name, figures in fitted.regimes.items():
        print(f"  {name:50s} {figures}")


def main() -> None:
    """Fit the dense kernels of a device and report; ``moesim calibrate fit`` writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurements", type=Path, help="folder with a folder of tables per device")
    parser.add_argument("device")
    parser.add_argument("--only", default="", help="fit only ops whose name contains this")
    options = parser.parse_args()
    silicon = load_hardware(options.device).silicon
    folder = options.measurements / options.device.replace("-", "_")
    for op in FAMILIES:
        if options.only in op:
            for name, rows in tables_of(op, folder):
                report(fit_table(op, name, rows, silicon))


if __name__ == "__main__":
    main()
