"""Arithmetic on one number or on one for each of many loads: what solves one load solves thousands as it stands."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

#: A float, or an array with one of each load.
Number: TypeAlias = Any


def larger(one: Number, other: Number) -> Number:
    """Return the larger of two."""
    # NOTE: told apart, because numpy takes ten times as long for two floats.
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.maximum(one, other)
    return max(one, other)


def smaller(one: Number, other: Number) -> Number:
    """Return the smaller of two."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.minimum(one, other)
    return min(one, other)


def some(expected: Number) -> Number:
    """Chance that any event happens of a Poisson number with so many expected: 1 - exp(-x) [1]."""
    return -np.expm1(-expected) if isinstance(expected, np.ndarray) else -math.expm1(-expected)


def rounded_up(number: Number) -> Number:
    """Return the next whole number."""
    return np.ceil(number) if isinstance(number, np.ndarray) else math.ceil(number)


def chosen(condition: Number, one: Number, other: Number) -> Number:
    """Return the one where the condition holds, else the other."""
    if isinstance(condition, np.ndarray):
        return np.where(condition, one, other)
    return one if condition else other
