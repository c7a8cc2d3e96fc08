"""Where fits of the microbenchmarks' own kernels start: PyTorch's products, attention and loops, on GPUs and CPUs.

They are simpler than the kernels of serving engines, and so are their models: fewer coefficients are free, which also
keeps small benchmarks enough for a fit. Bounds are wide, because a launch takes microseconds on a GPU and may take
milliseconds on a CPU whose threads have to meet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from simulator.kernels.attention import AttentionDecodeKernel, AttentionPrefillKernel
from simulator.kernels.elementwise import ElementwiseKernel
from simulator.kernels.gemm import GemmKernel
from simulator.kernels.mla import MlaDecodeKernel, MlaPrefillKernel
from simulator.kernels.moe import MoeKernel
from validation.fit.dense_starts import STARTS, Start, values_of
from validation.fit.fitting import Bounds

#: A limit that is never reached.
_NEVER = 1e9
#: Shares of a peak and a bandwidth that were themselves measured, with another kernel: this one may exceed them, by
#: far where the matrix library lacks instructions that the other kernel knows to replace.
_ROOFS: Bounds = {"launch": (1e-7, 1e-2), "compute": (0.01, 50.0), "memory": (0.005, 3.0)}

_GEMM = Start(
    kernel=GemmKernel(
        launch=1e-5,
        tile=100.0,
        depth=0.0,
        feed=_NEVER,
        cache_feed=_NEVER,
        compute=0.7,
        small_tile=0.0,
        memory=0.5,
        write=1.0,
        balance=0.0,
        split_depth=_NEVER,
        split=0.0,
        overlap=0.0,
        first_wave=0.0,
        sharpness=2.0,
        throttle=0.0,
        coarse_rows=0.0,
        ragged=0.0,
        quantise=0.0,
        quantise_bytes=4.0,
        whole_tiles=0.1,
    ),
    bounds={**_ROOFS, "tile": (1.0, 1e7), "whole_tiles": (0.0, 1.0)},
)
_DECODE = AttentionDecodeKernel(
    launch=2e-5,
    combine=0.0,
    merge=0.0,
    sequence=0.0,
    repack=0.0,
    tile=1e-6,
    stream=4.0,
    pipeline=1.0,
    memory=0.5,
    max_splits=1.0,
    tiles_per_unit=1.0,
    balance=0.5,
    sharpness=2.0,
)
_STREAM: Bounds = {
    "launch": (1e-7, 1e-2),
    "tile": (1e-9, 1e-2),
    "stream": (1e-3, 500.0),
    "memory": (0.005, 3.0),
}
_PREFILL = AttentionPrefillKernel(
    launch=2e-5,
    repack=0.0,
    combine=0.0,
    tile=1e-6,
    packing=0.0,
    block=0.0,
    compute=0.5,
    softmax=2.0,
    memory=0.5,
    tile_rows=32.0,
    narrow_tile_rows=32.0,
    max_splits=1.0,
    packs=False,
    balance=0.0,
    order=3.0,
    throttle=0.0,
    sharpness=2.0,
    whole_tiles=0.0,
)
_CAUSAL: Bounds = {**_ROOFS, "tile": (1e-9, 1e-2), "softmax": (1e-3, 300.0)}


_LATENT_DECODE = MlaDecodeKernel(**values_of(_DECODE), head_tile=1.0, compute=0.3, convert=0.0)
_LATENT_PREFILL = MlaPrefillKernel(**values_of(_PREFILL), absorbed=False)
#: Start of PyTorch's fp8 product on a GPU: as DeepGEMM's, whose A is quantised inside the timed call too.
_SCALED = STARTS["gemm.deepgemm"][0]

#: Starts by kernel table, the dtype left out.
TORCH_STARTS: Mapping[str, tuple[Start, ...]] = {
    "gemm.torch": tuple(
        dataclasses.replace(_GEMM, kernel=dataclasses.replace(_GEMM.kernel, sharpness=overlap))
        for overlap in (1.0, 8.0)
    ),
    "gemm.cublaslt": (_SCALED,),
    "attention_decode.sdpa": (Start(kernel=_DECODE, bounds=_STREAM),),
    "attention_prefill.sdpa": (Start(kernel=_PREFILL, bounds=_CAUSAL),),
    "mla_decode.sdpa": (Start(kernel=_LATENT_DECODE, bounds={**_STREAM, "compute": (1e-3, 50.0)}),),
    "mla_prefill.sdpa": (Start(kernel=_LATENT_PREFILL, bounds=_CAUSAL),),
    "mla_prefill.expanded": (Start(kernel=_LATENT_PREFILL, bounds=_CAUSAL),),
}

#: A layer that goes from expert to expert: rows are not padded, weights are read once.
MOE = Start(
    kernel=MoeKernel(
        launch=1e-4,
        expert_launch=1e-6,
        memory_efficiency=0.5,
        unit_bandwidth=_NEVER,
        compute_efficiency=0.5,
        fill_depth=0.0,
        minimum_rows=2.0,
        tail=0.0,
        sharpness=2.0,
        reread=0.0,
        hidden_traffic=20.0,
        intermediate_traffic=10.0,
        token_traffic=0.0,
        foreign_share=0.0,
        tile_16=0.0,
        tile_32=0.0,
        tile_64=0.0,
        whole_tiles=0.0,
    ),
    bounds={
        "launch": (1e-6, 1e-1),
        "expert_launch": (1e-10, 1e-2),
        "memory_efficiency": (0.005, 3.0),
        "compute_efficiency": (0.01, 50.0),
        "minimum_rows": (1.0, 128.0),
        "hidden_traffic": (0.1, 1e5),
    },
)
ELEMENTWISE = Start(
    kernel=ElementwiseKernel(launch=1e-5, memory=0.5), bounds={"launch": (1e-7, 1e-2), "memory": (0.005, 3.0)}
)
#: Between processes of a host: what the start and the link are; two ranks tell nothing about a longer ring.
GLOO: Bounds = {"launch": (1e-6, 1e-1), "efficiency": (1e-4, 1.0)}


def torch_starts(table: str) -> tuple[Start, ...] | None:
    """Starts of a table of the microbenchmarks' own kernels; none for one of :mod:`validation.fit.dense_starts`."""
    return TORCH_STARTS.get(table.rpartition(".")[0])
