"""The folder of a result: it appears whole, takes the place of an earlier result alone, and nothing else is touched.

A new folder is prepared beside its place and renamed. One that exists is kept, with its permissions, its mount and
whoever works in it: the files are prepared inside it and then moved, the manifest first out and last in, under a lock.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from hardware_profiles.edge import shown, shown_path
from hardware_profiles.outputs import is_debris, locked, make_locked, nearest_folder, not_writable, remove_debris
from simulator.errors import OutputError

#: The file that makes a folder a result of ours, and what it says of itself.
MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "moesim-result"
#: All files that a result may have.
RESULT_FILES = frozenset(
    {
        MANIFEST_NAME,
        "scenario.toml",
        "summary.json",
        "vllm_bench.json",
        "trace.json",
        "requests.parquet",
        "steps.parquet",
        *(f"scaling_{name}.parquet" for name in ("changes", "phases", "instances", "timeline")),
    }
)

#: The manifest of the result that is being replaced, if any, while files are moved. Where that is not brought to its
#: end, the next run learns from it and from the manifest beside it which files are ours.
_REPLACED = "replaced.json"
#: Where the files go that are replaced.
_AWAY = "replaced"
#: Largest manifest of ours [bytes].
_MOST_MANIFEST = 2**20
#: How long a run waits for another that moves files into the same folder [s].
_PATIENCE = 10.0
#: Files that may be there and are not ours, of which a message names some.
_NAMED = 3


def check_output_folder(path: str | Path, least: float = 0.0) -> Path:
    """Refuse a folder that :func:`output_folder` could not write, before any work is done for it.

    Parameters
    ----------
    path : str or Path
        The folder that will be made or filled.
    least : float
        Room that the result will take at least [bytes].

    Returns
    -------
    Path
        The folder, absolute and with links followed: the same one wherever the process goes.

    Raises
    ------
    OutputError
        If the folder cannot be made, is read-only, has no room, or holds what no earlier run wrote.
    """
    target = _target(path)
    home = target if target.is_dir() else nearest_folder(target)
    try:
        if home == target:
            with locked(target, _PATIENCE):
                _refuse_foreign_content(path, target)
        _require_room(path, home, least)
        staging, lock = make_locked(home, target.name, Path.mkdir)
        os.close(lock)
        staging.rmdir()
    except OSError as fault:
        raise not_writable(path, fault, OutputError) from fault
    return target


@contextmanager
def output_folder(path: str | Path) -> Iterator[tuple[Path, Path]]:
    """Give an empty folder to write into, whose files are at ``path`` when the block ends.

    If the block raises, nothing has changed. Files of an earlier run are replaced; a folder that holds anything else is
    left as it is.

    Parameters
    ----------
    path : str or Path
        The folder to make or fill.

    Yields
    ------
    (Path, Path)
        A folder on the same file system, to write into; and where its files will be.

    Raises
    ------
    OutputError
        If the folder cannot be made, or holds what no earlier run wrote.
    """
    target = _target(path)
    home = target if target.is_dir() else nearest_folder(target)
    try:
        remove_debris(nearest_folder(target), target.name)
        staging, lock = make_locked(home, target.name, Path.mkdir)
    except OSError as fault:
        raise not_writable(path, fault, OutputError) from fault
    try:
        yield staging, target
        if not _made(staging, target):
            _fill(path, target, staging)
    except OSError as fault:
        raise not_writable(path, fault, OutputError) from fault
    finally:
        os.close(lock)
        if not (staging / _REPLACED).exists():
            shutil.rmtree(staging, ignore_errors=True)


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _target(path: str | Path) -> Path:
    """Find out where a folder is, and refuse one that may not be filled."""
    where = shown_path(path)
    try:
        target = Path(os.path.realpath(path))
        try:
            mode = os.stat(target).st_mode  # noqa: PTH116  # Path.stat takes no path with a NUL as an OSError either
        except FileNotFoundError:
            return target
    except OSError as fault:
        raise not_writable(path, fault, OutputError) from None
    except ValueError:
        raise OutputError(f"{where}: cannot be written: no path has such characters") from None
    if not stat.S_ISDIR(mode):
        raise OutputError(f"{where}: cannot be written: a file of that name is there; choose another name")
    if not mode & 0o222 or not os.access(target, os.W_OK | os.X_OK):
        raise OutputError(f"{where}: cannot be written: the folder is read-only; choose a place that you may write to")
    return target


def _require_room(path: str | Path, home: Path, least: float) -> None:
    state = os.statvfs(home)
    free = state.f_bavail * state.f_frsize
    # Some file systems have no size.
    if state.f_blocks and free < least:
        raise OutputError(
            f"{shown_path(path)}: cannot be written: the result takes at least {least / 1e6:,.0f} MB, "
            f"{free / 1e6:,.0f} MB are free"
        )


def _made(staging: Path, target: Path) -> bool:
    """Rename the folder to its place, if nothing is there; and tell whether that was so."""
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        staging.rename(target)
    except OSError as fault:
        # Another run, or a user, was faster.
        if fault.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EXDEV):
            raise
        return False
    return True


def _fill(path: str | Path, target: Path, staging: Path) -> None:
    """Move all files into a folder that exists, in the place of those of an earlier run."""
    with locked(target, _PATIENCE):
        _refuse_foreign_content(path, target)
        old = RESULT_FILES.intersection(_names(target))
        try:
            _exchange(target, staging, old - {MANIFEST_NAME})
        except (KeyboardInterrupt, SystemExit):
            # It takes a moment; half of it is nothing that anybody wants.
            _exchange(target, staging, old - {MANIFEST_NAME})
            raise
        remove_debris(target, target.name)
        remove_debris(target.parent, target.name)


def _exchange(target: Path, staging: Path, old: Collection[str]) -> None:
    """Move what is old out and what is prepared in; called again, it goes on where it was.

    Nothing is renamed over another file, for which file systems may first write all of the new one to the disk.
    """
    manifest, replaced, away = target / MANIFEST_NAME, staging / _REPLACED, staging / _AWAY
    if away.exists() and not replaced.exists() and not (staging / MANIFEST_NAME).exists():
        # All was done when it was interrupted.
        return
    away.mkdir(exist_ok=True)
    if not replaced.exists():
        # From here on the folder is no result, until the new manifest is there.
        if manifest.exists():
            _move(manifest, replaced)
        replaced.touch()
    for name in old:
        if (target / name).exists() and not (away / name).exists():
            _move(target / name, away / name)
    for name in sorted(RESULT_FILES - {MANIFEST_NAME}):
        if (staging / name).exists():
            _move(staging / name, target / name)
    if (staging / MANIFEST_NAME).exists():
        _move(staging / MANIFEST_NAME, manifest)
    replaced.unlink()


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as fault:
        if fault.errno != errno.EXDEV:
            raise
        shutil.move(source, target)


def _refuse_foreign_content(path: str | Path, target: Path) -> None:
    foreign = _foreign_files(target)
    if foreign:
        named = ", ".join(shown(name)[1:-1] for name in foreign[:_NAMED]) + (", ..." if len(foreign) > _NAMED else "")
        raise OutputError(
            f"{shown_path(path)}: will not be replaced: it holds {named}, which no earlier run wrote or which was "
            "changed since; name a new or empty folder, or one that holds an earlier result alone"
        )


def _foreign_files(folder: Path) -> list[str]:
    """List what a folder holds that is not, to the byte, what an earlier run wrote and listed in its manifest."""
    found = sorted(name for name in _names(folder) if not is_debris(name, folder.name))
    if not found:
        return []
    # A run that was killed while it moved files has left what says which.
    places = [folder, *(folder / name for name in _names(folder) if is_debris(name, folder.name))]
    written: dict[str, set[tuple[int, str]]] = {}
    for place in places:
        for name in (MANIFEST_NAME, _REPLACED):
            for file, content in _listed(place / name).items():
                written.setdefault(file, set()).add(content)
    return [name for name in found if not _ours(folder / name, written)]


def _ours(file: Path, written: Mapping[str, set[tuple[int, str]]]) -> bool:
    status = file.lstat()
    if file.name not in RESULT_FILES or not stat.S_ISREG(status.st_mode):
        return False
    if file.name == MANIFEST_NAME:
        return bool(_listed(file))
    contents = written.get(file.name, set())
    return any(size == status.st_size for size, _ in contents) and (status.st_size, digest_of(file)) in contents


def _listed(manifest: Path) -> dict[str, tuple[int, str]]:
    """Return size [bytes] and digest of every file that a manifest lists; nothing where it is none of ours."""
    with suppress(OSError, ValueError, RecursionError):
        status = manifest.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_MANIFEST:
            return {}
        document = json.loads(manifest.read_bytes())
        if not isinstance(document, dict) or document.get("format") != MANIFEST_FORMAT:
            return {}
        files = document.get("files")
        if not isinstance(files, dict) or not files.keys() <= RESULT_FILES:
            return {}
        return {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items() if _described(entry)}
    return {}


def _described(entry: object) -> bool:
    return isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)


def _names(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir()]
