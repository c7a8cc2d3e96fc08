"""The edge where files are written: they appear whole or not at all, and only where a file may stand.

Writers ask here for a path and name the error that they raise. What is prepared lies under a hidden name, beside what
it will become, and is locked while its process lives; so the next run for the same target can tell what a killed one
left, and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hardware_profiles.edge import shown_path
from hardware_profiles.errors import MoesimError

#: Bytes of a name that a hidden one is made of: of 255 a few are needed for what is added [bytes].
_NAME = 200
#: Where locks are not known, what was last touched before that time belongs to nobody any more [s].
_ABANDONED = 86_400.0
#: Between two looks at a lock that another holds [s].
_PAUSE = 0.02
#: Faults that another place gets around.
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
#: Faults of a rename that writing in place gets around: a file that is mounted, or in a folder that is read-only.
_IN_PLACE = {errno.EBUSY, errno.EXDEV, *_FORBIDDEN}


def not_writable(path: str | Path, fault: OSError, error: type[MoesimError]) -> MoesimError:
    """Make an error of what the file system refuses."""
    hint = "; choose a place that you may write to" if fault.errno in _FORBIDDEN else ""
    return error(f"{shown_path(path)}: cannot be written: {fault.strerror or fault}{hint}")


def output_file(path: str | Path, error: type[MoesimError]) -> Path:
    """Return the absolute path of a file that may be written or replaced, links followed.

    Parameters
    ----------
    path : str or Path
        The file; it and folders above it need not exist.
    error : type
        Raised where something stands there that is no regular file (a folder, pipe or device), is read-only, or is what
        the answer is printed to.
    """
    where = shown_path(path)
    try:
        # Looked at before links are followed: what is behind /dev/stdout need not have a name.
        found = _status(path)
        target = Path(os.path.realpath(path))
        if found is None:
            _status(target.parent / "child")
    except OSError as fault:
        raise not_writable(path, fault, error) from None
    except ValueError:
        raise error(f"{where}: cannot be written: no path has such characters") from None
    if found is None:
        return target
    if stat.S_ISDIR(found.st_mode):
        raise error(f"{where}: cannot be written: it is a folder, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{where}: cannot be written: it is a pipe or a device, not a file")
    if not found.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise error(f"{where}: cannot be written: it is read-only; choose another name")
    if any(os.path.samestat(found, printed) for printed in _printed_to()):
        raise error(f"{where}: cannot be written: it is where the answer is printed; choose another name")
    return target


def check_output_file(path: str | Path, error: type[MoesimError], *, parents: bool = True) -> None:
    """Refuse a file that :func:`replacing` could not write, before any work is done for it."""
    with replacing(path, error, parents=parents, commit=False):
        pass


@contextmanager
def replacing(
    path: str | Path, error: type[MoesimError], *, parents: bool = True, commit: bool = True
) -> Iterator[Path]:
    """Give a temporary path, of the same extension, that takes the place of ``path`` when the block ends.

    Parameters
    ----------
    path : str or Path
        The file. One that is replaced keeps its permissions.
    error : type
        Raised if it cannot be written; then nothing has changed.
    parents : bool
        Whether missing folders above it are made.
    commit : bool
        Whether it does take the place.

    Yields
    ------
    Path
        An empty file.
    """
    target = output_file(path, error)
    try:
        home = nearest_folder(target)
        if not parents and home != target.parent:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        remove_debris(home, target.name)
        try:
            staging, lock = make_locked(home, target.name, _make_file, target.suffix)
        except OSError as fault:
            if fault.errno not in _IN_PLACE or not target.exists():
                raise
            staging, lock = make_locked(Path(tempfile.gettempdir()), target.name, _make_file, target.suffix)
    except OSError as fault:
        raise not_writable(path, fault, error) from fault
    try:
        yield staging
        if commit:
            _put(staging, target)
            remove_debris(target.parent, target.name)
    except OSError as fault:
        raise not_writable(path, fault, error) from fault
    finally:
        os.close(lock)
        staging.unlink(missing_ok=True)


def write_file(path: str | Path, data: bytes | str, error: type[MoesimError], *, parents: bool = True) -> Path:
    """Write a file so that readers see the old content or the new one; return its absolute path.

    Parameters
    ----------
    path, parents
        As for :func:`replacing`.
    data : bytes or str
        The content; text is written as UTF-8.
    error : type
        Raised if it cannot be written; nothing is left behind.
    """
    with replacing(path, error, parents=parents) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
    return Path(os.path.realpath(path))


def nearest_folder(target: Path) -> Path:
    """Return the nearest folder above an absolute path that exists."""
    home = target.parent
    while not home.exists() and home != home.parent:
        home = home.parent
    return home


def make_locked(home: Path, name: str, make: Callable[[Path], None], suffix: str = "") -> tuple[Path, int]:
    """Make something of a hidden name, locked until the process ends or the lock is closed.

    Parameters
    ----------
    home : Path
        The folder to make it in.
    name : str
        What it will become.
    make : callable
        Makes a file or a folder of a path, or fails where there is one.
    suffix : str
        What its name shall end with.

    Returns
    -------
    (Path, int)
        It, and the descriptor that locks it.
    """
    while True:
        staging = home / f".{_cut(name)}.{secrets.token_hex(4)}.partial{suffix}"
        make(staging)
        try:
            lock = os.open(staging, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        # Another run may have taken it for debris before it was locked.
        if _lock(lock) is not False and os.fstat(lock).st_nlink:
            return staging, lock
        os.close(lock)


@contextmanager
def locked(folder: Path, patience: float) -> Iterator[None]:
    """Hold the lock of a folder; where the file system knows none, go on without.

    Parameters
    ----------
    folder : Path
        A folder that exists.
    patience : float
        How long to wait for another that holds it [s].

    Raises
    ------
    OSError
        The other has not let it go.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + patience
        while _lock(descriptor) is False:
            if time.monotonic() > end:
                raise OSError(errno.EBUSY, "another run writes there")
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


def remove_debris(home: Path, name: str) -> None:
    """Remove what killed runs of this user left of a target; what a live process holds stays, and so does the rest."""
    with suppress(OSError), os.scandir(home) as entries:
        for entry in entries:
            if is_debris(entry.name, name):
                with suppress(OSError):
                    _remove_abandoned(Path(entry.path))


def is_debris(found: str, name: str) -> bool:
    """Tell whether a name is that of something prepared for a target of this name."""
    return bool(re.fullmatch(rf"\.{re.escape(_cut(name))}\.[0-9a-f]{{8}}\.(partial|old)(\.\w+)?", found))


def _cut(name: str) -> str:
    return name if len(os.fsencode(name)) <= _NAME else os.fsdecode(os.fsencode(name)[:_NAME])


def _status(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  # Path.stat takes no path with a NUL as an OSError either
    except FileNotFoundError:
        return None


def _printed_to() -> Iterator[os.stat_result]:
    for descriptor in (1, 2):
        with suppress(OSError):
            yield os.fstat(descriptor)


def _make_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _put(staging: Path, target: Path) -> None:
    """Move a file to its place; where a file is there that cannot be renamed over, write into it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        there = target.stat()
        # One that belongs to another user still gets its permissions.
        with suppress(OSError):
            os.chown(staging, there.st_uid, there.st_gid)
        staging.chmod(stat.S_IMODE(there.st_mode))
    try:
        staging.replace(target)
    except OSError as fault:
        if fault.errno not in _IN_PLACE or not target.is_file():
            raise
        shutil.copyfile(staging, target)


def _lock(descriptor: int) -> bool | None:
    """Lock a file or folder; False where another holds it, None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_abandoned(path: Path) -> None:
    status = path.lstat()
    if status.st_uid != os.geteuid() or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        locked = _lock(descriptor)
        if locked is False or (locked is None and status.st_mtime > time.time() - _ABANDONED):
            return
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)
