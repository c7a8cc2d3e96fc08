"""Scenario keys with a widget each: seeded from the scenario, read back into a new one.

Widgets are seeded once; :func:`dashboard.session.forget_form` makes the next run seed them afresh, which is how a
preset or a link takes over the form. Values that no widget changed stay as they were, to the last digit. A widget's
help is the description of its key, with what an empty one means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import streamlit as st

from dashboard.link import MOST_ROWS, most
from dashboard.session import form_key
from simulator.errors import ScenarioError
from simulator.scenario.scenario import served

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Real numbers are above zero.
_LEAST = 1e-6
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
    "fitted": "fitted to a recording",
    "mtp": "MTP (a further layer)",
    "nic": "NIC",
    "slo": "SLO",
}
#: What a key means on the page, where that is not what it means in a file.
_HELP = {
    "model.name": "a model of the catalogue, or one of its variants",
    "model.weights": "storage format of all linear weights: fewer bits take less memory and less time to read",
    "model.kv_cache": "storage format of the KV cache: with fewer bits more or longer requests are held",
    "hardware.device": "a device of the catalogue",
    "hardware.price": "which of its prices a device costs; each is one of the catalogue, with its source",
    "parallelism.tp": "devices that share every layer of attention and, without EP, every expert",
    "parallelism.dp": "groups of devices inside an instance, each with requests of its own; they share the experts",
    "parallelism.pp": "stages of layers, one behind the other",
    "parallelism.ep": "ranks that the experts of a layer are spread over",
    "requests.trace": "a recorded trace: those that ship, and those that you uploaded",
    "requests.lengths.kind": "how the lengths of prompts and answers are spread",
    "routing.kind": "which experts tokens choose: as in a recording, or drawn",
    "routing.trace": "a recorded routing: those that ship, and those that you uploaded",
    "routing.fit": "a fit to a recording, as 'moesim routing fit' writes it",
    "stack.name": "a serving stack of the catalogue",
    "elastic.startup": "how long instances take to start: a profile of the catalogue",
    "offload.router": "model that routes before the step; its time is left out where there is none",
}
_PLAIN_WORDS = (
    "prefill_first",
    "expert_aware",
    "shared_expert",
    "two_batch",
    "round_robin",
    "least_loaded",
    "power_of_two",
)


def worded(name: str) -> str:
    """Write a name of the schema for people."""
    return _WORDS.get(name, name.replace("_", " ") if name in _PLAIN_WORDS else name)


def options(section: type[BaseModel], key: str) -> tuple[str, ...]:
    """List the names that the schema allows for a key."""
    found: list[str] = []
    pending = [section.model_fields[key].annotation]
    while pending:
        for part in get_args(pending.pop(0)):
            found.append(part) if isinstance(part, str) else pending.append(part)
    return tuple(found)


def with_current(offered: Sequence[Any], value: Any) -> tuple[Any, ...]:
    """Put the current value among the options if it is not there."""
    return tuple(offered) if value is None or value in offered else (value, *offered)


class Fields:
    """Widgets for the keys of a scenario, or of one row of its tables.

    Parameters
    ----------
    values : BaseModel
        What the widgets begin with.
    prefix : str
        The dotted key of ``values``, with its dot; empty for the scenario.
    """

    def __init__(self, values: BaseModel, prefix: str = "", problems: list[str] | None = None) -> None:
        self._values = values
        self._prefix = prefix
        self._changed: dict[str, Any] = {}
        #: Keys that another choice took away.
        self.dropped: list[str] = []
        self._problems: list[str] = [] if problems is None else problems

    @property
    def changed(self) -> bool:
        """Whether any widget differs from what it began with."""
        return bool(self._changed)

    def before(self, key: str) -> Any:
        """Return the value that the scenario came with."""
        value: Any = self._values
        for part in key.split("."):
            value = getattr(value, part)
        return value

    def get(self, key: str) -> Any:
        """Return the value as the widgets have it now."""
        return self._changed.get(key, self.before(key))

    def drop(self, *keys: str) -> None:
        """Take away values that another choice made meaningless, where they are not as by default."""
        for key in keys:
            value: Any = self._values.model_dump(exclude_none=True, exclude_defaults=True)
            for part in key.split("."):
                value = value.get(part) if value else None
            if value is not None:
                self._changed[key] = None
                self.dropped.append(self._prefix + key)

    def mapping(self) -> dict[str, Any]:
        """Return the changed values as nested mappings, defaults left out.

        Raises
        ------
        ScenarioError
            What a widget holds cannot be read.
        """
        if self._problems:
            raise ScenarioError("\n".join(self._problems))
        data = self._values.model_dump(exclude_none=True, exclude_defaults=True)
        for key, value in self._changed.items():
            *path, last = key.split(".")
            section = data
            for part in path:
                section = section.setdefault(part, {})
            if value is None:
                section.pop(last, None)
            else:
                section[last] = value
        return data

    def choice(
        self,
        key: str,
        label: str,
        offered: Sequence[Any],
        *,
        absent: str | None = None,
        default: str | None = None,
        keep: bool = True,
        words: Callable[[Any], str] | None = None,
    ) -> Any:
        """Offer names.

        Parameters
        ----------
        key, label : str
            Key of the scenario, and what is written over the widget.
        offered : sequence of str or bool
            Names, or answers, to choose from.
        absent : str, optional
            Where the key is optional, what leaving it empty means.
        default : str, optional
            What the scenario means where the key is absent.
        keep : bool
            Whether the scenario's own value stays on offer though it is not among the names, so that a link shows
            what it asked for; where another choice made it meaningless it is dropped.
        words : callable, optional
            Writes a name for people.
        """
        current = self.before(key)
        own = current if keep else None
        allowed = with_current(offered, own)
        widget = self._widget(key)
        if current not in (None, *allowed) and st.session_state.get(widget) == current:
            self.dropped.append(self._prefix + key)
        if st.session_state.setdefault(widget, own or default) not in allowed:
            st.session_state[widget] = allowed[0] if absent is None else None
        index = 0 if absent is None else None
        shape: dict[str, Any] = {"key": widget, "placeholder": absent, "help": self._help(key, absent)}
        return self._draw(key, current, default, partial(st.selectbox, label, allowed, index, words or worded, **shape))

    def count(
        self,
        key: str,
        label: str,
        *,
        least: int = 1,
        highest: int | None = None,
        default: int | None = None,
        empty: str | None = None,
    ) -> Any:
        """Offer a whole number.

        Parameters
        ----------
        key, label : str
            Key of the scenario, and what is written over the widget.
        least, highest : int
            Bounds that the widget invites to; without ``highest``, the page's own.
        default : int, optional
            What the scenario means where the key is absent.
        empty : str, optional
            What leaving it empty means, where that is allowed.
        """
        current = self.before(key)
        start: Any = None if empty else "min"
        top = most(self._prefix + key) if highest is None else max(highest, current or 0, least)
        shape: dict[str, Any] = {"key": self._widget(key), "help": self._help(key, empty), "placeholder": empty}
        return self._draw(key, current, default, partial(st.number_input, label, least, top, start, 1, **shape))

    def number(
        self,
        key: str,
        label: str,
        *,
        least: float = _LEAST,
        highest: float | None = None,
        default: float | None = None,
        empty: str | None = None,
    ) -> Any:
        """Offer a real number, which may be left empty.

        Parameters
        ----------
        key, label : str
            Key of the scenario, and what is written over the widget.
        least, highest : float
            Bounds that the widget invites to; without ``highest``, the page's own.
        default : float, optional
            What the scenario means where the key is absent.
        empty : str, optional
            What leaving it empty means, where that is allowed.
        """
        current = self.before(key)
        # The scenario's own value is always in range: the schema is wider than what the widget invites to.
        low = least if current is None else min(least, current)
        high = most(self._prefix + key) if highest is None else max(highest, current or 0.0)
        return self._draw(key, current, default, self._real(key, label, low, float(high), 0.1, empty))

    def quantity(
        self,
        key: str,
        label: str,
        scale: float,
        *,
        unit: str = "s",
        zero: bool = False,
        default: float | None = None,
        empty: str | None = None,
    ) -> Any:
        """Offer an amount; the scenario gets it with its unit.

        Parameters
        ----------
        key, label : str
            Key of the scenario, and what is written over the widget.
        scale : float
            The widget's units per SI unit [1].
        unit : str
            SI unit with which the scenario gets it.
        zero : bool
            Whether zero is taken.
        default : float, optional
            What the scenario means where the key is absent, in the widget's unit.
        empty : str, optional
            What leaving it empty means, where that is allowed.
        """
        value = self.before(key)
        current = None if value is None else value * scale
        least = 0.0 if zero else max(_LEAST, served(self._prefix + key).least * scale)
        low = least if current is None else min(least, current)
        shown = self._draw(key, current, default, self._real(key, label, low, None, 1.0, empty))
        if key in self._changed and shown is not None:
            self._changed[key] = f"{shown / scale!r} {unit}"
        return shown

    def flag(self, key: str, label: str) -> bool:
        """Offer yes or no."""
        draw = partial(st.checkbox, label, key=self._widget(key), help=self._help(key, None))
        return bool(self._draw(key, self.before(key), None, draw))

    def several(self, key: str, label: str, offered: Sequence[str]) -> None:
        """Offer any of some names."""
        current = list(self.before(key))
        shape: dict[str, Any] = {"key": self._widget(key), "help": self._help(key, None), "placeholder": "none"}
        shown = self._draw(key, current, None, partial(st.multiselect, label, offered, **shape))
        if key in self._changed:
            self._changed[key] = list(shown)

    def numbers(self, key: str, label: str, *, empty: str) -> None:
        """Offer a list of numbers, separated by commas; ``empty`` says what none means."""
        widget, current = self._widget(key), self.before(key)
        written = ", ".join(f"{value!r}".removesuffix(".0") for value in current)
        st.session_state.setdefault(widget, written)
        shown = st.text_input(
            label, key=widget, help=self._help(key, f"{empty}; separate by commas"), placeholder=empty
        )
        if shown == written:
            return
        try:
            values = [float(part) for part in shown.replace(";", ",").split(",") if part.strip()]
        except ValueError:
            values = [math.nan]
        if not all(math.isfinite(value) for value in values):
            self._problems.append(f"{self._prefix}{key}: got {shown!r}, expected numbers separated by commas")
            return
        if tuple(values) != tuple(current):
            self._changed[key] = values

    def rows(self, key: str, label: str, title: str, blank: BaseModel, draw: Callable[[Fields], None]) -> None:
        """Offer a table.

        Parameters
        ----------
        key, label : str
            Key of the scenario, and what is written over the number of rows.
        title : str
            What a row is called.
        blank : BaseModel
            What a new row begins as.
        draw : callable
            Puts the widgets of a row.
        """
        current: tuple[BaseModel, ...] = self.before(key)
        widget = f"{self._widget(key)}.rows"
        st.session_state.setdefault(widget, len(current))
        number = int(st.number_input(label, 0, MOST_ROWS, step=1, key=widget, help=self._help(key, None)))
        rows = []
        for place in range(number):
            begin = current[place] if place < len(current) else blank
            row = Fields(begin, f"{self._prefix}{key}.{place}.", self._problems)
            with st.container(border=True):
                st.markdown(f"**{title} {place + 1}**")
                draw(row)
            rows.append(row)
        if number != len(current) or any(row.changed for row in rows):
            self._changed[key] = [] if self._problems else [row.mapping() for row in rows]

    def _widget(self, key: str) -> str:
        return form_key(self._prefix + key)

    def _help(self, key: str, empty: str | None) -> str:
        """Return the description of a key, and what it means to leave it empty."""
        section: Any = self._values
        *path, last = key.split(".")
        for part in path:
            section = getattr(section, part)
        text = _HELP.get(self._prefix + key) or type(section).model_fields[last].description or ""
        return f"{text}; empty = {empty}" if empty else text

    def _real(self, key: str, label: str, low: float, high: float | None, step: float, empty: str | None) -> Any:
        shape: dict[str, Any] = {"step": step, "format": "%.6g", "help": self._help(key, empty), "placeholder": empty}
        return partial(st.number_input, label, low, high, None, key=self._widget(key), **shape)

    def _draw(self, key: str, current: Any, default: Any, draw: Callable[[], Any]) -> Any:
        """Seed a widget on its first run, draw it, and note its value if it is not the scenario's.

        A widget with a default is never left empty.
        """
        widget = self._widget(key)
        seed = default if current is None else current
        emptied = default is not None and st.session_state.get(widget) is None
        if seed is not None and (widget not in st.session_state or emptied):
            st.session_state[widget] = seed
        shown = draw()
        if shown != current:
            self._changed[key] = shown
        return shown
