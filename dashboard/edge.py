"""The one edge at which errors become messages: what the user can mend, and what is a fault of moesim."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from simulator.errors import MoesimError
from simulator.results.values import Finding

_T = TypeVar("_T")

_LOG = logging.getLogger(__name__)
#: Characters of an unexpected error that are shown; the log has all of it.
_LONGEST = 300


def attempt(compute: Callable[[], _T], where: str = "scenario") -> tuple[_T | None, tuple[Finding, ...]]:
    """Compute, and return the answer and no finding, or no answer and what went wrong.

    Parameters
    ----------
    compute : callable
        What may fail.
    where : str
        What the finding is about.

    Examples
    --------
    >>> attempt(lambda: 2)
    (2, ())
    """
    try:
        return compute(), ()
    except Exception as error:
        return None, (as_finding(error, where),)


def as_finding(error: Exception, where: str = "scenario") -> Finding:
    """Turn an error into a finding; one that is nobody's but ours is logged with its traceback."""
    if isinstance(error, MoesimError):
        return Finding(level="error", where=where, message=str(error))
    _LOG.error("%s: %s", where, error, exc_info=error)
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    return Finding(
        level="error",
        where=where,
        message=f"this is a fault of moesim, not of what you asked ({said[:_LONGEST]})",
        remedy="another choice may do; please report the link of this page with the traceback in the server's log",
    )
