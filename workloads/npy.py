"""NumPy files, their headers looked at before anything is allocated.

A header may claim a terabyte in a file of a hundred bytes, and a megabyte of zeros may stand for a gigabyte.
"""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.edge import reason, shown, shown_path
from workloads.errors import TraceFormatError

#: Largest array that is read [bytes], and from what size on and by what factor a compressed one is taken for a bomb.
MOST_BYTES, _SUSPECT_BYTES, _SUSPECT_RATIO = 2**30, 64 * 2**20, 400

_MOST = f"{MOST_BYTES / 2**30:g} GiB"

#: What reading a damaged or hostile file may raise.
_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    MemoryError,
    OverflowError,
)


def read_npz(file: Path, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read arrays of an ``.npz``: those of ``wanted`` that it has, or all.

    Raises
    ------
    TraceFormatError
        It is no archive of plain arrays, it is encrypted or damaged, or an array is too large.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            chosen = [name for name in members if wanted is None or name in wanted]
            total, found = 0, {}
            for name in chosen:
                entry = members[name]
                if entry.flag_bits & 1:
                    _fail(file, f"array {shown(name)} is encrypted")
                with archive.open(entry) as opened:
                    total += _require_small(file, opened, entry.file_size, shown(name), entry.compress_size)
                if total > MOST_BYTES:
                    _fail(
                        file, f"its arrays take {total / 2**30:,.1f} GiB, expected at most {MOST_BYTES / 2**30:g} GiB"
                    )
                with archive.open(entry) as opened:
                    found[name] = np.asarray(np.lib.format.read_array(opened, allow_pickle=False))
            return found
    except _FAULTS as error:
        _fail(file, f"not an npz archive of plain arrays, or a truncated one ({reason(error)})")


def npz_names(file: Path) -> tuple[str, ...]:
    """List the arrays of an ``.npz``."""
    try:
        with zipfile.ZipFile(file) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except _FAULTS as error:
        _fail(file, f"not an npz archive, or a truncated one ({reason(error)})")


def read_npy(file: Path) -> NDArray[Any]:
    """Read the array of an ``.npy``.

    Raises
    ------
    TraceFormatError
        It holds no plain array, it is cut short, or the array is too large.
    """
    try:
        with file.open("rb") as opened:
            _require_small(file, opened, file.stat().st_size, "", 0)
            opened.seek(0)
            return np.asarray(np.lib.format.read_array(opened, allow_pickle=False))
    except _FAULTS as error:
        _fail(file, f"not a .npy of a plain array ({reason(error)})")


def _require_small(file: Path, opened: IO[bytes], stored: int, name: str, compressed: int) -> int:
    """Return the size of an array by its header [bytes], if so much is there and it is not too much."""
    version = np.lib.format.read_magic(opened)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    label = f"array {name}: " if name else ""
    if header is None:
        _fail(file, f"{label}written in a version {version} of the format that is not read, expected 1.0 or 2.0")
    shape, _, dtype = header(opened)
    size = prod(shape) * dtype.itemsize
    if size > MOST_BYTES:
        _fail(file, f"{label}its header claims {size / 2**30:,.1f} GiB, expected at most {_MOST}")
    if size > stored:
        _fail(file, f"{label}its header claims {size:,} bytes, but {stored:,} are there; the file looks truncated")
    if size > _SUSPECT_BYTES and size > _SUSPECT_RATIO * max(compressed, 1) > 0 and compressed:
        _fail(file, f"{label}{compressed:,} bytes expand to {size:,}: no recording is so uniform")
    return size


def _fail(file: Path, what: str) -> NoReturn:
    raise TraceFormatError(f"{shown_path(file)}: {what}")
