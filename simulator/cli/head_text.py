"""The head of every answer: what answered, on what, at which price, asked what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from simulator.cli.console import count, number, pairs, seconds
from simulator.results.setup import LoadSetup, PoolSetup, Setup, offer_words
from simulator.scenario.title import title

if TYPE_CHECKING:
    from rich.console import Console

    from simulator.scenario import Scenario

#: Names of the objectives.
_OBJECTIVES: Mapping[str, str] = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2el_s": "E2EL"}


def print_head(
    out: Console, scenario: Scenario, how: str, setup: Setup | None, rows: Sequence[tuple[str, str]] = ()
) -> None:
    """Print title, names and hash of a scenario, what its answer stands on, and the first rows of the answer.

    Parameters
    ----------
    out : Console
        Where to.
    scenario : Scenario
        The question.
    how : str
        How it was answered.
    setup : Setup or None
        What answered; left out where it is not known.
    rows : sequence of (str, str)
        Names and values that follow.
    """
    out.print(title(scenario), style="bold")
    out.print(
        f"{scenario.model.name} on {scenario.hardware.device} with {scenario.stack.name}; {how}; "
        f"scenario {scenario.hash}",
        style="dim",
    )
    shown = [*(setup_rows(setup) if setup is not None else []), *rows]
    if shown:
        out.print(pairs(shown))


def setup_rows(setup: Setup) -> list[tuple[str, str]]:
    """Phrase devices, pools, price, load and objectives, one row each."""
    word, alone = setup.device_word, setup.devices == 1
    rows = [(f"{word}s", devices_text(setup) if alone else f"{devices_text(setup)}, {_split(setup.pools[0], word)}")]
    if len(setup.pools) > 1:
        rows = [(f"{word}s", devices_text(setup))]
        rows += [(f"{pool.role} pool", f"{_counted(pool.devices, word)}, {_split(pool, word)}") for pool in setup.pools]
    return [*rows, ("price", price_text(setup)), ("load", load_text(setup.load)), ("SLO", slo_text(setup.slo))]


def devices_text(setup: Setup) -> str:
    """Say how many devices there are, and in how many nodes.

    A node that is not filled is said to be shared.
    """
    found = _counted(setup.devices, setup.device_word)
    if setup.node_devices == 1:
        return found
    nodes = "one node" if setup.nodes == 1 else f"{count(setup.nodes)} nodes"
    filled = setup.devices == setup.nodes * setup.node_devices
    return f"{found} in {'' if filled else 'part of '}{nodes} of {setup.node_devices} ({setup.node})"


def _counted(devices: int, word: str) -> str:
    return f"{count(devices)} {word}{'s' * (devices > 1)}"


def _split(pool: PoolSetup, word: str) -> str:
    parts = [f"{name} {size}" for name in ("tp", "dp", "pp", "ep") if (size := getattr(pool, name)) > 1]
    instances = f"{count(pool.instances)} instance{'s' * (pool.instances > 1)}"
    return f"{instances} of {' '.join(parts)}" if parts else f"{instances} of one {word}"


def price_text(setup: Setup) -> str:
    """Say what a device costs, and which of its offers that is."""
    if math.isnan(setup.usd_per_device_hour):
        return "not known (hardware.price)"
    kind = offer_words(setup.price_offer) + (", an assumption" if setup.price_status == "assumption" else "")
    return f"{setup.usd_per_device_hour:,.2f} USD per {setup.device_word}-hour ({kind})"


def load_text(load: LoadSetup) -> str:
    """Say in a line what is asked."""
    if load.kind == "closed_loop":
        arrivals = f"closed loop of {count(load.concurrency or 0)}"
        arrivals += " sessions" if load.turns_mean > 1.0 else ""
    elif load.kind == "trace":
        arrivals = f"trace {load.trace}"
        if load.turns_mean > 1.0 and load.concurrency:
            arrivals += f", {count(load.concurrency)} sessions in flight"
    else:
        arrivals = load.kind
    if math.isfinite(load.rate):
        arrivals += f", {number(load.rate)} requests/s"
    lengths = f"{number(load.input_tokens_mean, 4)} + {number(load.output_tokens_mean, 4)} tokens"
    turns = f", {number(load.turns_mean)} to a session," if load.turns_mean > 1.0 else ""
    return f"{arrivals}; {count(load.requests)} requests{turns} of {lengths}{'' if load.fixed else ' on average'}"


def slo_text(slo: Mapping[str, float]) -> str:
    """Say which objectives are set."""
    return ", ".join(f"{_OBJECTIVES[name]} {seconds(limit)}" for name, limit in slo.items()) or "none set"
