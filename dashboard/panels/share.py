"""Copy and download: the scenario as command, Python and TOML, the answers as files."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from dashboard import snippets
from dashboard.panels.shown import small
from dashboard.panels.view import View
from dashboard.state import differences
from simulator.export.files import encode_json
from simulator.results.values import Estimate, Result
from simulator.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd


def draw(view: View) -> None:
    """Show what can be downloaded, and below it what can be copied."""
    downloads(view.scenario, view.estimate, view.result)
    copies(view.page.preset, view.base, view.scenario)


def copies(preset: str, base: Scenario, scenario: Scenario) -> None:
    """Show the scenario as TOML, command and Python, each with a copy button."""
    changes = differences(base, scenario)
    for title, text in (
        ("Command line", snippets.as_command(preset, changes)),
        ("Python", snippets.as_python(preset, changes, scenario)),
        ("TOML", scenario.to_toml()),
    ):
        st.header(title)
        # Without colours: those of the highlighter are too pale to read.
        st.code(text, language=None)


def downloads(scenario: Scenario, estimate: Estimate | None, result: Result | None) -> None:
    """Offer the scenario, the summary and the frames as files; they are written when asked for."""
    answer = result or estimate
    with st.container(horizontal=True):
        _download("Scenario, TOML", lambda: scenario.to_toml().encode(), "scenario.toml", "application/toml")
        if answer is not None:
            _download("Summary, JSON", lambda: encode_json(answer.document()), "summary.json", "application/json")
        if result is not None:
            requests, steps_frame = result.requests, result.steps
            _download("Requests, CSV", lambda: requests.to_csv(index=False).encode(), "requests.csv", "text/csv")
            parquet = "application/vnd.apache.parquet"
            _download("Requests, Parquet", lambda: _parquet(requests), "requests.parquet", parquet)
            _download("Steps, Parquet", lambda: _parquet(steps_frame), "steps.parquet", parquet)
    if result is None:
        summary = "The summary is that of the estimate. " if estimate else ""
        small(f"{summary}Tables of requests and steps need a simulation.")


def _download(label: str, data: Callable[[], bytes], name: str, mime: str) -> None:
    st.download_button(label, data, name, mime, key=f"download-{label}", on_click="ignore", icon=":material/download:")


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
