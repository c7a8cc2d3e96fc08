"""The parts of the page beside the form: findings, headline, charts with their tables, copies and downloads."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import streamlit as st

from dashboard import answers, snippets
from dashboard.display import HEADLINE, HEADLINE_ESTIMATE, change, in_unit, interval_text, summary_table
from dashboard.figures.ops import ops_chart
from dashboard.figures.run import Chart, breakdown_chart, latency_chart, steps_chart
from dashboard.state import LATENCY, PageState, differences
from simulator.errors import MoesimError
from simulator.export.files import encode_json
from simulator.results.values import Estimate, Finding, Result
from simulator.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd

_DRAW = {"error": st.error, "warning": st.warning, "note": st.info}
_ICONS = {"error": ":material/error:", "warning": ":material/warning:", "note": ":material/info:"}
#: Six of them side by side on a laptop; on narrower screens they wrap [px].
_METRIC_WIDTH = 148
_COLOURS = {"better": "blue", "worse": "orange", "same": "gray"}


def findings(found: Sequence[Finding]) -> None:
    """List findings, errors first; notes fold away."""
    for level in ("error", "warning"):
        for finding in dict.fromkeys(found):
            if finding.level == level:
                _DRAW[level](_finding_text(finding), icon=_ICONS[level])
    notes = [finding for finding in dict.fromkeys(found) if finding.level == "note"]
    if notes:
        with st.expander(f"Notes ({len(notes)}): defaults that were chosen"):
            for finding in notes:
                st.markdown(f"- {_finding_text(finding)}")


def _finding_text(finding: Finding) -> str:
    """Phrase a finding; what came from a file or a link is shown as it is, not as markup."""
    level = finding.level.capitalize()
    message = finding.message.rstrip(".") + "."
    remedy = f" What would help: {_plain(finding.remedy)}." if finding.remedy else ""
    return f"**{level} in {_plain(finding.where)}.** {_plain(message)}{remedy}"


def _plain(text: str) -> str:
    """Escape markup so that names such as ``a_b*`` and dollar signs stay as they are."""
    escaped = "".join(f"\\{char}" if char in "\\`*_{}[]<>#$~|:" else char for char in text)
    return escaped.replace("\n", "  \n")


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
                st.markdown(f"- {_plain(warning)}")


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


def small(text: str) -> None:
    """Write small print; Streamlit's captions are too pale to read."""
    st.markdown(f":small[{_plain(text)}]")


def chart(drawn: Chart, key: str) -> None:
    """Show a chart, the sentence that states its finding, and its table."""
    left, right = st.columns([4, 3])
    with left:
        _plot(drawn, key)
    with right:
        table(drawn.table)
    small(drawn.alt)


def table(frame: pd.DataFrame) -> None:
    """Show a table of texts, numbers kept with their units; its first column heads the rows."""
    unbroken = frame.map(lambda text: text.replace(" ", "\u00a0"))
    st.table(unbroken.set_index(unbroken.columns[0]))


def _plot(drawn: Chart, key: str) -> None:
    """Draw a figure with text dark (or pale) enough to read; Streamlit's own chart text is a mid grey."""
    colour = "#FAFAFA" if st.context.theme.type == "dark" else "#31333F"
    drawn.figure.update_xaxes(tickfont_color=colour, title_font_color=colour)
    drawn.figure.update_yaxes(tickfont_color=colour, title_font_color=colour)
    drawn.figure.update_layout(legend_font_color=colour)
    drawn.figure.update_annotations(font_color=colour)
    bars = {"colorbar_tickfont_color": colour, "colorbar_title_font_color": colour}
    drawn.figure.update_traces(bars, selector={"type": "heatmap"})
    st.plotly_chart(drawn.figure, key=key, alt=drawn.alt, config={"displaylogo": False})


def breakdown(labelled: Mapping[str, Estimate | Result]) -> None:
    """Show where the time goes."""
    if not labelled:
        needs_simulation("Where the time goes")
        return
    chart(breakdown_chart({label: answer.breakdown for label, answer in labelled.items()}), "breakdown")


def latency(result: Result | None, page: PageState) -> None:
    """Show the distribution of latencies over requests."""
    if result is None:
        needs_simulation("The distribution of latencies")
        return
    kinds: dict[Literal["cumulative", "histogram"], str] = {
        "cumulative": "cumulative share",
        "histogram": "histogram",
    }
    st.session_state.setdefault(LATENCY, page.latency)
    kind = st.radio("Drawn as", list(kinds), key=LATENCY, format_func=kinds.get, horizontal=True)
    slo = result.scenario.slo
    objectives = {"TTFT": slo.ttft, "TPOT": slo.tpot, "E2EL": slo.e2el}
    chart(latency_chart(result.requests, kind, objectives), "latency-chart")


def steps(result: Result | None) -> None:
    """Show batch, KV use and queue over the run."""
    if result is None:
        needs_simulation("The course of the run")
        return
    chart(steps_chart(result.steps), "steps")


def numbers(labelled: Mapping[str, Estimate | Result]) -> None:
    """Show every number of every answer side by side."""
    if not labelled:
        needs_simulation("Every number")
        return
    st.table(summary_table({label: answer.summary for label, answer in labelled.items()}).rename_axis("Quantity"))


def why(scenario: Scenario) -> None:
    """Show the ops of a decode and of a prefill step."""
    titles: dict[Literal["decode", "prefill"], str] = {"decode": "One decode step", "prefill": "One prefill step"}
    for phase, title in titles.items():
        st.header(title)
        try:
            explanation = answers.explanation_of(scenario, phase)
        except MoesimError as error:
            findings([answers.as_finding(error)])
            continue
        drawn = ops_chart(explanation)
        _plot(drawn, f"ops-{phase}")
        small(drawn.alt)
        st.dataframe(drawn.table, hide_index=True, alt=f"Every op of the {phase} step, the most expensive first.")


def needs_simulation(what: str) -> None:
    """Say that a panel has nothing to show before a run."""
    st.info(f"{what} comes from a simulation. Press Simulate above.", icon=":material/play_circle:")


def copies(preset: str, base: Scenario, scenario: Scenario) -> None:
    """Show the scenario as TOML, command and Python, each with a copy button."""
    changes = differences(base, scenario)
    for title, text in (
        ("Command line", snippets.as_command(preset, changes)),
        ("Python", snippets.as_python(preset, changes, scenario)),
        ("TOML", snippets.as_toml(scenario)),
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
        summary = "The summary is that of the estimate; " if estimate else ""
        small(f"{summary}request and step tables need a simulation.")


def _download(label: str, data: Callable[[], bytes], name: str, mime: str) -> None:
    st.download_button(label, data, name, mime, key=f"download-{label}", on_click="ignore", icon=":material/download:")


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
