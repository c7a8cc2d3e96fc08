"""What was read, generated or priced once, kept for whoever asks again: by fingerprint, or while its files stay so.

Every cache of a deployment is a shelf of the one store :data:`PRICES`, bounded and safe to share between threads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

from hardware_profiles.files import Stamp, note, noted, unchanged

T = TypeVar("T")
Shelf = Literal[
    "model",
    "hardware",
    "stack",
    "startup",
    "offer",
    "requests",
    "routing",
    "ground",
    "replay",
    "deployment",
    "derived",
]

#: Values of a kind that are kept [1].
_MOST: Mapping[Shelf, int] = {
    "model": 32,
    "hardware": 64,
    "stack": 32,
    "startup": 8,
    "offer": 64,
    "requests": 16,
    "routing": 8,
    "ground": 256,
    "replay": 64,
    "deployment": 256,
    "derived": 256,
}
#: Size of those that are large [bytes]; the last one asked for is kept whatever its size.
_ROOM: Mapping[Shelf, float] = {"deployment": 512e6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[T]):
    """Something that was read.

    Attributes
    ----------
    value
        What was read.
    files : tuple of Stamp
        The files and folders that were looked at, as they were then.
    """

    value: T
    files: tuple[Stamp, ...]


class Sized(Protocol):
    """Part of a value, which other values may share."""

    @property
    def nbytes(self) -> int:
        """Its size [bytes]."""


class Prices:
    """Shelves of values by key, from each of which the one asked for longest ago goes first.

    Where threads ask for one value at once, one makes it and the others wait. What could not be made is not kept.
    """

    def __init__(self, most: Mapping[Shelf, int] = _MOST, room: Mapping[Shelf, float] = _ROOM) -> None:
        self._most, self._room = most, room
        self._shelves: dict[Shelf, OrderedDict[Hashable, _Place]] = {shelf: OrderedDict() for shelf in most}
        self._lock = threading.Lock()

    def kept(self, shelf: Shelf, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, made when it is first asked for; the key must name all that it depends on."""
        return self._kept(shelf, key, lambda _: make(), lambda _: True)

    def grown(self, shelf: Shelf, key: Hashable, make: Callable[[T | None], T], serves: Callable[[T], bool]) -> T:
        """Return the value of a key, made larger from the one so far where that does not serve.

        Parameters
        ----------
        shelf : str
            Kind of the value.
        key : hashable
            Names all that the value depends on, but for how large it is.
        make : callable
            Makes it from the one so far, ``None`` at first.
        serves : callable
            Whether the one so far is large enough.
        """
        return self._kept(shelf, key, make, serves)

    def loaded(self, shelf: Shelf, key: Hashable, read: Callable[[], T]) -> T:
        """Return what was read for a key, read anew when a file that was looked at, or looked for, has changed."""

        def make(_: Loaded[T] | None) -> Loaded[T]:
            with noted() as files:
                value = read()
            return Loaded(value=value, files=tuple(files.values()))

        found = self._kept(shelf, key, make, lambda loaded: unchanged(loaded.files))
        # What is made from this value depends on these files too.
        note(found.files)
        return found.value

    def made(self, shelf: Shelf) -> list[Any]:
        """Return the values of a shelf that are made."""
        with self._lock:
            return [place.value for place in self._shelves[shelf].values() if place.value is not None]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            for shelf in self._shelves.values():
                shelf.clear()

    def _kept(self, shelf: Shelf, key: Hashable, make: Callable[[T | None], T], valid: Callable[[T], bool]) -> T:
        with self._lock:
            places = self._shelves[shelf]
            place = places.setdefault(key, _Place())
            places.move_to_end(key)
            while len(places) > self._most[shelf]:
                places.popitem(last=False)
        with place.lock:
            value = cast("T | None", place.value)
            if value is None or not valid(value):
                value = place.value = make(value)
                self._fit(shelf)
            return value

    def _fit(self, shelf: Shelf) -> None:
        """Let go what has no room."""
        room = self._room.get(shelf)
        if room is None:
            return
        with self._lock:
            places = self._shelves[shelf]
            while len(places) > 1 and _held(places.values()) > room:
                places.popitem(last=False)


def _held(places: Iterable[_Place]) -> int:
    """Size of values that say it; what several share counts once [bytes]."""
    parts: dict[int, int] = {}
    for place in places:
        held: Sequence[Sized] = getattr(place.value, "parts", ())
        parts.update({id(part): part.nbytes for part in held})
    return sum(parts.values())


class _Place:
    """Where one value stands, and the lock of the thread that makes it; ``None`` is not made yet."""

    __slots__ = ("lock", "value")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.value: object = None


#: The store of this process.
PRICES = Prices()


def digest(*values: object) -> str:
    """Sixteen hexadecimal digits that are equal for equal values, in every process.

    Parameters
    ----------
    *values
        Numbers, texts, ``None``, and mappings, sets, sequences and dataclasses of them.

    Examples
    --------
    >>> digest({"a": 1, "b": frozenset({"x", "y"})}) == digest({"b": frozenset({"y", "x"}), "a": 1})
    True
    """
    text = json.dumps(values, default=_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Put a value into what JSON knows; dataclasses keep their names, as two may have the same fields."""
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, *(getattr(value, field.name) for field in dataclasses.fields(value))]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no digest")
