"""Published dispatch and combine times, what the exchange model makes of them, and the coefficients only they give.

Run as ``python -m validation.papers.published_exchange [--write]`` after ``moesim calibrate fit``: one node's
measurements say nothing about the links between nodes, and some exchanges were only ever published.

All rows are DeepSeek-V3 shapes: width 7168, top-8 of 256 experts. Times in microseconds as published; DeepEP's normal
kernels are published as bandwidths and are turned into times by :func:`seconds_of_bandwidth`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hardware_profiles.loader import load_device, resolve_kernels
from hardware_profiles.schema import Quantity
from simulator.hardware import load_hardware
from simulator.kernels.expert_exchange import ExchangeKernel, dispatch_time, distinct
from simulator.kernels.kernel import coefficients
from validation.accuracy import accuracy
from validation.fit.collectives import SOURCE, Table, provenance
from validation.fit.fitting import fit, write_kernels
from validation.kernels.collective_rows import PAYLOAD
from validation.papers.papers import CASES, Case

Phase = Literal["dispatch", "combine"]
PHASES: tuple[Phase, Phase] = ("dispatch", "combine")

HIDDEN, TOP_K, EXPERTS = 7168, 8, 256
#: DeepEP's published normal-mode tests route to at most four nodes [1].
MAX_NODES = 4
_ROWS = Path(__file__).parent / "published" / "expert_exchange.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published time of an exchange [s] with where it was published."""

    source: str
    device: str
    domain: int
    mode: str
    phase: Phase
    ranks: int
    tokens: int
    element_bytes: float
    max_nodes: int | None
    seconds: float


def seconds_of_bandwidth(phase: Phase, ranks: int, tokens: int, rate: float) -> float:
    """Turn DeepEP's bottleneck bandwidth [bytes/s] into a time [s].

    Its numerator counts, for each token, the ranks reached within one node, or the nodes reached in several nodes,
    the token's own included.

    Parameters
    ----------
    phase : {"dispatch", "combine"}
        Which way, and so how many bytes an element has.
    ranks, tokens : int
        Ranks, and tokens of each [1].
    rate : float
        The published figure [bytes/s].
    """
    nodes = max(ranks // 8, 1)
    allowed = min(nodes, MAX_NODES)
    copies = distinct(TOP_K, 8, EXPERTS) if nodes == 1 else distinct(TOP_K, allowed, EXPERTS * allowed / nodes)
    return float(copies) * tokens * HIDDEN * PAYLOAD[phase] / rate


def published_rows() -> list[Published]:
    """All rows, in the order of their sources; figures are times [us] or DeepEP's bottleneck bandwidths [GB/s]."""
    with _ROWS.open(encoding="utf-8", newline="") as file:
        return [_published(row) for row in csv.DictReader(file)]


def _published(row: Mapping[str, str]) -> Published:
    phase: Phase = "dispatch" if row["phase"] == "dispatch" else "combine"
    ranks, tokens, figure = int(row["ranks"]), int(row["tokens"]), float(row["figure"])
    rate = row["unit"] == "GB/s"
    return Published(
        source=row["source"],
        device=row["device"],
        domain=int(row["domain"]),
        mode=row["mode"],
        phase=phase,
        ranks=ranks,
        tokens=tokens,
        element_bytes=float(row["element_bytes"]),
        max_nodes=int(row["max_nodes"]) if row["max_nodes"] else None,
        seconds=seconds_of_bandwidth(phase, ranks, tokens, figure * 1e9) if rate else figure * 1e-6,
    )


def case_figures(case: Case) -> dict[str, float]:
    """Predict published rows for a case of papers: time [s], and the rate that DeepEP derives from it [bytes/s].

    Its ``sources`` say which of the rows that coefficients are fitted to it holds; those are named by device, kernel,
    phase, ranks and tokens. Its ``published.csv``, where there is one, has rows that nothing is fitted to, with a name
    each.
    """
    sources = case.inputs["sources"]
    found: dict[str, float] = {}
    named = [
        (f"{r.device}.{r.mode}.{r.phase}.{r.ranks}.{r.tokens}", r) for r in published_rows() if r.source in sources
    ]
    if (own := CASES / case.name / "published.csv").is_file():
        with own.open(encoding="utf-8", newline="") as file:
            named += [(row["figure_id"], _published(row)) for row in csv.DictReader(file)]
    for key, row in named:
        kernels, _ = resolve_kernels(load_device(row.device).main)
        seconds = predict(row, kernel_of(row, kernels))
        found[f"{key}.time"] = seconds
        found[f"{key}.rate"] = seconds_of_bandwidth(row.phase, row.ranks, row.tokens, 1.0) / seconds
    return found


def predict(row: Published, kernel: ExchangeKernel) -> float:
    """Predict a published row [s] with a kernel's coefficients."""
    time = dispatch_time(
        row.tokens,
        hidden=HIDDEN,
        top_k=TOP_K,
        ranks=row.ranks,
        element_bytes=row.element_bytes,
        num_experts=EXPERTS,
        max_nodes=row.max_nodes,
        fabric=dataclasses.replace(load_hardware(row.device).fabric, domain=row.domain),
        kernel=kernel,
    )
    return float(time.seconds)


def kernel_of(row: Published, tables: Mapping[str, Mapping[str, Quantity]]) -> ExchangeKernel:
    """Take the coefficients that a profile holds for a row's kernel."""
    name = f"{row.phase}.{row.mode}"
    return coefficients(ExchangeKernel, tables[name], name)


def fit_between_nodes(phase: Phase, mode: str) -> Table:
    """Fit what a kernel measured on one node adds between nodes."""
    rows = [r for r in published_rows() if r.mode == mode and r.phase == phase and r.ranks > r.domain]
    start = kernel_of(rows[0], load_device("h100-sxm").main.kernels)
    bounds = {"scale_out_efficiency": (0.5, 1.0)}
    if mode == "deepep_low_latency":
        bounds["start_remote"] = (1e-7, 1e-4)
    kernel, described = _fitted(rows, start, bounds, "within a node from its tables; between nodes")
    return kernel, {**described, "source": f"{SOURCE}; {described['source']}"}


def fit_one_sided(phase: Phase) -> Table:
    """Fit TensorRT-LLM's one-sided exchange within an NVLink domain: one copy per rank."""
    rows = [r for r in published_rows() if r.mode == "one_sided" and r.phase == phase]
    start = ExchangeKernel(
        launch=1e-5,
        units=1.0,
        efficiency=0.6,
        scale_out_efficiency=0.9,
        sharpness=2.0,
        link_sharpness=1.0,
        token_rate=2e11,
        merged=True,
        forwarded=False,
    )
    bounds = {"launch": (1e-6, 2e-4), "efficiency": (0.2, 1.0), "token_rate": (1e10, 1e13)}
    return _fitted(rows, start, bounds, "GB200 NVL72")


def fit_fused(phase: Phase) -> Table:
    """Solve CloudMatrix384's fused exchange for its start and growth with the ranks; one copy per expert.

    The rows cannot tell bandwidth from start, so that the share of the Unified Bus that is reached is assumed.
    """
    rows = [r for r in published_rows() if r.mode == "fused" and r.phase == phase]
    kernel = ExchangeKernel(
        launch=0.0, units=1.0, efficiency=0.9, scale_out_efficiency=0.9, sharpness=1.0, merged=False, forwarded=False
    )
    rest = np.array([r.seconds - predict(r, kernel) for r in rows])
    doublings = np.log2([r.ranks for r in rows])
    launch, doubling = np.linalg.lstsq(np.stack([np.ones(len(rows)), doublings], axis=1), rest, rcond=None)[0]
    solved = dataclasses.replace(kernel, launch=float(launch), start_doubling=float(doubling))
    return _described(rows, solved, "CloudMatrix384, Unified Bus")


def _fitted(
    rows: list[Published], start: ExchangeKernel, bounds: Mapping[str, tuple[float, float]], where: str
) -> Table:
    measured = np.array([r.seconds for r in rows])
    found = fit(ExchangeKernel, lambda k: np.array([predict(r, k) for r in rows]), measured, start=start, bounds=bounds)
    return _described(rows, found.coefficients, where)


def _described(rows: list[Published], kernel: ExchangeKernel, where: str) -> Table:
    result = accuracy([predict(r, kernel) for r in rows], [r.seconds for r in rows])
    sources = "; ".join(dict.fromkeys(r.source for r in rows))
    note = f"{where}: {len(rows)} published rows, median {result.median_ape:.1%}, p90 {result.p90_ape:.1%}"
    return kernel, {**provenance(len(rows), result), "source": sources, "note": note}


def main() -> None:
    """Fit what only published figures tell and, if asked, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    own: dict[str, Table] = {}
    for phase in PHASES:
        for mode in ("deepep_low_latency", "deepep_normal"):
            kernel, described = fit_between_nodes(phase, mode)
            own[f"{phase}.{mode}"] = kernel, described
        straight: Any = dataclasses.replace(
            own[f"{phase}.deepep_low_latency"][0], scale_out_only=True, start_remote=0.0
        )
        rows = [r for r in published_rows() if r.mode == "deepep_low_latency_rdma" and r.phase == phase]
        own[f"{phase}.deepep_low_latency_rdma"] = _described(rows, straight, "pure RDMA, not fitted")
        own[f"{phase}.one_sided"] = fit_one_sided(phase)
    borrowed = {
        name: (kernel, {**described, "status": "assumption", "note": "never measured here; as on h100-sxm"})
        for name, (kernel, described) in own.items()
    }
    for phase in PHASES:
        borrowed[f"{phase}.fused"] = fit_fused(phase)
    for name, (_, described) in {**borrowed, **own}.items():
        print(f"  {name:34s} {described['note']}")
    if options.write:
        kernels = Path(__file__).parents[2] / "hardware_profiles" / "kernels"
        write_kernels(kernels / "h100-sxm.moe.toml", own)
        write_kernels(kernels / "a100-sxm.moe.toml", borrowed)


if __name__ == "__main__":
    main()
