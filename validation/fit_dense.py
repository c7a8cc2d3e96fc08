"""Fit the dense kernel families (GEMM, attention, latent attention, linear attention) and report their accuracy.

A start says, for one kernel table, where its coefficients begin and which of them are free. What a library fixes by
construction (tiles, splits, whether heads are absorbed) is not fitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from hardware_profiles.errors import nearest
from hardware_profiles.loader import load_device
from simulator.cost.attention import AttentionDecodeKernel, AttentionPrefillKernel
from simulator.cost.elementwise import ElementwiseKernel
from simulator.cost.gemm import GemmKernel
from simulator.cost.kernel import Silicon
from simulator.cost.linear_attention import ConvolutionKernel, ScanKernel
from simulator.cost.mla import MlaDecodeKernel, MlaPrefillKernel
from validation.dense_rows import FAMILIES, Family
from validation.fit_moe import silicon_of
from validation.fitting import Accuracy, Bounds, FitError, accuracy, fit, split, write_kernels

SEED = 20261122
SOURCE = "fit to kernel latencies of github:ai-dynamo/aiconfigurator"
#: What quantising A to one byte moves: two bytes read and one written for the values, about one for the scale pass
#: [bytes per element].
QUANTISE_TRAFFIC = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where the fit of a kernel table starts, and the bounds of its free coefficients."""

    kernel: Any
    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTable:
    """A fitted kernel table with its accuracy on rows that it was not fitted to, overall and by regime."""

    op: str
    name: str
    kernel: Any
    train: Accuracy
    test: Accuracy
    regimes: Mapping[str, Accuracy]
    at_bound: tuple[str, ...]


_GEMM = Start(
    kernel=GemmKernel(
        launch=2.5e-6,
        tile=500.0,
        depth=2.0,
        feed=77.0,
        cache_feed=75.0,
        compute=0.87,
        small_tile=0.01,
        memory=0.88,
        write=1.2,
        balance=0.1,
        split_depth=1200.0,
        split=2.3e-6,
        overlap=0.2,
        first_wave=0.05,
        sharpness=5.0,
        throttle=0.13,
        coarse_rows=0.0,
        ragged=0.0,
        ragged_depth=0.0,
        fine_rows=64.0,
        spill=0.02,
        quantise=0.0,
        quantise_bytes=4.0,
    ),
    bounds={
        "launch": (1e-6, 1e-5),
        "tile": (10, 1e4),
        "depth": (0.1, 10),
        "feed": (16, 256),
        "cache_feed": (10, 200),
        "compute": (0.5, 1.0),
        "small_tile": (1e-4, 2),
        "memory": (0.5, 1.0),
        "write": (0.8, 4),
        "balance": (1e-3, 1),
        "split_depth": (128, 1e4),
        "split": (1e-8, 5e-6),
        "overlap": (1e-4, 0.5),
        "first_wave": (1e-4, 1.5),
        "sharpness": (1, 16),
        "throttle": (1e-3, 1),
        "spill": (1e-3, 1),
    },
)
_DECODE = Start(
    kernel=AttentionDecodeKernel(
        launch=6e-6,
        combine=1e-6,
        merge=1e-7,
        sequence=5e-9,
        repack=1e-7,
        tile=3e-6,
        stream=30.0,
        memory=0.88,
        pipeline=2.0,
        max_splits=128.0,
        tiles_per_unit=1.0,
        balance=0.5,
        sharpness=3.0,
    ),
    bounds={
        "launch": (1e-6, 2e-5),
        "combine": (1e-8, 1e-5),
        "merge": (1e-9, 1e-6),
        "sequence": (1e-11, 1e-7),
        "balance": (1e-3, 1),
        "repack": (1e-9, 1e-5),
        "tile": (1e-7, 2e-5),
        "stream": (2, 200),
        "pipeline": (1, 10),
        "memory": (0.4, 0.95),
        "sharpness": (1.5, 8),
    },
)
_PREFILL = Start(
    kernel=AttentionPrefillKernel(
        launch=8e-6,
        repack=1e-7,
        combine=2e-6,
        tile=2e-6,
        packing=5e-7,
        block=1e-7,
        compute=0.8,
        softmax=1.3,
        memory=0.8,
        tile_rows=128.0,
        narrow_tile_rows=192.0,
        max_splits=128.0,
        packs=1.0,
        order=3.0,
        balance=0.5,
        throttle=0.1,
        sharpness=3.0,
    ),
    bounds={
        "launch": (1e-6, 2e-5),
        "repack": (1e-9, 1e-5),
        "combine": (1e-8, 2e-5),
        "tile": (1e-7, 2e-5),
        "packing": (1e-9, 1e-5),
        "block": (1e-9, 1e-6),
        "compute": (0.3, 1.0),
        "softmax": (1e-3, 4),
        "memory": (0.03, 1.0),
        "balance": (1e-3, 1),
        "order": (1, 10),
        "throttle": (1e-3, 0.5),
        "sharpness": (1, 8),
    },
)
_QUANTISING = {
    "ragged": (1e-3, 5.0),
    "ragged_depth": (1e-3, 2.0),
    "quantise": (1e-7, 5e-6),
    "quantise_bytes": (3.0, 20.0),
}
#: Launch of engines that call kernels one by one, host time included [s].
_EAGER = {"launch": (5e-6, 5e-4)}
_CONVOLUTION = Start(
    kernel=ConvolutionKernel(launch=4e-6, memory=0.7, sequence=500.0),
    bounds={"launch": (1e-6, 2e-5), "memory": (0.1, 1.0), "sequence": (1, 2000)},
)
_SCAN = Start(
    kernel=ScanKernel(launch=1.6e-5, memory=0.8, passes=10.0, state=8.0, chunk=1e-6),
    bounds={"launch": (1e-6, 5e-5), "passes": (1, 60), "state": (1, 24), "chunk": (1e-8, 1e-5)},
)


def _values(kernel: Any) -> dict[str, float]:
    return {name: getattr(kernel, name) for name in kernel.__dataclass_fields__}


def _latent_decode(launch: float, head_tile: float, max_splits: float, convert: float = 0.0) -> Start:
    kernel = MlaDecodeKernel(
        **_values(_DECODE.kernel) | {"launch": launch, "max_splits": max_splits, "repack": 0.0},
        head_tile=head_tile,
        compute=0.6,
        convert=convert,
    )
    casting = {"convert": (1.0, 20.0)} if convert else {}
    free = {name: limits for name, limits in _DECODE.bounds.items() if name != "repack"}
    return Start(kernel=kernel, bounds={**free, **_EAGER, **casting, "compute": (0.05, 1.0)})


def _latent_prefill(launch: float, absorbed: float, tile_rows: float, max_splits: float) -> Start:
    fixed = {"repack": 0.0, "packing": 0.0, "packs": 0.0, "tile_rows": tile_rows, "max_splits": max_splits}
    kernel = MlaPrefillKernel(**_values(_PREFILL.kernel) | fixed | {"launch": launch}, absorbed=absorbed)
    free = {name: limits for name, limits in _PREFILL.bounds.items() if name not in fixed}
    return Start(kernel=kernel, bounds={**free, **_EAGER})


def _without(start: Start, **fixed: float) -> Start:
    kernel = type(start.kernel)(**_values(start.kernel) | fixed)
    return Start(kernel=kernel, bounds={name: b for name, b in start.bounds.items() if name not in fixed})


def _quantised_gemm(coarse_rows: float, **start: float) -> Start:
    fixed = {"split_depth": 1e9, "split": 0.0, "coarse_rows": coarse_rows}
    free = {name: limits for name, limits in _GEMM.bounds.items() if name not in fixed}
    return Start(kernel=GemmKernel(**_values(_GEMM.kernel) | fixed | start), bounds={**free, **_QUANTISING})


#: Starts by kernel table, the storage dtype left out where it makes no difference. Where libraries differ in what
#: they fix by construction, the alternative that fits best is taken: flash attention 3 packs query heads and splits
#: short prefills; flash attention 2 does neither, and its tiles are of 64 rows.
STARTS: Mapping[str, tuple[Start, ...]] = {
    "gemm.cublas": (_GEMM,),
    "gemm.cutlass": (
        _quantised_gemm(
            256.0,
            quantise=2.7e-6,
            ragged=0.49,
            ragged_depth=0.03,
            throttle=0.2,
            overlap=0.07,
            spill=0.4,
            tile=20.0,
            depth=1.5,
            feed=68.0,
            cache_feed=47.0,
            compute=0.95,
            sharpness=4.0,
            balance=0.95,
            small_tile=3e-4,
            memory=0.78,
            write=1.3,
            launch=2.7e-6,
        ),
    ),
    "gemm.deepgemm": (
        _quantised_gemm(
            0.0,
            quantise=1.2e-6,
            quantise_bytes=9.0,
            ragged=0.15,
            ragged_depth=0.6,
            fine_rows=128.0,
            first_wave=1.0,
            tile=2000.0,
        ),
    ),
    "attention_decode.flash": (_DECODE,),
    "attention_prefill.flash": (
        _PREFILL,
        _without(_PREFILL, packs=0.0, packing=0.0, max_splits=1.0, tile_rows=64.0, narrow_tile_rows=64.0),
    ),
    "mla_decode.flash": (_latent_decode(1e-5, 64.0, 128.0),),
    "mla_decode.flash.fp8": (_latent_decode(1.6e-5, 64.0, 128.0, convert=8.0),),
    "mla_decode.triton": (_latent_decode(3e-4, 16.0, 4.0),),
    "mla_prefill.flash": tuple(_latent_prefill(1e-5, 1.0, rows, 128.0) for rows in (64.0, 128.0)),
    "mla_prefill.triton": tuple(_latent_prefill(2.7e-4, 0.0, rows, 1.0) for rows in (64.0, 128.0)),
    "gated_delta_net.causal_conv1d_fn": (_CONVOLUTION,),
    "gated_delta_net.causal_conv1d_update": (_without(_CONVOLUTION, sequence=1.0),),
    "gated_delta_net.chunk_gated_delta_rule": (_SCAN,),
    "gated_delta_net.fused_recurrent_gated_delta_rule": (_without(_SCAN, passes=1.0, chunk=0.0),),
    "mamba2.causal_conv1d_fn": (_CONVOLUTION,),
    "mamba2.causal_conv1d_update": (_without(_CONVOLUTION, sequence=1.0),),
}


def starts_of(table: str) -> tuple[Start, ...]:
    """Starts of a kernel table, by its name or its name without dtype."""
    for name in (table, table.rpartition(".")[0]):
        if name in STARTS:
            return STARTS[name]
    raise FitError(f"kernel table {table!r} has no start of a fit; {nearest(table, STARTS)}")


def fit_table(
    op: str,
    name: str,
    rows: pd.DataFrame,
    silicon: Silicon,
    seed: int = SEED,
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
        Where to start instead of :data:`STARTS`; the best counts.
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
        op=op,
        name=name,
        kernel=result.coefficients,
        train=result.accuracy,
        test=overall,
        regimes=regimes,
        at_bound=result.at_bound,
    )


def judge(family: Family, rows: pd.DataFrame, silicon: Silicon, kernel: Any) -> tuple[Accuracy, dict[str, Accuracy]]:
    """Accuracy of a kernel's predictions on rows, overall and by regime."""
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
        expanded = MlaPrefillKernel(**_values(prefill) | {"packs": 0.0}, absorbed=0.0)
        found["mla_prefill.expanded.bfloat16"] = expanded, "as attention_prefill.flash on the expanded heads"
    if scan := kernels.get("gated_delta_net.chunk_gated_delta_rule"):
        found["mamba2.chunk_scan"] = scan, "as gated_delta_net.chunk_gated_delta_rule"
    if step := kernels.get("gated_delta_net.fused_recurrent_gated_delta_rule"):
        found["mamba2.state_update"] = step, "as gated_delta_net.fused_recurrent_gated_delta_rule"
    return found


def save(fitted: Sequence[FittedTable], path: Path) -> None:
    """Write fitted tables, and those borrowed from them, into a kernel file with where they came from."""
    own = {"source": SOURCE, "date": datetime.now(UTC).date().isoformat()}
    resembling = {
        name: (kernel, {**own, "status": "assumption", "note": f"not measured: {note}"})
        for name, (kernel, note) in borrowed(fitted).items()
    }
    write_kernels(
        path,
        resembling
        | {
            table.name: (
                table.kernel,
                {
                    **own,
                    "status": "fitted",
                    "note": f"{table.train.rows} rows fitted; on {table.test.rows} others median error "
                    f"{table.test.median_ape:.1%}, p90 {table.test.p90_ape:.1%}, bias {table.test.bias:+.1%}",
                },
            )
            for table in fitted
        },
    )


def report(fitted: FittedTable) -> None:
    """Print a fitted table's accuracy on rows that it was not fitted to."""
    print(f"{fitted.name:52s} {fitted.test}  at bound: {', '.join(fitted.at_bound) or '-'}")
    for name, figures in fitted.regimes.items():
        print(f"  {name:50s} {figures}")


def main() -> None:
    """Fit the dense kernels of a device, report, and if asked write the coefficients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurements", type=Path, help="folder with a folder of tables per device")
    parser.add_argument("device")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default="", help="fit only ops whose name contains this")
    parser.add_argument("--blind", metavar="DEVICE", help="also predict this device with the kernels fitted here")
    options = parser.parse_args()
    silicon = silicon_of(load_device(options.device))
    folder = options.measurements / options.device.replace("-", "_")
    fitted = []
    for op in FAMILIES:
        if options.only not in op:
            continue
        for name, rows in tables_of(op, folder):
            fitted.append(fit_table(op, name, rows, silicon))
            report(fitted[-1])
    if options.write:
        save(fitted, Path(__file__).parents[1] / "hardware_profiles" / "kernels" / f"{options.device}.toml")
    if options.blind:
        other = silicon_of(load_device(options.blind))
        for table in fitted:
            for name, rows in tables_of(table.op, options.measurements / options.blind.replace("-", "_")):
                if name == table.name:
                    print(f"blind {options.blind} {name:40s} {judge(FAMILIES[table.op], rows, other, table.kernel)[0]}")


if __name__ == "__main__":
    main()
