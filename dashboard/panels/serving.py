"""Panels of one step, and of what only some scenarios have: pools, caches, drafts, faults, scaling, placement."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard import answers
from dashboard.figures.scaling import instances_chart, phases_chart, scaling_chart
from dashboard.figures.serving import cache_chart, drafts_chart, faults_chart, pools_chart
from dashboard.figures.step import hidden_table, placement_chart, rebalance_table, step_chart
from dashboard.panels.run import chart, findings, needs_simulation, small, table
from dashboard.state import PHASE, PageState
from simulator.errors import MoesimError
from simulator.explanation.explanation import hidden_rows
from simulator.results.values import Result
from simulator.scenario import Scenario
from workloads.models.spec import Phase

_PHASES: tuple[Phase, Phase] = ("decode", "prefill")


def pools(result: Result | None) -> None:
    """Show how busy each pool is and what a TTFT consists of."""
    if result is None:
        needs_simulation("What the pools do")
        return
    chart(pools_chart(result.requests, result.steps, result.scenario.parallelism.instances), "pools")


def cache(result: Result | None) -> None:
    """Show how much of the prompts was cached."""
    if result is None:
        needs_simulation("How much of the prompts is cached")
        return
    chart(cache_chart(result.requests), "cache")


def drafts(scenario: Scenario) -> None:
    """Show what drafts yield; an error of theirs is among the findings."""
    chart(drafts_chart(scenario.speculation), "drafts")


def faults(result: Result | None) -> None:
    """Show what broke and what came of it."""
    if result is None:
        needs_simulation("What the faults do")
        return
    chart(faults_chart(result.requests, result.steps, result.scenario.faults), "faults")


def scaling(result: Result | None, baseline: Result | None) -> None:
    """Show the course of a run that changed its size."""
    if result is None or result.scaling is None:
        needs_simulation("The course of the changes")
        return
    chart(scaling_chart(result.scaling, baseline.scaling if baseline else None), "scaling")
    st.header("Instances")
    chart(instances_chart(result.scaling), "instances")
    if len(result.scaling.phases):
        st.header("Changes")
        chart(phases_chart(result.scaling), "phases")


def placement(scenario: Scenario, result: Result | None, page: PageState) -> None:
    """Show what placements of experts are worth, and what rebalancing did."""
    phase = _phase(page)
    place = st.empty()
    try:
        study = answers.study_of(scenario, phase, partial(_placing, place))
    except MoesimError as error:
        findings([answers.as_finding(error)])
        return
    place.empty()
    chart(placement_chart(study, phase), "placement")
    small(
        "Left the experts in their order, right the fastest placement. The oracle knew the very tokens that all are "
        "judged on. To use a placement, choose its policy in the form."
    )
    if not scenario.placement.rebalance.active:
        return
    st.header("Rebalances")
    if result is None:
        needs_simulation("When experts are placed anew")
    elif not result.rebalances:
        st.info("The run ended before the first rebalance, or none was worth it.")
    else:
        table(rebalance_table(result.rebalances))


def _placing(place: st.delta_generator.DeltaGenerator, share: float) -> None:
    place.progress(share, text=f"Comparing placements: {100 * share:.0f} %. Any change of the form stops it.")


def step(scenario: Scenario, page: PageState) -> None:
    """Show one step on its streams."""
    with st.container(horizontal=True):
        phase = _phase(page)
        whole = st.checkbox("Show the whole step", help="otherwise three layers in the middle; zoom by dragging")
    try:
        drawn = answers.timeline_of(scenario, phase)
    except MoesimError as error:
        findings([answers.as_finding(error)])
        return
    chart(step_chart(drawn, whole=whole), "step")
    if drawn.exchanged_s > 0:
        st.header("What runs beside the exchanges")
        table(hidden_table(hidden_rows(drawn)))


def _phase(page: PageState) -> Phase:
    """Ask which kind of step; the link keeps it."""
    st.session_state.setdefault(PHASE, page.phase)
    meaning = "decode: one token of every running request; prefill: a prompt"
    return st.radio("Kind of step", _PHASES, key=PHASE, horizontal=True, help=meaning)
