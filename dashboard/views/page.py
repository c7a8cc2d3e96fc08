"""What a page is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page.

    Attributes
    ----------
    title : str
        Its name in the navigation and on the browser's tab.
    icon : str
        Its sign in the navigation, as Streamlit names it.
    path : str
        What follows the server's address; empty for the first page.
    draw : callable
        Draws it.
    """

    title: str
    icon: str
    path: str
    draw: Callable[[], None]
