"""The page "What-if": one form, an estimate at once, a simulation on demand, and a link to all of it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard import answers
from dashboard.catalogue import Catalogue, the_catalogue
from dashboard.edge import attempt
from dashboard.form.edit import edit
from dashboard.link import from_params, to_params
from dashboard.mending import with_routing_that_fits
from dashboard.panels import share, summary
from dashboard.panels.shown import findings, plain, shown, small
from dashboard.panels.tabs import open_tabs
from dashboard.panels.view import View
from dashboard.session import Session, begin, begun, forget_form, session
from dashboard.state import FIRST_TAB, LATENCY, PHASE, PRESET, TAB, change_words, differences
from dashboard.views.page import Page
from simulator.results.values import Estimate, Finding
from simulator.scenario.features import beyond_closed_form
from simulator.scenario.title import title

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from simulator.scenario import Scenario

#: A click that was sent before the browser took over a new address still carries the old one [s].
_ADDRESS_LAG_S = 0.5
#: Keys that are named where a scenario differs from its baseline.
_MOST_NAMED = 6
_PLAY = ":material/play_arrow:"


def draw() -> None:
    """Draw the page."""
    st.title("moesim: Mixture-of-Experts serving, simulated")
    catalogue = shown(the_catalogue, "the catalogues")
    if catalogue is None:
        return
    if not catalogue.presets:
        findings([Finding(level="error", where="examples", message="this installation has no presets")])
        return
    opened = _take_link(catalogue)
    scenario = _form(catalogue)
    if scenario is None:
        return
    if scenario != session().page.scenario:
        if not opened:
            session().findings = ()
        _change(scenario=scenario)
    _say_dropped()
    _body(catalogue)
    _write_link(catalogue)


def _form(catalogue: Catalogue) -> Scenario | None:
    """Draw the form; where what it holds makes no scenario, say what to mend."""
    page = session().page
    st.session_state.setdefault(PRESET, page.preset)
    with st.sidebar:
        whole = "an example to begin with; choosing one replaces everything in the form"
        presets = list(catalogue.presets)
        st.selectbox("Preset", presets, key=PRESET, help=whole, on_change=_take_preset, args=(catalogue,))
        edited, wrong = attempt(partial(edit, page.scenario, catalogue.presets[page.preset], catalogue))
    findings(wrong)
    if edited is None:
        st.info("The form holds something that makes no scenario. Mend it, and the answer comes at once.")
        return None
    scenario, dropped = edited
    if scenario == page.scenario:
        return scenario
    session().dropped = dropped
    if scenario.model != page.scenario.model and (drawn := with_routing_that_fits(scenario)) != scenario:
        session().dropped = (*dropped, "routing.trace")
        _put(drawn)
        st.rerun()
    return scenario


def _put(scenario: Scenario) -> None:
    """Let the page show another scenario than the form does; its widgets follow."""
    forget_form()
    session().findings = ()
    _change(scenario=scenario)


def _take_mend(scenario: Scenario) -> None:
    session().dropped = ()
    _put(scenario)


def _say_dropped() -> None:
    """Say what the last change of the form took away besides."""
    keys = session().dropped
    if keys:
        st.info(
            f"Taken away, as the choice that you made does not go with it: {', '.join(map(plain, keys))}. "
            "Back in the browser returns to what was.",
            icon=":material/info:",
        )


def _change(**values: Any) -> None:
    """Replace values of the page's state."""
    session().page = replace(session().page, **values)


def _take_link(catalogue: Catalogue) -> bool:
    """Let the address decide the page when it is opened, and when it was changed by hand or by going back.

    Another page of the navigation leaves an address that says nothing: the page is then as it was. Returns whether
    the address decided.
    """
    params = st.query_params.to_dict()
    if begun():
        known = session()
        lagging = time.monotonic() - known.written_at < _ADDRESS_LAG_S
        if not params or params == known.written or (lagging and params == known.written_before):
            return False
    page, found = from_params(params, catalogue.names())
    forget_form()
    new = begin(page)
    new.wanted, new.findings = page.simulated, found
    st.session_state[PRESET], st.session_state[LATENCY], st.session_state[PHASE] = page.preset, page.latency, page.phase
    st.session_state[TAB] = open_tabs(page.scenario)[page.tab].label
    _remember(new, params)
    return True


def _write_link(catalogue: Catalogue) -> None:
    """Put the page's state into the address."""
    params = to_params(session().page, catalogue.names())
    if params != st.query_params.to_dict():
        st.query_params.from_dict(params)
    if params != session().written:
        _remember(session(), params)


def _remember(known: Session, params: dict[str, str]) -> None:
    known.written_before = known.written or params
    known.written, known.written_at = params, time.monotonic()


def _take_preset(catalogue: Catalogue) -> None:
    preset = st.session_state[PRESET]
    forget_form()
    session().findings = ()
    _change(preset=preset, scenario=catalogue.presets[preset])


def _pin() -> None:
    _change(baseline=session().page.scenario, baseline_preset=session().page.preset)


def _unpin() -> None:
    _change(baseline=None, baseline_preset="")


def _want_simulation() -> None:
    session().wanted = True


def _body(catalogue: Catalogue) -> None:
    """Draw everything beside the form."""
    page = session().page
    base = catalogue.presets[page.preset]
    found, wrong, estimate = _findings_and_estimate(page.scenario)
    if wrong:
        session().wanted = False
        _change(simulated=False)
        _cannot_run(found, wrong, catalogue)
        share.downloads(page.scenario, None, None)
        share.copies(page.preset, base, page.scenario)
        return
    findings([*session().findings, *found])
    store = answers.result_store()
    runs, baseline_estimate = _baseline_estimate()
    result = store.get(answers.key_of(page.scenario))
    baseline_result = store.get(answers.key_of(page.baseline)) if page.baseline else None
    _change(simulated=result is not None)
    answer = result or estimate
    baseline = baseline_estimate if result is None else baseline_result
    missing = result is None or (baseline_result is None and runs)
    _buttons(runnable=missing, compared=baseline is not None)
    if answer is None:
        asked = ", ".join(map(plain, beyond_closed_form(page.scenario)))
        st.info(f"The estimate is a closed form, which leaves out {asked}. Press Simulate for the answer.", icon=_PLAY)
    else:
        shown(partial(summary.headline, answer, baseline))
        shown(partial(summary.badges, answer))
        if result is not None:
            shown(partial(summary.beside_estimate, result, estimate))
    _simulate_if_wanted()
    _tabs(
        View(
            page=session().page,
            base=base,
            estimate=estimate,
            result=result,
            baseline_estimate=baseline_estimate,
            baseline_result=baseline_result,
        )
    )


def _cannot_run(found: tuple[Finding, ...], wrong: tuple[Finding, ...], catalogue: Catalogue) -> None:
    """Say why a scenario cannot run, and offer what would where its check says so."""
    scenario = session().page.scenario
    hardware = scenario.hardware
    node = hardware.node or next(iter(catalogue.nodes_of(hardware.device)), "")
    clusters = catalogue.clusters_of(hardware.device, node)
    cluster = hardware.cluster or next(iter(clusters), "")
    cure = None
    if set(wrong) <= set(found):
        cure, _ = attempt(partial(answers.mend_of, scenario, catalogue.node_devices.get(node, 1), cluster))
    findings([*session().findings, *found, *wrong], mendable=cure is not None)
    st.info("This scenario cannot run. Change what the findings name, and the answer comes at once.")
    if cure is not None:
        mend = f"Mend it: {plain(cure.label)}"
        st.button(mend, type="primary", icon=":material/build:", on_click=_take_mend, args=(cure.scenario,))


def _findings_and_estimate(scenario: Scenario) -> tuple[tuple[Finding, ...], tuple[Finding, ...], Estimate | None]:
    """Check a scenario and estimate it, where the closed form can; say besides what keeps it from running."""
    found = answers.findings_of(scenario)
    wrong = tuple(finding for finding in found if finding.level == "error")
    if wrong or beyond_closed_form(scenario):
        return found, wrong, None
    estimate, wrong = attempt(partial(answers.estimate_of, scenario))
    return found, wrong, estimate


def _baseline_estimate() -> tuple[bool, Estimate | None]:
    """Return whether the pinned baseline runs, and its estimate; what is wrong with it costs only the deltas."""
    baseline = session().page.baseline
    if baseline is None:
        return False, None
    if beyond_closed_form(baseline):
        return True, None
    estimate, wrong = attempt(partial(answers.estimate_of, baseline), "baseline")
    findings([replace(finding, level="warning") for finding in wrong])
    return not wrong, estimate


def _buttons(*, runnable: bool, compared: bool) -> None:
    """Draw what can be done, and say what the changes are against."""
    page = session().page
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Simulate", type="primary", on_click=_want_simulation, icon=_PLAY, disabled=not runnable)
        st.button("Pin as baseline", on_click=_pin, icon=":material/keep:")
        if page.baseline is not None:
            st.button("Unpin baseline", on_click=_unpin, icon=":material/keep_off:")
    if page.baseline is None:
        return
    if page.baseline == page.scenario:
        small("This is the baseline.")
        return
    named = change_words(differences(page.baseline, page.scenario))
    more = f" and {len(named) - _MOST_NAMED} more keys" if len(named) > _MOST_NAMED else ""
    against = f"The baseline is {title(page.baseline)}; changed since: {', '.join(named[:_MOST_NAMED])}{more}."
    if not compared and runnable:
        against += " Simulate again to run it too and see the changes."
    small(against)


def _simulate_if_wanted() -> None:
    """Simulate the scenario, and the baseline that it is compared with, where no result is kept; then draw anew.

    Drawing the progress bar is where Streamlit stops this script when the user cancels or changes a value.
    """
    known, store = session(), answers.result_store()
    page = known.page
    stopped, known.running = known.running, False
    wanted, known.wanted = known.wanted, False
    if not wanted:
        if stopped:
            st.warning("The simulation was stopped before its end. Press Simulate to start it again.")
        return
    ran = False
    for label, scenario in (("baseline", page.baseline), ("scenario", page.scenario)):
        key = answers.key_of(scenario) if scenario is not None else ""
        if scenario is None or store.get(key) is not None:
            continue
        with st.container(horizontal=True, vertical_alignment="center"):
            bar = st.progress(0.0, text=f"Simulating the {label}")
            st.button("Cancel", key=f"cancel-{label}", icon=":material/stop:")
        known.running = True
        result, wrong = attempt(partial(answers.run, scenario, partial(_draw_progress, bar, label)), label)
        known.running = False
        findings(wrong)
        known.findings = (*known.findings, *wrong)
        if result is not None:
            store.put(key, result)
            ran = True
    if ran:
        st.rerun()


def _draw_progress(bar: DeltaGenerator, label: str, share: float) -> None:
    bar.progress(share, text=f"Simulating the {label}: {100 * share:.0f} % of its requests")


def _tabs(view: View) -> None:
    """Draw the open tab."""
    tabs = open_tabs(view.scenario)
    labels = [tab.label for tab in tabs.values()]
    first = tabs[FIRST_TAB].label
    # Tabs that were not drawn, as where the scenario could not run, have lost their state.
    opened = tabs[view.page.tab].label if view.page.tab in tabs else first
    if st.session_state.setdefault(TAB, opened) not in labels:
        st.session_state[TAB] = first
    for tab, place in zip(tabs.values(), st.tabs(labels, key=TAB, on_change="rerun"), strict=True):
        if not place.open:
            continue
        with place:
            shown(partial(tab.draw, view), tab.label)
        own = st.session_state
        _change(tab=tab.name, latency=own.get(LATENCY, view.page.latency), phase=own.get(PHASE, view.page.phase))


PAGE = Page(title="What-if", icon=":material/tune:", path="", draw=draw)
