"""Columns of numbers, and the frame that they make once somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from simulator.arrays import FloatArray
from simulator.results.packed import PackedColumns

if TYPE_CHECKING:
    import pandas as pd


class Columns:
    """Named columns of one length; a frame when asked, as pandas takes longer to load than many an answer.

    Parameters
    ----------
    held : Mapping of str to array, shape (rows,), PackedColumns or DataFrame
        The columns, or the frame itself.
    named : callable, optional
        Makes the columns of a part of those that are packed; they are taken as they are where absent.
    """

    __slots__ = ("_held", "_named")

    def __init__(
        self,
        held: Mapping[str, NDArray[Any]] | PackedColumns | pd.DataFrame,
        named: Callable[[Mapping[str, FloatArray]], dict[str, NDArray[Any]]] = dict,
    ) -> None:
        self._held, self._named = held, named

    def frame(self) -> pd.DataFrame:
        """Return the frame: the same one every time, so that what its reader adds to it stays."""
        held = self._held
        if isinstance(held, Mapping):
            import pandas as pd

            # One assignment, as several threads may ask at once; the columns themselves are let go.
            self._held = held = pd.DataFrame(self._named(held))
        return held

    def frames(self, rows: int) -> Iterator[pd.DataFrame]:
        """Yield the frame in pieces of so many rows, the last one shorter, and never none; made one after the other."""
        import pandas as pd

        held = self._held
        if not isinstance(held, PackedColumns):
            frame = self.frame()
            yield from (frame.iloc[first : first + rows] for first in range(0, max(len(frame), 1), rows))
            return
        waiting: list[pd.DataFrame] = []
        for part in held.parts():
            waiting.append(pd.DataFrame(self._named(part)))
            while sum(map(len, waiting)) >= rows:
                joined = pd.concat(waiting, ignore_index=True)
                yield joined.iloc[:rows]
                waiting = [joined.iloc[rows:]]
        last = pd.concat(waiting, ignore_index=True) if waiting else pd.DataFrame(self._named(held))
        if len(last) or not held.rows:
            yield last
