"""Where the time of a run goes, how its latencies are spread, and its course."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from dashboard.display import duration, in_unit, seconds_scale, significant
from dashboard.figures.common import (
    BLUE,
    GREEN,
    GREY,
    LINES,
    MARGIN,
    MIDDLE_GREY,
    MOST_INSTANCES,
    MOST_POINTS,
    ORANGE,
    Chart,
    component_label,
    component_marker,
    legend_below,
    thinned,
)
from simulator.step.components import COMPONENTS

#: Percent of the time that is not worth a bar.
_DUST = 1e-6
_METRICS = (("TTFT", BLUE), ("TPOT", ORANGE), ("E2EL", GREEN))


def breakdown_chart(
    breakdowns: Mapping[str, Mapping[str, float]], per_token: Mapping[str, float] | None = None
) -> Chart:
    """Draw where the time goes, one stacked bar per answer.

    Parameters
    ----------
    breakdowns : Mapping of str to Mapping of str to float
        Seconds by component for each label; bars show shares, so that answers over different spans compare.
    per_token : Mapping of str to float, optional
        Device time per output token for each label [s]; bars are then as long as that, so that a gain shows.
    """
    shares = {label: _shares(parts) for label, parts in breakdowns.items()}
    present = [name for name in COMPONENTS if any(parts[name] > 0 for parts in shares.values())]
    spent = per_token if per_token and all(math.isfinite(span) for span in per_token.values()) else None
    factor, unit = (1.0, "%") if spent is None else seconds_scale(max(spent.values()))
    lengths = dict.fromkeys(shares, 1.0) if spent is None else {key: span * factor / 100 for key, span in spent.items()}
    figure = go.Figure()
    for name in present:
        label = component_label(name)
        figure.add_bar(
            y=list(breakdowns),
            x=[parts[name] * lengths[key] for key, parts in shares.items()],
            name=label,
            orientation="h",
            marker=component_marker(name),
            customdata=[parts[name] for parts in shares.values()],
            hovertemplate=f"{label}: %{{x:.3g}} {unit}, %{{customdata:.3g}} %<extra>%{{y}}</extra>",
        )
    axis = {"title": "Share of time [%]", "range": [0, 100]}
    figure.update_layout(
        barmode="stack",
        height=180 + 60 * max(len(breakdowns), 1),
        **legend_below(130, as_added=True),
        xaxis=axis if spent is None else {"title": f"Device time per output token [{unit}]", "rangemode": "tozero"},
        yaxis={"autorange": "reversed"},
    )
    columns = {
        f"{key} [{unit}]": [significant(parts[name] * lengths[key]) for name in present]
        for key, parts in shares.items()
    }
    table = pd.DataFrame({"Component": [component_label(name) for name in present], **columns})
    return Chart(figure=figure, alt=_breakdown_alt(shares, spent or {}), table=table)


def _shares(parts: Mapping[str, float]) -> dict[str, float]:
    """Turn seconds by component into percent of their sum; the dust of rounding counts as nothing."""
    total = math.fsum(parts.values())
    shares = {name: 100 * parts.get(name, 0.0) / total if total > 0 else 0.0 for name in COMPONENTS}
    return {name: share if share >= _DUST else 0.0 for name, share in shares.items()}


def _breakdown_alt(shares: Mapping[str, Mapping[str, float]], per_token: Mapping[str, float]) -> str:
    sentences = []
    for label, parts in shares.items():
        largest = sorted((name for name in parts if parts[name] > 0), key=lambda name: -parts[name])[:3]
        words = ", ".join(f"{component_label(name)} {significant(parts[name])} %" for name in largest)
        of = f" of {duration(per_token[label])} per output token and device" if label in per_token else ""
        sentences.append(f"{label}: {words}{of}." if words else f"{label}: no time was spent.")
    return "Share of time by component, largest first. " + " ".join(sentences)


def request_latencies(requests: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return TTFT, TPOT and E2EL [s] of the requests that finished inside the measured window.

    TPOT is the decode time over the tokens after the first, so one-token answers have none.
    """
    done = requests[requests["measured"].astype(bool) & requests["finish_s"].notna()]
    arrival, first, finish = (done[key].to_numpy(np.float64) for key in ("arrival_s", "first_token_s", "finish_s"))
    further = done["output_tokens"].to_numpy(np.int64) - 1
    several = further > 0
    return {
        "TTFT": first - arrival,
        "TPOT": (finish - first)[several] / further[several],
        "E2EL": finish - arrival,
    }


def latency_chart(
    requests: pd.DataFrame,
    kind: Literal["cumulative", "histogram"] = "cumulative",
    objectives: Mapping[str, float | None] | None = None,
    baseline: pd.DataFrame | None = None,
) -> Chart:
    """Draw how TTFT, TPOT and E2EL are spread over the requests.

    Parameters
    ----------
    requests : DataFrame
        As in :class:`simulator.results.values.Result`.
    kind : {"cumulative", "histogram"}
        Share of requests at or below each latency, or per bin.
    objectives : Mapping of str to float or None, optional
        Service-level objective [s] by metric; what meets it is shaded.
    baseline : DataFrame, optional
        Requests of the run to compare with, drawn as a grey dashed line.
    """
    latencies = request_latencies(requests)
    compared = {} if baseline is None else request_latencies(baseline)
    figure = make_subplots(rows=1, cols=len(_METRICS), horizontal_spacing=0.08)
    rows: list[list[str]] = []
    most = MOST_POINTS // (len(_METRICS) * (2 if compared else 1))
    for column, (name, colour) in enumerate(_METRICS, start=1):
        values, before = np.sort(latencies[name]), np.sort(compared.get(name, np.zeros(0)))
        spreads = (values, before) if compared else (values,)
        for called, q in (("mean", None), ("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)):
            rows.append([f"{name}, {called}", *(duration(_statistic(spread, q)) for spread in spreads)])
        rows.append([f"{name}, requests", *(f"{spread.size:,}" for spread in spreads)])
        factor, unit = seconds_scale(_statistic(values, 50))
        figure.update_xaxes(title_text=f"{name} [{unit}]", rangemode="tozero", row=1, col=column)
        if not values.size:
            continue
        if before.size:
            grey = _cumulative(before * factor, most) if kind == "cumulative" else _outline(before * factor)
            style = {"line_color": MIDDLE_GREY, "line_dash": "dash", "name": f"{name}, baseline"}
            figure.add_trace(grey.update(**style), row=1, col=column)
        trace = _cumulative(values * factor, most) if kind == "cumulative" else _histogram(values * factor)
        hover = f"%{{x:.3g}} {unit}: %{{y:.3g}} %<extra>{name}</extra>"
        figure.add_trace(trace.update(name=name, marker_color=colour, hovertemplate=hover), row=1, col=column)
        for share, dash, side in ((50, "dash", "right"), (99, "dot", "left")):
            at = _statistic(values, share) * factor
            figure.add_vline(x=at, line_dash=dash, line_color=GREY, row=1, col=column)
            label = {"x": at, "y": 1, "yref": "y domain", "yanchor": "bottom", "xanchor": side, "text": f"p{share}"}
            figure.add_annotation(**label, showarrow=False, row=1, col=column)
        objective = (objectives or {}).get(name)
        if objective:
            figure.add_vrect(x0=0, x1=objective * factor, fillcolor=GREEN, opacity=0.12, row=1, col=column)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="Requests at or below [%]" if kind == "cumulative" else "Requests [%]", col=1)
    figure.update_layout(showlegend=False, height=340, margin={"l": 10, "r": 10, "t": 30, "b": 10})
    columns = ["Latency", "Simulation", *(("Baseline",) if compared else ())]
    table = pd.DataFrame(rows, columns=columns)
    alt = _latency_alt(latencies, objectives or {})
    return Chart(figure=figure, alt=f"{alt} The baseline is the grey line." if compared else alt, table=table)


def _cumulative(values: NDArray[np.float64], most: int) -> go.Scatter:
    """Draw the share of sorted values at or below each, in at most so many points."""
    keep = np.unique(np.linspace(0, values.size - 1, min(values.size, most)).round().astype(np.intp))
    return go.Scatter(x=values[keep], y=100 * (keep + 1) / values.size, mode="lines", line_shape="hv")


def _histogram(values: NDArray[np.float64]) -> go.Bar:
    """Draw the share of values in each of up to 40 bins."""
    middles, shares, widths = _bins(values)
    return go.Bar(x=middles, y=shares, width=widths)


def _outline(values: NDArray[np.float64]) -> go.Scatter:
    """Draw the same as a line, to lie over bars."""
    middles, shares, _ = _bins(values)
    return go.Scatter(x=middles, y=shares, mode="lines", line_shape="hvh")


def _bins(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the middle of each bin, the share of values in it [%] and its width."""
    counts, edges = np.histogram(values, bins=min(40, max(values.size // 2, 1)))
    return (edges[:-1] + edges[1:]) / 2, 100 * counts / values.size, np.diff(edges)


def _statistic(values: NDArray[np.float64], percentile: int | None) -> float:
    if not values.size:
        return float("nan")
    return float(np.mean(values) if percentile is None else np.percentile(values, percentile))


def _latency_alt(latencies: Mapping[str, NDArray[np.float64]], objectives: Mapping[str, float | None]) -> str:
    sentences = []
    for name, values in latencies.items():
        if not values.size:
            sentences.append(f"{name}: no request has one.")
            continue
        half, tail = _statistic(values, 50), _statistic(values, 99)
        sentence = f"{name}: half of the requests within {duration(half)}, 99 % within {duration(tail)}"
        objective = objectives.get(name)
        if objective:
            met = 100 * float(np.mean(values <= objective))
            sentence += f"; {significant(met)} % meet the objective of {duration(objective)}"
        sentences.append(sentence + ".")
    return "Distribution of latencies over requests. " + " ".join(sentences)


def steps_chart(steps: pd.DataFrame, baseline: pd.DataFrame | None = None) -> Chart:
    """Draw batch, prompt tokens, KV use and queue over the run, a line per instance.

    Long runs are thinned so that the lowest and highest step of every stretch stay.

    Parameters
    ----------
    steps : DataFrame
        As in :class:`simulator.results.values.Result`.
    baseline : DataFrame, optional
        Steps of the run to compare with; its first instance is drawn as a grey dashed line.
    """
    instances = sorted(steps["instance"].unique())
    drawn = instances[:MOST_INSTANCES]
    courses = [
        (steps[steps["instance"] == instance], f"instance {instance}", *LINES[line])
        for line, instance in enumerate(drawn)
    ]
    if baseline is not None and len(baseline):
        first = baseline[baseline["instance"] == baseline["instance"].min()]
        courses.append((first, "baseline", MIDDLE_GREY, "dash"))
    panels = (
        ("running", "Batch [requests]", 1.0),
        ("prefill_tokens", "Prefill [tokens]", 1.0),
        ("kv_use", "KV use [%]", 100.0),
        ("queue_length", "Queue [requests]", 1.0),
    )
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    limit = MOST_POINTS // (len(panels) * max(len(courses), 1))
    for course, called, colour, dash in courses:
        part = course.sort_values("start_s")
        for row, (key, title, factor) in enumerate(panels, start=1):
            values = part[key].to_numpy(np.float64) * factor
            keep = thinned(values, limit)
            figure.add_trace(
                go.Scatter(
                    x=part["start_s"].to_numpy()[keep],
                    y=values[keep],
                    mode="lines",
                    name=called,
                    legendgroup=called,
                    showlegend=row == 1 and len(courses) > 1,
                    line={"color": colour, "dash": dash, "width": 1.5, "shape": "hv"},
                    hovertemplate=f"%{{x:.3g}} s: %{{y:.3g}}<extra>{title}, {called}</extra>",
                ),
                row=row,
                col=1,
            )
    for row, (_, title, _factor) in enumerate(panels, start=1):
        figure.update_yaxes(title_text=title.replace(" [", "<br>["), rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title_text="Simulated time [s]", row=len(panels), col=1)
    figure.update_layout(height=560, margin=MARGIN, legend={"orientation": "h", "y": 1.05})
    table = pd.DataFrame(
        [
            [title, *(significant(factor * value) for value in _spread(steps[key]))]
            for key, title, factor in (
                *panels,
                ("duration_s", "Step time [ms]", 1e3),
                ("rank_imbalance", "Rank imbalance", 1.0),
            )
        ],
        columns=["Per step", "Mean", "p50", "p99", "Max"],
    )
    alt = _steps_alt(steps, len(drawn), len(instances))
    return Chart(figure=figure, alt=alt if len(courses) == len(drawn) else f"{alt} The baseline is grey.", table=table)


def _spread(column: pd.Series) -> Sequence[float]:
    values = column.to_numpy(np.float64)
    values = values[np.isfinite(values)]
    return [_statistic(values, q) for q in (None, 50, 99, 100)]


def _steps_alt(steps: pd.DataFrame, drawn: int, instances: int) -> str:
    if steps.empty:
        return "No engine step was run."
    end = float((steps["start_s"] + steps["duration_s"]).max())
    shown = f" The first {drawn} of {instances} instances are drawn." if drawn < instances else ""
    return (
        f"{len(steps):,} engine steps over {duration(end)}. "
        f"The batch holds {significant(float(steps['running'].mean()))} requests on average. "
        f"KV use peaks at {in_unit(float(steps['kv_use'].max()), '%')}. "
        f"The queue holds {significant(float(steps['queue_length'].mean()))} requests on average "
        f"and {significant(float(steps['queue_length'].max()))} at most.{shown}"
    )
