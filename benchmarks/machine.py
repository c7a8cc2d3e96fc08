"""What a run was measured on: the machine, and the code."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.pace import ROOT


def about(load: float, rates: Sequence[float]) -> dict[str, str]:
    """Describe what a run was measured on.

    Parameters
    ----------
    load : float
        Mean number of processes that wanted a core when it began [1].
    rates : sequence of float
        Bare timeouts of SimPy in a second, as measured all through the run [1/s].
    """
    import numpy as np

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        **kind(),
        "load before": f"{load:.1f}",
        "timeouts": f"{min(rates) / 1e6:.2f}-{max(rates) / 1e6:.2f} M/s",
        "memory": f"{memory:.0f} GiB",
        "system": platform.platform(terse=True),
        "numpy": np.__version__,
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
    }


def kind() -> dict[str, str]:
    """Say what runs must have in common to be compared: the machine, Python, and whether the engine is compiled."""
    from simulator.compiled import engine

    cpuinfo, cpu = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "cores": str(os.cpu_count()), "python": platform.python_version(), "engine": engine()}


def commit() -> str:
    """Short name of the commit that is checked out, with a plus where files differ from it; empty outside of git."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return f"{name}+" if _git("status", "--porcelain", "--untracked-files=no") else name
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*words: str) -> str:
    done = subprocess.run(("git", *words), cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
