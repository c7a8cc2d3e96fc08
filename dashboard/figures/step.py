"""One step on its streams, and the load of ranks before and after experts are placed: figures, words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard.display import duration, in_unit, seconds_scale, significant
from dashboard.figures.common import Chart, component_marker, legend_below
from simulator.placement.policies import POLICIES

if TYPE_CHECKING:
    from simulator.explanation.timeline import StepTimeline
    from simulator.study.placement import PlacementScore, PlacementStudy

#: Which component's colour and pattern a block of the timeline has.
_BLOCKS: Mapping[str, tuple[str, str]] = {
    "attention": ("attention", "attention"),
    "shared": ("shared experts, router", "gemm"),
    "experts": ("experts", "experts"),
    "dispatch": ("dispatch", "dispatch"),
    "combine": ("combine", "combine"),
    "before the MoE layers": ("before the MoE layers", "small_kernels"),
    "after the MoE layers": ("after the MoE layers", "small_kernels"),
    "host": ("host", "cpu_gap"),
}
_STREAMS = ("communication", "compute", "host")
#: MoE layers shown where not the whole step is.
_LAYERS = 3
#: Load over the mean rank at the dark end of the colours, at least [1].
_HEAVY = 2.0


def step_chart(drawn: StepTimeline, *, whole: bool = False) -> Chart:
    """Draw what each stream of the slowest rank does, from the host to the last layer.

    Parameters
    ----------
    drawn : StepTimeline
        The step.
    whole : bool
        Whether to show all of it at first, rather than a few layers in its middle.
    """
    frame = _tasks(drawn)
    factor, unit = seconds_scale(drawn.step_s)
    figure = go.Figure()
    for name, (label, component) in _BLOCKS.items():
        rows = frame[frame["name"] == name]
        if rows.empty:
            continue
        figure.add_bar(
            base=rows["start_s"] * factor,
            x=rows["seconds"] * factor,
            y=rows["stream"],
            orientation="h",
            name=label,
            marker=component_marker(component),
            text=rows["half"],
            textposition="inside",
            insidetextanchor="middle",
            customdata=rows[["where"]].to_numpy(),
            hovertemplate=f"{label}%{{customdata[0]}}: %{{base:.4g}} {unit} + %{{x:.3g}} {unit}<extra></extra>",
        )
    low, high = (0.0, drawn.step_s) if whole else _middle(frame, drawn.step_s)
    figure.update_layout(
        barmode="overlay",
        height=330,
        **legend_below(110),
        xaxis={"title": f"Time in the step [{unit}]", "range": [low * factor, high * factor]},
        yaxis={"categoryorder": "array", "categoryarray": _STREAMS[::-1]},
    )
    busy = [drawn.schedule.busy(stream) for stream in _STREAMS]
    table = pd.DataFrame(
        {
            "Stream": _STREAMS,
            "Busy": [duration(seconds) for seconds in busy],
            "Share [%]": [significant(100 * seconds / drawn.step_s) for seconds in busy],
        }
    )
    return Chart(figure=figure, alt=_step_alt(drawn), table=table)


def _tasks(drawn: StepTimeline) -> pd.DataFrame:
    """List the blocks that take time, with where they belong in words."""
    tasks, schedule = drawn.schedule.tasks, drawn.schedule
    several = drawn.overlap == "two_batch"
    layers = [task.arguments.get("layer") for task in tasks]
    where = [
        ""
        if layer is None
        else f", MoE layer {layer}" + (f", half {task.arguments.get('batch', 0)}" if several else "")
        for task, layer in zip(tasks, layers, strict=True)
    ]
    frame = pd.DataFrame(
        {
            "name": [task.name for task in tasks],
            "stream": [task.stream for task in tasks],
            "start_s": schedule.start,
            "seconds": schedule.end - schedule.start,
            "layer": [-1 if layer is None else int(str(layer)) for layer in layers],
            "where": where,
            "half": [str(task.arguments.get("batch", "")) if several else "" for task in tasks],
        }
    )
    return frame[frame["seconds"] > 0]


def _middle(frame: pd.DataFrame, step: float) -> tuple[float, float]:
    """Return when a few layers in the middle begin and end [s]; the whole step where there are no more."""
    last = int(frame["layer"].max())
    if last < _LAYERS:
        return 0.0, step
    first = (last + 1 - _LAYERS) // 2
    shown = frame[frame["layer"].between(first, first + _LAYERS - 1)]
    return float(shown["start_s"].min()), float((shown["start_s"] + shown["seconds"]).max())


def _step_alt(drawn: StepTimeline) -> str:
    how = {
        "none": "Nothing overlaps",
        "shared_expert": "Shared experts run beside the dispatch",
        "two_batch": "Two halves of the batch, 0 and 1, take turns",
    }[drawn.overlap]
    saved = (
        f", which saves {duration(drawn.saved_s)}"
        if drawn.saved_s > 0
        else f", which costs {duration(-drawn.saved_s)}"
        if drawn.saved_s < 0
        else ""
    )
    head = (
        f"One {drawn.phase} step of batch {drawn.sequences:,} at {drawn.length:,} tokens takes "
        f"{duration(drawn.step_s)} on the slowest rank. {how}{saved}."
    )
    if drawn.exchanged_s <= 0:
        return f"{head} Nothing travels between ranks."
    hidden = 1 - drawn.exposed_s / drawn.exchanged_s
    return f"{head} Communication takes {duration(drawn.exchanged_s)}, {in_unit(hidden, '%')} of it beside computing."


def hidden_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Put what runs beside communication into words."""
    return pd.DataFrame(
        {
            "Message": [str(row["message"]) for row in rows],
            "Beside": [str(row["beside"]) for row in rows],
            "Time": [duration(float(str(row["time_s"]))) for row in rows],
        }
    )


def study_policies(current: str) -> tuple[str, ...]:
    """List the policies to compare: none first, then the scenario's own, then the others.

    Examples
    --------
    >>> study_policies("eplb")[:2]
    ('linear', 'eplb')
    """
    return tuple(dict.fromkeys(("linear", current, *(name for name in POLICIES if name != "lpt"))))


def placement_chart(study: PlacementStudy, phase: str) -> Chart:
    """Draw the load of ranks by layer under the first placement and under the best, and list all of them."""
    before, after = study.scores[0], study.best
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=[_titled(before), _titled(after)]
    )
    heaviest = max(float(before.heat.max()), float(after.heat.max()), _HEAVY)
    for column, score in enumerate((before, after), start=1):
        figure.add_trace(
            go.Heatmap(
                z=np.round(score.heat, 3),
                zmin=0.0,
                zmax=heaviest,
                colorscale="Cividis",
                showscale=column == 1,
                colorbar={"title": {"text": "load over<br>mean rank"}},
                hovertemplate="layer %{y}, rank %{x}: %{z:.2f} of the mean<extra></extra>",
            ),
            row=1,
            col=column,
        )
    figure.update_xaxes(title_text="Rank")
    figure.update_yaxes(title_text="MoE layer", autorange="reversed", row=1, col=1)
    figure.update_yaxes(autorange="reversed", row=1, col=2)
    figure.update_layout(height=460, margin={"l": 10, "r": 10, "t": 40, "b": 10})
    alt = (
        f"One {phase} step on {study.ranks} ranks takes {duration(before.step)} with experts placed {before.policy}, "
        f"{duration(after.step)} with {after.policy}: {in_unit(study.gain(after), '%')} less. The heaviest rank has "
        f"{significant(before.imbalance_later)} and {significant(after.imbalance_later)} times the mean load, judged "
        f"on {study.later_tokens:,} tokens that the placements were not computed from."
    )
    return Chart(figure=figure, alt=alt, table=_scores(study))


def _titled(score: PlacementScore) -> str:
    return f"{score.policy}: {duration(score.step)}"


def _scores(study: PlacementStudy) -> pd.DataFrame:
    """List the placements, the fastest first; the oracle, which knew the tokens, comes last."""
    *policies, oracle = study.scores
    ordered = [*sorted(policies, key=lambda score: score.step), oracle]
    return pd.DataFrame(
        {
            "Policy": [score.policy for score in ordered],
            "Step": [duration(score.step) for score in ordered],
            "Gain [%]": [f"{100 * study.gain(score):+.1f}" for score in ordered],
            "Max/mean": [f"{score.imbalance_later:.2f}" for score in ordered],
            "Imbalance wait": [duration(score.parts["imbalance_wait"]) for score in ordered],
            "Exchange": [duration(score.parts["exchange"]) for score in ordered],
        }
    )


def rebalance_table(rows: tuple[Mapping[str, float], ...]) -> pd.DataFrame:
    """List the changes of placement of a run."""
    return pd.DataFrame(
        {
            "At": [duration(row["at_s"]) for row in rows],
            "Instance": [f"{row['instance']:.0f}" for row in rows],
            "Experts moved": [f"{row['experts']:,.0f}" for row in rows],
            "Moved [GB]": [significant((row["near_bytes"] + row["far_bytes"]) / 1e9) for row in rows],
            "Cost": [duration(row["cost_s"]) for row in rows],
            "Saved": [duration(row["saved_s"]) for row in rows],
            "Steps until the next": [f"{row['steps']:,.0f}" for row in rows],
        }
    )
