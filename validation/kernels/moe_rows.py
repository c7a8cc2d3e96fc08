"""Rows of measured MoE tables as arrays: the expert counts behind each row, and what a kernel model makes of them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hardware_profiles.errors import MoesimError
from simulator.arrays import FloatArray, IntArray
from simulator.kernels.expert_counts import Leftover, balanced_counts, power_law_counts
from simulator.kernels.kernel import Silicon
from simulator.kernels.moe import ROW_TILES, ExpertLoad, MoeKernel, moe_load_time, row_tile

if TYPE_CHECKING:
    import pandas as pd

#: Draws of a power-law router that a prediction averages over [1].
DRAWS = 6
#: Rows to which the contiguous layout pads each expert [1].
CONTIGUOUS_PADDING = 128
#: First framework versions whose tables were drawn with leftovers going to the least loaded experts.
NEWER_DRAWS = {"TRTLLM": (1, 1), "VLLM": (0, 15)}
POWER_LAW = "power_law_"
#: Column of tables that say how many tokens each expert got: a JSON list per row.
COUNTS = "expert_counts"
#: What makes two rows measurements of one point; the fits take their median.
POINT = ["num_tokens", "hidden", "intermediate", "top_k", "num_experts", "tp", "ep", "distribution", "version"]
#: Table of each op and the layout of its loads.
LAYOUTS = {"moe": "fused", "moe_wide_ep_prefill": "contiguous", "moe_wide_ep_decode": "masked"}
#: Backend that a table's kernel name stands for.
BACKENDS = {
    "moe_torch_flow_cutlass": "cutlass",
    "moe_torch_flow": "cutlass",
    "vllm_fused_moe": "triton",
    "loop": "loop",
    "grouped_mm": "grouped_mm",
}
_GROUP = ["top_k", "num_experts", "ep", "distribution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeRows:
    """Rows of one kernel and dtype: shapes as columns ``(rows, 1)`` and loads ``(rows, draws)``.

    ``tiles`` has shape ``(rows, draws, len(ROW_TILES))``.
    """

    num_tokens: FloatArray
    top_k: FloatArray
    num_experts: FloatArray
    local_experts: FloatArray
    hidden: FloatArray
    intermediate: FloatArray
    assignments: FloatArray
    active: FloatArray
    tiles: FloatArray
    dtype: str

    def __getitem__(self, rows: IntArray) -> MoeRows:
        chosen = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self) if f.name != "dtype"}
        return dataclasses.replace(self, **chosen)


def tables_of(op: str, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split the rows of an op by kernel table, repeated points taken together."""
    layout, found = LAYOUTS[op], dict[str, "pd.DataFrame"]()
    for (kernel, dtype), rows in frame.groupby(["kernel", "dtype"]):
        found[f"moe.{backend_of(str(kernel), layout)}.{dtype}"] = _without_repeats(rows)
    return found


def backend_of(kernel: str, layout: str) -> str:
    """Backend that a measured kernel's name stands for; of one that nobody knows, what its layout tells."""
    if layout != "fused":
        return f"deepgemm_{layout}"
    return BACKENDS.get(kernel, "triton" if "triton" in kernel or "fused_moe" in kernel else "cutlass")


def _without_repeats(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the median of points that were measured more than once."""
    repeated = rows.assign(**{c: rows[c].astype("category") for c in POINT[-2:]}).duplicated(POINT, keep=False)
    if not repeated.any():
        return rows.reset_index(drop=True)
    import pandas as pd

    keys = [c for c in rows.columns if c != "latency_us"]
    medians = rows[repeated].groupby(keys)["latency_us"].median().reset_index()
    return pd.concat([rows[~repeated], medians], ignore_index=True)


def _even_counts(tokens: int, top_k: int, experts: int, ep: int, layout: str) -> IntArray:
    if layout != "contiguous":
        return balanced_counts(tokens, top_k, experts, ep)
    # The uniform rows of the contiguous layout fill whole blocks of 128 rows, expert by expert.
    local, rows = experts // ep, tokens * top_k // ep
    active = min(local, max(1, rows // CONTIGUOUS_PADDING))
    return np.where(np.arange(local) < active, rows // active, 0)


def _counts(
    tokens: IntArray, top_k: int, experts: int, ep: int, distribution: str, layout: str, leftover: Leftover
) -> IntArray:
    """Counts of the measured rank for each number of tokens, shape (len(tokens), draws or 1, local experts)."""
    if distribution.startswith(POWER_LAW):
        exponent = float(distribution.removeprefix(POWER_LAW))
        return power_law_counts(tokens, top_k, experts, ep, exponent=exponent, draws=DRAWS, leftover=leftover)
    if distribution in {"balanced", "uniform"}:
        return np.stack([_even_counts(int(n), top_k, experts, ep, layout) for n in tokens])[:, None]
    raise MoesimError(f"moe table: unknown distribution {distribution!r}; allowed: balanced, uniform, power_law_<a>")


def _older(frame: pd.DataFrame) -> bool:
    """Tell whether the rows were drawn by the older collectors, from the framework's version."""
    if "framework" not in frame or "version" not in frame or frame.empty:
        return False
    framework, version = str(frame["framework"].iloc[0]), str(frame["version"].iloc[0])
    since = NEWER_DRAWS.get(framework)
    return since is not None and version_of(version) < since


def version_of(text: str) -> tuple[int, ...]:
    """Major and minor number of a version.

    Examples
    --------
    >>> version_of("1.3.0rc20")
    (1, 3)
    """
    return tuple(int(part) for part in text.split(".")[:2])


def _loads(frame: pd.DataFrame, layout: str) -> FloatArray:
    """Assignments, active experts and row tiles of each row and draw, shape (rows, draws, 2 + tiles)."""
    loads = np.zeros((len(frame), DRAWS, 2 + len(ROW_TILES)))
    if COUNTS in frame:
        for row, counted in enumerate(frame[COUNTS]):
            loads[row] = _load(np.asarray(json.loads(counted), dtype=np.int64))
        return loads
    leftover: Leftover = "most" if _older(frame) else "least"
    groups: dict[tuple[int, int, int, str], IntArray] = frame.groupby(_GROUP).indices  # type: ignore[assignment]
    for (top_k, experts, ep, distribution), rows in groups.items():
        tokens, index = np.unique(frame["num_tokens"].to_numpy()[rows], return_inverse=True)
        counts = _counts(tokens, int(top_k), int(experts), int(ep), str(distribution), layout, leftover)
        loads[rows] = _load(counts)[index]
    return loads


def _load(counts: IntArray) -> FloatArray:
    """Assignments, active experts and row tiles of each size, from counts of shape (..., experts)."""
    tiles = [np.ceil(counts / tile).sum(-1) for tile in ROW_TILES]
    load: FloatArray = np.stack([counts.sum(-1), np.count_nonzero(counts, axis=-1), *tiles], axis=-1)
    return load


def moe_rows(frame: pd.DataFrame, *, layout: str = "fused") -> MoeRows:
    """Turn table rows of one dtype into loads.

    Parameters
    ----------
    frame : DataFrame
        Columns ``num_tokens, hidden, intermediate, top_k, num_experts, tp, ep, distribution, dtype``.
    layout : str
        ``fused``, ``contiguous`` (wide-EP prefill) or ``masked`` (wide-EP decode).
    """
    taken = _loads(frame, layout)

    def column(name: str) -> FloatArray:
        return frame[name].to_numpy(dtype=np.float64)[:, None]

    return MoeRows(
        num_tokens=column("num_tokens"),
        top_k=column("top_k"),
        num_experts=column("num_experts"),
        local_experts=column("num_experts") / column("ep"),
        hidden=column("hidden"),
        intermediate=column("intermediate") / column("tp"),
        assignments=taken[..., 0],
        active=taken[..., 1],
        tiles=taken[..., 2:],
        dtype=str(frame["dtype"].iloc[0]),
    )


def predict_moe_rows(rows: MoeRows, *, silicon: Silicon, kernel: MoeKernel) -> FloatArray:
    """Predict the latency of each row [s], averaged over the draws of its router; shape ``(rows,)``."""
    tile = row_tile(
        kernel,
        num_tokens=rows.num_tokens,
        top_k=rows.top_k,
        num_experts=rows.num_experts,
        local_experts=rows.local_experts,
    )
    which = np.searchsorted(ROW_TILES, tile[..., None])
    tiles = np.take_along_axis(rows.tiles, np.broadcast_to(which, (*rows.tiles.shape[:2], 1)), axis=-1)[..., 0]
    time = moe_load_time(
        ExpertLoad(rows=rows.assignments, active=rows.active, tiles=tiles, experts=rows.local_experts),
        tile=tile,
        num_tokens=rows.num_tokens,
        top_k=rows.top_k,
        hidden=rows.hidden,
        intermediate=rows.intermediate,
        dtype=rows.dtype,
        silicon=silicon,
        kernel=kernel,
    )
    return np.asarray(time.seconds.mean(-1), dtype=np.float64)
