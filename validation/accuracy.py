"""How predictions compare with measurements: what every comparison of this package counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How predictions compare with measurements.

    ``median_ape`` and ``p90_ape`` are quantiles of |predicted / measured - 1| [1]; ``bias`` is the median of
    predicted / measured - 1 [1].
    """

    rows: int
    median_ape: float
    p90_ape: float
    bias: float

    def __str__(self) -> str:
        return f"{self.rows:6d} rows  median {self.median_ape:6.1%}  p90 {self.p90_ape:6.1%}  bias {self.bias:+6.1%}"


def accuracy(predicted: ArrayLike, measured: ArrayLike) -> Accuracy:
    """Compare predicted with measured times [s], arrays of one shape.

    Examples
    --------
    >>> accuracy([1.1, 2.0, 2.7], [1.0, 2.0, 3.0]).median_ape.__round__(3)
    0.1
    """
    relative = np.asarray(predicted, dtype=np.float64) / np.asarray(measured, dtype=np.float64) - 1.0
    if relative.size == 0:
        return Accuracy(rows=0, median_ape=float("nan"), p90_ape=float("nan"), bias=float("nan"))
    error = np.abs(relative)
    return Accuracy(
        rows=int(relative.size),
        median_ape=float(np.median(error)),
        p90_ape=float(np.quantile(error, 0.9)),
        bias=float(np.median(relative)),
    )
