"""What every run shows: where the time goes, latencies, its course, and all of its numbers."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from dashboard.cards import gpu_seconds_per_token
from dashboard.display import summary_table
from dashboard.figures.run import breakdown_chart, latency_chart, steps_chart
from dashboard.panels.shown import chart, needs_simulation
from dashboard.panels.view import BASELINE, View
from dashboard.state import LATENCY


def breakdown(view: View) -> None:
    """Show where the time goes."""
    compared = view.compared()
    if not compared:
        needs_simulation("Where the time goes")
        return
    per_token = {label: gpu_seconds_per_token(answer) for label, answer in compared.items()}
    parts = {label: answer.breakdown for label, answer in compared.items()}
    chart(breakdown_chart(parts, per_token if BASELINE in compared else None), "breakdown")


def latency(view: View) -> None:
    """Show the distribution of latencies over requests."""
    if view.result is None:
        needs_simulation("The distribution of latencies")
        return
    kinds: dict[Literal["cumulative", "histogram"], str] = {
        "cumulative": "cumulative share",
        "histogram": "histogram",
    }
    st.session_state.setdefault(LATENCY, view.page.latency)
    kind = st.radio("Drawn as", list(kinds), key=LATENCY, format_func=kinds.get, horizontal=True)
    slo = view.result.scenario.slo
    objectives = {"TTFT": slo.ttft, "TPOT": slo.tpot, "E2EL": slo.e2el}
    baseline = view.baseline_result.requests if view.baseline_result else None
    chart(latency_chart(view.result.requests, kind, objectives, baseline), "latency-chart")


def steps(view: View) -> None:
    """Show batch, KV use and queue over the run."""
    if view.result is None:
        needs_simulation("The course of the run")
        return
    baseline = view.baseline_result.steps if view.baseline_result else None
    chart(steps_chart(view.result.steps, baseline), "steps")


def numbers(view: View) -> None:
    """Show every number of every answer side by side."""
    labelled = view.labelled()
    if not labelled:
        needs_simulation("Every number")
        return
    st.table(summary_table({label: answer.summary for label, answer in labelled.items()}).rename_axis("Quantity"))
