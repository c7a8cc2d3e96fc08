"""The length of a step whose layers repeat a pattern, in closed form.

Each function has a twin in :mod:`simulator.schedule.mechanisms` that lists the same step as tasks; a test holds the
two together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import FloatArray


@dataclass(slots=True, kw_only=True)
class LayerTimes:
    """Times of the blocks of the MoE layers of one step [s]; not frozen, because the engine makes one per step.

    Attributes
    ----------
    layers : int
        MoE layers [1].
    compute : float
        What a batch computes before its dispatch: attention, norms, router; the mean over layers [s].
    shared : float
        Shared experts [s].
    dispatch, combine : tuple of float
        The exchanges of each batch [s].
    experts : array, shape (batches, layers)
        Routed experts on the slowest rank [s].
    dispatch_units, combine_units : float
        Share of the compute units that the exchange takes from a kernel beside it [1].
    dispatch_stretch, combine_stretch : float
        How much longer the exchange takes while a kernel runs beside it, a factor of at least 1 [1].
    """

    layers: int
    compute: float
    shared: float
    dispatch: tuple[float, ...]
    combine: tuple[float, ...]
    experts: FloatArray
    dispatch_units: float
    combine_units: float
    dispatch_stretch: float = 1.0
    combine_stretch: float = 1.0

    @classmethod
    def none(cls) -> LayerTimes:
        """Return a step without MoE layers."""
        return cls(
            layers=0,
            compute=0.0,
            shared=0.0,
            dispatch=(0.0,),
            combine=(0.0,),
            experts=np.zeros((1, 0)),
            dispatch_units=0.0,
            combine_units=0.0,
        )


def beside(work: float, message: float, units: float, stretch: float = 1.0) -> float:
    """Time until both a kernel and the exchange that runs beside it have ended [s].

    Parameters
    ----------
    work, message : float
        The kernel and the exchange alone [s].
    units : float
        Share of the compute units that the exchange holds meanwhile [1].
    stretch : float
        How much longer the exchange takes beside the kernel, at most ``1 / units`` [1].

    Notes
    -----
    Beside each other the kernel runs at ``1 - units`` and the exchange at ``1 / stretch``; what is left of either then
    runs alone: ``max(message + work * exposed(units, stretch), work + units * stretch * message)``.
    """
    return max(message + work * exposed(units, stretch), work + units * stretch * message)


def exposed(units: float, stretch: float) -> float:
    """Return what an exchange loses per second of the kernel that runs beside it all the time [1]."""
    return (1.0 - 1.0 / stretch) / (1.0 - units)


def two_batch_makespan(times: LayerTimes) -> float:
    """Two batches, each of which computes while the other communicates [s].

    Notes
    -----
    The compute stream runs ``A0 A1 E0 E1`` in every layer (A: attention to router, E: experts, by batch) and the
    communication stream ``D0 D1 C0 C1`` (dispatch, combine). Every block then starts together with one of the other
    stream, because both wait for the same two ends, and a layer is four stages: ``A1|D0``, ``E0|D1``, ``E1|C0`` and
    ``A0'|C1`` with the attention of the next layer. The first attention and the last combine stand alone.
    """
    first, second = times.dispatch
    back, last = times.combine
    dispatch, combine = times.dispatch_units, times.combine_units
    dispatch_stretch, combine_stretch = times.dispatch_stretch, times.combine_stretch
    # A stage lasts as :func:`beside` says, for both halves and all layers at once: what the exchange holds, and the
    # kernel or, where that is shorter, a floor less what the exchange gains from running alone at its end.
    works = times.experts + times.shared
    floors = np.array(((second * (1.0 - dispatch) * dispatch_stretch,), (back * (1.0 - combine) * combine_stretch,)))
    ends = np.maximum(works, floors)
    if dispatch_stretch > 1.0 or combine_stretch > 1.0:
        slopes = np.array(((exposed(dispatch, dispatch_stretch),), (exposed(combine, combine_stretch),)))
        ends -= slopes * np.maximum(floors - works, 0.0)
    unit_seconds = times.layers * (second * dispatch * dispatch_stretch + back * combine * combine_stretch)
    experts = float(np.add.reduce(ends, axis=None)) + unit_seconds
    attention = times.layers * beside(times.compute, first, dispatch, dispatch_stretch)
    following = (times.layers - 1) * beside(times.compute, last, combine, combine_stretch)
    return times.compute + attention + experts + following + last


def two_batch_floor(times: LayerTimes) -> float:
    """Bound :func:`two_batch_makespan` from below by a sum, the routed experts left out [s].

    ``dispatch`` and ``combine`` are those of either half at the least. A stage of experts lasts no less than what they
    and the shared experts take, and what the exchange holds of the compute units.
    """
    first, back, dispatch, combine = times.dispatch[0], times.combine[0], times.dispatch_units, times.combine_units
    dispatch_stretch, combine_stretch = times.dispatch_stretch, times.combine_stretch
    unit_seconds = first * dispatch * dispatch_stretch + back * combine * combine_stretch
    layer = beside(times.compute, first, dispatch, dispatch_stretch) + 2.0 * times.shared + unit_seconds
    following = (times.layers - 1) * beside(times.compute, back, combine, combine_stretch)
    return times.compute + times.layers * layer + following + back
