"""The scenario on the page as a command line and as Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pprint import pformat

from simulator.scenario import Scenario


def as_command(preset: str, changes: Mapping[str, str]) -> str:
    """Write the command that simulates a changed preset; keys that were taken away need the TOML file instead."""
    if "" in changes.values():
        return "# some keys of the preset were taken away: download scenario.toml first\nmoesim simulate scenario.toml"
    settings = [f"  --set {shlex.quote(f'{key}={text}')}" for key, text in changes.items()]
    return " \\\n".join([shlex.join(["moesim", "simulate", preset]), *settings])


def as_python(preset: str, changes: Mapping[str, str], scenario: Scenario) -> str:
    """Write the lines that build and simulate the scenario."""
    if "" in changes.values():
        head = "from simulator import Scenario, simulate\n"
        mapping = _indented(pformat(scenario.to_mapping(), sort_dicts=False))
        build = f"scenario = Scenario.from_mapping(\n{mapping}\n)"
    else:
        head = "from simulator import Scenario, simulate\nfrom simulator.scenario.presets import preset_path\n"
        settings = "".join(f"    {f'{key}={text}'!r},\n" for key, text in changes.items())
        build = f"scenario = Scenario.load(preset_path({preset!r}), overrides=[\n{settings}])"
        if not changes:
            build = f"scenario = Scenario.load(preset_path({preset!r}))"
    return f"{head}\n{build}\nresult = simulate(scenario)\nprint(result.summary)\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
