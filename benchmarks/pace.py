"""Time work in CPU seconds and in bare SimPy timeouts of the same minute, so that machines and their moods compare."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Timeouts of one measurement of the machine's pace: a seventh of a second on a machine of today.
_TIMEOUTS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What something took: CPU time [s], and how many bare timeouts SimPy passes in that time [1]."""

    seconds: float
    timeouts: float

    def per(self, parts: float) -> Timed:
        """Share it among equal parts."""
        return Timed(seconds=self.seconds / parts, timeouts=self.timeouts / parts)


@dataclass(slots=True)
class Pace:
    """The machine's pace, taken before and after each piece of work.

    Attributes
    ----------
    rates : list of float
        Bare timeouts of SimPy in a second, in the order in which they were taken [1/s].
    """

    rates: list[float] = field(default_factory=list)

    def take(self) -> float:
        """Measure the pace now [1/s]."""
        self.rates.append(timeouts_per_second())
        return self.rates[-1]

    def time(self, work: Callable[[], float], repeats: int = 1) -> Timed:
        """Let work time itself several times; the median, each time by the pace around it.

        Parameters
        ----------
        work : callable
            Returns what it took [s].
        repeats : int
            How often to do it.
        """
        before, seconds, timeouts = self.take(), [], []
        for _ in range(repeats):
            seconds.append(work())
            after = self.take()
            timeouts.append(seconds[-1] * (before + after) / 2)
            before = after
        return Timed(seconds=statistics.median(seconds), timeouts=statistics.median(timeouts))


def timeouts_per_second() -> float:
    """Let one process of an empty simulation wait again and again: SimPy's speed where nothing is done [1/s]."""
    import simpy

    def wait(environment: simpy.Environment) -> Generator[simpy.Event]:
        for _ in range(_TIMEOUTS):
            yield environment.timeout(1.0)

    environment = simpy.Environment()
    environment.process(wait(environment))
    # What the case holds is no garbage of ours to look through.
    gc.collect()
    gc.freeze()
    seconds = cpu_seconds(environment.run)
    gc.unfreeze()
    return _TIMEOUTS / seconds


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of work in this process [s]."""
    began = time.process_time()
    work()
    return time.process_time() - began


def child_seconds(command: Sequence[str], folder: Path) -> float:
    """CPU time of a whole process, user and system [s].

    Parameters
    ----------
    command : sequence of str
        What to run.
    folder : Path
        Where Python keeps compiled modules, as it does for a user, and moesim what it has prepared.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": str(folder / "python"), "MOESIM_CACHE_DIR": str(folder / "moesim")}
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return used.ru_utime + used.ru_stime


def peak_memory() -> float:
    """Largest memory of this process so far, Python and libraries included [B]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
