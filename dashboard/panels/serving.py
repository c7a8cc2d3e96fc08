"""What only some runs show: pools, caches, drafts, faults and scaling."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import streamlit as st

from dashboard import answers
from dashboard.edge import attempt
from dashboard.figures.scaling import instances_chart, phases_chart, scaling_chart, scaling_tables
from dashboard.figures.serving import cache_chart, drafts_chart, faults_chart, pools_chart
from dashboard.panels.shown import chart, findings, needs_simulation, small, table
from dashboard.panels.view import View
from simulator.elastic.mechanisms import MECHANISMS
from simulator.results.values import Scaling
from simulator.scenario import Scenario


def pools(view: View) -> None:
    """Show how busy each pool is and what a TTFT consists of."""
    if view.result is None:
        needs_simulation("What the pools do")
        return
    chart(pools_chart(view.result.requests, view.result.steps, view.scenario.parallelism.instances), "pools")


def cache(view: View) -> None:
    """Show how much of the prompts was cached."""
    if view.result is None:
        needs_simulation("How much of the prompts is cached")
        return
    chart(cache_chart(view.result.requests), "cache")


def drafts(view: View) -> None:
    """Show what drafts yield; an error of theirs is among the findings."""
    chart(drafts_chart(view.scenario.speculation), "drafts")


def faults(view: View) -> None:
    """Show what broke and what came of it."""
    if view.result is None:
        needs_simulation("What the faults do")
        return
    chart(faults_chart(view.result.requests, view.result.steps, view.scenario.faults), "faults")


def scaling(view: View) -> None:
    """Show the course of a run that changed its size."""
    course = view.result.scaling if view.result else None
    if course is None:
        needs_simulation("The course of the changes")
        return
    chart(scaling_chart(course, view.baseline_result.scaling if view.baseline_result else None), "scaling")
    st.header("Instances")
    chart(instances_chart(course), "instances")
    if len(course.phases):
        st.header("Changes")
        chart(phases_chart(course), "phases")
    st.header("Every mechanism")
    _mechanisms(view.scenario)


def _mechanisms(scenario: Scenario) -> None:
    """Play the scenario with each mechanism when asked, and show what came of all of them."""
    asked = st.button("Play every mechanism", icon=":material/compare_arrows:")
    place = st.empty()
    played: dict[str, Scaling] = {}
    for mechanism in MECHANISMS:
        show = partial(_playing, place, mechanism) if asked else None
        course, wrong = attempt(partial(answers.scaling_with, scenario, mechanism, show), mechanism)
        findings([replace(finding, level="warning") for finding in wrong])
        if course is not None:
            played[mechanism] = course
    place.empty()
    if len(played) > 1:
        table(scaling_tables(played))
    else:
        small("The same load and policy with each way of carrying out a change, side by side; it takes a run each.")


def _playing(place: st.delta_generator.DeltaGenerator, mechanism: str, share: float) -> None:
    place.progress(share, text=f"Playing {mechanism}: {100 * share:.0f} %. Any change of the form stops it.")
