"""Which rows of a measured table the fits of its kernel tables see, and which they leave out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from validation.kernels.dense_rows import FAMILIES
from validation.kernels.moe_rows import LAYOUTS, POINT

if TYPE_CHECKING:
    import pandas as pd

#: Seeds of the splits: of dense kernels, and of all others [1].
DENSE_SEED, SEED = 20261122, 0


def split(rows: int, seed: int, test_share: float = 0.2) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw disjoint train and test row numbers, both sorted, the same for the same ``rows`` and ``seed``."""
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(rows)
    test = round(rows * test_share)
    return np.sort(order[test:]), np.sort(order[:test])


def held_out(op: str, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the rows that the fits leave out of training, shape ``(rows,)``.

    The fits split each kernel table's rows by a fixed seed; this repeats their split. Points that were measured more
    than once are never marked, because a fit sees their median.
    """
    marked = np.zeros(len(frame), dtype=bool)
    seed = DENSE_SEED if op in FAMILIES else SEED
    for rows in fitted_together(op, frame):
        if op in LAYOUTS:
            part = frame.iloc[rows]
            repeated = part.duplicated(POINT, keep=False).to_numpy()
            single, points = rows[~repeated], (~repeated).sum() + len(part[repeated].drop_duplicates(POINT))
            test = split(int(points), seed)[1]
            marked[single[test[test < len(single)]]] = True
        else:
            marked[rows[split(len(rows), seed)[1]]] = True
    return marked


def fitted_together(op: str, frame: pd.DataFrame) -> Iterator[NDArray[np.int64]]:
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
