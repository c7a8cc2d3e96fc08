"""A folder of TOML files, one value each, that is asked by id, by alias, or for a file of one's own by its path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from hardware_profiles.edge import read_toml, shown_path, understanding
from hardware_profiles.files import Stamp, stamp
from simulator.errors import ProfileError, nearest


class Named(Protocol):
    """What a catalogue holds."""

    @property
    def id(self) -> str:
        """The name that it is known by."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names, in lower case."""


T = TypeVar("T", bound=Named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue(Generic[T]):
    """Values by name; what was read from a file is kept until the file changes.

    Attributes
    ----------
    folder : Path
        Holds ``*.toml``.
    what : str
        What one file describes, for the message about one that is no TOML.
    read : callable
        Makes a value of what a file of that name holds, or raises :class:`ProfileError`.
    unknown : str
        Begins the message about a name that nobody has: the scenario's key and what it should name.
    """

    folder: Path
    what: str
    read: Callable[[Mapping[str, Any], str], T]
    unknown: str

    def names(self) -> tuple[str, ...]:
        """Ids of all values, in order of their files' names."""
        return tuple(self._all())

    def load(self, name: str) -> T:
        """Return a value by id or alias, in any case, or by the path of a TOML file.

        Raises
        ------
        ProfileError
            No such name, in which case the message names the nearest, or a malformed file.
        """
        if name.endswith(".toml"):
            return self._load(Path(name))
        wanted = name.lower()
        for value in self._all().values():
            if wanted == value.id or wanted in value.aliases:
                return value
        raise ProfileError(f"{self.unknown} {name!r}; {nearest(wanted, self.names())}")

    def _all(self) -> Mapping[str, T]:
        stamp(self.folder)
        values = [self._load(path) for path in sorted(self.folder.glob("*.toml"))]
        return {value.id: value for value in values}

    def _load(self, path: Path) -> T:
        return cast("T", _loaded(self.what, self.read, stamp(path)))


@lru_cache(maxsize=64)
def _loaded(what: str, read: Callable[[Mapping[str, Any], str], Any], file: Stamp) -> object:
    path = Path(file[0])
    data = read_toml(path, ProfileError)
    with understanding(f"{path}: not a readable {what} file", ProfileError):
        return read(data, shown_path(path))
