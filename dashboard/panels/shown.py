"""What every part of a page is drawn with: findings, small print, charts with their words and tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import streamlit as st

from dashboard.edge import attempt
from dashboard.figures.common import Chart
from simulator.results.values import Finding

if TYPE_CHECKING:
    import pandas as pd

_T = TypeVar("_T")

#: Where an address or a mailbox begins that Markdown would link though it is escaped; a word joiner parts it unseen.
_LINKS = re.compile(r"www(?=\.)|https?(?=:)|(?=@)", re.IGNORECASE)
#: Characters that nobody sees: those that end a string, ring a bell, or turn the direction of what follows.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: Longest text that is shown; what is said of it stands at its beginning.
_LONGEST = 1_000
#: Folders of the server before the name of a file, which are nobody's business.
_FOLDERS = re.compile(r"(?<=['\"])/(?:[^'\"/\n]+/)+(?=[^'\"/\n]+['\"])|(?<![\w.~/-])/(?:[\w.+@~-]+/)+(?=[\w.~-])")

#: Without the bar of buttons, which lies over the words of charts on small screens; dragging zooms without it.
_PLAIN = {"displaylogo": False, "displayModeBar": False}
_DRAW = {"error": st.error, "warning": st.warning, "note": st.info}
_ICONS = {"error": ":material/error:", "warning": ":material/warning:", "note": ":material/info:"}


def shown(draw: Callable[[], _T], where: str = "scenario") -> _T | None:
    """Draw or compute; what goes wrong is said in its place, and the rest of the page stays."""
    answer, wrong = attempt(draw, where)
    findings(wrong)
    return answer


def findings(found: Sequence[Finding], *, mendable: bool = False) -> None:
    """List findings, errors first; notes fold away.

    Parameters
    ----------
    found : sequence of Finding
        What was found.
    mendable : bool
        Whether the page offers a change that mends the errors, which are then no cause for alarm.
    """
    for level in ("error", "warning"):
        drawn = "warning" if mendable else level
        for finding in dict.fromkeys(found):
            if finding.level == level:
                _DRAW[drawn](_finding_text(finding), icon=_ICONS[drawn])
    notes = [finding for finding in dict.fromkeys(found) if finding.level == "note"]
    if notes:
        with st.expander(f"Notes ({len(notes)}): defaults that were chosen"):
            for finding in notes:
                st.markdown(f"- {_finding_text(finding)}")


def _finding_text(finding: Finding) -> str:
    """Phrase a finding; what came from a file or a link is shown as it is, not as markup."""
    level = finding.level.capitalize()
    message = finding.message.rstrip(".") + "."
    remedy = f" What would help: {plain(finding.remedy)}." if finding.remedy else ""
    return f"**{level} in {plain(finding.where)}.** {plain(message)}{remedy}"


def plain(text: str) -> str:
    """Escape markup so that names such as ``a_b*`` and dollar signs stay as they are, and nothing becomes a link.

    Files are named without the folders that they lie in on the server; what nobody sees is left out.
    """
    seen = _FOLDERS.sub("", _UNSEEN.sub("", text))
    short = seen if len(seen) <= _LONGEST else f"{seen[:_LONGEST]} ..."
    unlinked = _LINKS.sub("\\g<0>\u2060", short)
    escaped = "".join(f"\\{char}" if char in "\\`*_{}[]<>#$~|:" else char for char in unlinked)
    return escaped.replace("\n", "  \n")


def small(text: str) -> None:
    """Write small print; Streamlit's captions are too pale to read."""
    st.markdown(f":small[{plain(text)}]")


def chart(drawn: Chart, key: str) -> None:
    """Show a chart, the sentence that states its finding, and its table."""
    left, right = st.columns([4, 3])
    with left:
        plot(drawn, key)
    with right:
        table(drawn.table)
    small(drawn.alt)


def table(frame: pd.DataFrame) -> None:
    """Show a table of texts, numbers kept with their units; its first column heads the rows."""
    unbroken = frame.map(lambda text: text.replace(" ", "\u00a0"))
    st.table(unbroken.set_index(unbroken.columns[0]))


def plot(drawn: Chart, key: str) -> None:
    """Draw a figure with text dark (or pale) enough to read; Streamlit's own chart text is a mid grey."""
    colour = "#FAFAFA" if st.context.theme.type == "dark" else "#31333F"
    drawn.figure.update_xaxes(tickfont_color=colour, title_font_color=colour)
    drawn.figure.update_yaxes(tickfont_color=colour, title_font_color=colour)
    drawn.figure.update_layout(legend_font_color=colour)
    drawn.figure.update_annotations(font_color=colour)
    bars = {"colorbar_tickfont_color": colour, "colorbar_title_font_color": colour}
    drawn.figure.update_traces(bars, selector={"type": "heatmap"})
    st.plotly_chart(drawn.figure, key=key, alt=drawn.alt, config=_PLAIN)


def needs_simulation(what: str) -> None:
    """Say that a panel has nothing to show before a run."""
    st.info(f"{what} comes from a simulation. Press Simulate above.", icon=":material/play_circle:")
