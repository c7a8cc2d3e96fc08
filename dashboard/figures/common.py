"""What every chart is made of: a figure with its words and its table, colours, and how long series are thinned.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every series also has a pattern or dash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.step.components import STEP_COMPONENTS, component_words

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

#: Points that one figure may hold; beyond, browsers stutter.
MOST_POINTS = 20_000

MARGIN: Mapping[str, int] = {"l": 10, "r": 10, "t": 10, "b": 10}

#: Instances drawn one by one in a time chart.
MOST_INSTANCES = 4

# Okabe & Ito, "Color Universal Design" (2008); black is a dark grey so that it shows on a dark page.
BLUE, SKY, ORANGE, GREEN = "#0072B2", "#56B4E9", "#E69F00", "#009E73"
YELLOW, VERMILLION, PURPLE, BLACK, GREY = "#F0E442", "#D55E00", "#CC79A7", "#404040", "#B0B0B0"
#: Seen on a white and on a dark page.
MIDDLE_GREY = "#808080"

LINES = ((BLUE, "solid"), (ORANGE, "dash"), (GREEN, "dot"), (PURPLE, "dashdot"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A figure with what it says in words and the numbers behind it."""

    figure: go.Figure
    alt: str
    table: pd.DataFrame


_COMPONENTS = {component.name: component for component in STEP_COMPONENTS}


def component_label(component: str) -> str:
    """Write a component's name for people.

    Examples
    --------
    >>> component_label("imbalance_wait"), component_label("gemm")
    ('imbalance wait', 'GEMM')
    """
    return component_words(component)


def component_marker(component: str) -> dict[str, object]:
    """Return the fill of a component's bars: colour, pattern, and an outline that shows pale fills on white."""
    style = _COMPONENTS[component]
    return {
        "color": style.colour,
        "pattern": {"shape": style.pattern, "size": 6, "fillmode": "overlay"},
        "line": {"color": BLACK, "width": 1},
    }


def filled(colour: str, pattern: str = "") -> dict[str, object]:
    """Fill bars with a colour and a pattern, outlined."""
    return {"color": colour, "pattern": {"shape": pattern}, "line": {"color": BLACK, "width": 1}}


def legend_below(room: int, *, top: int = 10, as_added: bool = False) -> dict[str, object]:
    """Lay a chart out with its legend below it, in so much room [pixels]; in the order of the series where asked."""
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
    return {
        "margin": {**MARGIN, "t": top, "b": room},
        "legend": {**legend, **({"traceorder": "normal"} if as_added else {})},
    }


def thinned(values: NDArray[np.float64], limit: int) -> NDArray[np.intp]:
    """Choose at most ``limit`` positions that keep the first, the last, and every stretch's lowest and highest.

    Parameters
    ----------
    values : float array, shape (points,)
        A series in order of its x.
    limit : int
        Positions wanted, at least 4.

    Returns
    -------
    intp array, shape (at most limit,)
        Positions, increasing.
    """
    size = values.size
    if size <= limit:
        return np.arange(size)
    stretches = np.array_split(np.arange(size), max((limit - 2) // 2, 1))
    lowest = [stretch[np.argmin(values[stretch])] for stretch in stretches]
    highest = [stretch[np.argmax(values[stretch])] for stretch in stretches]
    return np.unique(np.array([0, size - 1, *lowest, *highest]))
