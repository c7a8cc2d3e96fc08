"""The length of a step whose layers repeat a pattern, in closed form.

Each function has a twin in :mod:`simulator.schedule.mechanisms` that lists the same step as tasks; a test holds the
two together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


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
    """

    layers: int
    compute: float
    shared: float
    dispatch: tuple[float, ...]
    combine: tuple[float, ...]
    experts: FloatArray
    dispatch_units: float
    combine_units: float

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


def beside(work: float, message: float, units: float) -> float:
    """Time until both a kernel and the exchange that runs beside it have ended [s].

    Parameters
    ----------
    work, message : float
        The kernel and the exchange alone [s].
    units : float
        Share of the compute units that the exchange holds meanwhile [1].

    Notes
    -----
    Beside the exchange the kernel runs at ``1 - units``: ``max(message, work + units * message)``.
    """
    return max(message, work + units * message)


def serial_makespan(times: LayerTimes) -> float:
    """One batch, one block after the other [s]."""
    each = times.compute + times.shared + times.dispatch[0] + times.combine[0]
    return times.layers * each + float(times.experts.sum())


def shared_expert_saving(times: LayerTimes) -> float:
    """Return what a step saves where the shared experts run beside the dispatch [s]."""
    message = times.dispatch[0]
    apart = times.shared + message
    return times.layers * (apart - beside(times.shared, message, times.dispatch_units))


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
    # A stage lasts max(message, work + units * message) = units * message + max(work, (1 - units) * message).
    floors = np.array(((second * (1.0 - dispatch) - times.shared,), (back * (1.0 - combine) - times.shared,)))
    each = 2.0 * times.shared + second * dispatch + back * combine
    experts = float(np.add.reduce(np.maximum(times.experts, floors), axis=None)) + times.layers * each
    attention = times.layers * beside(times.compute, first, dispatch)
    following = (times.layers - 1) * beside(times.compute, last, combine)
    return times.compute + attention + experts + following + last
