"""What pools, prefix caches, drafts and faults did to a run: figures, words and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard.display import MISSING, duration, in_unit, seconds_scale, significant
from dashboard.figures.common import (
    BLACK,
    BLUE,
    GREEN,
    LINES,
    MARGIN,
    MIDDLE_GREY,
    MOST_INSTANCES,
    ORANGE,
    PURPLE,
    VERMILLION,
    Chart,
    filled,
    legend_below,
)
from simulator.arrays import FloatArray
from simulator.elastic.report import tokens_between
from simulator.step.speculation import accepted_chances, tokens_per_step

if TYPE_CHECKING:
    from simulator.scenario.sections import Fault, Speculation


#: Bins of a chart over time.
_BINS = 60
#: Drafts that the chart of drafts reaches at least.
_DRAFTS = 8
#: Parts of a TTFT where prompts have instances of their own: name, from, to, colour, pattern.
_STAGES = (
    ("queue", "arrival_s", "admitted_s", BLUE, ""),
    ("prefill", "admitted_s", "computed_s", ORANGE, "/"),
    ("wait for a decoder", "computed_s", "sent_s", PURPLE, "x"),
    ("KV cache on its way", "sent_s", "first_token_s", GREEN, "."),
)


def pools_chart(requests: pd.DataFrame, steps: pd.DataFrame, decoders: int) -> Chart:
    """Draw how busy the instances of each pool are, and what a TTFT consists of.

    Parameters
    ----------
    requests, steps : DataFrame
        As in :class:`simulator.results.values.Result`.
    decoders : int
        Instances that decode; those that compute prompts come after them.
    """
    busy = _busy(steps, decoders)
    stages = _stages(requests)
    total = sum(stages.values())
    factor, unit = seconds_scale(total)
    figure = make_subplots(rows=1, cols=2, column_widths=[0.4, 0.6], horizontal_spacing=0.14)
    pools = busy.groupby("pool", sort=False)["share"].mean()
    hover = "%{y}: %{x:.3g} %<extra></extra>"
    figure.add_bar(
        x=100 * pools,
        y=pools.index,
        orientation="h",
        marker=filled(BLUE),
        showlegend=False,
        hovertemplate=hover,
        row=1,
        col=1,
    )
    for name, _, _, colour, pattern in _STAGES:
        figure.add_bar(
            x=[stages[name] * factor],
            y=["mean TTFT"],
            orientation="h",
            name=name,
            marker=filled(colour, pattern),
            hovertemplate=f"{name}: %{{x:.3g}} {unit}<extra></extra>",
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="Time in steps [%]", range=[0, 100], row=1, col=1)
    figure.update_xaxes(title_text=f"Time [{unit}]", row=1, col=2)
    figure.update_layout(
        barmode="stack",
        height=300,
        **legend_below(90, as_added=True),
    )
    table = pd.DataFrame(
        {
            "Part of TTFT": list(stages),
            "Mean": [duration(seconds) for seconds in stages.values()],
            "Share [%]": [significant(100 * seconds / total) for seconds in stages.values()],
        }
    )
    shares = (f"{pool} instances are in steps {in_unit(share, '%')} of the time" for pool, share in pools.items())
    words = "; ".join(shares).capitalize()
    way = stages["KV cache on its way"]
    alt = f"{words}. Of a mean TTFT of {duration(total)}, the way of the KV cache takes {duration(way)}, "
    return Chart(figure=figure, alt=f"{alt}{in_unit(way / total, '%')}.", table=table)


def _busy(steps: pd.DataFrame, decoders: int) -> pd.DataFrame:
    """Return the share of the run that each instance spends in steps; one that ran none is not in the frame."""
    span = float((steps["start_s"] + steps["duration_s"]).max() - steps["start_s"].min())
    share = steps.groupby("instance")["duration_s"].sum() / span
    pool = np.where(share.index.to_numpy() < decoders, "decode", "prefill")
    return pd.DataFrame({"instance": share.index, "pool": pool, "share": share.to_numpy()})


def _stages(requests: pd.DataFrame) -> dict[str, float]:
    """Mean time of each part of a TTFT, of measured requests whose KV cache travelled once [s]."""
    own = requests[requests["measured"].astype(bool) & (requests["retries"] == 0) & requests["sent_s"].notna()]
    return {name: float((own[end] - own[begin]).mean()) for name, begin, end, _, _ in _STAGES}


def cache_chart(requests: pd.DataFrame) -> Chart:
    """Draw which share of prompt tokens was cached, over the run and by instance."""
    began = requests[requests["admitted_s"].notna()]
    times = began["admitted_s"].to_numpy(np.float64)
    edges = _edges(times)
    cached, asked = (
        np.histogram(times, edges, weights=began[key].to_numpy(np.float64))[0]
        for key in ("cached_tokens", "input_tokens")
    )
    share = np.divide(100 * cached, asked, out=np.full(len(asked), np.nan), where=asked > 0)
    figure = go.Figure(
        go.Scatter(
            x=(edges[:-1] + edges[1:]) / 2,
            y=share,
            mode="lines+markers",
            line={"color": BLUE},
            connectgaps=True,
            hovertemplate="%{x:.4g} s: %{y:.3g} % cached<extra></extra>",
        )
    )
    figure.update_layout(
        height=320,
        margin=MARGIN,
        xaxis={"title": "Simulated time [s]"},
        yaxis={"title": "Prompt tokens cached [%]", "range": [0, 100]},
    )
    hits = float(began["cached_tokens"].sum() / max(began["input_tokens"].sum(), 1))
    with_hit = float((began["cached_tokens"] > 0).mean()) if len(began) else float("nan")
    alt = (
        f"{in_unit(hits, '%')} of all prompt tokens were cached; {in_unit(with_hit, '%')} of {len(began):,} prompts "
        "found something."
    )
    rows = [
        [
            str(instance),
            f"{len(part):,}",
            significant(100 * float(part["cached_tokens"].sum() / max(part["input_tokens"].sum(), 1))),
            duration(float((part["first_token_s"] - part["arrival_s"]).median())),
        ]
        for instance, part in began.groupby("instance")
    ]
    return Chart(
        figure=figure, alt=alt, table=pd.DataFrame(rows, columns=["Instance", "Prompts", "Hits [%]", "TTFT, p50"])
    )


def drafts_chart(choice: Speculation) -> Chart:
    """Draw how many tokens a step yields by the number of drafts."""
    most = max(choice.draft_tokens, _DRAFTS)
    numbers = list(range(most + 1))
    yields = [tokens_per_step(choice.model_copy(update={"draft_tokens": number})) for number in numbers]
    chosen = [number == choice.draft_tokens for number in numbers]
    figure = go.Figure(
        go.Bar(
            x=numbers,
            y=yields,
            marker={
                "color": [ORANGE if own else BLUE for own in chosen],
                "pattern": {"shape": ["/" if own else "" for own in chosen]},
                "line": {"color": BLACK, "width": 1},
            },
            hovertemplate="%{x} drafts: %{y:.3g} tokens per step<extra></extra>",
        )
    )
    figure.update_layout(
        height=320,
        margin=MARGIN,
        xaxis={"title": "Drafted tokens per step", "dtick": 1 if most <= 16 else 8},
        yaxis={"title": "Tokens per step and request"},
    )
    chances = accepted_chances(choice)
    table = pd.DataFrame(
        {
            "Drafts accepted, at least": [str(place + 1) for place in range(len(chances))],
            "Chance [%]": [significant(100 * float(chance)) for chance in chances],
        }
    )
    own = yields[choice.draft_tokens]
    alt = (
        f"With {choice.draft_tokens} drafted tokens a step yields {significant(own)} tokens per request on average, "
        f"and verifies {choice.draft_tokens + 1}. Without drafts it yields 1."
    )
    return Chart(figure=figure, alt=alt, table=table)


def faults_chart(requests: pd.DataFrame, steps: pd.DataFrame, faults: Sequence[Fault]) -> Chart:
    """Draw output and answers over the run, with what broke and until when."""
    edges = _edges(np.append(requests["finish_s"].dropna(), (steps["start_s"] + steps["duration_s"]).max()), 0.0)
    middle, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    instances = sorted(steps["instance"].unique())
    for line, instance in enumerate(instances[:MOST_INSTANCES]):
        rate = _tokens(steps[steps["instance"] == instance], edges) / width
        figure.add_trace(_line(middle, rate, f"instance {instance}", line), row=1, col=1)
    for line, (key, name) in enumerate((("arrival_s", "arrive"), ("finish_s", "are answered"))):
        rate = np.histogram(requests[key].dropna(), edges)[0] / width
        drawn = _line(middle, rate, f"requests that {name}", line).update(line_color=MIDDLE_GREY)
        figure.add_trace(drawn, row=2, col=1)
    for place, fault in enumerate(faults, start=1):
        figure.add_vrect(
            x0=fault.at, x1=_until(fault, float(edges[-1])), fillcolor=VERMILLION, opacity=0.15, line_width=0
        )
        figure.add_vline(x=fault.at, line_dash="dash", line_color=VERMILLION)
        label = {"x": fault.at, "y": 1, "yref": "y domain", "yanchor": "bottom", "text": f"fault {place}"}
        figure.add_annotation(**label, showarrow=False, row=1, col=1)
    figure.update_yaxes(title_text="Output<br>[tokens/s]", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="Requests<br>[1/s]", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="Simulated time [s]", row=2, col=1)
    figure.update_layout(height=460, **legend_below(90, top=30))
    alt = _faults_alt(requests, _tokens(steps, edges) / width, edges, faults)
    return Chart(figure=figure, alt=alt, table=_faults_table(faults))


def _tokens(steps: pd.DataFrame, edges: FloatArray) -> FloatArray:
    columns = {"start_s": "start_s", "duration_s": "duration_s", "decode_total": "decode_tokens"}
    return tokens_between({name: steps[key].to_numpy(np.float64) for name, key in columns.items()}, edges)


def _edges(times: FloatArray, first: float | None = None) -> FloatArray:
    """Cut the span of times into bins."""
    low = float(times.min(initial=0.0)) if first is None else first
    return np.linspace(low, max(float(times.max(initial=0.0)), low + 1e-9), _BINS + 1)


def _line(x: FloatArray, y: FloatArray, name: str, line: int) -> go.Scatter:
    colour, dash = LINES[line]
    shape = {"color": colour, "dash": dash, "width": 2}
    return go.Scatter(
        x=x, y=y, name=name, mode="lines", line=shape, hovertemplate=f"%{{x:.4g}} s: %{{y:.3g}}<extra>{name}</extra>"
    )


def _until(fault: Fault, end: float) -> float:
    """Return when a fault is over, or at least noticed and mended, as far as the scenario says [s]."""
    if fault.slowdown is None:
        return min(fault.at + fault.detection + (fault.restart or 0.0), end)
    return end if fault.lasts is None else min(fault.at + fault.lasts, end)


def _faults_table(faults: Sequence[Fault]) -> pd.DataFrame:
    def span(seconds: float | None) -> str:
        return "for good" if seconds is None else duration(seconds) if seconds else "0 s"

    return pd.DataFrame(
        {
            "Fault": [str(place + 1) for place in range(len(faults))],
            "At": [span(fault.at) for fault in faults],
            "What": [f"{_broken(fault)}instance {fault.instance}" for fault in faults],
            "Effect": ["fails" if fault.slowdown is None else f"{fault.slowdown:g} times as slow" for fault in faults],
            "Noticed after": [MISSING if fault.slowdown is not None else span(fault.detection) for fault in faults],
            "Lasts, restart": [span(fault.restart if fault.slowdown is None else fault.lasts) for fault in faults],
        }
    )


def _broken(fault: Fault) -> str:
    """Name what breaks of an instance."""
    return {"instance": "", "nic": f"NIC of rank {fault.rank}, "}.get(fault.kind, f"{fault.kind} {fault.rank}, ")


def _faults_alt(requests: pd.DataFrame, rate: FloatArray, edges: FloatArray, faults: Sequence[Fault]) -> str:
    first = min(fault.at for fault in faults)
    until = max(_until(fault, float(edges[-1])) for fault in faults)
    before, after = rate[edges[1:] <= first], rate[(edges[1:] > first) & (edges[:-1] < until)]
    again = int(requests["retries"].sum())
    words = f"{len(faults)} fault{'s' * (len(faults) > 1)}, the first at {duration(first) if first else '0 s'}. "
    if not len(after):
        return f"{words}The run ended before it."
    if len(before):
        words += f"Output was {significant(float(before.mean()))} tokens/s before it and "
    words += f"{significant(float(after.mean()))} tokens/s from then until the last of them was over. "
    return f"{words}{again:,} requests were sent in again."
