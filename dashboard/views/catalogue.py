"""The page "Catalogue": every number that answers rest on, with its unit, its source and how far to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from dashboard.figures.numbers import KINDS, catalogue_numbers, found
from dashboard.panels.shown import small
from dashboard.views.page import Page

if TYPE_CHECKING:
    import pandas as pd

#: What each status means, the most trusted first.
_STATUSES = {
    "datasheet": "the maker's own",
    "published": "a paper, a documentation or a model's configuration says so",
    "measured": "on the device itself",
    "fitted": "to measurements; with its error where that is known",
    "computed": "from numbers of this table",
    "assumption": "nobody has published it",
}


@st.cache_resource(show_spinner="Reading the catalogues")
def _numbers() -> pd.DataFrame:
    return catalogue_numbers()


def draw() -> None:
    """Draw the page."""
    st.title("What the answers rest on")
    frame = _numbers()
    words, kinds, statuses = st.columns([3, 2, 2])
    with words:
        asked = st.text_input(
            "Search",
            key="search",
            bind="query-params",
            placeholder="h100 bandwidth",
            help="words that a row holds, in any column and order",
        )
    with kinds:
        of_kind = st.multiselect("Kind", KINDS, key="kind", bind="query-params", placeholder="any")
    with statuses:
        meaning = "; ".join(f"{status}: {words}" for status, words in _STATUSES.items())
        of_status = st.multiselect(
            "Status", list(_STATUSES), key="status", bind="query-params", placeholder="any", help=meaning
        )
    rows = found(frame, asked or "", of_kind, of_status)
    if rows.empty:
        st.info(f"None of {len(frame):,} numbers is like that. Take a word or a choice away.")
        return
    counts = rows["Status"].value_counts()
    shares = ", ".join(f"{counts[status]:,} {status}" for status in _STATUSES if status in counts)
    said = f"{len(rows):,} of {len(frame):,} numbers: {shares}."
    small(said)
    plainly = st.column_config.NumberColumn(format="%.6g")
    st.dataframe(rows, hide_index=True, height=600, alt=said, column_config={"Value": plainly})
    data = rows.to_csv(index=False).encode()
    st.download_button(
        "These rows, CSV", data, "catalogue.csv", "text/csv", on_click="ignore", icon=":material/download:"
    )


PAGE = Page(title="Catalogue", icon=":material/menu_book:", path="catalogue", draw=draw)
