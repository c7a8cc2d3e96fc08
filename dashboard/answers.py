"""Estimates, explanations and results, each computed once per scenario and contents of its files, and kept."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import streamlit as st

from dashboard.edge import attempt
from dashboard.figures.step import study_policies
from dashboard.mending import Mend, Room, mend
from simulator import api
from simulator.deployment.fingerprint import fingerprint
from simulator.explanation.explanation import timeline
from simulator.explanation.timeline import StepTimeline
from simulator.results.values import Estimate, Explanation, Finding, Result, Scaling
from simulator.scenario import Scenario
from simulator.study.placement import PlacementStudy, StudyOptions, study_placements
from workloads.models.spec import Phase

_T = TypeVar("_T")

#: Results kept in memory; a result frame has a row per request and per step.
_MOST_RESULTS = 8
#: Placement studies kept in memory; they are small.
_MOST_STUDIES = 64
#: Seconds between two redraws of the progress bar.
_REDRAW_S = 0.1


def findings_of(scenario: Scenario) -> tuple[Finding, ...]:
    """Check a scenario; an error of the check itself becomes a finding."""
    found, wrong = attempt(partial(api.check, scenario))
    return found or wrong


def key_of(scenario: Scenario) -> str:
    """Name a scenario and what its files say now; the scenario alone where something that it names cannot be loaded."""
    found, _ = attempt(partial(fingerprint, scenario))
    return f"{scenario.hash} {found or 'not loaded'}"


# Cached as they are, not pickled: answers are frozen values that the page only reads.
_BY_KEY: dict[str | type[Any], Callable[[Any], Any]] = {Scenario: key_of}


@st.cache_resource(max_entries=64, show_spinner="Looking for what would run", hash_funcs=_BY_KEY)
def mend_of(scenario: Scenario, devices: int, cluster: str) -> Mend | None:
    """Find what would make a scenario run on nodes of so many devices, in that cluster where there is one."""
    return mend(scenario, Room(devices=devices, cluster=cluster), findings_of)


@st.cache_resource(max_entries=256, show_spinner="Estimating", hash_funcs=_BY_KEY)
def estimate_of(scenario: Scenario) -> Estimate:
    """Estimate a scenario, once until it or its files change."""
    return api.estimate(scenario)


@st.cache_resource(max_entries=64, show_spinner="Taking the step apart", hash_funcs=_BY_KEY)
def explanation_of(scenario: Scenario, phase: Phase) -> Explanation:
    """Explain a step of a scenario, once per phase until it or its files change."""
    return api.explain(scenario, phase=phase)


@st.cache_resource(max_entries=64, show_spinner="Drawing the step", hash_funcs=_BY_KEY)
def timeline_of(scenario: Scenario, phase: Phase) -> StepTimeline:
    """Draw a step of a scenario on its streams, once per phase until it or its files change."""
    return timeline(scenario, phase=phase)


class Store(Generic[_T]):
    """The latest answers of one kind, shared by all tabs of the browser: those that draw their progress on the way.

    Streamlit's own caches do not let a function draw on what is outside of it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, _T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> _T | None:
        """Return an answer if it is still kept."""
        with self._lock:
            return self._kept.get(key)

    def put(self, key: str, answer: _T) -> None:
        """Keep an answer and let go of the oldest."""
        with self._lock:
            self._kept[key] = answer
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


@st.cache_resource(show_spinner=False)
def result_store() -> Store[Result]:
    """Return the results of this server by the key of their scenario."""
    return Store(_MOST_RESULTS)


@st.cache_resource(show_spinner=False)
def _study_store() -> Store[PlacementStudy]:
    return Store(_MOST_STUDIES)


def study_of(scenario: Scenario, phase: Phase, show: Callable[[float], None]) -> PlacementStudy:
    """Compare placements for the batch that the scenario runs, once per phase until it or its files change.

    ``show`` draws the share that is done, and is where Streamlit stops the script when the user changes anything.
    """
    key = f"{key_of(scenario)} {phase}"
    study = _study_store().get(key)
    if study is None:
        step = explanation_of(scenario, phase)
        batch = step.context if phase == "prefill" else max(step.batch // scenario.parallelism.dp, 1)
        policies = study_policies(scenario.placement.policy)
        options = StudyOptions(policies=policies, phase=phase, batch=batch, context=step.context)
        study = study_placements(scenario, options, show)
        _study_store().put(key, study)
    return study


def run(scenario: Scenario, show: Callable[[float], None]) -> Result:
    """Simulate, showing the share done about ten times a second.

    ``show`` draws on the page; Streamlit stops the script there when the user changes anything or cancels.
    """
    drawn = float("-inf")

    def progress(share: float) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn >= _REDRAW_S or share >= 1:
            drawn = now
            show(min(max(share, 0.0), 1.0))

    return api.simulate(scenario, progress=progress)


@st.cache_resource(show_spinner=False)
def _scaling_store() -> Store[Scaling]:
    return Store(_MOST_STUDIES)


def scaling_with(scenario: Scenario, mechanism: str, show: Callable[[float], None] | None) -> Scaling | None:
    """Return the course of a scenario that scales by another mechanism, played where ``show`` may draw its progress.

    None where it was not played and must not be. What only the mechanism of the scenario reads is left out.
    """
    without = scenario.elastic.without if mechanism == "elastic" else ()
    choice = scenario.elastic.model_copy(update={"mechanism": mechanism, "without": without})
    other = scenario.model_copy(update={"elastic": choice})
    key = key_of(other)
    result = result_store().get(key)
    course = _scaling_store().get(key) or (result.scaling if result else None)
    if course is None and show is not None:
        course = run(other, show).scaling
    if course is not None:
        _scaling_store().put(key, course)
    return course
