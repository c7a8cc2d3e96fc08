"""The router: which pages there are, and which one the address asks for.

Streamlit runs this file; ``moesim dashboard`` starts it. A new page is a file in ``views`` with its record, and an
entry here. The folder is not called ``pages`` because Streamlit takes one of that name beside this file for its own.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

import streamlit as st

from dashboard.panels.shown import shown, small
from dashboard.views import catalogue, what_if
from dashboard.views.page import Page

PAGES = (what_if.PAGE, catalogue.PAGE)


def main() -> None:
    """Draw the page that the address asks for."""
    pages = [
        st.Page(partial(_draw, page), title=page.title, icon=page.icon, url_path=page.path, default=not page.path)
        for page in PAGES
    ]
    st.navigation(pages, position="top").run()


def _draw(page: Page) -> None:
    about = (
        f"moesim {version('moesim')} answers what a serving deployment will do. The question marks say what each value "
        "means; the documentation (docs/index.md of the source) says how answers come about and what is not modelled."
    )
    st.set_page_config(page_title=f"{page.title} · moesim", layout="wide", menu_items={"About": about})
    shown(page.draw, "this page")
    small(about)


if __name__ == "__main__":
    main()
