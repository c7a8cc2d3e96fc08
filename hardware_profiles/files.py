"""What files were looked at, and whether they are still as they were: what caches of what was read go by.

Readers :func:`stamp` every file and folder that decides what they return, also those that they look for in vain. A
stamp is the key of what was read from a file; :func:`noted` collects all stamps of a block, so that what was made in
it can be kept as long as they are :func:`unchanged`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

#: Path, times of change of content and of state [ns], size [bytes], inode, and when a file that is new was looked at.
Stamp = tuple[str, int, int, int, int, int]

#: A file younger than this may change again without a new time, as clocks of file systems tick slowly [ns].
_NEW = 20_000_000

_NOTES: ContextVar[dict[str, Stamp] | None] = ContextVar("_NOTES", default=None)


@dataclass(frozen=True, slots=True)
class _Still:
    """What was found inside :func:`still`: stamps by path, and whether all stamps of a collection are unchanged."""

    stamps: dict[str, Stamp] = field(default_factory=dict)
    unchanged: dict[int, tuple[Iterable[Stamp], bool]] = field(default_factory=dict)


_STILL: ContextVar[_Still | None] = ContextVar("_STILL", default=None)


def stamp(path: Path) -> Stamp:
    """Identity of the content of a file or of the names in a folder; all zeros where there is none."""
    found = _stamp(str(path))
    notes = _NOTES.get()
    if notes is not None:
        # The first look counts: what is read after it is at least as new.
        notes.setdefault(found[0], found)
    return found


@contextmanager
def noted() -> Iterator[dict[str, Stamp]]:
    """Collect the stamps that are taken inside, by path; those of an inner block count for the outer one too."""
    inner = dict[str, Stamp]()
    token = _NOTES.set(inner)
    try:
        yield inner
    finally:
        _NOTES.reset(token)
        note(inner.values())


@contextmanager
def still() -> Iterator[None]:
    """Look at every file once at most inside: what answers one question does not change meanwhile."""
    token = _STILL.set(_Still())
    try:
        yield
    finally:
        _STILL.reset(token)


def note(stamps: Iterable[Stamp]) -> None:
    """Count stamps taken earlier among those of this block, for something that was made then and is used now."""
    notes = _NOTES.get()
    if notes is not None:
        for each in stamps:
            notes.setdefault(each[0], each)


def unchanged(stamps: Iterable[Stamp]) -> bool:
    """Whether the files are as they were when they were stamped; never of one that was new then."""
    seen = _STILL.get()
    if seen is None:
        return all(_stamp(each[0]) == each for each in stamps)
    # The stamps are held with the answer, so that no others can take their identity.
    known = seen.unchanged.get(id(stamps))
    if known is None:
        known = seen.unchanged[id(stamps)] = stamps, all(_stamp(each[0]) == each for each in stamps)
    return known[1]


def contents(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal digits; empty where there is none that can be read."""
    return _digest(stamp(path))


@functools.lru_cache(maxsize=256)
def _digest(found: Stamp) -> str:
    try:
        with Path(found[0]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""


def _stamp(path: str) -> Stamp:
    seen = _STILL.get()
    if seen is None:
        return _looked_at(path)
    found = seen.stamps.get(path)
    if found is None:
        found = seen.stamps[path] = _looked_at(path)
    return found


def _looked_at(path: str) -> Stamp:
    try:
        state = os.stat(path)  # noqa: PTH116  # a third faster than Path.stat, and asked for all files of every answer
    except (OSError, ValueError):
        return path, 0, 0, 0, 0, 0
    changed, now = max(state.st_mtime_ns, state.st_ctime_ns), time.time_ns()
    new = now if now - _NEW < changed <= now else 0
    return path, state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino, new
