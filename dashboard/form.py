"""The input form: one widget per scenario key, seeded from the scenario and read back into a new one.

A widget's session key is ``form.`` and the scenario key. Widgets are seeded once; :func:`forget` makes the next run
seed them afresh, which is how a preset or a link takes over the form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import streamlit as st

from dashboard.catalogue import Catalogue
from dashboard.state import most
from simulator.scenario import Scenario
from simulator.sections import Lengths as LengthsChoice
from simulator.sections import PlacementChoice, Requests, Routing, Stack

if TYPE_CHECKING:
    from pydantic import BaseModel

_PREFIX = "form."
_WORDS = {
    "closed_loop": "closed loop (fixed concurrency)",
    "poisson": "Poisson",
    "gamma": "gamma (bursty)",
    "constant": "constant gaps",
    "trace": "recorded trace",
    "lognormal": "log-normal",
    "zipf": "Zipf",
    "dirichlet": "Dirichlet",
    "power_law": "power law",
    "balanced": "balanced (every expert the same)",
    "domain": "domain-skewed",
    "sticky": "token-sticky",
}
#: Real numbers are above zero.
_LEAST = 1e-6
_STACK_DEFAULT = "the stack's default"


def _worded(name: str) -> str:
    return _WORDS.get(name, name)


def forget() -> None:
    """Drop what the widgets hold, so that the next run seeds them from the scenario."""
    for key in [key for key in st.session_state if str(key).startswith(_PREFIX)]:
        del st.session_state[key]


def edit(scenario: Scenario, catalogue: Catalogue) -> Scenario:
    """Draw the form and return the scenario that it now describes.

    Raises
    ------
    ScenarioError
        The values do not make a scenario.
    """
    fields = _Fields(scenario)
    st.header("Model and hardware")
    _model_and_hardware(fields, catalogue)
    st.header("Parallelism")
    _parallelism(fields, catalogue)
    st.header("Load")
    _load(fields, catalogue)
    st.header("Expert routing")
    _routing(fields, catalogue)
    st.header("Serving stack")
    _stack(fields, catalogue)
    st.header("Objectives and seed")
    left, right = st.columns(2)
    with left:
        fields.duration("slo.ttft", "TTFT SLO [ms]", 1e3, "goodput counts requests within it; empty = no limit")
    with right:
        fields.duration("slo.tpot", "TPOT SLO [ms]", 1e3, "goodput counts requests within it; empty = no limit")
    fields.count("seed", "Seed", least=0, help_text="seed of every random stream")
    return fields.scenario()


def _model_and_hardware(fields: _Fields, catalogue: Catalogue) -> None:
    fields.choice("model.name", "Model", catalogue.models)
    before = fields.get("hardware.device")
    device = fields.choice("hardware.device", "Device", catalogue.devices)
    keep = device == before
    if not keep:
        fields.drop("hardware.price")
    nodes = catalogue.nodes_of(device)
    node = fields.choice("hardware.node", "Node", nodes, absent="the device's usual node", keep=keep)
    clusters = catalogue.clusters_of(device, node)
    keep = keep and node == fields.before("hardware.node")
    fields.choice("hardware.cluster", "Cluster", clusters, absent="none: one node", keep=keep)


def _parallelism(fields: _Fields, catalogue: Catalogue) -> None:
    left, right = st.columns(2)
    for place, key, label in (
        (left, "tp", "Tensor (TP)"),
        (right, "dp", "Data (DP)"),
        (left, "pp", "Pipeline (PP)"),
        (right, "ep", "Expert (EP)"),
    ):
        with place:
            fields.count(f"parallelism.{key}", label)
    fields.count("parallelism.instances", "Instances", help_text="identical instances behind the load balancer")
    per_instance = math.prod(fields.get(f"parallelism.{key}") for key in ("tp", "dp", "pp"))
    total = per_instance * fields.get("parallelism.instances")
    node, cluster = fields.get("hardware.node"), fields.get("hardware.cluster")
    node = node or catalogue.cluster_node.get(cluster or "", "")
    text = f"{per_instance} device{'s' * (per_instance > 1)} per instance, {total} in all."
    if node in catalogue.node_devices:
        held, nodes = catalogue.node_devices[node], catalogue.cluster_nodes.get(cluster or "", 1)
        text += f" Nodes of {held}: an instance takes {math.ceil(per_instance / held)} of {nodes}."
    st.markdown(f":small[{text}]")
    with st.expander("Expert placement"):
        fields.choice("placement.policy", "Policy", _options(PlacementChoice, "policy"))
        fields.count(
            "placement.redundant_slots",
            "Redundant expert slots per layer",
            least=0,
            help_text=_help(PlacementChoice, "redundant_slots"),
        )


def _load(fields: _Fields, catalogue: Catalogue) -> None:
    traces = _with(catalogue.request_traces, fields.get("requests.trace"))
    kinds = [kind for kind in _options(Requests, "kind") if kind != "trace" or traces]
    kind = fields.choice("requests.kind", "Arrivals", kinds)
    if kind == "closed_loop":
        fields.count("requests.concurrency", "Concurrency [requests]", default=32)
    elif kind == "trace":
        fields.choice("requests.trace", "Request trace", traces, default=traces[0])
        fields.number("requests.rate", "Rescaled to [requests/s]", help_text="empty = as recorded")
    else:
        fields.number("requests.rate", "Arrival rate [requests/s]", default=1.0)
    if kind == "gamma":
        fields.number("requests.cv", "Coefficient of variation of the gaps", default=1.0)
    if kind == "diurnal":
        fields.duration("requests.period", "Length of a day [s]", 1.0, "one swing of the rate", default=3600.0)
        fields.number("requests.amplitude", "Swing over mean", least=0.0, highest=0.99, default=0.5)
    if kind != "trace":
        fields.drop("requests.trace")
        _lengths(fields)
    empty = "all of the trace" if kind == "trace" else "10 rounds of a closed loop, or 1,000 requests"
    fields.count("requests.count", "Requests", optional=True, help_text=f"empty = {empty}")


def _lengths(fields: _Fields) -> None:
    kind = fields.choice("requests.lengths.kind", "Lengths", _options(LengthsChoice, "kind"))
    which = {"fixed": "", "uniform": ", largest", "lognormal": ", mean"}[kind]
    left, right = st.columns(2)
    with left:
        fields.count("requests.lengths.input", f"Input [tokens]{which}")
    with right:
        fields.count("requests.lengths.output", f"Output [tokens]{which}")
    if kind == "uniform":
        fields.number("requests.lengths.range_ratio", "Smallest over largest", highest=1.0, default=1.0)
    if kind == "lognormal":
        fields.number("requests.lengths.cv", "Standard deviation over mean", default=1.0)


def _routing(fields: _Fields, catalogue: Catalogue) -> None:
    traces = _with(catalogue.routing_traces, fields.get("routing.trace"))
    kinds = [kind for kind in _options(Routing, "kind") if kind != "trace" or traces]
    kind = fields.choice("routing.kind", "Routing", kinds)
    if kind in ("zipf", "power_law"):
        fields.number("routing.skew", "Skew (exponent)", least=0.0, default=0.5, help_text=_help(Routing, "skew"))
    if kind == "dirichlet":
        fields.number("routing.alpha", "Concentration", default=1.0, help_text=_help(Routing, "alpha"))
    if kind == "trace":
        fields.choice("routing.trace", "Routing trace", traces, default=traces[0])
    else:
        fields.drop("routing.trace")


def _stack(fields: _Fields, catalogue: Catalogue) -> None:
    fields.choice("stack.name", "Stack", catalogue.stacks)
    with st.expander("Changes to the stack"):
        fields.choice("stack.scheduler", "Batching", _options(Stack, "scheduler"), absent=_STACK_DEFAULT)
        fields.choice("stack.exchange", "Token exchange", _options(Stack, "exchange"), absent=_STACK_DEFAULT)
        for key, label in (("token_budget", "Tokens per step"), ("max_running", "Running requests per rank")):
            hint = f"{_help(Stack, key)}; empty = {_STACK_DEFAULT}"
            fields.count(f"stack.{key}", label, optional=True, help_text=hint)
        memory = f"{_help(Stack, 'memory_fraction')}; empty = {_STACK_DEFAULT}"
        fields.number("stack.memory_fraction", "Share of device memory", highest=1.0, help_text=memory)


class _Fields:
    """Scenario keys with a widget each; values that no widget changed stay as they were, to the last digit."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._changed: dict[str, Any] = {}

    def before(self, key: str) -> Any:
        """Return the value that the scenario came with."""
        value: Any = self._scenario
        for part in key.split("."):
            value = getattr(value, part)
        return value

    def get(self, key: str) -> Any:
        """Return the value as the widgets have it now."""
        return self._changed.get(key, self.before(key))

    def drop(self, key: str) -> None:
        """Take away a value that another choice made meaningless."""
        if self.before(key) is not None:
            self._changed[key] = None

    def scenario(self) -> Scenario:
        """Build the changed scenario."""
        if not self._changed:
            return self._scenario
        data = self._scenario.to_mapping()
        for key, value in self._changed.items():
            *path, last = key.split(".")
            section = data
            for part in path:
                section = section.setdefault(part, {})
            if value is None:
                section.pop(last, None)
            else:
                section[last] = value
        return Scenario.from_mapping(data, self._scenario.name)

    def choice(
        self,
        key: str,
        label: str,
        options: Sequence[str],
        *,
        absent: str | None = None,
        default: str | None = None,
        keep: bool = True,
    ) -> Any:
        """Offer names; where the key is optional, ``absent`` says what leaving it empty means.

        ``keep`` keeps the scenario's own value on offer though it is not among the options, so that a link shows
        what it asked for; where another choice made it meaningless it is dropped.
        """
        current = self.before(key)
        offered = current if keep else None
        allowed = _with(options, offered)
        widget = _PREFIX + key
        if st.session_state.setdefault(widget, offered or default) not in allowed:
            st.session_state[widget] = allowed[0] if absent is None else None
        index = 0 if absent is None else None
        draw = partial(st.selectbox, label, allowed, index, _worded, key=widget, placeholder=absent)
        return self._draw(key, current, default, draw)

    def count(
        self,
        key: str,
        label: str,
        *,
        least: int = 1,
        default: int | None = None,
        optional: bool = False,
        help_text: str | None = None,
    ) -> Any:
        """Offer a whole number; an optional one may be left empty."""
        current = self.before(key)
        start: Any = None if optional else "min"
        draw = partial(st.number_input, label, least, most(key), start, 1, key=_PREFIX + key, help=help_text)
        return self._draw(key, current, default, draw)

    def number(
        self,
        key: str,
        label: str,
        *,
        least: float = _LEAST,
        highest: float | None = None,
        default: float | None = None,
        help_text: str | None = None,
    ) -> Any:
        """Offer a real number, which may be left empty."""
        current = self.before(key)
        shape: dict[str, Any] = {"step": 0.1, "format": "%.6g", "help": help_text}
        # The scenario's own value is always in range: the schema is wider than what the widget invites to.
        low = least if current is None else min(least, current)
        high = most(key) if highest is None else max(highest, current or 0.0)
        draw = partial(st.number_input, label, low, float(high), None, key=_PREFIX + key, **shape)
        return self._draw(key, current, default, draw)

    def duration(self, key: str, label: str, scale: float, help_text: str, default: float | None = None) -> None:
        """Offer a duration in a unit of ``scale`` per second; the scenario gets it with its unit."""
        value = self.before(key)
        current = None if value is None else value * scale
        shape: dict[str, Any] = {"step": 1.0, "format": "%.6g", "help": help_text}
        low = _LEAST if current is None else min(_LEAST, current)
        draw = partial(st.number_input, label, low, None, None, key=_PREFIX + key, **shape)
        shown = self._draw(key, current, default, draw)
        if key in self._changed and shown is not None:
            self._changed[key] = f"{shown / scale!r} s"

    def _draw(self, key: str, current: Any, default: Any, draw: Callable[[], Any]) -> Any:
        """Seed a widget on its first run, draw it, and note its value if it is not the scenario's.

        A widget with a default is never left empty.
        """
        widget = _PREFIX + key
        seed = default if current is None else current
        emptied = default is not None and st.session_state.get(widget) is None
        if seed is not None and (widget not in st.session_state or emptied):
            st.session_state[widget] = seed
        shown = draw()
        if shown != current:
            self._changed[key] = shown
        return shown


def _options(section: type[BaseModel], key: str) -> tuple[str, ...]:
    """List the names that the schema allows for a key."""
    arguments = get_args(section.model_fields[key].annotation)
    return tuple(name for name in (get_args(arguments[0]) or arguments) if isinstance(name, str))


def _help(section: type[BaseModel], key: str) -> str | None:
    return section.model_fields[key].description


def _with(options: Sequence[str], value: str | None) -> tuple[str, ...]:
    """Put the current value among the options if it is not there."""
    return tuple(options) if value is None or value in options else (value, *options)
