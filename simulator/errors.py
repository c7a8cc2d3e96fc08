"""Every error that a user can meet, as a tree.

* MoesimError                anything the user can mend; the CLI prints one message and exits with 2
  x ProfileError             a hardware profile that is missing, malformed or inconsistent
  x WorkloadError            a model or trace that cannot be used
    + ModelError             an unknown model, or a configuration that is not understood
    + TraceFormatError       a trace file that is empty, truncated, unsorted or malformed
  x ScenarioError            a scenario whose keys or values are wrong
    + InfeasibleScenario     a well-formed scenario that cannot run: it says what does not fit and what would
  x OutputError              a folder or file that cannot be written
"""

from __future__ import annotations

from hardware_profiles.errors import MoesimError, ProfileError, nearest
from workloads.errors import ModelError, TraceFormatError, WorkloadError


class ScenarioError(MoesimError):
    """A scenario has wrong keys or values."""


class InfeasibleScenario(ScenarioError):
    """A scenario is well-formed and cannot run; the message says what does not fit and what would."""


class OutputError(MoesimError):
    """A folder or file cannot be written."""


__all__ = [
    "InfeasibleScenario",
    "ModelError",
    "MoesimError",
    "OutputError",
    "ProfileError",
    "ScenarioError",
    "TraceFormatError",
    "WorkloadError",
    "nearest",
]
