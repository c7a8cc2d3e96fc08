"""The components of a step: what its time is made of, declared once for engine, breakdown, explanation and charts.

A new component is one line of :data:`STEP_COMPONENTS`, plus whatever gives it time: ops that name it, or a recorded
column.
"""

from __future__ import annotations

from dataclasses import dataclass

# Okabe & Ito, "Color Universal Design" (2008); black is a dark grey so that it shows on a dark page.
_BLUE, _SKY, _ORANGE, _GREEN = "#0072B2", "#56B4E9", "#E69F00", "#009E73"
_YELLOW, _VERMILLION, _PURPLE, _BLACK, _GREY = "#F0E442", "#D55E00", "#CC79A7", "#404040", "#B0B0B0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A component of a step.

    Attributes
    ----------
    name : str
        Its key in breakdowns, frames and JSON.
    words : str
        Its name for people.
    colour, pattern : str
        How charts fill it: a colour of Okabe and Ito's, which colour-blind readers can tell apart, and a pattern in
        Plotly's notation, by which it can be told without colour.
    ops : bool
        Whether ops belong to it, so that step tables have a column for it.
    recorded : str
        Column of a recorded step whose seconds belong to it, on top of what the tables say; empty where none does.
    """

    name: str
    words: str
    colour: str
    pattern: str = ""
    ops: bool = False
    recorded: str = ""


#: In the order in which they are shown; the two exchanges share a colour and differ by pattern.
STEP_COMPONENTS = (
    Component(name="attention", words="attention", colour=_BLUE, ops=True, recorded="attention"),
    Component(name="gemm", words="GEMM", colour=_SKY, pattern="-", ops=True, recorded="prompt_projections"),
    Component(name="experts", words="experts", colour=_ORANGE, ops=True, recorded="experts"),
    Component(name="dispatch", words="dispatch", colour=_GREEN, pattern="/", ops=True),
    Component(name="combine", words="combine", colour=_GREEN, pattern="\\", ops=True),
    Component(name="all_reduce", words="all-reduce", colour=_PURPLE, pattern="+", ops=True),
    Component(name="small_kernels", words="small kernels", colour=_YELLOW, pattern=".", ops=True),
    Component(
        name="imbalance_wait", words="imbalance wait", colour=_VERMILLION, pattern="x", recorded="imbalance_wait"
    ),
    Component(
        name="offload_stall", words="wait for experts", colour=_VERMILLION, pattern="/", recorded="offload_stall"
    ),
    Component(name="cpu_gap", words="CPU gap", colour=_BLACK, pattern="|", recorded="gap"),
    Component(name="idle", words="idle", colour=_GREY),
)

#: Names of all components, in that order.
COMPONENTS = tuple(component.name for component in STEP_COMPONENTS)
#: Those that are part of a step; an instance is idle between steps.
STEP_PARTS = tuple(name for name in COMPONENTS if name != "idle")
#: Those that ops belong to: the columns of step tables.
OP_COMPONENTS = tuple(component.name for component in STEP_COMPONENTS if component.ops)


def component_words(name: str) -> str:
    """Return a component's name for people; what is no component of a step, as what overlap saves, keeps its own.

    Examples
    --------
    >>> component_words("all_reduce"), component_words("overlap")
    ('all-reduce', 'overlap')
    """
    return next((component.words for component in STEP_COMPONENTS if component.name == name), name.replace("_", " "))
