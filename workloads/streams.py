"""Random streams: one per purpose, so that changing one part of a scenario leaves the others' draws alone."""

from __future__ import annotations

import numpy as np

from hardware_profiles.errors import nearest
from workloads.errors import WorkloadError

# The position is the stream's spawn key: append only, or recorded results change.
PURPOSES = ("arrivals", "lengths", "routing", "faults", "scheduling", "speculation", "priorities", "sessions")


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Open the random stream of one purpose.

    Parameters
    ----------
    seed : int
        Seed of the scenario, at least 0.
    purpose : str
        One of ``PURPOSES``.

    Returns
    -------
    numpy.random.Generator
        Independent of the streams of all other purposes and seeds [1]_.

    References
    ----------
    .. [1] NumPy manual, "Parallel random number generation", SeedSequence spawning.

    Examples
    --------
    >>> stream(7, "lengths").integers(100) == stream(7, "lengths").integers(100)
    np.True_
    """
    if purpose not in PURPOSES:
        msg = f"random stream: unknown purpose {purpose!r}; {nearest(purpose, PURPOSES)}"
        raise WorkloadError(msg)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        msg = f"seed: got {seed!r}, expected a whole number of at least 0"
        raise WorkloadError(msg)
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=(PURPOSES.index(purpose),)))
