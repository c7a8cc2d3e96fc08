"""Arrival processes: when requests come."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.errors import WorkloadError
from workloads.parameters import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DAY = 86400.0

# One value per hour from midnight: quiet at 3 h, busy at 15 h, peak 2.3 x the trough. The shape is an assumption.
DAILY_PROFILE = tuple(1.0 + 0.4 * math.sin(2 * math.pi * (hour + 0.5 - 9.0) / 24) for hour in range(24))


def poisson(rng: np.random.Generator, requests: int, *, rate: Any) -> NDArray[np.float64]:
    """Independent arrivals at a constant mean rate.

    Parameters
    ----------
    rng : numpy.random.Generator
        The ``arrivals`` stream.
    requests : int
        How many.
    rate : float
        Mean rate [requests/s], above 0.

    Returns
    -------
    float64 array, shape (requests,)
        Arrival times [s].
    """
    return np.cumsum(rng.exponential(1.0, requests)) / number("arrivals.rate", rate, above=0)


def gamma(rng: np.random.Generator, requests: int, *, rate: Any, cv: Any) -> NDArray[np.float64]:
    """Renewal process with gamma-distributed gaps: bursty above ``cv`` = 1, regular below.

    Parameters
    ----------
    rng : numpy.random.Generator
        The ``arrivals`` stream.
    requests : int
        How many.
    rate : float
        Mean rate [requests/s], above 0.
    cv : float
        Coefficient of variation of the gaps, above 0 [-].

    Returns
    -------
    float64 array, shape (requests,)
        Arrival times [s].

    Notes
    -----
    Shape ``1 / cv**2`` and scale ``cv**2 / rate``. ``vllm bench serve --burstiness`` is the shape.
    """
    shape = number("arrivals.cv", cv, above=0) ** -2
    gaps = rng.gamma(shape, 1.0 / shape, requests)
    return np.cumsum(gaps) / number("arrivals.rate", rate, above=0)


def constant(rng: np.random.Generator, requests: int, *, rate: Any) -> NDArray[np.float64]:  # noqa: ARG001
    """Evenly spaced arrivals, the first at 0.

    Parameters
    ----------
    rng : numpy.random.Generator
        Not used: nothing here is random.
    requests : int
        How many.
    rate : float
        Rate [requests/s], above 0.
    """
    return np.arange(requests) / number("arrivals.rate", rate, above=0)


def diurnal(
    rng: np.random.Generator,
    requests: int,
    *,
    rate: Any,
    profile: Any = DAILY_PROFILE,
    period: Any = DAY,
    start: Any = 0.0,
) -> NDArray[np.float64]:
    """Poisson arrivals whose rate follows a profile that repeats every period.

    Parameters
    ----------
    rng : numpy.random.Generator
        The ``arrivals`` stream.
    requests : int
        How many.
    rate : float
        Rate averaged over a period [requests/s], above 0.
    profile : sequence of float
        Relative rates of equal parts of the period, at least 0; only their ratios count [-].
    period : float
        Length of the profile [s].
    start : float
        Where in the period the trace begins [s].

    Returns
    -------
    float64 array, shape (requests,)
        Arrival times [s].

    Notes
    -----
    Time rescaling: a unit-rate Poisson process is mapped through the inverse of the cumulative rate [1]_, which is
    piecewise linear here, so the process is exact.

    References
    ----------
    .. [1] E. Çinlar, Introduction to Stochastic Processes, 1975, section 4.7.
    """
    mean = number("arrivals.rate", rate, above=0)
    length = number("arrivals.period", period, above=0)
    offset = number("arrivals.start", start) % length
    if not hasattr(profile, "__len__") or not len(profile):
        msg = f"arrivals.profile: got {profile!r}, expected a list of relative rates"
        raise WorkloadError(msg)
    weights = np.array([number(f"arrivals.profile[{i}]", weight) for i, weight in enumerate(profile)])
    if not weights.sum() > 0:
        msg = "arrivals.profile: all rates are 0, expected at least one above 0"
        raise WorkloadError(msg)
    # Requests expected by the end of each part of one period, from the period's start.
    expected = np.concatenate([[0.0], np.cumsum(weights / weights.sum())]) * mean * length
    edges = np.linspace(0.0, length, len(weights) + 1)
    before = np.interp(offset, edges, expected)
    target = before + np.cumsum(rng.exponential(1.0, requests))
    periods, within = np.divmod(target, expected[-1])
    return periods * length + np.interp(within, expected, edges) - offset


def closed_loop(rng: np.random.Generator, requests: int, *, concurrency: Any) -> NDArray[np.float64]:  # noqa: ARG001
    """No arrival times: ``concurrency`` requests are in flight, the next starts when one ends.

    Parameters
    ----------
    rng : numpy.random.Generator
        Not used: nothing here is random.
    requests : int
        How many.
    concurrency : int
        Requests in flight, at least 1; ``generate_requests`` checks it and stores it in the trace.
    """
    return np.zeros(requests)


def at_once(rng: np.random.Generator, requests: int) -> NDArray[np.float64]:  # noqa: ARG001
    """All requests arrive at time 0.

    Parameters
    ----------
    rng : numpy.random.Generator
        Not used: nothing here is random.
    requests : int
        How many.
    """
    return np.zeros(requests)


ARRIVALS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "poisson": poisson,
    "gamma": gamma,
    "constant": constant,
    "diurnal": diurnal,
    "closed_loop": closed_loop,
    "at_once": at_once,
}
