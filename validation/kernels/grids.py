"""A small grid of kernel calls, in the format of measured tables, that touches every kernel table of a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from simulator.hardware import Hardware
from validation.kernels.formats import DENSE, FORMATS, filled
from validation.kernels.rows import predict_op

if TYPE_CHECKING:
    import pandas as pd

#: Every side of the calls of a family that is not listed here.
_SIDES = (16, 256)
_DTYPES = ("bfloat16", "fp8", "fp8_block")
_CACHES = ("bfloat16", "fp8")
#: m, n, k: a vector, small and large batches, wide, narrow and deep.
_PRODUCTS = (
    (1, 4096, 4096),
    (48, 2048, 7168),
    (300, 1536, 512),
    (1024, 8192, 2048),
    (4100, 16384, 4096),
    (8192, 64, 8192),
)
#: batch, tokens before, query heads, KV heads.
_DECODES = ((1, 1023, 32, 8), (64, 4095, 32, 8), (512, 255, 8, 1), (4, 65535, 64, 8))
#: batch, new tokens, tokens before, query heads, KV heads.
_PREFILLS = ((1, 512, 0, 32, 8), (4, 4096, 0, 32, 8), (64, 128, 0, 8, 8), (1, 1024, 8192, 64, 8))
#: tokens, width, intermediate, top-k, experts, tensor and expert parallelism, distribution.
_LAYERS = (
    (8, 4096, 14336, 2, 8, 1, 1, "balanced"),
    (128, 7168, 2048, 8, 256, 1, 8, "balanced"),
    (4096, 2048, 768, 8, 128, 1, 1, "power_law_1.2"),
    (32768, 4096, 1536, 8, 128, 2, 8, "power_law_1.01"),
)
#: tokens over the group, expert parallelism, distribution.
_WIDE = ((256, 8, "uniform"), (4096, 32, "uniform"), (32768, 32, "power_law_1.01"))
#: tokens per rank, width, top-k, experts.
_EXCHANGES = ((1, 7168, 8, 256), (64, 4096, 8, 128), (256, 7168, 8, 256))
_GATED = ("causal_conv1d_fn", "chunk_gated_delta_rule"), ("causal_conv1d_update", "fused_recurrent_gated_delta_rule")
#: Columns that a key leaves out: the kernel table says which kernel it is.
_UNTOLD = ("latency_us", "kernel", "framework", "version")
_STATE_SPACE = ("causal_conv1d_fn", "chunk_scan"), ("causal_conv1d_update", "state_update")


def grid_frames() -> dict[str, pd.DataFrame]:
    """Return the grid by op, one row per call; the latency column is there for the format only."""
    import pandas as pd

    return {op: filled(op, pd.DataFrame(list(rows)).assign(latency_us=1.0)) for op, rows in _grids().items()}


def predict_grid(hardware: Hardware) -> dict[str, float]:
    """Predict the grid on a device: times [s] by ``op/table/shape``, calls that it cannot make left out."""
    found: dict[str, float] = {}
    for op, frame in grid_frames().items():
        shape = frame.drop(columns=[c for c in _UNTOLD if c in frame])
        for block in predict_op(op, frame, hardware):
            for row, seconds in zip(block.rows, block.seconds, strict=True):
                if not block.reason:
                    described = ",".join(f"{key}={value}" for key, value in shape.iloc[int(row)].items())
                    found["/".join(part for part in (op, block.part, block.table, described) if part)] = float(seconds)
    return found


def _grids() -> Mapping[str, Iterator[dict[str, Any]]]:
    return {
        **{kind: _plain(kind) for kind in DENSE},
        "gemm": ({"dtype": d, "m": m, "n": n, "k": k} for d, (m, n, k) in product(_DTYPES, _PRODUCTS)),
        "attention_decode": _attention(_DECODES, ("batch", "prefix", "num_heads", "num_kv_heads"), head_dim=128),
        "attention_prefill": _attention(
            _PREFILLS, ("batch", "context", "prefix", "num_heads", "num_kv_heads"), head_dim=128
        ),
        "mla_decode": _attention(((1, 1023, 128), (64, 4095, 16), (256, 511, 128)), ("batch", "prefix", "num_heads")),
        "mla_prefill": _attention(((1, 512, 0, 128), (4, 4096, 0, 16)), ("batch", "context", "prefix", "num_heads")),
        "moe": _moe(),
        "moe_wide_ep_prefill": _wide_moe(),
        "moe_wide_ep_decode": _wide_moe(),
        "nccl": (
            {"collective": c, "dtype": "half", "num_gpus": n, "message_elems": size}
            for c, n, size in product(("all_gather", "all_reduce", "alltoall", "reduce_scatter"), (2, 8), (2048, 2**24))
        ),
        "custom_allreduce": (
            {"kernel": k, "dtype": "bfloat16", "num_gpus": n, "message_elems": size}
            for k, n, size in product(("graph", "eager"), (2, 8), (4096, 2**21))
        ),
        "deepep_low_latency": _exchanges(),
        "deepep_normal": ({**row, "dispatch_sms": 20, "combine_sms": 20} for row in _exchanges()),
        "elementwise": ({"kernel": "norm", "dtype": "bfloat16", "bytes_moved": size} for size in (2**14, 2**26)),
        "gated_delta_net": _linear(_GATED, num_k_heads=16, head_k_dim=128, num_v_heads=32, head_v_dim=128, d_conv=4),
        "mamba2": _linear(_STATE_SPACE, nheads=64, head_dim=64, n_groups=8, d_state=128, d_conv=4),
    }


def _plain(kind: str) -> Iterator[dict[str, Any]]:
    """A small and a large call of a family that has no shapes of its own here."""
    known = FORMATS[kind]
    for size in _SIDES:
        yield {"dtype": "bfloat16", **dict.fromkeys((*known.sizes, *known.counts), size)}


def _attention(shapes: tuple[tuple[int, ...], ...], names: tuple[str, ...], **fixed: int) -> Iterator[dict[str, Any]]:
    for stored, kernel, shape in product(_CACHES, ("flash", "triton"), shapes):
        yield {
            "kernel": kernel,
            "dtype": "bfloat16",
            "kv_dtype": stored,
            **dict(zip(names, shape, strict=True)),
            **fixed,
        }


def _moe() -> Iterator[dict[str, Any]]:
    names = ("num_tokens", "hidden", "intermediate", "top_k", "num_experts", "tp", "ep", "distribution")
    for kernel, dtype, shape in product(("moe_torch_flow_cutlass", "vllm_fused_moe"), _DTYPES, _LAYERS):
        yield {"kernel": kernel, "dtype": dtype, **dict(zip(names, shape, strict=True))}


def _wide_moe() -> Iterator[dict[str, Any]]:
    fixed = {"hidden": 7168, "intermediate": 2048, "top_k": 8, "num_experts": 256, "tp": 1}
    for tokens, ep, distribution in _WIDE:
        row = {"kernel": "deepepmoe", "dtype": "fp8_block", "num_tokens": tokens}
        yield {**row, **fixed, "ep": ep, "distribution": distribution}


def _exchanges() -> Iterator[dict[str, Any]]:
    names = ("num_tokens", "hidden", "top_k", "num_experts")
    for shape in _EXCHANGES:
        yield {"num_nodes": 1, **dict(zip(names, shape, strict=True))}


def _linear(kernels: tuple[tuple[str, ...], tuple[str, ...]], **fixed: int) -> Iterator[dict[str, Any]]:
    for phase, operations, shapes in zip(
        ("context", "generation"), kernels, (((1, 512), (8, 4096)), ((1, 1), (256, 1))), strict=True
    ):
        for kernel, (batch, length) in product(operations, shapes):
            yield {"kernel": kernel, "phase": phase, "batch": batch, "seq_len": length, **fixed}
