"""Points of mixture-of-experts layers: routing, grouped matrix products, and whole layers of one rank."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from simulator.arrays import IntArray
from validation.measure.buffers import ELEMENT, Pool
from validation.measure.case import Case
from validation.measure.machine import Kind, Machine, MicrobenchmarkError, import_torch
from validation.measure.timing import Call

#: Width, inner width, experts and experts per token of a layer.
_LAYERS: Mapping[str, tuple[tuple[int, int, int, int], ...]] = {
    "tiny": ((256, 64, 32, 4), (512, 256, 8, 2)),
    "small": ((512, 128, 32, 4), (512, 512, 8, 2), (256, 128, 64, 8)),
    "full": (
        *((4096, 14336, 8, 2), (2048, 768, 128, 8), (4096, 1536, 128, 8), (2880, 2880, 32, 4)),
        *((2048, 1408, 64, 6), (7168, 2048, 256, 8), (3072, 1536, 256, 8)),
    ),
}
_TOKENS: Mapping[str, tuple[int, ...]] = {
    "tiny": (1, 2, 4, 8, 16, 32, 64),
    "small": (1, 2, 4, 8, 16, 32, 64, 128),
    "full": (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192, 16384),
}
#: Exponent of the Zipf routing: the popularity of the n-th expert is n^-s.
ZIPF = 1.0
#: Routing that ships with the project, used where the layer has its number of experts.
RECORDED = Path(__file__).parents[2] / "workloads" / "samples" / "routing_24x32_top4.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer and the tokens that come to it: sizes [1], routing and dtype."""

    hidden: int
    intermediate: int
    num_experts: int
    top_k: int
    num_tokens: int
    distribution: str
    dtype: str

    def expert_ids(self) -> IntArray:
        """Experts of every token, shape (num_tokens, top_k)."""
        return route(self.distribution, self.num_tokens, self.top_k, self.num_experts)


@functools.lru_cache(maxsize=1024)
def route(distribution: str, num_tokens: int, top_k: int, num_experts: int) -> IntArray:
    """Draw the experts of tokens, all different for a token: shape (num_tokens, top_k).

    Parameters
    ----------
    distribution : str
        ``uniform``, ``zipf_<s>``, or ``recorded`` for tokens of a real router, from as many of its layers as needed.
    num_tokens, top_k, num_experts : int
        Tokens, experts per token, experts [1].

    Notes
    -----
    Adding Gumbel noise to the logarithm of the popularities and taking the largest draws without replacement.
    """
    if distribution == "recorded":
        return _recorded(num_tokens, top_k, num_experts)
    exponent = float(distribution.removeprefix("zipf_")) if distribution.startswith("zipf_") else 0.0
    # Which experts are popular must not follow their order in memory.
    order = np.random.default_rng(num_experts).permutation(num_experts)
    popularity = -exponent * np.log1p(np.arange(num_experts))[order]
    noise = np.random.default_rng([num_tokens, top_k, num_experts]).gumbel(size=(num_tokens, num_experts))
    return np.argsort(-(popularity + noise), axis=1)[:, :top_k].astype(np.int64)


@functools.lru_cache(maxsize=1)
def _recording() -> tuple[IntArray, int]:
    """Recorded expert ids, shape (tokens over all layers, top_k), and the number of experts."""
    try:
        with np.load(RECORDED) as stored:
            ids = stored["expert_ids"].astype(np.int64)
            return ids.transpose(1, 0, 2).reshape(-1, ids.shape[-1]), int(stored["num_experts"])
    except (OSError, KeyError, ValueError) as error:
        raise MicrobenchmarkError(f"{RECORDED}: the recorded routing cannot be read: {error}") from error


def _recorded_layer() -> tuple[int, int]:
    """Experts of the recorded router, and experts per token [1]."""
    ids, experts = _recording()
    return experts, ids.shape[1]


def _recorded(num_tokens: int, top_k: int, num_experts: int) -> IntArray:
    ids, experts = _recording()
    if _recorded_layer() != (num_experts, top_k):
        raise MicrobenchmarkError(f"the recorded routing has {experts} experts, {ids.shape[1]} of them per token")
    return ids[np.arange(num_tokens) % len(ids)]


def _layers(size: str, dtypes: tuple[str, ...]) -> Iterator[Layer]:
    floating = [dtype for dtype in dtypes if dtype in {"float32", "bfloat16"}]
    for dtype, (hidden, intermediate, experts, top_k) in itertools.product(floating, _LAYERS[size]):
        ways = ["uniform", f"zipf_{ZIPF:g}"]
        # Taken to a machine without the rest of the project, there is no recording.
        if RECORDED.is_file() and _recorded_layer() == (experts, top_k):
            ways.append("recorded")
        for num_tokens, way in itertools.product(_TOKENS[size], ways):
            yield Layer(
                hidden=hidden,
                intermediate=intermediate,
                num_experts=experts,
                top_k=top_k,
                num_tokens=num_tokens,
                distribution=way,
                dtype=dtype,
            )


def moe_cases(machine: Machine, size: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    """Whole layers of one rank that holds all experts: sort, up and gate, activation, down, weighted sum.

    ``expert_counts`` says how many tokens each expert got.
    """
    kernel = "grouped_mm" if _grouped(machine.kind) else "loop"
    for layer in _layers(size, dtypes):
        counts = np.bincount(layer.expert_ids().ravel(), minlength=layer.num_experts)
        rows, weights = float(counts.sum()), 3.0 * layer.hidden * layer.intermediate
        yield Case(
            row={
                **_columns(layer, kernel, counts),
                "hidden": layer.hidden,
                "intermediate": layer.intermediate,
                "tp": 1,
                "ep": 1,
            },
            bytes=(np.count_nonzero(counts) * weights + 4.0 * rows * layer.hidden) * ELEMENT[layer.dtype],
            flops=2.0 * rows * weights,
            prepare=partial(_layer_call, layer=layer, grouped=kernel == "grouped_mm"),
            graph=kernel == "grouped_mm",
        )


def grouped_gemm_cases(machine: Machine, size: str, dtypes: tuple[str, ...]) -> Iterator[Case]:
    """The first product of a layer alone, tokens sorted by expert already: ``n`` columns, ``k`` deep, per expert."""
    kernel = "grouped_mm" if _grouped(machine.kind) else "loop"
    for layer in _layers(size, dtypes):
        counts = np.bincount(layer.expert_ids().ravel(), minlength=layer.num_experts)
        n, k, rows = 2 * layer.intermediate, layer.hidden, float(counts.sum())
        yield Case(
            row={**_columns(layer, kernel, counts), "n": n, "k": k},
            bytes=(np.count_nonzero(counts) * n * k + rows * (n + k)) * ELEMENT[layer.dtype],
            flops=2.0 * rows * n * k,
            prepare=partial(_product_call, layer=layer, counts=counts, grouped=kernel == "grouped_mm"),
        )


def _columns(layer: Layer, kernel: str, counts: IntArray) -> dict[str, Any]:
    return {
        "kernel": kernel,
        "dtype": layer.dtype,
        "num_tokens": layer.num_tokens,
        "top_k": layer.top_k,
        "num_experts": layer.num_experts,
        "distribution": layer.distribution,
        "expert_counts": json.dumps(counts.tolist()),
    }


def _product_call(pool: Pool, layer: Layer, counts: IntArray, *, grouped: bool) -> Call:
    torch = import_torch()
    x = pool.take((int(counts.sum()), layer.hidden), layer.dtype)
    weights = pool.take((layer.num_experts, 2 * layer.intermediate, layer.hidden), layer.dtype)
    stops = np.cumsum(counts)
    if grouped:
        offsets = torch.tensor(stops, dtype=torch.int32, device=x.device)
        return lambda: _grouped_product(torch, x, weights, offsets)
    y = pool.scratch((len(x), 2 * layer.intermediate), layer.dtype)
    spans = [(e, int(stops[e] - counts[e]), int(stops[e])) for e in np.flatnonzero(counts)]

    def loop() -> None:
        for expert, start, stop in spans:
            torch.mm(x[start:stop], weights[expert].t(), out=y[start:stop])

    return loop


def _layer_call(pool: Pool, layer: Layer, *, grouped: bool) -> Call:
    torch = import_torch()
    x = pool.take((layer.num_tokens, layer.hidden), layer.dtype)
    gate_up = pool.take((layer.num_experts, 2 * layer.intermediate, layer.hidden), layer.dtype)
    down = pool.take((layer.num_experts, layer.hidden, layer.intermediate), layer.dtype)
    gates = pool.take((layer.num_tokens * layer.top_k, 1), layer.dtype)
    ids = torch.tensor(layer.expert_ids().ravel(), device=x.device)
    experts = torch.arange(layer.num_experts, device=x.device)
    apply = _apply_grouped if grouped else _apply_loop

    def call() -> Any:
        chosen, order = torch.sort(ids)
        token = order // layer.top_k
        stops = torch.searchsorted(chosen, experts, right=True)
        y = apply(torch, x[token], stops, gate_up, down)
        return torch.zeros_like(x).index_add_(0, token, y * gates[order])

    return call


def _apply_grouped(torch: Any, rows: Any, stops: Any, gate_up: Any, down: Any) -> Any:
    offsets = stops.to(torch.int32)
    gate, up = _grouped_product(torch, rows, gate_up, offsets).chunk(2, dim=-1)
    return _grouped_product(torch, torch.nn.functional.silu(gate) * up, down, offsets)


def _apply_loop(torch: Any, rows: Any, stops: Any, gate_up: Any, down: Any) -> Any:
    y, start = torch.empty_like(rows), 0
    for expert, stop in enumerate(stops.tolist()):
        if stop > start:
            gate, up = torch.mm(rows[start:stop], gate_up[expert].t()).chunk(2, dim=-1)
            torch.mm(torch.nn.functional.silu(gate) * up, down[expert].t(), out=y[start:stop])
        start = stop
    return y


def _grouped_product(torch: Any, rows: Any, weights: Any, offsets: Any) -> Any:
    product = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm  # noqa: SLF001
    return product(rows, weights.transpose(-2, -1), offs=offsets)


@functools.lru_cache(maxsize=4)
def _grouped(kind: Kind) -> bool:
    """Tell whether this GPU has a grouped product: it is tried, since which ones do depends on the version.

    On a CPU it is a loop inside PyTorch that reads the offsets anew for every call.
    """
    torch = import_torch()
    if kind == "cpu" or not (hasattr(torch.nn.functional, "grouped_mm") or hasattr(torch, "_grouped_mm")):
        return False
    rows, weights = (torch.zeros(shape, dtype=torch.bfloat16, device=kind) for shape in ((32, 64), (2, 64, 64)))
    offsets = torch.tensor([16, 32], dtype=torch.int32, device=kind)
    try:
        _grouped_product(torch, rows, weights, offsets)
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
