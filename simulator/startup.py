"""What it takes to start, load and move: constants of a stack on a kind of device, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hardware_profiles.edge import shown
from hardware_profiles.parse import check_keys, parse_aliases, parse_quantity, parse_text
from hardware_profiles.schema import Quantity
from simulator.catalogue import Catalogue
from simulator.errors import ProfileError

#: Dimension of each number of a file.
_DIMENSIONS: Mapping[str, str] = {
    "command": "time",
    "message": "time",
    "staging_bandwidth": "bandwidth",
    "disk_selective": "bandwidth",
    "disk_streaming": "bandwidth",
    "standby": "time",
    "standby_per_device": "time",
    "warmup": "time",
    "server_start": "time",
    "contention": "one",
    "expert_tensors": "one",
    "layer_tensors": "one",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup:
    """Start-up constants.

    Attributes
    ----------
    numbers : Mapping of str to Quantity
        ``command`` [s] to plan a change and share what is shared; ``message`` [s] per tensor that travels;
        ``staging_bandwidth`` [bytes/s] per device of the copy that an allocator without sharing needs;
        ``disk_selective`` and ``disk_streaming`` [bytes/s] of all devices together; ``standby`` [s] and
        ``standby_per_device`` [s] to boot an instance that was not prepared; ``warmup`` [s] of the first pass per
        layer and device; ``server_start`` [s] of a stock server; ``contention`` [1] on the steps of an instance
        while another starts on its devices; ``expert_tensors`` and ``layer_tensors`` [1].
    """

    id: str
    name: str
    numbers: Mapping[str, Quantity]
    aliases: tuple[str, ...] = ()

    def number(self, name: str) -> float:
        """Return one number in SI."""
        return self.numbers[name].value


def startup_names() -> tuple[str, ...]:
    """List the built-in start-up profiles."""
    return _PROFILES.names()


def load_startup(name: str) -> Startup:
    """Return a start-up profile by id, alias, or the path of a TOML file of one's own.

    Raises
    ------
    ProfileError
        No such profile, in which case the message names the nearest, or a malformed file.
    """
    return _PROFILES.load(name)


def _read(data: Mapping[str, Any], file: str) -> Startup:
    check_keys(data, {"id", "name", "numbers"}, {"id", "name", "aliases", "numbers"}, file)
    numbers = data["numbers"]
    if not isinstance(numbers, dict):
        raise ProfileError(f"{file}: numbers: got {shown(numbers)}, expected a table")
    check_keys(numbers, _DIMENSIONS, _DIMENSIONS, f"{file}: numbers")
    return Startup(
        id=parse_text(data, "id", file),
        name=parse_text(data, "name", file),
        aliases=parse_aliases(data, file),
        numbers={key: _quantity(value, key, file) for key, value in numbers.items()},
    )


def _quantity(table: object, key: str, file: str) -> Quantity:
    # A bandwidth of 0 would never end; a factor below 1 would speed up.
    zero_allowed = _DIMENSIONS[key] == "time"
    quantity = parse_quantity(table, cast("Any", _DIMENSIONS[key]), f"{file}: numbers.{key}", zero_allowed=zero_allowed)
    if key == "contention" and quantity.value < 1.0:
        raise ProfileError(f"{file}: numbers.{key}: got {quantity.stated:g}; the factor on a step is at least 1")
    return quantity


_PROFILES = Catalogue(
    folder=Path(__file__).parent / "startups",
    what="start-up",
    read=_read,
    unknown="elastic.startup: unknown start-up profile",
)
