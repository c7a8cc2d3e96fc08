"""What one step shows: the load of ranks by placement, its streams, and why each op takes as long as it does."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import answers
from dashboard.figures.ops import ops_chart
from dashboard.figures.step import hidden_table, placement_chart, rebalance_table, step_chart
from dashboard.panels.shown import chart, needs_simulation, plot, shown, small, table
from dashboard.panels.view import View
from dashboard.state import PHASE, PageState
from simulator.explanation.explanation import hidden_rows
from simulator.scenario.features import asks
from workloads.models.spec import Phase


def placement(view: View) -> None:
    """Show what placements of experts are worth, and what rebalancing did."""
    phase = _phase(view.page)
    place = st.empty()
    study = shown(partial(answers.study_of, view.scenario, phase, partial(_placing, place)))
    place.empty()
    if study is None:
        return
    chart(placement_chart(study, phase), "placement")
    small(
        "Left the experts in their order, right the fastest placement. The oracle knew the very tokens that all are "
        "judged on. To use a placement, choose its policy in the form."
    )
    if not asks(view.scenario, "rebalance"):
        return
    st.header("Rebalances")
    if view.result is None:
        needs_simulation("When experts are placed anew")
    elif not view.result.rebalances:
        st.info("The run ended before the first rebalance, or none was worth it.")
    else:
        table(rebalance_table(view.result.rebalances))


def _placing(place: st.delta_generator.DeltaGenerator, share: float) -> None:
    place.progress(share, text=f"Comparing placements: {100 * share:.0f} %. Any change of the form stops it.")


def streams(view: View) -> None:
    """Show one step on its streams."""
    with st.container(horizontal=True):
        phase = _phase(view.page)
        whole = st.checkbox("Show the whole step", help="otherwise three layers in the middle; zoom by dragging")
    drawn = answers.timeline_of(view.scenario, phase)
    chart(step_chart(drawn, whole=whole), "step")
    if drawn.exchanged_s > 0:
        st.header("What runs beside communication")
        table(hidden_table(hidden_rows(drawn)))


def why(view: View) -> None:
    """Show the ops of a decode and of a prefill step."""
    for phase in ("decode", "prefill"):
        st.header(f"One {phase} step")
        shown(partial(_ops, view, phase))


def _ops(view: View, phase: Phase) -> None:
    drawn = ops_chart(answers.explanation_of(view.scenario, phase))
    plot(drawn, f"ops-{phase}")
    small(drawn.alt)
    st.dataframe(drawn.table, hide_index=True, alt=f"Every op of the {phase} step, the most expensive first.")


def _phase(page: PageState) -> Phase:
    """Ask which kind of step; the link keeps it."""
    st.session_state.setdefault(PHASE, page.phase)
    meaning = "decode: one token of every running request; prefill: a prompt"
    return st.radio("Kind of step", ("decode", "prefill"), key=PHASE, horizontal=True, help=meaning)
