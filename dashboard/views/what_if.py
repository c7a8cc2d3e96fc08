"""The page: one form, an estimate at once, a simulation on demand, and a link to all of it.

Run with ``moesim dashboard``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard import answers
from dashboard.catalogue import Catalogue, load_catalogue
from dashboard.form import edit as form
from dashboard.form import fields
from dashboard.panels import run as panels
from dashboard.panels import serving as panels_serving
from dashboard.state import LATENCY, PHASE, PRESET, TAB, TABS, PageState, from_params, open_tabs, to_params
from simulator.api import beyond_closed_form
from simulator.errors import MoesimError
from simulator.results.values import Estimate, Finding, Result

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from simulator.scenario import Scenario

#: A click that was sent before the browser took over a new address still carries the old one [s].
_ADDRESS_LAG_S = 0.5
_PLAY = ":material/play_arrow:"


@st.cache_resource(show_spinner=False)
def _catalogue() -> Catalogue:
    return load_catalogue()


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title="moesim", layout="wide")
    st.title("Mixture-of-Experts serving, simulated")
    try:
        catalogue = _catalogue()
    except MoesimError as error:
        panels.findings([answers.as_finding(error)])
        return
    if not catalogue.presets:
        panels.findings([Finding(level="error", where="examples", message="this installation has no presets")])
        return
    _take_link(catalogue)
    scenario = _form(catalogue)
    if scenario is None:
        return
    if scenario != _page().scenario:
        st.session_state.link_findings = ()
        _change(scenario=scenario)
    _body(catalogue)
    _write_link(catalogue)


def _form(catalogue: Catalogue) -> Scenario | None:
    """Draw the form; where what it holds makes no scenario, say what to mend."""
    page = _page()
    with st.sidebar:
        whole = "what the form begins with"
        st.selectbox(
            "Preset", list(catalogue.presets), key=PRESET, help=whole, on_change=_take_preset, args=(catalogue,)
        )
        try:
            return form.edit(page.scenario, catalogue.presets[page.preset], catalogue)
        except MoesimError as error:
            wrong = error
    panels.findings([answers.as_finding(wrong)])
    st.info("The form holds something that makes no scenario. Mend it, and the answer comes at once.")
    return None


def _page() -> PageState:
    page: PageState = st.session_state.page
    return page


def _change(**values: Any) -> None:
    """Replace values of the page's state."""
    st.session_state.page = replace(_page(), **values)


def _take_link(catalogue: Catalogue) -> None:
    """Let the address decide the page when it is opened, and when it was changed by hand or by going back."""
    params = st.query_params.to_dict()
    if "page" in st.session_state:
        lagging = time.monotonic() - st.session_state.written_at < _ADDRESS_LAG_S
        if params == st.session_state.written or (lagging and params == st.session_state.written_before):
            return
    page, found = from_params(params, catalogue.names())
    fields.forget()
    st.session_state.page = page
    st.session_state[PRESET], st.session_state[LATENCY], st.session_state[PHASE] = page.preset, page.latency, page.phase
    st.session_state[TAB] = TABS[page.tab]
    st.session_state.wanted = page.simulated
    st.session_state.link_findings = found
    _remember(params)


def _write_link(catalogue: Catalogue) -> None:
    """Put the page's state into the address."""
    params = to_params(_page(), catalogue.names())
    if params != st.query_params.to_dict():
        st.query_params.from_dict(params)
    if params != st.session_state.written:
        _remember(params)


def _remember(params: dict[str, str]) -> None:
    st.session_state.written_before = st.session_state.get("written", params)
    st.session_state.written, st.session_state.written_at = params, time.monotonic()


def _take_preset(catalogue: Catalogue) -> None:
    preset = st.session_state[PRESET]
    fields.forget()
    st.session_state.link_findings = ()
    _change(preset=preset, scenario=catalogue.presets[preset])


def _pin() -> None:
    _change(baseline=_page().scenario, baseline_preset=_page().preset)


def _unpin() -> None:
    _change(baseline=None, baseline_preset="")


def _want_simulation() -> None:
    st.session_state.wanted = True


def _body(catalogue: Catalogue) -> None:
    """Draw everything beside the form."""
    page = _page()
    found, estimate = _findings_and_estimate(page.scenario)
    panels.findings([*st.session_state.link_findings, *found])
    if any(finding.level == "error" for finding in found):
        st.session_state.wanted = False
        _change(simulated=False)
        st.info("This scenario cannot run. Change what the findings name, and the answer comes at once.")
        panels.copies(page.preset, catalogue.presets[page.preset], page.scenario)
        return
    store = answers.result_store()
    runs, baseline_estimate = _baseline_estimate()
    result = store.get(page.scenario.hash)
    baseline_result = store.get(page.baseline.hash) if page.baseline else None
    _change(simulated=result is not None)
    answer = result or estimate
    baseline = baseline_estimate if result is None else baseline_result
    missing = result is None or (baseline_result is None and runs)
    _buttons(runnable=missing, compared=baseline is not None)
    if answer is None:
        asked = ", ".join(beyond_closed_form(page.scenario))
        st.info(f"A closed form knows nothing of {asked}. Press Simulate for the answer.", icon=_PLAY)
    else:
        panels.headline(answer, baseline)
        panels.badges(answer)
    _simulate_if_wanted()
    _tabs(catalogue, estimate, result, baseline_estimate, baseline_result)


def _findings_and_estimate(scenario: Scenario) -> tuple[tuple[Finding, ...], Estimate | None]:
    """Check a scenario and estimate it, where the closed form can."""
    found = answers.findings_of(scenario)
    if any(finding.level == "error" for finding in found) or beyond_closed_form(scenario):
        return found, None
    try:
        return found, answers.estimate_of(scenario)
    except MoesimError as error:
        return (*found, answers.as_finding(error)), None


def _baseline_estimate() -> tuple[bool, Estimate | None]:
    """Return whether the pinned baseline runs, and its estimate; what is wrong with it costs only the deltas."""
    baseline = _page().baseline
    if baseline is None:
        return False, None
    if beyond_closed_form(baseline):
        return True, None
    try:
        return True, answers.estimate_of(baseline)
    except MoesimError as error:
        panels.findings([Finding(level="warning", where="baseline", message=str(error))])
        return False, None


def _buttons(*, runnable: bool, compared: bool) -> None:
    """Draw what can be done, and say what the changes are against."""
    page = _page()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Simulate", type="primary", on_click=_want_simulation, icon=_PLAY, disabled=not runnable)
        st.button("Pin as baseline", on_click=_pin, icon=":material/keep:")
        if page.baseline is None:
            return
        st.button("Unpin baseline", on_click=_unpin, icon=":material/keep_off:")
        if page.baseline == page.scenario:
            panels.small("This is the baseline.")
        elif compared:
            panels.small("Changes are against the pinned baseline.")
        elif runnable:
            panels.small("Simulate again to run the baseline too and see the changes.")


def _simulate_if_wanted() -> None:
    """Simulate the scenario, and the baseline that it is compared with, where no result is kept; then draw anew.

    Drawing the progress bar is where Streamlit stops this script when the user cancels or changes a value.
    """
    stopped = st.session_state.pop("running", False)
    wanted, st.session_state.wanted = st.session_state.wanted, False
    page, store = _page(), answers.result_store()
    if not wanted:
        if stopped:
            st.warning("The simulation was stopped before its end. Press Simulate to start it again.")
        return
    ran = False
    for label, scenario in (("baseline", page.baseline), ("scenario", page.scenario)):
        if scenario is None or store.get(scenario.hash) is not None:
            continue
        with st.container(horizontal=True, vertical_alignment="center"):
            bar = st.progress(0.0, text=f"Simulating the {label}")
            st.button("Cancel", key=f"cancel-{label}", icon=":material/stop:")
        st.session_state.running = True
        try:
            store.put(scenario.hash, answers.run(scenario, partial(_draw_progress, bar, label)))
            ran = True
        except MoesimError as error:
            panels.findings([Finding(level="error", where=label, message=str(error))])
        st.session_state.running = False
    if ran:
        st.rerun()


def _draw_progress(bar: DeltaGenerator, label: str, share: float) -> None:
    bar.progress(share, text=f"Simulating the {label}: {100 * share:.0f} % of its requests")


def _tabs(
    catalogue: Catalogue,
    estimate: Estimate | None,
    result: Result | None,
    baseline_estimate: Estimate | None,
    baseline_result: Result | None,
) -> None:
    """Draw the open tab."""
    page = _page()
    named = {
        "Simulation": result,
        "Estimate": estimate,
        "Baseline, simulated": baseline_result,
        "Baseline, estimated": baseline_estimate,
    }
    labelled = {label: answer for label, answer in named.items() if answer is not None}
    panel_of: dict[str, Callable[[], None]] = {
        "breakdown": partial(panels.breakdown, labelled),
        "latency": partial(panels.latency, result, page),
        "steps": partial(panels.steps, result),
        "pools": partial(panels_serving.pools, result),
        "cache": partial(panels_serving.cache, result),
        "drafts": partial(panels_serving.drafts, page.scenario),
        "faults": partial(panels_serving.faults, result),
        "scaling": partial(panels_serving.scaling, result, baseline_result),
        "placement": partial(panels_serving.placement, page.scenario, result, page),
        "step": partial(panels_serving.step, page.scenario, page),
        "numbers": partial(panels.numbers, labelled),
        "why": partial(panels.why, page.scenario),
        "share": partial(_share, catalogue, estimate, result),
    }
    shown = open_tabs(page.scenario)
    # Tabs that were not drawn, as where the scenario could not run, have lost their state.
    if st.session_state.setdefault(TAB, TABS[page.tab]) not in shown.values():
        st.session_state[TAB] = TABS["breakdown"]
    for name, tab in zip(shown, st.tabs(list(shown.values()), key=TAB, on_change="rerun"), strict=True):
        if not tab.open:
            continue
        with tab:
            panel_of[name]()
        own = st.session_state
        _change(tab=name, latency=own.get(LATENCY, page.latency), phase=own.get(PHASE, page.phase))


def _share(catalogue: Catalogue, estimate: Estimate | None, result: Result | None) -> None:
    page = _page()
    panels.downloads(page.scenario, estimate, result)
    panels.copies(page.preset, catalogue.presets[page.preset], page.scenario)


if __name__ == "__main__":
    main()
