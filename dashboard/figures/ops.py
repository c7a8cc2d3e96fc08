"""Why a step takes as long as it does: its ops as a chart and as a table of bounds, equations, inputs and sources."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from dashboard.display import duration, in_unit, seconds_scale, significant
from dashboard.figures.common import Chart, component_label, component_marker, legend_below
from simulator.results.values import Explanation
from simulator.step.components import COMPONENTS


def ops_chart(explanation: Explanation, most: int = 12) -> Chart:
    """Draw the most expensive ops of a step, coloured by component, and list all of them."""
    ops = explanation.ops.sort_values("time_s", ascending=False)
    # What overlap saves or costs is no op: it stands in the table alone.
    top = ops[ops["component"].isin(COMPONENTS)].head(most)
    factor, unit = seconds_scale(float(ops["time_s"].max()) if len(ops) else 0.0)
    # Names repeat where layers are of several kinds: bars of one name lie on one line.
    names = top.groupby("name")["time_s"].sum().sort_values().index
    figure = go.Figure()
    for component in COMPONENTS:
        rows = top[top["component"] == component]
        if rows.empty:
            continue
        figure.add_bar(
            x=rows["time_s"] * factor,
            y=rows["name"],
            orientation="h",
            name=component_label(component),
            marker=component_marker(component),
            customdata=rows[["bound"]].to_numpy(),
            hovertemplate=f"%{{y}}: %{{x:.3g}} {unit}, bound by %{{customdata[0]}}<extra></extra>",
        )
    figure.update_layout(
        barmode="stack",
        height=150 + 26 * len(names),
        **legend_below(100, as_added=True),
        xaxis={"title": f"Time in one step [{unit}]"},
        yaxis={"categoryorder": "array", "categoryarray": names},
    )
    return Chart(figure=figure, alt=_ops_alt(explanation, ops), table=_ops_table(ops))


def _ops_alt(explanation: Explanation, ops: pd.DataFrame) -> str:
    head = (
        f"One {explanation.phase} step of batch {explanation.batch:,} at context {explanation.context:,} tokens takes "
        f"{duration(explanation.step_s)}."
    )
    if ops.empty:
        return head
    first = ops.iloc[0]
    return (
        f"{head} The largest of {len(ops)} ops is {first['name']} with {in_unit(float(first['share']), '%')} of the "
        f"time, bound by {first['bound']}."
    )


#: Columns of the table: what it is called, the key in the frame, and the factor to its unit (0 = text).
_COLUMNS = (
    ("Op", "name", 0.0),
    ("Component", "component", 0.0),
    ("Repeat", "repeat", 0.0),
    ("Time [µs]", "time_s", 1e6),
    ("Share [%]", "share", 100.0),
    ("Bound", "bound", 0.0),
    ("Work [GFLOP]", "flops", 1e-9),
    ("Memory [MB]", "bytes", 1e-6),
    ("Message [MB]", "message_bytes", 1e-6),
    ("Kernel", "kernel", 0.0),
    ("Equation", "equation", 0.0),
    ("Inputs", "inputs", 0.0),
    ("Source", "source", 0.0),
    ("Evidence", "evidence", 0.0),
    ("Error, 1 sigma [%]", "error", 100.0),
)


def _ops_table(ops: pd.DataFrame) -> pd.DataFrame:
    """Put the ops into display units; a column that the explanation does not have is left out."""
    columns = {
        title: [significant(float(value) * factor) if factor else str(value) for value in ops[key]]
        for title, key, factor in _COLUMNS
        if key in ops
    }
    columns["Component"] = [component_label(name) for name in columns["Component"]]
    columns["Repeat"] = [f"{float(text):g}" for text in columns["Repeat"]]
    return pd.DataFrame(columns)
