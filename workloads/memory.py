"""Whether there is memory for so much: asked before it is allocated, so that a slip of the pen gets an answer."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from workloads.errors import WorkloadError

#: Where Linux says how much a container may take.
_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def require_memory(key: str, count: int, each: float) -> None:
    """Refuse a number of things that cannot fit.

    Parameters
    ----------
    key : str
        What asks for them, for the message: a scenario key or a file.
    count : int
        How many [1].
    each : float
        Least memory that one takes [bytes].

    Raises
    ------
    WorkloadError
        They take more than this process may have.
    """
    most = allowed_memory()
    if count * each > most:
        raise WorkloadError(
            f"{key}: {count:,} take at least {count * each / 1e9:,.0f} GB of memory; there are {most / 1e9:,.0f} GB"
        )


@lru_cache(maxsize=1)
def allowed_memory() -> float:
    """Memory that this process may have: that of the machine, of its container, or its own limit [bytes]."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(float(soft))
    # There may be no such file, or the word "max" in it.
    with suppress(OSError, ValueError):
        limits.append(float(_CONTAINER.read_text(encoding="ascii")))
    return min(limits)
