"""Documents as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def encode_json(document: Mapping[str, Any], *, indent: int | None = 2) -> bytes:
    """Encode a document as JSON; numbers that JSON cannot hold (NaN, infinities) become null.

    Parameters
    ----------
    document : Mapping
        Plain values, NumPy scalars and arrays, nested.
    indent : int or None
        Spaces per level; None for one line, which is ten times faster on long arrays.

    Returns
    -------
    bytes
        UTF-8, keys in the given order, closed by a line feed.

    Examples
    --------
    >>> encode_json({"rate": float("nan"), "steps": 3}, indent=None)
    b'{"rate": null, "steps": 3}\\n'
    """
    try:
        text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False, default=plain)
    except ValueError:
        # Only a document with a number that JSON cannot hold pays for being copied.
        text = json.dumps(plain(document), indent=indent, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def plain(value: object) -> object:
    """Turn nested values into what JSON can hold: NumPy to Python, tuples to lists, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
