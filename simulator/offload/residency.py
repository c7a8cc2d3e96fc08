"""Which experts lie on the device while a server runs whose router says beforehand which are needed."""

from __future__ import annotations

from collections.abc import Sequence


class Residency:
    """The experts on the device; the first ones at the start.

    Parameters
    ----------
    num_experts : int
        Experts of the model [1].
    room : int or None
        Experts that the device holds; all where absent [1].
    """

    def __init__(self, num_experts: int, room: int | None = None) -> None:
        self._there: list[int] = list(range(min(room or num_experts, num_experts)))

    def bring(self, needed: Sequence[int], waiting: Sequence[int]) -> int:
        """Make experts resident and return how many were not.

        Parameters
        ----------
        needed : sequence of int
            Experts of the next step.
        waiting : sequence of int
            Ready tokens of every expert: those go first that the fewest of them need [tokens].
        """
        missing = len(set(needed).difference(self._there))
        if missing:
            others = sorted(set(self._there).difference(needed), key=lambda expert: -waiting[expert])
            self._there = [*needed, *others][: len(self._there)]
        return missing
