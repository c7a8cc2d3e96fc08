"""Where the fits of dense kernels (GEMM, attention, latent and linear attention) start, and what they may change.

A start says, for one kernel table, where its coefficients begin and which of them are free. What a library fixes by
construction (tiles, splits, whether heads are absorbed) is not fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hardware_profiles.errors import nearest
from simulator.kernels.attention import AttentionDecodeKernel, AttentionPrefillKernel
from simulator.kernels.gemm import GemmKernel
from simulator.kernels.linear_attention import ConvolutionKernel, ScanKernel
from simulator.kernels.mla import MlaDecodeKernel, MlaPrefillKernel
from validation.fit.fitting import Bounds, FitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where the fit of a kernel table starts, and the bounds of its free coefficients."""

    kernel: Any
    bounds: Bounds


_GEMM = Start(
    kernel=GemmKernel(
        launch=1.1e-6,
        tile=4000.0,
        depth=2.5,
        feed=80.0,
        cache_feed=100.0,
        compute=0.86,
        small_tile=0.026,
        memory=0.87,
        write=1.46,
        balance=0.45,
        split_depth=1150.0,
        split=1.6e-6,
        overlap=0.1,
        first_wave=0.59,
        sharpness=4.8,
        throttle=0.02,
        coarse_rows=0.0,
        ragged=0.0,
        ragged_depth=0.0,
        fine_rows=64.0,
        spill=0.06,
        quantise=0.0,
        quantise_bytes=4.0,
        epilogue=1900.0,
    ),
    bounds={
        "launch": (1e-6, 1e-5),
        "tile": (10, 1e4),
        "epilogue": (10, 6e3),
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
        tile=1.6e-6,
        stream=22.0,
        memory=0.88,
        pipeline=4.5,
        max_splits=128.0,
        tiles_per_unit=1.0,
        balance=0.99,
        sharpness=2.2,
        block=1000.0,
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
        "pipeline": (1.5, 20),
        "block": (300, 3000),
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
        block=1e-8,
        compute=0.8,
        softmax=1.3,
        memory=0.8,
        gather=3.0,
        tile_rows=128.0,
        narrow_tile_rows=192.0,
        max_splits=128.0,
        packs=True,
        order=3.0,
        balance=0.5,
        throttle=0.1,
        sharpness=1.5,
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
        "gather": (0.5, 50),
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
    "quantise_row": (0.1, 2e3),
}
#: Launch of engines that call several kernels per step of attention [s], and time of the host where no graph replays
#: them [s].
_EAGER = {"launch": (5e-6, 5e-4)}
_FROM_HOST = {"host": (5e-5, 2e-3)}
_CONVOLUTION = Start(
    kernel=ConvolutionKernel(launch=4e-6, memory=0.7, sequence=500.0),
    bounds={"launch": (1e-6, 2e-5), "memory": (0.1, 1.0), "sequence": (1, 2000)},
)
_SCAN = Start(
    kernel=ScanKernel(launch=1.6e-5, memory=0.8, passes=10.0, state=8.0, chunk=1e-6),
    bounds={"launch": (1e-6, 5e-5), "passes": (1, 60), "state": (1, 24), "chunk": (1e-8, 1e-5)},
)


def values_of(kernel: Any) -> dict[str, Any]:
    """Coefficients of a kernel by name."""
    return {name: getattr(kernel, name) for name in kernel.__dataclass_fields__}


def _latent_decode(
    launch: float, head_tile: float, max_splits: float, *, convert: float = 0.0, host: float = 0.0
) -> Start:
    kernel = MlaDecodeKernel(
        **values_of(_DECODE.kernel) | {"launch": launch, "max_splits": max_splits, "repack": 0.0, "host": host},
        head_tile=head_tile,
        compute=0.6,
        convert=convert,
    )
    casting = {"convert": (1.0, 20.0)} if convert else {}
    free = {name: limits for name, limits in _DECODE.bounds.items() if name != "repack"}
    hosted = {**_FROM_HOST, "lone": (0.5, 20.0)} if host else {}
    return Start(kernel=kernel, bounds={**free, **_EAGER, **hosted, **casting, "compute": (0.05, 1.0)})


def _latent_prefill(launch: float, tile_rows: float, max_splits: float, *, absorbed: bool, host: float = 0.0) -> Start:
    fixed: dict[str, Any] = {"repack": 0.0, "packing": 0.0, "packs": False}
    fixed |= {"tile_rows": tile_rows, "max_splits": max_splits}
    start = fixed | {"launch": launch, "host": host}
    kernel = MlaPrefillKernel(**values_of(_PREFILL.kernel) | start, absorbed=absorbed)
    free = {name: limits for name, limits in _PREFILL.bounds.items() if name not in fixed}
    return Start(kernel=kernel, bounds={**free, **_EAGER, **(_FROM_HOST if host else {})})


def _without(start: Start, **fixed: float | bool) -> Start:
    kernel = type(start.kernel)(**values_of(start.kernel) | fixed)
    return Start(kernel=kernel, bounds={name: b for name, b in start.bounds.items() if name not in fixed})


#: A library that has tiles of many heights, so that it computes hardly more rows than there are.
_GEMM_FITTING_ROWS = Start(
    kernel=replace(
        _GEMM.kernel,
        tile=3000.0,
        depth=2.1,
        feed=220.0,
        cache_feed=185.0,
        compute=0.92,
        small_tile=2e-4,
        memory=0.895,
        write=1.2,
        balance=0.08,
        split_depth=1300.0,
        split=2.2e-6,
        overlap=0.04,
        first_wave=0.61,
        sharpness=7.2,
        throttle=0.27,
        spill=0.053,
        epilogue=2400.0,
        whole_tiles=0.0,
    ),
    bounds=_GEMM.bounds,
)


def _quantised_gemm(coarse_rows: float, **start: float) -> Start:
    fixed = {"split_depth": 1e9, "split": 0.0, "coarse_rows": coarse_rows, "quantise_row": 50.0}
    free = {name: limits for name, limits in _GEMM.bounds.items() if not name.startswith("split")}
    return Start(kernel=GemmKernel(**values_of(_GEMM.kernel) | fixed | start), bounds={**free, **_QUANTISING})


#: Starts by kernel table, the storage dtype left out where it makes no difference. Where libraries differ in what
#: they fix by construction, the alternative that fits best is taken: flash attention 3 packs query heads and splits
#: short prefills; flash attention 2 does neither, and its tiles are of 64 rows.
STARTS: Mapping[str, tuple[Start, ...]] = {
    "gemm.cublas": (_GEMM, _GEMM_FITTING_ROWS),
    "gemm.cutlass": (
        _quantised_gemm(
            256.0,
            launch=2.4e-6,
            tile=1000.0,
            depth=1.48,
            feed=194.0,
            cache_feed=50.0,
            compute=0.98,
            small_tile=2e-4,
            memory=0.835,
            write=1.2,
            balance=0.98,
            overlap=0.19,
            first_wave=0.17,
            sharpness=4.1,
            throttle=0.3,
            ragged=0.515,
            ragged_depth=0.008,
            spill=0.37,
            quantise=2.4e-6,
            quantise_bytes=4.2,
            epilogue=1800.0,
        ),
    ),
    "gemm.deepgemm": (
        _quantised_gemm(
            0.0,
            launch=1.8e-6,
            tile=2233.0,
            depth=1.15,
            feed=115.0,
            cache_feed=116.0,
            compute=0.889,
            small_tile=0.015,
            memory=0.978,
            write=1.22,
            balance=0.57,
            overlap=0.15,
            first_wave=0.87,
            sharpness=14.0,
            throttle=0.224,
            ragged=0.32,
            ragged_depth=0.61,
            fine_rows=128.0,
            spill=0.04,
            quantise=1.56e-6,
            quantise_bytes=10.2,
            epilogue=300.0,
        ),
    ),
    "attention_decode.flash": (_DECODE,),
    "attention_prefill.flash": (
        _PREFILL,
        _without(_PREFILL, packs=False, packing=0.0, max_splits=1.0, tile_rows=64.0, narrow_tile_rows=64.0),
    ),
    "mla_decode.flash": (_latent_decode(1e-5, 64.0, 128.0),),
    "mla_decode.flash.fp8": (_latent_decode(1.6e-5, 64.0, 128.0, convert=8.0),),
    "mla_decode.triton": (_latent_decode(3e-5, 16.0, 4.0, host=3.2e-4),),
    "mla_prefill.flash": tuple(_latent_prefill(1e-5, rows, 128.0, absorbed=True) for rows in (64.0, 128.0)),
    "mla_prefill.triton": tuple(
        _latent_prefill(3e-5, rows, 1.0, absorbed=False, host=2.8e-4) for rows in (64.0, 128.0)
    ),
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
