"""Opening trace files: plain errors for what the file system refuses."""

from __future__ import annotations

from pathlib import Path

from hardware_profiles.edge import regular_file, shown_path
from workloads.errors import TraceFormatError, WorkloadError


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
