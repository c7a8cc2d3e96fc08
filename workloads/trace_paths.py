"""Opening and writing trace files: plain errors for what the file system refuses, and nothing half-written."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hardware_profiles.edge import regular_file, shown_path
from workloads.errors import TraceFormatError, WorkloadError

if TYPE_CHECKING:
    from collections.abc import Iterator


def existing_file(path: str | Path) -> Path:
    """Return ``path`` if it is a readable file that is not empty, else raise with the nearest file name."""
    file = regular_file(path, WorkloadError)
    try:
        with file.open("rb") as opened:
            first = opened.read(1)
    except OSError as error:
        msg = f"{shown_path(file)}: cannot be read ({error.strerror})"
        raise WorkloadError(msg) from error
    if not first:
        msg = f"{shown_path(file)}: the file is empty"
        raise TraceFormatError(msg)
    return file


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block ends without an error."""
    target = Path(path)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes the file private; a saved trace gets the rights any new file would get.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        msg = f"{target}: cannot be written ({error.strerror or error})"
        raise WorkloadError(msg) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
