"""The link: the page's state as URL parameters, and back.

A link holds the preset's name and one parameter per changed key, spelled as on the command line
(``parallelism.tp=8``); an empty value means that the preset's value is taken away. Links come from strangers: names
must be in the catalogue, and no parameter can name a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode

from dashboard.edge import attempt
from dashboard.panels.tabs import open_tabs
from dashboard.state import (
    BASELINE,
    FIRST_TAB,
    LATENCY,
    PHASE,
    PRESET,
    SIMULATED,
    TAB,
    PageState,
    apply,
    differences,
    leaves,
    read_value,
)
from hardware_profiles.units import parse_quantity_text
from simulator.errors import MoesimError, nearest
from simulator.results.values import Finding
from simulator.scenario import Scenario
from simulator.scenario.scenario import served
from simulator.scenario.title import retitled

_OWN = (PRESET, BASELINE, SIMULATED, TAB, LATENCY, PHASE)

#: Keys whose text could be a path: a link may give them only what the catalogue lists, or the preset's own value.
_NAMED = (
    "model.name",
    "hardware.device",
    "hardware.node",
    "hardware.cluster",
    "hardware.profiles",
    "hardware.price",
    "stack.name",
    "requests.trace",
    "routing.trace",
    "routing.fit",
    "elastic.startup",
    "offload.router",
)

#: Whole numbers beyond this are not exact in a browser.
_MOST_EXACT = 2**53 - 1

#: More than a scenario needs; what goes beyond is not read.
_MOST_PARAMETERS = 100
_LONGEST_VALUE = 200
_LONGEST_LIST = 4_000
#: Rows of a table, such as faults, that the page takes.
MOST_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Names that a link may use: presets, and what the catalogues and samples list, by scenario key.

    ``spelled`` maps further spellings, in lower case, to those.
    """

    presets: Mapping[str, Scenario]
    by_key: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    spelled: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def listed(self, key: str, text: str) -> str:
        """Return a name as it is listed; as it is where it is not, or is no name.

        An organisation before a model's name is left out, as it is on the command line, and with it whatever could
        make a path of it.
        """
        if text in self.by_key.get(key, ()):
            return text
        plain = text.rsplit("/", 1)[-1] if key in ("model.name", "offload.router") else text
        return self.spelled.get(key, {}).get(plain.lower(), text)


def most(key: str) -> int:
    """Return the largest value that the page takes for a key, or for the table that it is of."""
    return int(min(served(key).most, _MOST_EXACT))


def to_params(state: PageState, names: Names) -> dict[str, str]:
    """Write the state as URL parameters."""
    params = {PRESET: state.preset, **differences(names.presets[state.preset], state.scenario)}
    if state.baseline is not None:
        baseline = PageState(preset=state.baseline_preset, scenario=state.baseline)
        params[BASELINE] = urlencode(to_params(baseline, names))
    if state.simulated:
        params[SIMULATED] = "1"
    if state.tab != FIRST_TAB:
        params[TAB] = state.tab
    if state.latency == "histogram":
        params[LATENCY] = "histogram"
    if state.phase == "prefill":
        params[PHASE] = "prefill"
    return params


def from_params(params: Mapping[str, str], names: Names) -> tuple[PageState, tuple[Finding, ...]]:
    """Read the state from URL parameters; what cannot be used is left out and reported.

    Parameters
    ----------
    params : Mapping of str to str
        Parameters as :func:`to_params` writes them; anything may be missing.
    names : Names
        What may be named. There is at least one preset.
    """
    preset, scenario, findings = _scenario(params, names)
    baseline, baseline_preset = None, ""
    if params.get(BASELINE):
        nested = dict(parse_qsl(params[BASELINE], keep_blank_values=True, max_num_fields=_MOST_PARAMETERS))
        baseline_preset, baseline, more = _scenario(nested, names)
        findings += [Finding(level=f.level, where=f"baseline: {f.where}", message=f.message) for f in more]
    state = PageState(
        preset=preset,
        scenario=scenario,
        baseline=baseline,
        baseline_preset=baseline_preset,
        simulated=params.get(SIMULATED) == "1",
        tab=params[TAB] if params.get(TAB) in open_tabs(scenario) else FIRST_TAB,
        latency="histogram" if params.get(LATENCY) == "histogram" else "cumulative",
        phase="prefill" if params.get(PHASE) == "prefill" else "decode",
    )
    return state, tuple(findings)


def _scenario(params: Mapping[str, str], names: Names) -> tuple[str, Scenario, list[Finding]]:
    """Read one scenario: the preset, then one key after another so that one bad key spoils only itself."""
    first = next(iter(names.presets))
    preset = params.get(PRESET, first)
    findings: list[Finding] = []
    if preset not in names.presets:
        findings.append(_refused(PRESET, f"there is no preset {preset!r}; {nearest(preset, names.presets)}"))
        preset = first
    scenario = names.presets[preset]
    own, named = dict(leaves(scenario.model_dump())), False
    for key, text in list(params.items())[:_MOST_PARAMETERS]:
        if key in _OWN:
            continue
        text = names.listed(key, text)
        reason = _why_refused(key, text, own, names)
        if not reason:
            changed, wrong = attempt(partial(apply, scenario, {key: text}), key)
            reason = "".join(finding.message for finding in wrong)
            if changed is not None:
                # The title is made once all keys are read.
                named |= key == "name"
                scenario = changed if key == "name" else changed.model_copy(update={"name": scenario.name})
        if reason:
            findings.append(_refused(key, reason))
    return preset, scenario if named else retitled(names.presets[preset], scenario), findings


def _why_refused(key: str, text: str, own: Mapping[str, Any], names: Names) -> str:
    """Say why a link may not set this key to this text; empty if it may."""
    if key not in own:
        return f"unknown key; {nearest(key, own)}"
    longest = _LONGEST_LIST if isinstance(own[key], tuple) else _LONGEST_VALUE
    if len(text) > longest:
        return f"the value has {len(text)} characters; at most {longest} are read"
    if text in ("", own[key]):
        return ""
    value = read_value(text)
    if isinstance(value, list) and len(value) > MOST_ROWS and any(isinstance(row, dict) for row in value):
        return f"got {len(value)} rows; at most {MOST_ROWS} here, the command line takes more"
    if any(number > most(key) for number in _numbers(value)):
        return f"got {text}; at most {most(key):,} here, the command line takes more"
    least = served(key).least
    if _too_short(text, least):
        return f"got {text}; at least {least:g} s here, the command line takes less"
    allowed = names.by_key.get(key, ())
    if key in _NAMED and text not in allowed:
        return f"a link may not name {text!r}; {nearest(text, allowed)}" if allowed else "a link may not set it"
    return ""


def _numbers(value: object) -> Iterator[float]:
    """List the numbers of a value and of the rows that it holds."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def _too_short(text: str, least: float) -> bool:
    """Tell whether a duration is below the least; what is no duration is said where it is read."""
    if not least:
        return False
    try:
        return parse_quantity_text(text, "time", "duration") < least
    except MoesimError:
        return False


def _refused(key: str, reason: str) -> Finding:
    return Finding(level="warning", where=key, message=f"left out of the link: {reason}")
