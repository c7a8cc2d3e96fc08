"""How far predictions with a device's kernel tables were from measurements, by regime, and over which shapes.

Residuals stand beside the kernel tables: ``residuals/<device>.toml`` in a catalogue, one table per kernel table, and
``residuals/_transfer.toml`` with what is added where one device borrows the kernels of another.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hardware_profiles.edge import is_file, read_toml, understanding
from hardware_profiles.errors import ProfileError, nearest
from hardware_profiles.files import Stamp, stamp
from hardware_profiles.loader import catalogue_folders
from hardware_profiles.schema import Status

T = TypeVar("T")
_TRANSFER = "_transfer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """How far the predictions of one kernel table are off.

    Attributes
    ----------
    spread : Mapping of str to float
        Standard deviation of log(measured / predicted) by regime [1], of a normal distribution with the same 80 %
        interval; ``all`` over all regimes.
    ranges : Mapping of str to (float, float)
        Least and largest value of each axis of the shapes that were measured.
    rows : int
        Measured rows that the predictions were compared with, none of which was fitted on.
    source, date, note : str
        Where the measurements come from.
    status : Status
        ``measured``, or ``assumption`` where a similar kernel's residuals were taken.
    """

    spread: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]
    rows: int
    source: str
    status: Status
    date: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What borrowing kernels adds to the spread [1], by kernel family, within an architecture and between two."""

    same_architecture: Mapping[str, float]
    other_architecture: Mapping[str, float]


def load_residuals(device: str, folder: Path | None = None) -> Mapping[str, Residuals]:
    """Load the residuals of a device by kernel table; the user's come before the built-in ones.

    Parameters
    ----------
    device : str
        Id of a device.
    folder : Path or None
        The user's profiles; ``None`` looks at ``MOESIM_PROFILES``.

    Raises
    ------
    ProfileError
        A file is malformed.
    """
    found: dict[str, Residuals] = {}
    for root in reversed(catalogue_folders(folder)):
        found |= _cached(_parse, root / "residuals" / f"{device}.toml")
    return found


def load_transfer(folder: Path | None = None) -> Transfer:
    """Load what borrowing kernels adds to the spread; the user's figures come before the built-in ones."""
    merged: dict[str, dict[str, float]] = {"same_architecture": {}, "other_architecture": {}}
    for root in reversed(catalogue_folders(folder)):
        for kind, values in _cached(_parse_transfer, root / "residuals" / f"{_TRANSFER}.toml").items():
            if kind not in merged:
                raise ProfileError(f"residuals/{_TRANSFER}.toml: unknown table {kind!r}; {nearest(kind, merged)}")
            merged[kind] |= values
    return Transfer(**merged)


def _parse(tables: Mapping[str, Any], file: str) -> Mapping[str, Residuals]:
    return {table: _residuals(values, f"residuals/{file}: {table!r}") for table, values in tables.items()}


def _parse_transfer(tables: Mapping[str, Any], file: str) -> Mapping[str, Mapping[str, float]]:
    return {
        kind: {n: _spread(v, f"residuals/{file}: {kind}.{n}") for n, v in values.items() if n != "_provenance"}
        for kind, values in tables.items()
    }


def _residuals(values: Mapping[str, Any], where: str) -> Residuals:
    try:
        provenance, spread, ranges = values["_provenance"], values["spread"], values.get("range", {})
        spreads = {regime: _spread(value, f"{where}.spread.{regime}") for regime, value in spread.items()}
        if "all" not in spreads:
            raise ProfileError(f"{where}: spread has no entry 'all'")
        return Residuals(
            spread=spreads,
            ranges={axis: (float(low), float(high)) for axis, (low, high) in ranges.items()},
            rows=int(provenance["rows"]),
            source=str(provenance["source"]),
            status=provenance["status"],
            date=str(provenance.get("date", "")),
            note=str(provenance.get("note", "")),
        )
    except KeyError as error:
        raise ProfileError(f"{where}: missing key {error}") from None
    except (TypeError, ValueError) as error:
        raise ProfileError(f"{where}: {error}") from None


def _spread(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ProfileError(f"{where}: a spread is a number from 0 on, got {value!r}")
    return float(value)


def _cached(parse: Callable[[Mapping[str, Any], str], Mapping[str, T]], path: Path) -> Mapping[str, T]:
    """Parse a file, if there is one, and keep what it says until it changes."""
    file = stamp(path)
    return _read(parse, file) if is_file(path) else {}


@functools.lru_cache(maxsize=64)
def _read(parse: Callable[[Mapping[str, Any], str], Mapping[str, Any]], file: Stamp) -> Mapping[str, Any]:
    path = Path(file[0])
    data = read_toml(path, ProfileError)
    with understanding(f"residuals/{path.name}: not a readable file of residuals", ProfileError):
        return parse(data, path.name)
