"""The page's state: a preset, what was changed of it, the pinned baseline, and whether it was simulated."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from simulator.errors import ScenarioError
from simulator.scenario import Scenario
from simulator.scenario.title import has_made_title, retitled

#: Parameters of the link that are not scenario keys; a widget that sets one has its name.
PRESET, BASELINE, SIMULATED, TAB, LATENCY, PHASE = "preset", "baseline", "simulated", "tab", "latency", "phase"
#: The tab that is open at first.
FIRST_TAB = "breakdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageState:
    """Everything that a link reproduces.

    ``scenario`` is what the form shows, ``preset`` what it began as, ``baseline`` what the deltas compare with;
    ``tab`` is the open one (see :mod:`dashboard.panels.tabs`), ``latency`` how latencies are drawn, ``phase`` which
    kind of step is shown.
    """

    preset: str
    scenario: Scenario
    baseline: Scenario | None = None
    baseline_preset: str = ""
    simulated: bool = False
    tab: str = FIRST_TAB
    latency: Literal["cumulative", "histogram"] = "cumulative"
    phase: Literal["decode", "prefill"] = "decode"


def differences(preset: Scenario, scenario: Scenario) -> dict[str, str]:
    """List the dotted keys in which a scenario differs from its preset, with the new value as ``--set`` takes it.

    Examples
    --------
    >>> base = Scenario.from_mapping({"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"}})
    >>> differences(base, base.override("parallelism.tp=2", "slo.tpot=50 ms"))
    {'parallelism.tp': '2', 'slo.tpot': '0.05 s'}
    """
    before, after = dict(leaves(preset.model_dump())), dict(leaves(scenario.model_dump()))
    # Rows of tables without what is as by default.
    short = dict(leaves(scenario.to_mapping()))
    found = {
        key: _text(short.get(key, value)) for key, value in after.items() if key != "name" and value != before[key]
    }
    # A title that follows from the other changes is none itself.
    return found if has_made_title(preset, scenario) else {"name": _text(scenario.name), **found}


def change_words(changes: Mapping[str, str]) -> list[str]:
    """Say of each change what it sets or takes away; titles follow from the others.

    Examples
    --------
    >>> change_words({"parallelism.tp": "2", "slo.tpot": "", "name": "mine"})
    ['parallelism.tp = 2', 'no slo.tpot']
    """
    return [f"{key} = {text}" if text else f"no {key}" for key, text in changes.items() if key != "name"]


def apply(preset: Scenario, changes: Mapping[str, str]) -> Scenario:
    """Change a preset by dotted keys; an empty value takes the key away.

    Raises
    ------
    ScenarioError
        A key or value is wrong.
    """
    data = preset.to_mapping()
    for key, text in changes.items():
        *path, last = key.split(".")
        section = data
        for part in path:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                msg = f"{key}: {part} is not a section"
                raise ScenarioError(msg)
        if text == "":
            section.pop(last, None)
        else:
            section[last] = read_value(text)
    changed = Scenario.from_mapping(data, preset.name)
    return changed if "name" in changes else retitled(preset, changed)


def leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List the dotted keys of nested mappings with their values."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: object) -> str:
    """Write a value so that :func:`read_value` and ``--set`` read it back."""
    if value is None or value == ():
        return ""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        bare = value and read_value(value) == value
        return value if bare else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _toml(value: object) -> str:
    """Write a value inside a list as TOML does."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {_toml(part)}' for key, part in value.items())}}}"
    return json.dumps(value) if isinstance(value, str) else _text(value)


def read_value(text: str) -> object:
    """Read a value as ``--set`` does: as TOML where it is that, else as the text that it is."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):  # no TOML, numbers of thousands of digits, lists nested without end
        return text.strip()
