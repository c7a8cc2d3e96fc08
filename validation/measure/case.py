"""A point of a measurement: its columns, its work, and how to make its calls; and the order to visit points in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from validation.measure.buffers import Pool
from validation.measure.timing import Call

#: FLOP that take about as long as moving one byte [FLOP/byte]: only to order points by their size.
FLOP_PER_BYTE = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One point.

    Attributes
    ----------
    row : Mapping of str to Any
        Columns of the table that say what is measured.
    bytes, flops : float
        Traffic and arithmetic of a call [bytes, FLOP].
    prepare : callable
        Takes operands from a pool and returns a call on them.
    graph : bool
        Whether the call can be captured in a CUDA graph.
    """

    row: Mapping[str, Any]
    bytes: float
    flops: float
    prepare: Callable[[Pool], Call]
    graph: bool = True

    @property
    def size(self) -> float:
        """About how long the call takes, in bytes moved [bytes]."""
        return self.bytes + self.flops / FLOP_PER_BYTE


def stratified(cases: Sequence[Case]) -> list[Case]:
    """Order points so that every beginning of the list spans all sizes: halves, quarters, eighths of the range.

    Examples
    --------
    >>> sizes = [Case(row={}, bytes=float(n), flops=0.0, prepare=lambda pool: lambda: None) for n in range(8)]
    >>> [round(case.bytes) for case in stratified(sizes)]
    [0, 4, 2, 6, 1, 5, 3, 7]
    """
    ordered = sorted(cases, key=lambda case: case.size)
    digits = max(len(ordered) - 1, 0).bit_length()
    places = (int(f"{place:0{digits}b}"[::-1], 2) if digits else 0 for place in range(2**digits))
    return [ordered[place] for place in places if place < len(ordered)]
