"""What the server keeps of one browser tab between two runs of the script, and what its entries are called.

Streamlit keeps a mapping of names to values for each tab. All of ours that no widget owns is one value in it; the
others are the keys of widgets, which are named here or, where the link holds what they set, in ``state``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import streamlit as st

from dashboard.state import PageState
from simulator.results.values import Finding

_OWN = "what-if"
_FORM, _UPLOAD = "form.", "upload."


@dataclass(slots=True, kw_only=True)
class Session:
    """What the page "What-if" remembers.

    Attributes
    ----------
    page : PageState
        What the page shows.
    findings : tuple of Finding
        What the link said wrongly and what simulations ended with, until the form is changed.
    dropped : tuple of str
        Keys that the last change of the form took away besides.
    wanted, running : bool
        Whether to simulate at the next run of the script, and whether a simulation was under way when it was stopped.
    written, written_before : mapping of str to str
        The address as it is now, and as it was before.
    written_at : float
        When the address was written, on the monotonic clock [s].
    uploaded : dict of str to str
        The file that was last chosen for being uploaded, by scenario key.
    """

    page: PageState
    findings: tuple[Finding, ...] = ()
    dropped: tuple[str, ...] = ()
    wanted: bool = False
    running: bool = False
    written: Mapping[str, str] = field(default_factory=dict)
    written_before: Mapping[str, str] = field(default_factory=dict)
    written_at: float = 0.0
    uploaded: dict[str, str] = field(default_factory=dict)


def begun() -> bool:
    """Tell whether the page has been open in this tab of the browser."""
    return _OWN in st.session_state


def session() -> Session:
    """Return what the page remembers; it has begun."""
    return cast("Session", st.session_state[_OWN])


def begin(page: PageState) -> Session:
    """Remember a new page, and nothing of the one before but which files were uploaded."""
    new = Session(page=page, uploaded=session().uploaded if begun() else {})
    st.session_state[_OWN] = new
    return new


def form_key(key: str) -> str:
    """Return the key of the form's widget for a scenario key."""
    return f"{_FORM}{key}"


def upload_key(key: str) -> str:
    """Return the key of the widget that takes a file for a scenario key."""
    return f"{_UPLOAD}{key}"


def forget_form() -> None:
    """Drop what the form's widgets hold, so that the next run seeds them from the scenario."""
    for key in [key for key in st.session_state if str(key).startswith(_FORM)]:
        del st.session_state[key]
