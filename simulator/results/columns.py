"""Columns of numbers, and the frame that they make once somebody asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd


class Columns:
    """Named columns of one length; a frame when asked, as pandas takes longer to load than many an answer.

    Parameters
    ----------
    held : Mapping of str to array, shape (rows,), or DataFrame
        The columns, or the frame itself.
    """

    __slots__ = ("_held",)

    def __init__(self, held: Mapping[str, NDArray[Any]] | pd.DataFrame) -> None:
        self._held = held

    def frame(self) -> pd.DataFrame:
        """Return the frame: the same one every time, so that what its reader adds to it stays."""
        held = self._held
        if isinstance(held, Mapping):
            import pandas as pd

            # One assignment, as several threads may ask at once; the columns themselves are let go.
            self._held = held = pd.DataFrame(held)
        return held
