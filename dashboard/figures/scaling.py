"""A run that changed its size: load, devices, output and attainment over time, and what each change consisted of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard.display import duration, in_unit, significant
from dashboard.figures.common import (
    BLUE,
    GREEN,
    GREY,
    LINES,
    MIDDLE_GREY,
    ORANGE,
    PURPLE,
    SKY,
    YELLOW,
    Chart,
    filled,
    legend_below,
)
from simulator.results.values import Scaling

#: Changes and instances that are drawn; the table has all of them.
_MOST_DRAWN = 24
#: Panels: columns of the timeline with their names and lines, the title, and the factor to its unit.
_PANELS: tuple[tuple[tuple[tuple[str, str, int], ...], str, float], ...] = (
    ((("arrivals_per_s", "requests that arrive", 0), ("requests_per_s", "are answered", 1)), "Requests<br>[1/s]", 1.0),
    ((("devices", "devices held", 2), ("size", "ranks that serve", 3)), "Held", 1.0),
    ((("tokens_per_s", "output", 0),), "Output<br>[tokens/s]", 1.0),
    ((("attainment", "within the SLO", 0),), "Within SLO<br>[%]", 100.0),
)
_STATES: Mapping[str, tuple[str, str]] = {
    "starting": (ORANGE, "/"),
    "serving": (BLUE, ""),
    "draining": (GREY, "x"),
}
_PHASES = ((BLUE, ""), (ORANGE, "/"), (GREEN, "x"), (PURPLE, "."), (SKY, "-"), (YELLOW, "+"))


def scaling_chart(scaling: Scaling, baseline: Scaling | None = None) -> Chart:
    """Draw the course of a run that changed its size; the baseline's, where it changed too, in grey.

    The time from a command until the new size serves is shaded.
    """
    figure = make_subplots(rows=len(_PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for row, (lines, title, factor) in enumerate(_PANELS, start=1):
        for key, name, line in lines:
            drawn = _course(scaling, key, factor, name, *LINES[line]).update(showlegend=len(lines) > 1)
            figure.add_trace(drawn, row=row, col=1)
        if baseline is not None:
            key = lines[0][0]
            drawn = _course(baseline, key, factor, "baseline", MIDDLE_GREY, "dash").update(showlegend=row == 1)
            figure.add_trace(drawn, row=row, col=1)
        figure.update_yaxes(title_text=title, rangemode="tozero", row=row, col=1)
    for change in scaling.changes.head(_MOST_DRAWN).to_dict("records"):
        begin, end = change["command_s"], change["switched_s"]
        figure.add_vrect(x0=begin, x1=max(end, begin), fillcolor=ORANGE, opacity=0.25, line_width=0)
    figure.update_xaxes(title_text="Simulated time [s]", row=len(_PANELS), col=1)
    figure.update_layout(height=620, **legend_below(110))
    return Chart(figure=figure, alt=_scaling_alt(scaling), table=scaling_table(scaling, baseline))


def _course(scaling: Scaling, key: str, factor: float, name: str, colour: str, dash: str) -> go.Scatter:
    frame = scaling.timeline
    return go.Scatter(
        x=(frame["start_s"] + frame["end_s"]) / 2,
        y=frame[key] * factor,
        mode="lines",
        connectgaps=True,
        name=name,
        line={"color": colour, "dash": dash, "width": 2},
        hovertemplate=f"%{{x:.4g}} s: %{{y:.3g}}<extra>{name}</extra>",
    )


def scaling_table(scaling: Scaling, baseline: Scaling | None) -> pd.DataFrame:
    """Put the headline numbers of scaling side by side."""
    return scaling_tables({"Scenario": scaling, **({} if baseline is None else {"Baseline": baseline})})


def scaling_tables(runs: Mapping[str, Scaling]) -> pd.DataFrame:
    """Put the headline numbers of scaling of several runs side by side, a column each."""
    numbers = {name: _numbers(run) for name, run in runs.items()}
    labels = [label for label, _ in next(iter(numbers.values()))]
    return pd.DataFrame({"Scaling": labels, **{name: [text for _, text in rows] for name, rows in numbers.items()}})


def _numbers(scaling: Scaling) -> list[tuple[str, str]]:
    summary = scaling.summary
    return [
        ("Mechanism", summary.mechanism),
        ("Policy", summary.policy),
        ("Within the SLO", in_unit(summary.attainment, "%")),
        ("Changes", str(summary.changes)),
        ("Ready after, mean", duration(summary.latency_mean_s)),
        ("Ready after, max", duration(summary.latency_max_s)),
        ("Downtime", duration(summary.downtime_s) if summary.downtime_s else "0 s"),
        ("Devices, mean", significant(summary.devices_mean)),
        ("Devices, most", str(summary.devices_peak)),
        ("Memory, most", in_unit(summary.memory_peak_bytes / 1e9, "GB")),
        ("Weights moved", in_unit(summary.moved_bytes / 1e9, "GB")),
        ("Device-hours", significant(summary.device_hours)),
        ("Cost", in_unit(summary.cost_usd, "USD")),
    ]


def _scaling_alt(scaling: Scaling) -> str:
    summary = scaling.summary
    changed = (
        f"{summary.changes} change{'s' * (summary.changes > 1)}, ready after "
        f"{duration(summary.latency_mean_s)} on average"
        if summary.changes
        else "The size never changed"
    )
    return (
        f"{summary.mechanism} with policy {summary.policy}: {changed}. {in_unit(summary.attainment, '%')} of the "
        f"requests met the objective, with {significant(summary.devices_mean)} devices on average and "
        f"{summary.devices_peak} at most: {significant(summary.device_hours)} device-hours."
    )


def instances_chart(scaling: Scaling) -> Chart:
    """Draw when each instance was starting, serving and ending its work."""
    frame = scaling.instances
    figure = go.Figure()
    drawn = frame[frame["instance"] < _MOST_DRAWN]
    for state, (colour, pattern) in _STATES.items():
        rows = drawn[drawn["state"] == state]
        if rows.empty:
            continue
        figure.add_bar(
            base=rows["start_s"],
            x=rows["end_s"] - rows["start_s"],
            y=[f"instance {number}" for number in rows["instance"]],
            orientation="h",
            name=state,
            marker=filled(colour, pattern),
            customdata=rows[["size"]].to_numpy(),
            hovertemplate=f"{state}, %{{customdata[0]}} ranks: %{{base:.4g}} s + %{{x:.4g}} s<extra>%{{y}}</extra>",
        )
    names = [f"instance {number}" for number in sorted(drawn["instance"].unique())]
    _as_gantt(figure, names, "Simulated time [s]")
    spans = frame.assign(span=frame["end_s"] - frame["start_s"]).groupby("state")["span"].sum()
    total = float(spans.sum())
    table = pd.DataFrame(
        {
            "State": list(spans.index),
            "Time, all instances": [duration(float(span)) if span else "0 s" for span in spans],
            "Share [%]": [significant(100 * float(span) / total) for span in spans],
        }
    )
    serving = float(spans.get("serving", 0.0)) / total
    alt = f"{frame['instance'].nunique()} instances, {in_unit(serving, '%')} of whose time is serving."
    return Chart(figure=figure, alt=alt, table=table)


def phases_chart(scaling: Scaling) -> Chart:
    """Draw the phases of each change from its command on, and list the changes."""
    commands = scaling.changes["command_s"].to_numpy(np.float64)
    phases = scaling.phases.assign(
        after=scaling.phases["start_s"] - commands[scaling.phases["change"].to_numpy(np.intp)]
    )
    drawn = phases[phases["change"] < _MOST_DRAWN]
    figure = go.Figure()
    for place, name in enumerate(drawn["phase"].unique()):
        rows = drawn[drawn["phase"] == name]
        colour, pattern = _PHASES[place % len(_PHASES)]
        figure.add_bar(
            base=rows["after"],
            x=rows["end_s"] - rows["start_s"],
            y=[f"change {number + 1}" for number in rows["change"]],
            orientation="h",
            name=name,
            marker=filled(colour, pattern),
            hovertemplate=f"{name}: %{{base:.4g}} s + %{{x:.4g}} s<extra>%{{y}}</extra>",
        )
    names = [f"change {number + 1}" for number in sorted(drawn["change"].unique())]
    _as_gantt(figure, names, "Time after the command [s]")
    lasting = phases.assign(span=phases["end_s"] - phases["start_s"]).groupby("phase")["span"].mean()
    longest = str(lasting.idxmax())
    alt = f"Of the phases of a change, {longest} takes longest: {duration(float(lasting[longest]))} on average."
    return Chart(figure=figure, alt=alt, table=_changes(scaling.changes))


def _changes(changes: pd.DataFrame) -> pd.DataFrame:
    def after(key: str) -> list[str]:
        return [duration(float(span)) if span else "0 s" for span in changes[key] - changes["command_s"]]

    return pd.DataFrame(
        {
            "At": [duration(float(at)) if at else "0 s" for at in changes["command_s"]],
            "Size": [f"{row['before']} to {row['after']}" for row in changes.to_dict("records")],
            "Ready": after("ready_s"),
            "Serves": after("switched_s"),
            "Old gone": after("released_s"),
            "Moved [GB]": [significant(float(moved) / 1e9) for moved in changes["moved_bytes"]],
        }
    )


def _as_gantt(figure: go.Figure, rows: Sequence[str], axis: str) -> None:
    """Lay bars out over time, a named row each, the first on top whatever is drawn first."""
    figure.update_layout(
        barmode="overlay",
        height=150 + 26 * len(rows),
        **legend_below(90),
        xaxis={"title": axis, "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "categoryorder": "array", "categoryarray": rows},
    )
