"""Units at the edges: human units in files and on command lines, SI floats inside.

1 GB is 1e9 bytes and 1 GiB is 2**30 bytes; ``Gb`` are bits. Case matters, so that ``GB`` and ``Gb`` stay apart.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Literal, get_args

from hardware_profiles.errors import ProfileError

Dimension = Literal[
    "bytes",
    "bandwidth",
    "work",
    "compute",
    "intensity",
    "time",
    "frequency",
    "power",
    "energy",
    "energy_per_byte",
    "energy_per_flop",
    "money",
    "price",
    "one",
]

_DECIMAL: Mapping[str, float] = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY: Mapping[str, float] = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_SMALL: Mapping[str, float] = {"": 1.0, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12}


def _unit_table() -> dict[str, tuple[Dimension, float]]:
    """Map every unit to its dimension and to its size in the SI unit of that dimension."""
    table: dict[str, tuple[Dimension, float]] = {"1": ("one", 1.0), "%": ("one", 0.01), "bytes": ("bytes", 1.0)}
    byte_prefixes = {**_DECIMAL, "K": 1e3, **_BINARY}
    for prefix, size in byte_prefixes.items():
        table[f"{prefix}B"] = ("bytes", size)
        table[f"{prefix}B/s"] = ("bandwidth", size)
        table[f"{prefix}b/s"] = ("bandwidth", size / 8.0)
    for prefix, size in _DECIMAL.items():
        for operation in ("FLOP", "OP"):
            table[f"{prefix}{operation}"] = ("work", size)
            table[f"{prefix}{operation}/s"] = ("compute", size)
            table[f"{prefix}{operation}S"] = ("compute", size)
        table[f"{prefix}Hz"] = ("frequency", size)
        table[f"{prefix}W"] = ("power", size)
        table[f"{prefix}J"] = ("energy", size)
    for prefix, size in _SMALL.items():
        table[f"{prefix}s"] = ("time", size)
        table[f"{prefix}J"] = ("energy", size)
        table[f"{prefix}J/B"] = ("energy_per_byte", size)
        table[f"{prefix}J/b"] = ("energy_per_byte", size * 8.0)
        table[f"{prefix}J/FLOP"] = ("energy_per_flop", size)
    table["min"], table["h"] = ("time", 60.0), ("time", 3600.0)
    table["1/s"], table["mW"], table["Wh"], table["kWh"] = (
        ("frequency", 1.0),
        ("power", 1e-3),
        ("energy", 3600.0),
        ("energy", 3.6e6),
    )
    table["FLOP/B"] = table["OP/B"] = ("intensity", 1.0)
    table["USD"] = ("money", 1.0)
    table["USD/s"], table["USD/h"] = ("price", 1.0), ("price", 1.0 / 3600.0)
    return table


#: Least and largest time [s], and amount of anything else in SI units, that sums and quotients of a run still hold.
_TIMES, _AMOUNTS = (1e-30, 1e10), (1e-30, 1e30)

UNITS: Mapping[str, tuple[Dimension, float]] = _unit_table()

#: One everyday unit of each dimension, for messages and for writing values that were computed.
EXAMPLE_UNIT: Mapping[Dimension, str] = {
    "bytes": "GB",
    "bandwidth": "GB/s",
    "work": "GFLOP",
    "compute": "TFLOP/s",
    "intensity": "FLOP/B",
    "time": "us",
    "frequency": "GHz",
    "power": "W",
    "energy": "J",
    "energy_per_byte": "pJ/B",
    "energy_per_flop": "pJ/FLOP",
    "money": "USD",
    "price": "USD/h",
    "one": "1",
}


def to_si(value: object, unit: object, dimension: Dimension | None, where: str, *, zero_allowed: bool = False) -> float:
    """Convert a stated number to the SI unit of its dimension.

    Parameters
    ----------
    value : object
        What the file or the user gave as the magnitude; checked here to be a finite positive number.
    unit : object
        What was given as the unit; ``None`` or an empty text is a missing unit.
    dimension : Dimension or None
        The dimension that is expected; ``None`` takes whatever the unit has.
    where : str
        File and key, for the error message.
    zero_allowed : bool
        Whether 0 is a valid magnitude.

    Returns
    -------
    float
        Magnitude in bytes, bytes/s, FLOP, FLOP/s, FLOP/byte, s, Hz, W, J, J/byte, J/FLOP, USD, USD/s or 1.

    Raises
    ------
    ProfileError
        The unit is missing, unknown or of another dimension, or the number is not finite and positive.

    Examples
    --------
    >>> to_si(400, "Gb/s", "bandwidth", "nic")
    50000000000.0
    """
    expected = f"expected {dimension}, as in {EXAMPLE_UNIT[dimension]}" if dimension else "give one, as in GB/s or us"
    if unit is None or unit == "":
        raise ProfileError(f"{where}: {value!r} has no unit; {expected}")
    if not isinstance(unit, str) or unit not in UNITS:
        raise ProfileError(f"{where}: unknown unit {unit!r}; {_nearest_unit(str(unit), dimension)}")
    found, size = UNITS[unit]
    if dimension is not None and found != dimension:
        raise ProfileError(f"{where}: {value!r} {unit} is {found}; {expected}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ProfileError(f"{where}: {value!r} is not a number")
    if not math.isfinite(value):
        raise ProfileError(f"{where}: {value!r} {unit} is not finite")
    if value < 0 or (value == 0 and not zero_allowed):
        least = "zero or more" if zero_allowed else "greater than zero"
        raise ProfileError(f"{where}: {value!r} {unit} must be {least}")
    least_si, most_si = _TIMES if found == "time" else _AMOUNTS
    if value and not least_si <= value * size <= most_si:
        allowed = f"{least_si / size:.3g} to {most_si / size:.3g} {unit}"
        raise ProfileError(f"{where}: {value!r} {unit} is beyond all that there is; expected {allowed}")
    return float(value) * size


def parse_quantity_text(text: str, dimension: Dimension, where: str = "value", *, zero_allowed: bool = False) -> float:
    """Convert a text such as ``80 GB`` or ``2.5us`` to SI.

    A bare number is understood only where the quantity has no dimension.

    Parameters
    ----------
    text : str
        Number and unit, with or without a space between.
    dimension : str
        Dimension that the unit must have, as in :data:`UNITS`.
    where : str
        File and key, for the message.
    zero_allowed : bool
        Whether 0 is taken; a negative number never is.

    Returns
    -------
    float
        The quantity in SI units.

    Examples
    --------
    >>> parse_quantity_text("80 GB", "bytes")
    80000000000.0
    """
    match = re.fullmatch(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf))\s*(\S*)\s*", text)
    if match is None:
        raise ProfileError(f"{where}: {text!r} is not a number with a unit, as in '1.5 {EXAMPLE_UNIT[dimension]}'")
    number, unit = float(match[1]), match[2]
    if not unit and dimension == "one":
        unit = "1"
    return to_si(number, unit, dimension, where, zero_allowed=zero_allowed)


def format_seconds(seconds: float) -> str:
    """Write a time [s] with three significant digits and the unit that suits it; seconds up to two minutes.

    Examples
    --------
    >>> format_seconds(0.00123456)
    '1.23 ms'
    """
    if abs(seconds) >= 3600:
        return f"{_three_digits(seconds / 3600)} h"
    if abs(seconds) >= 120:
        return f"{_three_digits(seconds / 60)} min"
    return _format(seconds, "s", {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9})


def format_bytes(count: float) -> str:
    """Write a number of bytes with three significant digits, in powers of 1000.

    Examples
    --------
    >>> format_bytes(141e9)
    '141 GB'
    """
    return _format(count, "B", _DECIMAL)


def format_rate(rate: float, unit: str = "B/s") -> str:
    """Write a rate with three significant digits; ``unit`` is ``B/s``, ``FLOP/s``, ``Hz`` or ``W``.

    Examples
    --------
    >>> format_rate(989e12, "FLOP/s")
    '989 TFLOP/s'
    """
    return _format(rate, unit, _DECIMAL)


def _format(value: float, unit: str, prefixes: Mapping[str, float]) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    rounded = abs(float(f"{value:.2e}"))
    fitting = [p for p, size in prefixes.items() if size <= rounded * (1 + 1e-12)]
    prefix = max(fitting, key=prefixes.__getitem__) if fitting else min(prefixes, key=prefixes.__getitem__)
    return f"{_three_digits(value / prefixes[prefix])} {prefix}{unit}"


def _three_digits(value: float) -> str:
    """Three significant digits, and no exponent below a million."""
    rounded = float(f"{value:.2e}")
    return f"{rounded:.0f}" if 100 <= abs(rounded) < 1e6 else f"{rounded:.3g}"


def _nearest_unit(unit: str, dimension: Dimension | None) -> str:
    allowed = [u for u, (d, _) in UNITS.items() if dimension is None or d == dimension]
    same_letters = [u for u in allowed if u.lower() == unit.lower()]
    close = same_letters or difflib.get_close_matches(unit, allowed, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(u) for u in close) + "?"
    examples = [EXAMPLE_UNIT[dimension]] if dimension else [EXAMPLE_UNIT[d] for d in get_args(Dimension)]
    return "allowed, for example: " + ", ".join(examples)
