"""What stands above the tabs: the headline numbers, and how far to trust them."""

from __future__ import annotations

import math

import streamlit as st

from dashboard.cards import Answer, cards
from dashboard.display import change, duration, in_unit, interval_text, significant
from dashboard.panels.shown import plain, small
from simulator.feasibility.asked import refusals
from simulator.results.setup import Setup, offer_words
from simulator.results.values import Estimate, Measured, Result

#: What is measured of a run, by the kind of its window.
_WINDOWS = {
    "asked": "measured as asked",
    "steady": "measured in the steady state",
    "transient": "measured from first to last arrival",
    "overloaded": "measured while the queue grows",
    "whole": "measured over the whole run",
}
_COLOURS = {"better": "blue", "worse": "orange", "same": "gray"}


def headline(answer: Answer, baseline: Answer | None) -> None:
    """Show the headline numbers, each with its change against a baseline of the same kind."""
    with st.container(horizontal=True, gap="small"):
        for card in cards(answer.scenario):
            value = card.of(answer)
            moved = change(value, card.of(baseline), card.better) if baseline else None
            st.metric(
                card.label,
                in_unit(value, card.unit),
                delta=moved.text if moved else None,
                delta_color=_COLOURS[moved.verdict] if moved else "off",  # type: ignore[arg-type]  # a name it allows
                delta_arrow="off" if moved and moved.verdict == "same" else "auto",
                help=card.help,
                border=True,
                width="stretch",
            )


def beside_estimate(result: Result, estimate: Estimate | None) -> None:
    """Say what the closed form answers to the same, and why it may differ."""
    if estimate is None:
        return
    pairs = (("TTFT", "ttft_s"), ("TPOT", "tpot_s"))
    means = [(name, getattr(estimate.summary, key).mean, getattr(result.summary, key).mean) for name, key in pairs]
    known = [(name, closed, run) for name, closed, run in means if math.isfinite(closed) and math.isfinite(run)]
    said = " and ".join(f"{name} {duration(closed)} ({duration(run)} simulated)" for name, closed, run in known)
    if said:
        small(f"The closed form gives a mean {said}: it is the steady state, and knows neither the start nor chance.")


def badges(answer: Answer) -> None:
    """Say what kind of answer this is, how far to trust it, what answered and at which price of a device."""
    extrapolated = any("extrapolat" in warning.lower() for warning in answer.warnings)
    interval = interval_text(answer.summary.interval_80)
    with st.container(horizontal=True):
        if isinstance(answer, Result):
            st.badge("Simulated", icon=":material/play_circle:", color="blue")
        else:
            st.badge("Estimate: closed form, steady state", icon=":material/functions:", color="gray")
        if extrapolated:
            st.badge("extrapolated: outside what was measured", icon=":material/warning:", color="orange")
        if interval:
            st.badge(interval, icon=":material/straighten:", color="gray")
        if isinstance(answer, Result) and answer.measured is not None:
            st.badge(_window(answer.measured), icon=":material/date_range:", color="gray")
        for icon, said in _set_up(answer.setup).items():
            st.badge(plain(said), icon=f":material/{icon}:", color="gray")
    for refusal in refusals(answer.warnings):
        st.warning(f"{plain(refusal)}. What follows is what it would give.", icon=":material/block:")
    if answer.warnings:
        with st.expander(f"Warnings of this answer ({len(answer.warnings)})"):
            for warning in answer.warnings:
                st.markdown(f"- {plain(warning)}")


def _set_up(setup: Setup | None) -> dict[str, str]:
    """Word what answered, by the icon that goes with it."""
    if setup is None:
        return {}
    word = setup.device_word
    nodes = f"{setup.nodes} node{'s' * (setup.nodes > 1)} of {setup.node_devices}"
    pools = f"{' + '.join(str(pool.devices) for pool in setup.pools)} {word}s" if len(setup.pools) > 1 else ""
    said = {"dns": f"{pools} on {nodes}" if pools else nodes}
    if math.isfinite(setup.usd_per_device_hour):
        price = f"{significant(setup.usd_per_device_hour)} USD per {word} hour"
        said["payments"] = f"{offer_words(setup.price_offer)}, {setup.price_status}: {price}"
    return said


def _window(measured: Measured) -> str:
    """Word which part of the run the numbers are of."""
    span = f"{duration(measured.begin_s) if measured.begin_s else '0 s'} to {duration(measured.end_s)}"
    error = measured.served_error
    chance = f", served rate ± {100 * error:.0f} %" if math.isfinite(error) else ""
    return f"{_WINDOWS.get(measured.kind, measured.kind)}: {span}{chance}"
