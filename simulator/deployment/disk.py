"""Arrays that outlive a process: one file each, under a name of all that they depend on.

What takes long to make and is asked for by the next process too is written into a folder of the user's. Nothing depends
on that: where the folder cannot be read or written, what it holds is damaged, or it goes while it is used, the arrays
are made anew. Whoever finds a file damaged removes it. A file is written under another name and then renamed, so that
processes at the same time see all of it or none.
"""

from __future__ import annotations

import functools
import json
import os
import re
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.units import parse_quantity_text
from simulator.deployment.prices import digest
from simulator.errors import OutputError

#: Names the folder; empty or ``off`` keeps nothing.
FOLDER_VARIABLE = "MOESIM_CACHE_DIR"
#: Most bytes that are kept, with a unit.
SIZE_VARIABLE = "MOESIM_CACHE_SIZE"
MOST_BYTES = 10**9

Kind = Literal["routing", "replay", "experts"]
Arrays = Mapping[str, NDArray[Any]]

_NAME = re.compile(r"([a-z]+)-[0-9a-f]{16}\.arrays")
_PARTIAL = ".partial"
#: A file that is still partial after this time was left by a process that was killed [s].
_ABANDONED = 3600.0
_MAGIC = b"moesim 1"
#: Magic, CRC-32 of all that follows it, and bytes of the description, which says what arrays follow.
_HEAD = struct.Struct("<8sII")
_CHECKED = 12
_ALIGNMENT = 64
_ROOTS = ("hardware_profiles", "workloads", "simulator")
_STARTED = time.time()
#: Share of all that is kept which is written before a folder is listed again, for other processes write there too [1].
_UNLISTED = 1 / 16
#: By folder and size: what may be written there before it is listed again [bytes].
_ROOM: dict[tuple[Path, int], float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of arrays.

    Attributes
    ----------
    kind : str
        What the arrays are.
    bytes : int
        Size of the file [bytes].
    used : float
        When it was written or read last [s since 1970].
    path : Path
        Where it lies.
    """

    kind: str
    bytes: int
    used: float
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskStore:
    """A folder of files of arrays, from which what was used longest ago goes first.

    Attributes
    ----------
    folder : Path
        Where they lie; made when something is written.
    most_bytes : int
        Size that they have together at most [bytes].
    """

    folder: Path
    most_bytes: int

    def load(self, kind: Kind, key: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of a key; ``None`` where there are none, or none that are whole."""
        path = self._path(kind, key)
        try:
            raw = np.fromfile(path, np.uint8)
        except OSError:
            return None
        found = _decode(raw, f"{kind} {key}")
        with suppress(OSError):
            if found is None:
                path.unlink()
            else:
                os.utime(path)
        return found

    def save(self, kind: Kind, key: str, arrays: Arrays) -> None:
        """Keep arrays under a key, if they can be kept."""
        parts = _encode(f"{kind} {key}", arrays)
        size = sum(map(len, parts))
        if size > self.most_bytes:
            return
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size)
            self._write(self._path(kind, key), parts)

    def entries(self) -> list[Entry]:
        """List what is kept, the one used longest ago first."""
        found = []
        for path, state in self._files():
            if name := _NAME.fullmatch(path.name):
                found.append(Entry(kind=name[1], bytes=state.st_size, used=state.st_mtime, path=path))
        return sorted(found, key=lambda entry: (entry.used, entry.path))

    def clear(self) -> list[Entry]:
        """Remove all that is kept, nothing else, and return what it was.

        Raises
        ------
        OutputError
            A file cannot be removed.
        """
        entries = self.entries()
        try:
            for path in [*(entry.path for entry in entries), *self._partial(time.time() + 1.0)]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot remove {error.filename}: {error.strerror}") from error
        with suppress(OSError):
            self.folder.rmdir()
        return entries

    def fault(self) -> str | None:
        """Try to write, and say why that is not possible; ``None`` where it is."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder, suffix=_PARTIAL) as file:
                file.write(_MAGIC)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _path(self, kind: Kind, key: str) -> Path:
        return self.folder / f"{kind}-{key}.arrays"

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Files of the folder that are there long enough to be looked at."""
        with suppress(OSError), os.scandir(self.folder) as found:
            for item in found:
                with suppress(OSError):
                    if item.is_file(follow_symlinks=False):
                        yield Path(item.path), item.stat(follow_symlinks=False)

    def _partial(self, before: float) -> list[Path]:
        """Files of ours that are not whole and were last written before a time [s since 1970]."""
        return [path for path, state in self._files() if path.suffix == _PARTIAL and state.st_mtime < before]

    def _make_room(self, size: int) -> None:
        here = self.folder, self.most_bytes
        room = _ROOM.get(here, 0.0) - size
        if room < 0.0:
            held = self._make_listed_room(size)
            room = min(self.most_bytes - held - size, _UNLISTED * self.most_bytes)
        _ROOM[here] = room

    def _make_listed_room(self, size: int) -> int:
        """Remove what has no room beside so many bytes, and return the size of the rest [bytes]."""
        for path in self._partial(time.time() - _ABANDONED):
            path.unlink(missing_ok=True)
        entries = self.entries()
        held = sum(entry.bytes for entry in entries)
        for entry in entries:
            if held + size <= self.most_bytes:
                break
            entry.path.unlink(missing_ok=True)
            held -= entry.bytes
        return held

    def _write(self, target: Path, parts: list[bytes | memoryview]) -> None:
        # Not synchronised: what a crash leaves of it is found damaged, and made anew.
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=target.stem, suffix=_PARTIAL)
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(parts)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def disk_store() -> DiskStore | None:
    """Return the store that the environment asks for; ``None`` where it is switched off or there is no place for it.

    Raises
    ------
    ProfileError
        ``MOESIM_CACHE_SIZE`` is not a size.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named is not None and named.strip() in ("", "off"):
        return None
    said = os.environ.get(SIZE_VARIABLE)
    most = MOST_BYTES if said is None else int(parse_quantity_text(said, "bytes", SIZE_VARIABLE, zero_allowed=True))
    folder = _usual_folder() if named is None else _named_folder(named)
    return None if folder is None else DiskStore(folder=folder, most_bytes=most)


def kept_on_disk(kind: Kind, said: object, make: Callable[[], Arrays]) -> Arrays:
    """Return arrays that an earlier process made, or make them, and keep them for the next.

    Parameters
    ----------
    kind : str
        What they are.
    said : object
        All that they depend on beside the code, as :func:`~simulator.deployment.prices.digest` takes it; for a file its
        contents.
    make : callable
        Makes them.
    """
    place = _place(kind, said)
    if place is None:
        return make()
    store, key = place
    arrays: Arrays | None = store.load(kind, key)
    if arrays is None:
        arrays = make()
        store.save(kind, key, arrays)
    return arrays


def recall(kind: Kind, said: object) -> Arrays | None:
    """Return arrays that an earlier process kept; parameters as for :func:`kept_on_disk`."""
    place = _place(kind, said)
    return None if place is None else place[0].load(kind, place[1])


def keep(kind: Kind, said: object, arrays: Arrays) -> None:
    """Keep arrays in the place of those that were kept before; parameters as for :func:`kept_on_disk`."""
    place = _place(kind, said)
    if place is not None:
        place[0].save(kind, place[1], arrays)


def _place(kind: Kind, said: object) -> tuple[DiskStore, str] | None:
    store, code = disk_store(), code_digest()
    return None if store is None or code is None else (store, digest(kind, said, code))


@functools.cache
def code_digest() -> str | None:
    """Name the code that makes arrays: ours, line by line, and the release of NumPy.

    ``None`` where a file of ours has changed since this process began: it runs what the file said before.
    """
    said = [np.__version__]
    above = Path(__file__).parents[2]
    try:
        for path in sorted(file for root in _ROOTS for file in _sources(str(above / root))):
            state = os.stat(path)  # noqa: PTH116  # as in _sources
            if max(state.st_mtime, state.st_ctime) > _STARTED:
                return None
            with open(path, "rb") as file:  # noqa: PTH123
                said.append(f"{path.removeprefix(str(above))} {zlib.crc32(file.read())}")
    except OSError:
        return None
    return digest(said)


def _sources(folder: str) -> Iterator[str]:
    """Files of Python below a folder."""
    # NOTE: os.scandir, because pathlib takes five times as long, which every start would pay.
    with os.scandir(folder) as found:
        for item in found:
            if item.is_dir():
                yield from _sources(item.path)
            elif item.name.endswith(".py"):
                yield item.path


def _named_folder(name: str) -> Path | None:
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return None


def _usual_folder() -> Path | None:
    """Where the system keeps what a program can make anew; ``None`` for a user without a home."""
    # Not imported above: only a process that has something to keep needs it.
    from platformdirs import user_cache_path

    folder = user_cache_path("moesim", appauthor=False)
    return folder if folder.is_absolute() else None


def _encode(key: str, arrays: Arrays) -> list[bytes | memoryview]:
    """Write arrays as bytes, each aligned."""
    whole = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    if any(array.dtype.hasobject for array in whole.values()):
        raise TypeError("arrays of objects are not kept on disk")
    says = [[name, array.dtype.str, array.shape] for name, array in whole.items()]
    text = json.dumps({"key": key, "arrays": says}).encode()
    text += b" " * (-(_HEAD.size + len(text)) % _ALIGNMENT)
    body: list[bytes | memoryview] = [text]
    for array in whole.values():
        body += [array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % _ALIGNMENT)]
    check = zlib.crc32(struct.pack("<I", len(text)))
    for part in body:
        check = zlib.crc32(part, check)
    return [_HEAD.pack(_MAGIC, check, len(text)), *body]


def _decode(raw: NDArray[np.uint8], key: str) -> dict[str, NDArray[Any]] | None:
    """Read arrays from the bytes of a file; ``None`` if they are not what was written under this key."""
    if len(raw) < _HEAD.size:
        return None
    magic, check, length = _HEAD.unpack(raw[: _HEAD.size].tobytes())
    if magic != _MAGIC or zlib.crc32(raw[_CHECKED:].data) != check:
        return None
    place = _HEAD.size + length
    said = json.loads(raw[_HEAD.size : place].tobytes())
    if said["key"] != key:
        return None
    arrays = {}
    for name, dtype, shape in said["arrays"]:
        size = np.dtype(dtype).itemsize * int(np.prod(shape))
        arrays[name] = raw[place : place + size].view(dtype).reshape(shape)
        place += size + -size % _ALIGNMENT
    return arrays
