"""The 80 % interval of a prediction, from how far its kernels were off where they were measured.

Errors are taken as normal in the logarithm of time. Those of one kernel family come from the same coefficients, so
that they add up in full; those of two families are taken as independent, but for what borrowing adds: kernels of
another device are off in one direction together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hardware_profiles.loader import load_device
from hardware_profiles.residuals import Residuals, load_residuals, load_transfer
from hardware_profiles.schema import Device
from simulator.arrays import FloatArray
from simulator.cost.model import OpTime
from simulator.hardware import HOST, MAIN, Hardware
from simulator.kernels.families import FAMILIES

#: Name under which the part of errors is added up that all families share.
_SHARED = "shared by all families"
Evidence = Literal["fitted", "relative's kernels", "assumption"]

#: Standard deviations from the middle to either end of an 80 % interval of a normal distribution [1].
Z80 = 1.2815515655446004
#: Time of one call [s] up to which each regime of residuals reaches, and the regimes' names.
REGIME_LIMITS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
REGIMES = ("0-10 us", "10-30 us", "30-100 us", "100-300 us", "0.3-1 ms", "1 ms and more")
#: Spread of a kernel that nobody compared with measurements [1]: an assumption.
UNMEASURED = 0.3
#: What each doubling beyond the measured shapes adds to the spread [1]: an assumption.
PER_DOUBLING = 0.08
#: What borrowing adds to the spread where no family's transfer was measured [1]: an assumption.
BORROWED = 0.3
#: What another library's kernel in the place of the one that runs adds to the spread [1]: an assumption.
SUBSTITUTED = 0.5
#: How far a shape may lie beyond the measured ones before it counts as extrapolated [1].
TOLERANCE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Spread of predictions [1] (standard deviation of the log of time), and what it rests on.

    ``transfer`` is the part of it that comes of borrowing: a device that is slower than its relative's kernels say is
    so in all of them. ``extrapolated`` marks shapes beyond those that were measured.
    """

    sigma: FloatArray
    transfer: FloatArray
    extrapolated: NDArray[np.bool_]
    evidence: Evidence


def interval(seconds: ArrayLike, sigma: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both ends of the 80 % interval of predicted times [s] with a spread [1].

    Examples
    --------
    >>> low, high = interval(100e-6, 0.1)
    >>> f"{low * 1e6:.1f} {high * 1e6:.1f}"
    '88.0 113.7'
    """
    times, width = np.asarray(seconds, dtype=np.float64), np.exp(Z80 * np.asarray(sigma, dtype=np.float64))
    return times / width, times * width


def combine(
    times: Sequence[ArrayLike],
    sigmas: Sequence[ArrayLike],
    families: Sequence[str],
    shared: Sequence[ArrayLike] | None = None,
) -> FloatArray:
    """Spread of a sum of times [1]: errors add up within a family and are independent between families.

    Parameters
    ----------
    times : sequence of array_like
        The terms of the sum [s]; they broadcast.
    sigmas : sequence of array_like
        Their spreads [1].
    families : sequence of str
        The kernel family of each.
    shared : sequence of array_like, optional
        The part of each spread that all terms have in common, whatever their family: ``Spread.transfer``.

    Notes
    -----
    ``sigma^2 = (sum_f (sum_{i in f} t_i own_i)^2 + (sum_i t_i shared_i)^2) / (sum_i t_i)^2`` with ``own_i^2 =
    sigma_i^2 - shared_i^2``; 0 for an empty sum or one of 0 seconds.

    Examples
    --------
    >>> float(combine([1.0, 1.0], [0.1, 0.1], ["gemm", "gemm"]))
    0.1
    >>> round(float(combine([1.0, 1.0], [0.1, 0.1], ["gemm", "moe"])), 4)
    0.0707
    """
    total, together = np.zeros(()), dict[str, Any]()
    for time, sigma, family, common in zip(times, sigmas, families, shared or [0.0] * len(times), strict=True):
        seconds, all_together = np.asarray(time, dtype=np.float64), np.asarray(common, dtype=np.float64)
        own = np.sqrt(np.maximum(np.asarray(sigma, dtype=np.float64) ** 2 - all_together**2, 0.0))
        total = total + seconds
        together[family] = together.get(family, 0.0) + seconds * own
        together[_SHARED] = together.get(_SHARED, 0.0) + seconds * all_together
    variance = sum((part * part for part in together.values()), np.zeros(()))
    return np.divide(np.sqrt(variance), total, out=np.zeros_like(total + variance), where=total > 0)


def regime_numbers(seconds: ArrayLike) -> NDArray[np.intp]:
    """Number in :data:`REGIMES` of the regime that each call of so many seconds is in."""
    return np.searchsorted(np.asarray(REGIME_LIMITS), np.asarray(seconds, dtype=np.float64), side="left")


def table_spread(
    hardware: Hardware,
    table: str,
    seconds: ArrayLike,
    axes: Mapping[str, ArrayLike] | None = None,
    *,
    kind: str = "",
    substituted: bool = False,
    resource: str = MAIN,
    folder: Path | None = None,
) -> Spread:
    """Spread of predictions that were made with one kernel table.

    Parameters
    ----------
    hardware : Hardware
        The device and whose kernels it has.
    table : str
        Name of the kernel table.
    seconds : array_like
        Predicted time of one call [s].
    axes : Mapping of str to array_like, optional
        The shapes by axis; those without a measured range are not looked at.
    kind : str
        Kind of shape that the residuals tell apart: ``skewed`` for uneven routing.
    substituted : bool
        Whether the kernel stands for one of another library, of which the device has none.
    resource : str
        What of the device runs it, as in :class:`~simulator.ops.Op`.
    folder : Path, optional
        The user's profiles.
    """
    known = _known_errors(hardware.device, table, resource, folder)
    return _spread(known, seconds, axes or {}, kind=kind, substituted=substituted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is known of the errors of one kernel table on a device: residuals, and what borrowing them adds [1]."""

    residuals: Residuals | None
    borrowed: bool
    transfer: float


def _known_errors(device: Device, table: str, resource: str, folder: Path | None) -> _Known:
    origin, borrowed = kernel_origin(device, table, resource, folder)
    residuals = load_residuals(origin.id, folder).get(table) if origin is not None else None
    transfer = _transfer(device, origin, table, folder) if residuals and borrowed and origin is not None else 0.0
    return _Known(residuals=residuals, borrowed=borrowed, transfer=transfer)


def _spread(
    known: _Known, seconds: ArrayLike, axes: Mapping[str, ArrayLike], *, kind: str, substituted: bool = False
) -> Spread:
    residuals = known.residuals
    times = np.asarray(seconds, dtype=np.float64)
    if residuals is None:
        sigma = np.full(times.shape, UNMEASURED)
        return Spread(
            sigma=sigma,
            transfer=np.zeros(times.shape),
            extrapolated=np.zeros(times.shape, dtype=bool),
            evidence="assumption",
        )
    variance = _by_regime(residuals, times, kind) ** 2
    beyond = doublings_beyond(residuals, axes)
    variance = variance + (PER_DOUBLING * beyond) ** 2 + known.transfer**2
    if substituted:
        variance = variance + SUBSTITUTED**2
    evidence: Evidence = "relative's kernels" if known.borrowed else "fitted"
    if substituted or residuals.status == "assumption":
        evidence = "assumption"
    extrapolated = np.broadcast_to(beyond > np.log2(1.0 + TOLERANCE), variance.shape)
    return Spread(
        sigma=np.sqrt(variance),
        transfer=np.full(variance.shape, known.transfer),
        extrapolated=extrapolated,
        evidence=evidence,
    )


def doublings_beyond(residuals: Residuals, axes: Mapping[str, ArrayLike]) -> FloatArray:
    """Doublings by which shapes lie beyond the measured ones, all axes together [1]."""
    beyond = np.zeros(())
    for axis, values in axes.items():
        if axis not in residuals.ranges:
            continue
        low, high = residuals.ranges[axis]
        value = np.maximum(np.asarray(values, dtype=np.float64), 1e-9)
        beyond = beyond + np.maximum(np.log2(value / max(high, 1e-9)), 0.0)
        beyond = beyond + np.maximum(np.log2(max(low, 1e-9) / value), 0.0)
    return beyond


def family_of(table: str) -> str:
    """Name the family whose errors are not independent, from a kernel table's name."""
    first = table.split(".")[0]
    return (FAMILIES[first].off_together or first) if first in FAMILIES else first


def op_spread(op_time: OpTime, hardware: Hardware, folder: Path | None = None) -> Spread:
    """Spread of one op of a step."""
    return op_spreads((op_time,), hardware, folder)[0]


def op_spreads(op_times: Sequence[OpTime], hardware: Hardware, folder: Path | None = None) -> list[Spread]:
    """Spread of each op of a step."""
    # Ops share tables, and to look the errors of one up takes longer than to apply them.
    known = {
        (table, resource): _known_errors(hardware.device, table, resource, folder)
        for table, resource in {(op_time.table, op_time.op.resource) for op_time in op_times}
    }
    spreads = []
    for op_time in op_times:
        op = op_time.op
        call = (op_time.seconds + op_time.imbalance_wait) / max(op.repeat, 1e-12)
        shape = {axis: getattr(op.shape, axis) for axis in FAMILIES[op.kind].axes}
        kind = "skewed" if getattr(op.shape, "counts", None) is not None else ""
        spreads.append(_spread(known[op_time.table, op.resource], call, shape, kind=kind))
    return spreads


def step_interval(
    op_times: Sequence[OpTime],
    spreads: Sequence[Spread],
    *,
    host: ArrayLike = 0.0,
    stack: float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Return the 80 % interval of a step's time, as factors on it [1].

    Parameters
    ----------
    op_times : sequence of OpTime
        The ops of the step; their arrays broadcast.
    spreads : sequence of Spread
        That of each: :func:`op_spreads`.
    host : array_like
        Time that the host adds to the kernels [s], which nobody measured.
    stack : float
        Spread of whole steps beyond that of their parts: versions and settings of the serving stack (1 sigma) [1].
    """
    times = [op_time.seconds + op_time.imbalance_wait for op_time in op_times]
    families = [family_of(op_time.table) for op_time in op_times]
    sigmas, shared = [spread.sigma for spread in spreads], [spread.transfer for spread in spreads]
    parts = combine([*times, host], [*sigmas, UNMEASURED], [*families, "host"], [*shared, 0.0])
    return interval(1.0, np.hypot(parts, stack))


def _by_regime(residuals: Residuals, seconds: FloatArray, kind: str) -> FloatArray:
    spread = residuals.spread
    otherwise = spread.get(f"{kind} all".strip(), spread["all"])
    by_number = np.array([spread.get(f"{kind} {regime}".strip(), otherwise) for regime in REGIMES])
    return np.asarray(by_number[regime_numbers(seconds)], dtype=np.float64)


def kernel_origin(device: Device, table: str, resource: str, folder: Path | None) -> tuple[Device | None, bool]:
    """Return the device that a kernel table belongs to, and whether this device borrows it.

    Parameters
    ----------
    device : Device
        What runs the kernel.
    table : str
        Name of the kernel table.
    resource : str
        What of the device runs it, as in :class:`~simulator.ops.Op`.
    folder : Path or None
        The user's profiles.
    """
    if resource == HOST:
        return None, True
    owner, borrowed, processor = device, False, device.processors.get(resource, device.main)
    while table not in processor.kernels:
        if processor.kernels_from is None:
            return None, True
        owner, borrowed = load_device(processor.kernels_from, folder), True
        processor = owner.main
    return owner, borrowed


def _transfer(device: Device, origin: Device, table: str, folder: Path | None) -> float:
    transfer = load_transfer(folder)
    alike = device.architecture == origin.architecture
    spreads = transfer.same_architecture if alike else transfer.other_architecture
    return spreads.get(family_of(table), spreads.get("all", BORROWED))
