"""Distributions of prompt and answer lengths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.errors import WorkloadError
from workloads.parameters import count, number
from workloads.requests.trace import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def fixed(rng: np.random.Generator, requests: int, key: str, *, length: Any) -> NDArray[np.int64]:  # noqa: ARG001
    """Every request has the same length.

    Parameters
    ----------
    rng : numpy.random.Generator
        Not used: nothing here is random.
    requests : int
        How many.
    key : str
        Name for messages: ``input_tokens``.
    length : int
        The length [tokens], at least 1.
    """
    return np.full(requests, count(f"{key}.length", length, most=LONGEST), np.int64)


def uniform(rng: np.random.Generator, requests: int, key: str, *, length: Any, ratio: Any) -> NDArray[np.int64]:
    """Lengths uniform between ``ratio * length`` and ``length``, both included.

    Parameters
    ----------
    rng : numpy.random.Generator
        The ``lengths`` stream.
    requests : int
        How many.
    key : str
        Name for messages.
    length : int
        The longest [tokens], at least 1.
    ratio : float
        Shortest over longest, above 0 and at most 1 [-]. 0.8 is the "random range ratio" of the InferenceX runs.

    Notes
    -----
    The mean is ``length * (1 + ratio) / 2``: 0.9 ``length`` at a ratio of 0.8.
    """
    longest = count(f"{key}.length", length, most=LONGEST)
    shortest = max(1, round(longest * number(f"{key}.ratio", ratio, above=0, most=1)))
    return rng.integers(shortest, longest, requests, endpoint=True)


def lognormal(
    rng: np.random.Generator,
    requests: int,
    key: str,
    *,
    mean: Any,
    cv: Any,
    minimum: Any = 1,
    maximum: Any = LONGEST,
) -> NDArray[np.int64]:
    """Log-normal lengths, rounded and clipped.

    Parameters
    ----------
    rng : numpy.random.Generator
        The ``lengths`` stream.
    requests : int
        How many.
    key : str
        Name for messages.
    mean : float
        Mean before clipping [tokens], at least 1.
    cv : float
        Coefficient of variation before clipping, at least 0 [-].
    minimum, maximum : int
        Bounds [tokens]. Lengths beyond them are set to the bound, which shifts the mean where they cut deep.

    Notes
    -----
    ``sigma**2 = ln(1 + cv**2)`` and ``mu = ln(mean) - sigma**2 / 2``.
    """
    low = count(f"{key}.minimum", minimum, most=LONGEST)
    high = count(f"{key}.maximum", maximum, least=low, most=LONGEST)
    variance = math.log1p(number(f"{key}.cv", cv) ** 2)
    centre = math.log(number(f"{key}.mean", mean, least=1)) - variance / 2
    drawn = rng.lognormal(centre, math.sqrt(variance), requests)
    return np.clip(np.rint(drawn), low, high).astype(np.int64)


def empirical(rng: np.random.Generator, requests: int, key: str, *, values: Any) -> NDArray[np.int64]:
    """Lengths drawn with replacement from a list.

    Parameters
    ----------
    rng : numpy.random.Generator
        The ``lengths`` stream.
    requests : int
        How many.
    key : str
        Name for messages.
    values : sequence of int
        The lengths to draw from [tokens], each at least 1. To draw prompt and answer together from a recorded trace,
        give ``lengths_of`` to ``generate_requests`` instead.
    """
    if not hasattr(values, "__len__") or not len(values):
        msg = f"{key}.values: got {values!r}, expected a list of lengths"
        raise WorkloadError(msg)
    allowed = np.array([count(f"{key}.values[{i}]", value, most=LONGEST) for i, value in enumerate(values)])
    return allowed[rng.integers(len(allowed), size=requests)]


LENGTHS: dict[str, Callable[..., NDArray[np.int64]]] = {
    "fixed": fixed,
    "uniform": uniform,
    "lognormal": lognormal,
    "empirical": empirical,
}
