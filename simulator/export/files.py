"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import math
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import OutputError

#: The file that makes a folder a result of ours, and what it says of itself.
MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "moesim-result"


def write_atomically(path: str | Path, data: bytes | str) -> Path:
    """Write a file so that readers see the old content or the new one, never a part.

    Parameters
    ----------
    path : str or Path
        The file; missing folders above it are made.
    data : bytes or str
        The content; text is written as UTF-8.

    Returns
    -------
    Path
        The file, resolved.

    Raises
    ------
    OutputError
        If the file cannot be written; nothing is left behind.
    """
    target = Path(path).resolve()
    if target.is_dir():
        msg = f"cannot write the file {path}: it is a folder"
        raise OutputError(msg)
    staging = _staging(target)
    try:
        staging.write_bytes(data.encode() if isinstance(data, str) else data)
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.replace(target)
    except OSError as error:
        with suppress(OSError):
            staging.unlink()
        raise _not_writable(path, error) from error
    return target


@contextmanager
def output_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder to write into, which takes its place at ``path`` when the block ends.

    If the block raises, nothing has changed. A folder that an earlier run wrote is replaced; a folder that holds
    anything else is refused before the block begins.

    Parameters
    ----------
    path : str or Path
        The folder to make or replace.

    Yields
    ------
    Path
        A folder beside the target, on the same file system.

    Raises
    ------
    OutputError
        If the folder cannot be made, or holds what no earlier run wrote.
    """
    target = Path(path).resolve()
    _refuse_foreign_content(path, target)
    staging = _staging(target)
    try:
        staging.mkdir()
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        yield staging
        _refuse_foreign_content(path, target)
        _replace_folder(path, target, staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def check_output_folder(path: str | Path) -> None:
    """Refuse a folder that :func:`output_folder` could not write, before any work is done for it.

    Parameters
    ----------
    path : str or Path
        The folder that will be made or replaced.

    Raises
    ------
    OutputError
        If the folder cannot be made, or holds what no earlier run wrote.
    """
    target = Path(path).resolve()
    _refuse_foreign_content(path, target)
    probe = _staging(target)
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _not_writable(path, error) from error


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


def _staging(target: Path) -> Path:
    """Name a fresh hidden path in the nearest folder above ``target`` that exists, so that a rename suffices."""
    home = target.parent
    while not home.exists() and home != home.parent:
        home = home.parent
    return home / f".{target.name}.{secrets.token_hex(4)}.partial"


def _not_writable(path: str | Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {path}: {reason}; choose a place that you may write to")


def _refuse_foreign_content(path: str | Path, target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        msg = f"cannot write the folder {path}: a file of that name is there; choose another name"
        raise OutputError(msg)
    try:
        foreign = _foreign_files(target)
    except OSError as error:
        raise _not_writable(path, error) from error
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        msg = (
            f"will not replace {path}: it holds {shown}, which no earlier run wrote; "
            "name a new or empty folder, or one that holds an earlier result alone"
        )
        raise OutputError(msg)


def _foreign_files(folder: Path) -> list[str]:
    """List what ``folder`` holds that its manifest does not name; everything where there is no manifest of ours."""
    found = {item.name for item in folder.iterdir()}
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return sorted(found)
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        return sorted(found)
    return sorted(found - {MANIFEST_NAME, *manifest.get("files", {})})


def _replace_folder(path: str | Path, target: Path, staging: Path) -> None:
    """Move ``staging`` to ``target``; put the old folder back if that fails."""
    old = staging.with_suffix(".old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.replace(old)
        try:
            staging.replace(target)
        except OSError:
            if old.exists():
                old.replace(target)
            raise
    except OSError as error:
        raise _not_writable(path, error) from error
    shutil.rmtree(old, ignore_errors=True)
