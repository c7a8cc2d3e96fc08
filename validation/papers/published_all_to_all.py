"""Flat and two-level all-to-all on up to 2048 A100s, from what Tutel published, and their coefficients.

Run as ``python -m validation.papers.published_all_to_all [--write]`` after ``moesim calibrate fit``. Tutel
(MLSys 2023, arXiv:2206.03382) prints times of the flat all-to-all (Table 2), the gain of the two-level one in a layer
(section 5.2) and, averaged over many layers, how far either is from the best choice (Table 6a).

The sizes of Table 2 follow from its text: 65,536 tokens per GPU, two experts per token, width 4096. With four
exchanges in an iteration, forward and backward, of 4-byte elements, the time on 16 GPUs is 94 % of the line rate, and
with other readings it is above the line rate or below half of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.loader import load_device
from simulator.hardware import load_hardware
from simulator.kernels.expert_exchange import ExchangeKernel, dispatch_time
from simulator.kernels.kernel import coefficients
from validation.accuracy import accuracy
from validation.fit.collectives import Table, provenance
from validation.fit.fitting import write_kernels

SOURCE = "Tutel, MLSys 2023, arXiv:2206.03382, Table 2, section 5.2 and Table 6a"
DEVICE = "a100-sxm"
#: Experts per token, bytes of an element, and exchanges of an iteration [1].
TOP_K, ELEMENT, EXCHANGES = 2, 4.0, 4
#: Computation of Table 2 on 16 GPUs [s] over its FLOPs: the rate of a layer's forward and backward pass [FLOP/s].
RATE = 12.0 * TOP_K * 65536 * 4096 * 4096 / 0.3718
#: Layers of Table 6a: tokens, width and inner width of an expert [1].
SWEEP = tuple(itertools.product((4096, 16384, 65536), (1024, 2048, 4096), (1024, 2048, 4096)))
#: What the coefficients are solved for: figure name and what is printed (times in s, ratios in 1).
PUBLISHED: Mapping[str, float] = {
    "g16.all_to_all": 0.1891,
    "g64.all_to_all": 0.3238,
    "g256.all_to_all": 0.4913,
    "g2048.two_level_gain": 4.25,
    "g16.two_level_over_flat": 2.01 / 1.20,
    "g32.two_level_over_flat": 1.45 / 1.16,
    "g128.two_level_over_flat": 1.16 / 1.09,
}
#: Share of the line rate that large messages reach between nodes [1]: 24 of 25 GB/s is common on HDR InfiniBand.
LINE_SHARE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class AllToAll:
    """The two algorithms on one machine."""

    flat: ExchangeKernel
    two_level: ExchangeKernel


def of_profile() -> AllToAll:
    """Take the coefficients that the device's profile holds."""
    tables = load_device(DEVICE).main.kernels
    flat, two_level = (
        coefficients(ExchangeKernel, tables[name], name) for name in ("dispatch.all_to_all", "dispatch.all_to_all_2d")
    )
    return AllToAll(flat=flat, two_level=two_level)


def exchange_seconds(size: float, ranks: int, kernel: ExchangeKernel) -> float:
    """Time of one all-to-all in which each rank sends ``size`` bytes in equal parts [s]."""
    # Parts of equal size, as with a capacity: one copy to each rank, none merged.
    even = dataclasses.replace(kernel, merged=False)
    fabric = load_hardware(DEVICE).fabric
    time = dispatch_time(1.0, hidden=size, top_k=1.0, ranks=ranks, element_bytes=1.0, fabric=fabric, kernel=even)
    return float(time.seconds)


def layer_seconds(tokens: int, width: int, inner: int, ranks: int, kernel: ExchangeKernel) -> float:
    """Time of a layer forward and backward without overlap: two GEMMs per token and expert, and the exchanges [s].

    Parameters
    ----------
    tokens, width, inner, ranks : int
        Tokens of a rank, width of the model, inner width of an expert, and ranks [1].
    kernel : ExchangeKernel
        The algorithm's coefficients.
    """
    compute = 12.0 * TOP_K * tokens * width * inner / RATE
    return compute + EXCHANGES * exchange_seconds(TOP_K * tokens * width * ELEMENT, ranks, kernel)


def figures(kernels: AllToAll) -> dict[str, float]:
    """Compute every figure that Tutel prints of the two algorithms."""
    found = {}
    for ranks in (16, 64, 256):
        size = TOP_K * 65536 * 4096 * ELEMENT
        found[f"g{ranks}.all_to_all"] = EXCHANGES * exchange_seconds(size, ranks, kernels.flat)
    flat, two_level = (layer_seconds(16384, 2048, 2048, 2048, k) for k in (kernels.flat, kernels.two_level))
    found["g2048.two_level_gain"] = flat / two_level
    for ranks in (16, 32, 128):
        found[f"g{ranks}.two_level_over_flat"] = _over_best(ranks, kernels)
    return found


def _over_best(ranks: int, kernels: AllToAll) -> float:
    """Mean time over the better algorithm's of the two-level all-to-all, over that of the flat one [1]."""
    times = np.array([[layer_seconds(*shape, ranks, k) for k in (kernels.flat, kernels.two_level)] for shape in SWEEP])
    flat, two_level = (times / times.min(axis=1, keepdims=True)).mean(axis=0)
    return float(two_level / flat)


def solve(flat: ExchangeKernel) -> AllToAll:
    """Solve for what crossing nodes costs: per message, per peer, per connection, and the copies of the two levels."""
    from scipy.optimize import least_squares

    bounds = {"peers_half": (1e2, 1e5), "peer": (1e-7, 1e-3), "connection_rate": (5e9, 3e10), "unit_rate": (1e10, 1e12)}
    low, high = (np.log([b[side] for b in bounds.values()]) for side in (0, 1))

    def kernels(x: Any) -> AllToAll:
        values = dict(zip(bounds, np.exp(x).tolist(), strict=True))
        rate = values.pop("unit_rate")
        crossing: dict[str, Any] = {**values, "scale_out_efficiency": LINE_SHARE}
        plain = dataclasses.replace(flat, **crossing)
        return AllToAll(
            flat=plain, two_level=dataclasses.replace(plain, staged=True, link_sharpness=1.0, unit_rate=rate)
        )

    def misses(x: Any) -> Any:
        found = figures(kernels(x))
        return np.log([found[name] / printed for name, printed in PUBLISHED.items()])

    start = np.log([700.0, 8e-6, 1.4e10, 1e11])
    return kernels(least_squares(misses, start, bounds=(low, high)).x)


def tables(kernels: AllToAll, described: Mapping[str, Any], note: str) -> dict[str, Table]:
    """Name the kernels as tables of a profile, dispatch and combine alike."""
    coordinated = dataclasses.replace(kernels.flat, coordinated=True, link_sharpness=1.0)
    named = {
        "all_to_all": (kernels.flat, f"within a node the library's all-to-all, one copy per rank; {note}"),
        "all_to_all_2d": (kernels.two_level, f"two levels, with the copies that reorder chunks; {note}"),
        "coordinated": (coordinated, f"as all_to_all among tensor-parallel counterparts, then a gather; {note}"),
    }
    return {
        f"{phase}.{name}": (kernel, {**described, "note": text})
        for phase in ("dispatch", "combine")
        for name, (kernel, text) in named.items()
    }


def main() -> None:
    """Solve for the coefficients and, if asked, write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    solved = solve(_inside(DEVICE))
    found = figures(solved)
    result = accuracy(list(found.values()), [PUBLISHED[name] for name in found])
    print(f"  {'all-to-all between nodes':34s} {result}")
    described = {**provenance(len(found), result), "source": SOURCE}
    note = f"between nodes from {len(found)} published figures on A100, median {result.median_ape:.1%}"
    # What crosses nodes is the library's and the network's; another device keeps its own numbers within a node.
    crossing = ("scale_out_efficiency", "peer", "peers_half", "connection_rate")
    shared: dict[str, Any] = {name: getattr(solved.flat, name) for name in crossing}
    flat = dataclasses.replace(_inside("h100-sxm"), **shared)
    two_level = dataclasses.replace(flat, staged=True, link_sharpness=1.0, unit_rate=solved.two_level.unit_rate)
    if options.write:
        folder = Path(__file__).parents[2] / "hardware_profiles" / "kernels"
        write_kernels(folder / f"{DEVICE}.moe.toml", tables(solved, described, note))
        borrowed = {**described, "status": "assumption"}
        write_kernels(folder / "h100-sxm.moe.toml", tables(AllToAll(flat=flat, two_level=two_level), borrowed, note))


def _inside(device: str) -> ExchangeKernel:
    """Coefficients of a device's flat all-to-all, which stand for the links inside a node."""
    return coefficients(ExchangeKernel, load_device(device).main.kernels["dispatch.all_to_all"], device)


if __name__ == "__main__":
    main()
