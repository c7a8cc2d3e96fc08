"""What only some runs show: pools, caches, drafts, faults and scaling."""

from __future__ import annotations

import streamlit as st

from dashboard.figures.scaling import instances_chart, phases_chart, scaling_chart
from dashboard.figures.serving import cache_chart, drafts_chart, faults_chart, pools_chart
from dashboard.panels.shown import chart, needs_simulation
from dashboard.panels.view import View


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
