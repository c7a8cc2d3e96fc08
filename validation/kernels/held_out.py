"""Which rows of a measured table the fits of its kernel tables never saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from validation.fit import dense as fit_dense
from validation.fit.fitting import split
from validation.fit.moe import LAYOUTS
from validation.kernels.dense_rows import FAMILIES

if TYPE_CHECKING:
    import pandas as pd

#: Seed of the splits of :mod:`validation.fit.moe` and :mod:`validation.fit.collectives`.
_SEED = 0
#: What makes two rows of a MoE table measurements of one point; the fits take their median.
_POINT = ["num_tokens", "hidden", "intermediate", "top_k", "num_experts", "tp", "ep", "distribution", "version"]


def held_out(op: str, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the rows that the fits leave out of training, shape ``(rows,)``.

    The fits split each kernel table's rows by a fixed seed; this repeats their split. Points that were measured more
    than once are never marked, because a fit sees their median.
    """
    marked = np.zeros(len(frame), dtype=bool)
    seed = fit_dense.SEED if op in FAMILIES else _SEED
    for rows in _fitted_together(op, frame):
        if op in LAYOUTS:
            part = frame.iloc[rows]
            repeated = part.duplicated(_POINT, keep=False).to_numpy()
            single, points = rows[~repeated], (~repeated).sum() + len(part[repeated].drop_duplicates(_POINT))
            test = split(int(points), seed)[1]
            marked[single[test[test < len(single)]]] = True
        else:
            marked[rows[split(len(rows), seed)[1]]] = True
    return marked


def _fitted_together(op: str, frame: pd.DataFrame) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each kernel table's fit, in the order in which the fit sees them."""
    by: Any
    if op in FAMILIES:
        by = FAMILIES[op].table(frame).fillna("")
    elif op in LAYOUTS:
        by = ["kernel", "dtype"]
    elif op in {"nccl", "gloo"}:
        by = "collective"
    elif op == "custom_allreduce":
        by = frame["kernel"].str.endswith("eager")
    else:
        yield np.arange(len(frame), dtype=np.int64)
        return
    for rows in frame.groupby(by).indices.values():
        yield np.asarray(rows, dtype=np.int64)
