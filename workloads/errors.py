"""Errors of the workloads.

* MoesimError
  x WorkloadError        a model, request trace or routing trace that cannot be used
    + ModelError         an unknown model, or a configuration that is not understood
    + TraceFormatError   a trace file that is empty, truncated, unsorted or malformed; names the row
"""

from __future__ import annotations

from hardware_profiles.errors import MoesimError


class WorkloadError(MoesimError):
    """A model or trace cannot be used."""


class ModelError(WorkloadError):
    """A model is unknown, or its configuration is not understood."""


class TraceFormatError(WorkloadError):
    """A trace file is empty, truncated, unsorted or malformed."""
