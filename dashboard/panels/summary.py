"""What stands above the tabs: the headline numbers, and how far to trust them."""

from __future__ import annotations

import streamlit as st

from dashboard.display import HEADLINE, HEADLINE_ESTIMATE, change, in_unit, interval_text
from dashboard.panels.shown import plain
from simulator.results.values import Estimate, Result

#: Six of them side by side on a laptop; on narrower screens they wrap [px].
_METRIC_WIDTH = 148
_COLOURS = {"better": "blue", "worse": "orange", "same": "gray"}


def headline(answer: Estimate | Result, baseline: Estimate | Result | None) -> None:
    """Show the headline numbers, each with its change against a baseline of the same kind."""
    quantities = HEADLINE if isinstance(answer, Result) else HEADLINE_ESTIMATE
    with st.container(horizontal=True):
        for quantity in quantities:
            value = quantity.of(answer.summary)
            moved = change(value, quantity.of(baseline.summary), quantity.better) if baseline else None
            st.metric(
                quantity.label,
                in_unit(value, quantity.unit),
                delta=moved.text if moved else None,
                delta_color=_COLOURS[moved.verdict] if moved else "off",  # type: ignore[arg-type]  # a name it allows
                delta_arrow="off" if moved and moved.verdict == "same" else "auto",
                help=quantity.help or None,
                border=True,
                width=_METRIC_WIDTH,
            )


def badges(answer: Estimate | Result) -> None:
    """Say what kind of answer this is and how far to trust it."""
    extrapolated = any("extrapolat" in warning.lower() for warning in answer.warnings)
    interval = interval_text(answer.summary.interval_80)
    with st.container(horizontal=True):
        if isinstance(answer, Result):
            st.badge("Simulated", icon=":material/play_circle:", color="blue")
        else:
            st.badge("Estimate: closed form, steady state", icon=":material/functions:", color="gray")
        if extrapolated:
            st.badge("extrapolated: outside what was measured", icon=":material/warning:", color="orange")
        if interval:
            st.badge(interval, icon=":material/straighten:", color="gray")
    if answer.warnings:
        with st.expander(f"Warnings of this answer ({len(answer.warnings)})"):
            for warning in answer.warnings:
                st.markdown(f"- {plain(warning)}")
