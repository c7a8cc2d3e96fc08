"""Checking the parameters that a user gives a generator: plain numbers in, one clear message out."""

from __future__ import annotations

import inspect
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hardware_profiles.edge import shown
from hardware_profiles.errors import nearest
from workloads.errors import WorkloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Chosen = TypeVar("Chosen")


def number(key: str, value: Any, *, above: float | None = None, least: float = 0.0, most: float = math.inf) -> float:
    """Return ``value`` as a finite float within bounds, else raise a ``WorkloadError`` that names ``key``.

    Parameters
    ----------
    key : str
        Name for the message, with its path: ``arrivals.rate``.
    value : Any
        What the user gave.
    above : float, optional
        Exclusive lower bound; replaces ``least``.
    least, most : float
        Inclusive bounds.
    """
    low = f"above {above:g}" if above is not None else f"of at least {least:g}"
    expected = f"a number {low}" + (f" and at most {most:g}" if math.isfinite(most) else "")
    fits = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    fits = fits and not (isinstance(value, int) and value.bit_length() > 1023)
    fits = fits and math.isfinite(value) and (value > above if above is not None else value >= least) and value <= most
    if not fits:
        msg = f"{key}: got {shown(value)}, expected {expected}"
        raise WorkloadError(msg)
    return float(value)


def count(key: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """Return ``value`` as a whole number within bounds, else raise a ``WorkloadError`` that names ``key``.

    Parameters
    ----------
    key : str
        Name for the message.
    value : Any
        What a file or a caller gave.
    least, most : int
        Inclusive bounds; ``most`` None is none.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        msg = f"{key}: got {shown(value)}, expected a whole number of at least {least}{upper}"
        raise WorkloadError(msg)
    return int(value)


@lru_cache(maxsize=256)
def _accepted(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Keyword-only parameters of a function by name."""
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def choose(
    kinds: Mapping[str, Callable[..., Chosen]], key: str, kind: Any, parameters: Mapping[str, Any]
) -> Callable[..., Chosen]:
    """Look up the function of a kind and check that it takes exactly the parameters given.

    Parameters
    ----------
    kinds : mapping of str to function
        Functions whose keyword-only arguments are the parameters of their kind.
    key : str
        Name for the message: ``arrivals``.
    kind : Any
        The kind asked for.
    parameters : mapping
        The parameters given.

    Raises
    ------
    WorkloadError
        Unknown kind or parameter (nearest names given), or one that is missing.
    """
    if kind not in kinds:
        msg = f"{key}.kind: unknown kind {shown(kind)}; {nearest(str(kind)[:60], kinds)}"
        raise WorkloadError(msg)
    accepted = _accepted(kinds[kind])
    for name in parameters:
        if name not in accepted:
            hint = nearest(name, accepted) if accepted else "it takes none"
            msg = f"{key}.{name}: {kind} has no such parameter; {hint}"
            raise WorkloadError(msg)
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in parameters:
            msg = f"{key}.{name}: missing; kind {kind!r} needs it"
            raise WorkloadError(msg)
    return kinds[kind]
