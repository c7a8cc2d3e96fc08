"""Errors of the data packages.

* MoesimError        anything the user can mend; the CLI prints it and exits with 2
  x ProfileError     a hardware profile that is missing, malformed or inconsistent
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MoesimError(Exception):
    """Base of every error that a user can mend."""


class ProfileError(MoesimError):
    """A hardware profile is missing, malformed or inconsistent."""


_LONGEST = 100


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Phrase the valid names nearest to ``name``, for the end of an error message.

    Examples
    --------
    >>> nearest("h100", ["h100-sxm", "a100-sxm"])
    "did you mean 'h100-sxm' or 'a100-sxm'?"
    """
    names = sorted(allowed)
    # No name is so long; what somebody pasted takes minutes to compare.
    close = difflib.get_close_matches(name[:_LONGEST], names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(n) for n in close) + "?"
    return "allowed: " + ", ".join(names)
