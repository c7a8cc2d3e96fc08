"""Points of attention: scaled-dot-product attention of prompts and of single tokens, and its latent forms."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from validation.measure.buffers import ELEMENT, Pool
from validation.measure.case import Case
from validation.measure.machine import Machine, import_torch
from validation.measure.timing import Call

#: Query heads, KV heads and elements per head.
_HEADS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "tiny": ((4, 4, 64), (8, 2, 64), (8, 1, 128)),
    "small": ((8, 8, 64), (16, 4, 128), (16, 2, 128), (32, 8, 64)),
    "full": ((8, 1, 128), (32, 4, 128), (32, 32, 128), (64, 4, 128), (64, 8, 64), (48, 8, 128), (8, 8, 64)),
}
#: Sequences, and tokens of a prompt.
_PROMPTS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "tiny": ((1, 4), (16, 64, 128, 256, 512)),
    "small": ((1, 4), (16, 64, 128, 256, 512, 1024)),
    "full": ((1, 2, 4, 8, 16, 32), (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)),
}
#: Sequences, and tokens in the cache.
_CACHES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "tiny": ((1, 4, 16), (64, 256, 1024, 4096)),
    "small": ((1, 4, 16), (64, 256, 1024, 4096, 8192)),
    "full": ((1, 2, 4, 8, 16, 32, 64, 128, 256), (16, 64, 256, 1024, 2048, 4096, 8192, 16384, 65536)),
}
#: Query heads on this rank of latent attention.
_LATENT_HEADS: Mapping[str, tuple[int, ...]] = {"tiny": (2, 4, 8), "small": (2, 4, 8), "full": (8, 16, 32, 64, 128)}
#: Elements of the latent, of the shared rotary key, and of a head's own key (DeepSeek-V2, V3).
LATENT, ROPE, NOPE = 512, 64, 128


def prefill_cases(machine: Machine, size: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    """Causal attention of ``batch`` prompts of ``context`` tokens, nothing cached before them."""
    batches, contexts = _PROMPTS[size]
    kernel = "flash" if machine.kind == "cuda" else "sdpa"
    for dtype in _floating(dtypes):
        for (heads, kv_heads, dim), batch, context in itertools.product(_HEADS[size], batches, contexts):
            row = {"batch": batch, "context": context, "prefix": 0}
            yield Case(
                row=_columns(kernel, dtype) | row | {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": dim},
                bytes=2.0 * batch * context * dim * (heads + kv_heads) * ELEMENT[dtype],
                flops=2.0 * batch * heads * context * context * dim,
                prepare=partial(
                    _prefill,
                    machine=machine,
                    queries=(batch, heads, context, dim),
                    keys=(batch, kv_heads, context, dim),
                    dtype=dtype,
                ),
            )


def _prefill(pool: Pool, machine: Machine, queries: tuple[int, ...], keys: tuple[int, ...], dtype: str) -> Call:
    query, key, value = pool.take(queries, dtype), pool.take(keys, dtype), pool.take(keys, dtype)
    attend = _attention(machine)
    return lambda: attend(query, key, value, is_causal=True, enable_gqa=queries[1] != keys[1])


def decode_cases(machine: Machine, size: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    """Attention of one token of each of ``batch`` sequences over ``prefix + 1`` keys.

    The query heads that share a KV head are rows of one query, so that each key is read once.
    """
    batches, lengths = _CACHES[size]
    kernel = "flash" if machine.kind == "cuda" else "sdpa"
    for dtype in _floating(dtypes):
        for (heads, kv_heads, dim), batch, length in itertools.product(_HEADS[size], batches, lengths):
            row = {"batch": batch, "context": 1, "prefix": length - 1}
            yield Case(
                row=_columns(kernel, dtype) | row | {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": dim},
                bytes=2.0 * batch * length * kv_heads * dim * ELEMENT[dtype],
                flops=4.0 * batch * heads * length * dim,
                prepare=partial(
                    _decode,
                    machine=machine,
                    queries=(batch, kv_heads, heads // kv_heads, dim),
                    keys=(batch, kv_heads, length, dim),
                    dtype=dtype,
                ),
            )


def _decode(pool: Pool, machine: Machine, queries: tuple[int, ...], keys: tuple[int, ...], dtype: str) -> Call:
    query, key, value = pool.take(queries, dtype), pool.take(keys, dtype), pool.take(keys, dtype)
    attend = _attention(machine)
    return lambda: attend(query, key, value)


def latent_prefill_cases(machine: Machine, size: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    """Causal latent attention with keys and values expanded per head, values padded to the keys' length."""
    batches, contexts = _PROMPTS[size]
    for dtype, heads, batch, context in itertools.product(_floating(dtypes), _LATENT_HEADS[size], batches, contexts):
        shape = (batch, heads, context, NOPE + ROPE)
        yield Case(
            row=_columns("expanded" if machine.kind == "cuda" else "sdpa", dtype)
            | {"batch": batch, "context": context, "prefix": 0, "num_heads": heads, "tp_size": 1},
            bytes=4.0 * batch * context * heads * (NOPE + ROPE) * ELEMENT[dtype],
            flops=2.0 * batch * heads * context * context * (NOPE + ROPE),
            prepare=partial(_prefill, machine=machine, queries=shape, keys=shape, dtype=dtype),
        )


def latent_decode_cases(machine: Machine, size: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    """Latent attention of one token per sequence: all heads are rows of one query over the shared latent keys."""
    del machine
    batches, lengths = _CACHES[size]
    for dtype, heads, batch, length in itertools.product(_floating(dtypes), _LATENT_HEADS[size], batches, lengths):
        yield Case(
            row=_columns("sdpa", dtype)
            | {"batch": batch, "context": 1, "prefix": length - 1, "num_heads": heads, "tp_size": 1},
            bytes=batch * length * (LATENT + ROPE) * ELEMENT[dtype],
            flops=2.0 * batch * heads * length * (2 * LATENT + ROPE),
            prepare=partial(_latent_decode, batch=batch, heads=heads, length=length, dtype=dtype),
        )


def _latent_decode(pool: Pool, batch: int, heads: int, length: int, dtype: str) -> Call:
    functional = import_torch().nn.functional
    query = pool.take((batch, 1, heads, LATENT + ROPE), dtype)
    cache = pool.take((batch, 1, length, LATENT + ROPE), dtype)
    return lambda: functional.scaled_dot_product_attention(query, cache, cache[..., :LATENT])


def _attention(machine: Machine) -> Any:
    """PyTorch's attention; on a GPU its flash kernel, or an error where that cannot run."""
    torch = import_torch()
    attend = torch.nn.functional.scaled_dot_product_attention
    if machine.kind == "cpu":
        return attend

    def flash(*operands: Any, **options: Any) -> Any:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            return attend(*operands, **options)

    return flash


def _floating(dtypes: tuple[str, ...]) -> list[str]:
    return [dtype for dtype in dtypes if dtype in {"float32", "bfloat16"}]


def _columns(kernel: str, dtype: str) -> dict[str, object]:
    return {"kernel": kernel, "dtype": dtype, "kv_dtype": dtype}
