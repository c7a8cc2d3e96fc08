"""Points of dense kernels: matrix products, norms, activations and other small kernels, and copies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from validation.measure.buffers import ELEMENT, Pool, torch_dtype
from validation.measure.case import Case
from validation.measure.machine import Machine, import_torch
from validation.measure.timing import Call

#: Rows of A by size of the benchmark.
_ROWS: Mapping[str, tuple[int, ...]] = {
    "tiny": (1, 4, 16, 64, 256),
    "small": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    "full": (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384),
}
#: Columns and depth of B: projections, routers and experts of common models, and some between.
_WEIGHTS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "tiny": ((128, 256), (256, 256), (768, 512), (512, 1024), (1024, 1024), (2048, 1024)),
    "small": ((64, 2048), (256, 512), (1024, 512), (512, 2048), (1536, 2048), (2048, 2048), (4096, 2048), (2048, 4096)),
    "full": (
        *((64, 2880), (128, 2048), (256, 7168), (576, 7168), (1024, 1024), (1536, 7168), (2048, 2048)),
        *((2048, 4096), (2112, 7168), (2880, 2880), (3072, 1536), (4096, 2048), (4096, 4096), (4096, 7168)),
        *((5120, 2880), (6144, 4096), (7168, 2048), (7168, 16384), (8192, 8192), (14336, 4096), (24576, 1536)),
        *((28672, 8192), (32768, 512), (51200, 5120), (129280, 7168)),
    ),
}
#: Tokens and width of the small kernels.
_TOKENS: Mapping[str, tuple[int, ...]] = {
    "tiny": (1, 16, 128, 512),
    "small": (1, 8, 64, 256, 1024),
    "full": (1, 8, 64, 256, 1024, 4096, 16384, 65536),
}
_WIDTHS: Mapping[str, tuple[int, ...]] = {
    "tiny": (256, 1024),
    "small": (512, 1024, 2048),
    "full": (1024, 2048, 2880, 4096, 7168),
}
#: Payload of copies [bytes].
_COPIES: Mapping[str, tuple[int, ...]] = {
    "tiny": tuple(2**power for power in range(12, 24)),
    "small": tuple(2**power for power in range(12, 28)),
    "full": tuple(2**power for power in range(10, 31)),
}


def gemm_cases(machine: Machine, size: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    """``C[m, n] = A[m, k] B[k, n]`` with B stored as a linear layer's weight, bfloat16 in and out.

    On a GPU ``fp8`` includes the cast of A, with a scale that is known; on a CPU there is also ``float32``.
    """
    for dtype, m, (n, k) in itertools.product(dtypes, _ROWS[size], _WEIGHTS[size]):
        stored = "bfloat16" if dtype == "fp8" else dtype
        kernel = "torch" if machine.kind == "cpu" else "cublaslt" if dtype == "fp8" else "cublas"
        if dtype == "fp8" and (n % 16 or k % 16):
            continue
        yield Case(
            row={"kernel": kernel, "dtype": dtype, "m": m, "n": n, "k": k},
            bytes=m * k * ELEMENT[stored] + n * k * ELEMENT[dtype] + m * n * ELEMENT[stored],
            flops=2.0 * m * n * k,
            prepare=partial(_gemm, machine=machine, m=m, n=n, k=k, dtype=dtype),
        )


def _gemm(pool: Pool, machine: Machine, m: int, n: int, k: int, dtype: str) -> Call:
    torch = import_torch()
    if dtype == "fp8":
        a, b = pool.take((m, k), "bfloat16"), pool.take((n, k), "fp8")
        one = torch.ones((), dtype=torch.float32, device=machine.kind)
        fp8, bfloat16 = torch_dtype("fp8"), torch_dtype("bfloat16")
        return lambda: torch._scaled_mm(a.to(fp8), b.t(), scale_a=one, scale_b=one, out_dtype=bfloat16)  # noqa: SLF001
    a, b, c = pool.take((m, k), dtype), pool.take((n, k), dtype), pool.scratch((m, n), dtype)
    return lambda: torch.mm(a, b.t(), out=c)


def elementwise_cases(machine: Machine, size: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    """Norm, gated activation, residual sum and permutation of ``num_tokens`` tokens ``hidden`` wide.

    ``bytes_moved`` is what must move: operands once in, results once out.
    """
    del machine
    for dtype in (dtype for dtype in dtypes if dtype in {"float32", "bfloat16"}):
        for kernel, tokens, width in itertools.product(_SMALL, _TOKENS[size], _WIDTHS[size]):
            moved, make = _SMALL[kernel]
            total = moved * tokens * width * ELEMENT[dtype]
            yield Case(
                row={"kernel": kernel, "dtype": dtype, "num_tokens": tokens, "hidden": width, "bytes_moved": total},
                bytes=total,
                flops=0.0,
                prepare=partial(make, shape=(tokens, width), dtype=dtype),
            )


def _rms_norm(pool: Pool, shape: tuple[int, int], dtype: str) -> Call:
    functional = import_torch().nn.functional
    x, weight = pool.take(shape, dtype), pool.take(shape[1:], dtype)
    return lambda: functional.rms_norm(x, shape[1:], weight, 1e-6)


def _silu_mul(pool: Pool, shape: tuple[int, int], dtype: str) -> Call:
    functional = import_torch().nn.functional
    gate, up, y = pool.take(shape, dtype), pool.take(shape, dtype), pool.scratch(shape, dtype)
    return lambda: import_torch().mul(functional.silu(gate), up, out=y)


def _add(pool: Pool, shape: tuple[int, int], dtype: str) -> Call:
    torch = import_torch()
    x, residual, y = pool.take(shape, dtype), pool.take(shape, dtype), pool.scratch(shape, dtype)
    return lambda: torch.add(x, residual, out=y)


def _permute(pool: Pool, shape: tuple[int, int], dtype: str) -> Call:
    torch = import_torch()
    x, y = pool.take(shape, dtype), pool.scratch(shape, dtype)
    order = torch.randperm(shape[0], device=x.device)
    return lambda: torch.index_select(x, 0, order, out=y)


#: Elements moved per element of the input, and the call, by kernel.
_SMALL: Mapping[str, tuple[float, Any]] = {
    "rms_norm": (2.0, _rms_norm),
    "silu_mul": (3.0, _silu_mul),
    "add": (3.0, _add),
    "permute": (2.0, _permute),
}


def copy_cases(machine: Machine, size: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    """Copies of ``message_bytes`` within the device, and between it and pinned or pageable host memory."""
    del dtypes
    ways = ["device"]
    if machine.kind == "cuda":
        ways += [f"{way}_{host}" for way in ("host_to_device", "device_to_host") for host in ("pinned", "pageable")]
    for way, payload in itertools.product(ways, _COPIES[size]):
        yield Case(
            row={"kernel": way, "dtype": "int8", "message_bytes": payload},
            bytes=2.0 * payload,
            flops=0.0,
            prepare=partial(_copy, way=way, payload=payload),
            # Copies from pageable memory wait for the host, and a graph would keep pinned memory from its allocator.
            graph=way == "device",
        )


def _copy(pool: Pool, way: str, payload: int) -> Call:
    torch = import_torch()
    there = pool.take((payload,), "int8")
    if way == "device":
        target = pool.scratch((payload,), "int8")
        return lambda: target.copy_(there)
    host = torch.empty(payload, dtype=torch.int8, pin_memory=way.endswith("pinned")).copy_(there)
    if way.startswith("host_to_device"):
        target = pool.scratch((payload,), "int8")
        return lambda: target.copy_(host, non_blocking=True)
    return lambda: host.copy_(there, non_blocking=True)
