"""Runs that need no clock are timed afterwards, and end as they do where every step is timed before the next begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator import Scenario
from simulator.compiled import engine
from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests
from simulator.serving.clock import Clock
from simulator.serving.engine import EngineRun, Pool, PrefixCaching, run_engine
from simulator.serving.instance import Instance
from simulator.serving.recorder import column
from simulator.serving.step_log import StepLog
from simulator.step.columns import STEP_COLUMNS
from simulator.step.speculation import answer_steps
from simulator.step.work import StepWork
from workloads.requests.trace import RequestTrace

ONE_RANK: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "stack": {"name": "vllm"},
    "requests": {
        "kind": "closed_loop",
        "concurrency": 40,
        "count": 200,
        "lengths": {"kind": "uniform", "input": 400, "output": 60, "range_ratio": 0.9},
    },
    "routing": {"tokens": 256},
}
WIDE = {
    **ONE_RANK,
    "model": {"name": "qwen3-30b-a3b"},
    "hardware": {"device": "h200-sxm", "node": "hgx-h200"},
    "parallelism": {"dp": 8, "ep": 8},
}
#: Memory for few of the requests that are in flight.
TIGHT = (
    "stack.memory_fraction=0.22",
    "requests.concurrency=256",
    "requests.lengths.input=300",
    "requests.lengths.output=900",
)
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "one rank": (ONE_RANK, ()),
    "several ranks": (WIDE, ()),
    "fewer requests than ranks": (WIDE, ("requests.concurrency=5", "requests.count=20")),
    "prompts in steps of their own": (WIDE, ("stack.name=sglang", "requests.lengths.input=3000")),
    "drafts": (WIDE, ("speculation.draft_tokens=2", "speculation.acceptance=[0.8, 0.6]")),
    "pipeline": (ONE_RANK, ("hardware.node=hgx-h100", "parallelism.pp=2")),
    "preemption": (ONE_RANK, TIGHT),
    "swapping": (ONE_RANK, (*TIGHT, "stack.preemption=swap")),
    "no experts": (ONE_RANK, ("model.name=llama-3.1-8b",)),
}


class Watcher:
    """Watches, so that every step is timed before the next begins."""

    def on_decode(self, instance: Instance) -> None:
        pass

    def on_loss(self, instance: Instance, request: int, tokens: int, *, answering: bool) -> None:
        pass


def play(scenario: Scenario, trace: RequestTrace, *, watched: bool, **options: Any) -> EngineRun:
    deployment, instances = deploy(scenario, trace), scenario.parallelism.instances
    timers = [deployment.timer(each, instances) for each in range(instances)]
    pool = Pool(timers=timers, limits=deployment.limits, probe=Watcher() if watched else None)
    steps = answer_steps(scenario.speculation, trace.output_tokens, scenario.seed)
    return run_engine(trace, [pool], answer_steps=steps, **options)


def full_step(scenario: Scenario, trace: RequestTrace) -> float:
    """Duration of a decode step of all that run at once, before they hold any context [s]."""
    deployment = deploy(scenario, trace)
    limits = deployment.limits
    running = min(scenario.requests.concurrency or 0, limits.dp * limits.max_running)
    work = StepWork.decode(running, 0.0, dp=limits.dp, query_tokens=limits.query_tokens)
    return deployment.timer().time(work).duration


def assert_agree(quick: EngineRun, slow: EngineRun) -> None:
    assert tuple(quick.steps) == tuple(slow.steps) == STEP_COLUMNS
    for name, values in slow.steps.items():
        np.testing.assert_allclose(quick.steps[name], values, rtol=1e-12, atol=1e-15, err_msg=name)
    for name, values in slow.gaps.items():
        np.testing.assert_allclose(quick.gaps[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    for name in ("arrival", "admitted", "first_token", "finish", "instance", "rank", "preemptions", "cached"):
        one, other = (column(getattr(each.requests, name)) for each in (quick, slow))
        np.testing.assert_allclose(one, other, rtol=1e-12, err_msg=name)
    assert quick.end == pytest.approx(slow.end, rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_run_timed_afterwards_is_the_run_timed_as_it_goes(name: str) -> None:
    mapping, changes = CASES[name]
    scenario = Scenario.from_mapping(mapping).override(*changes)
    trace = scenario_requests(scenario.requests, scenario.seed)
    slow = play(scenario, trace, watched=True)
    assert (sum(slow.requests.preemptions) > 0) == (name in ("preemption", "swapping"))
    assert_agree(play(scenario, trace, watched=False), slow)


#: Shares of the time of a full step without context that the frontend takes.
FRONTENDS = {"quick": 0.1, "nearly a step": 0.85, "slow": 1.2}


@pytest.mark.parametrize("share", FRONTENDS.values(), ids=FRONTENDS)
@pytest.mark.parametrize("name", CASES)
def test_so_is_one_behind_a_frontend(name: str, share: float) -> None:
    mapping, changes = CASES[name]
    scenario = Scenario.from_mapping(mapping).override(*changes)
    trace = scenario_requests(scenario.requests, scenario.seed)
    frontend = share * full_step(scenario, trace)
    slow = play(scenario, trace, watched=True, frontend=frontend)
    assert_agree(play(scenario, trace, watched=False, frontend=frontend), slow)


@pytest.mark.parametrize(
    "changes", [("requests.concurrency=1",), ("requests.lengths={kind='fixed', input=16, output=60}",)]
)
def test_so_is_one_that_idles_until_the_frontend_lets_somebody_in(changes: tuple[str, ...]) -> None:
    scenario = Scenario.from_mapping(ONE_RANK).override("requests.count=80", *changes)
    trace = scenario_requests(scenario.requests, scenario.seed)
    slow = play(scenario, trace, watched=True, frontend=0.0005)
    begin, end = slow.steps["start_s"], slow.steps["start_s"] + slow.steps["duration_s"]
    assert begin[0] == 0.0005
    assert (begin[1:] - end[:-1]).max() == pytest.approx(0.0005)
    assert_agree(play(scenario, trace, watched=False, frontend=0.0005), slow)


@pytest.mark.parametrize(("share", "kept"), [(0.3, [True]), (0.85, [False]), (0.97, [])])
def test_a_run_with_steps_that_the_frontend_outlasts_is_played_again(
    share: float, kept: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario.from_mapping(ONE_RANK).override("requests.count=120")
    trace = scenario_requests(scenario.requests, scenario.seed)
    # One answer is longer: while the others come in anew, it is alone in short steps.
    lengths = {"input_tokens": np.full(120, 64), "output_tokens": np.where(np.arange(120) == 0, 90, 20)}
    trace, found, timed = replace(trace, **lengths), list[bool](), StepLog.timed
    frontend = share * full_step(scenario, trace)
    slow = play(scenario, trace, watched=True, frontend=frontend)

    def noted(*given: Any) -> Any:
        answer = timed(*given)
        found.append(answer is not None)
        return answer

    monkeypatch.setattr(StepLog, "timed", noted)
    assert_agree(play(scenario, trace, watched=False, frontend=frontend), slow)
    # A frontend slower than a step of half a batch is not tried; compiled code does not call what is put in its place.
    assert found == kept or engine() == "compiled"


def test_so_is_a_batch_that_is_there_from_the_beginning() -> None:
    scenario = Scenario.from_mapping(WIDE)
    trace = replace(scenario_requests(scenario.requests, scenario.seed), concurrency=None)
    assert_agree(play(scenario, trace, watched=False), play(scenario, trace, watched=True))


def test_so_are_prompts_of_which_others_left_the_beginning_in_a_cache() -> None:
    scenario = Scenario.from_mapping(WIDE)
    trace = scenario_requests(scenario.requests, scenario.seed)
    blocks = [
        tuple(range(100 * (each % 7), 100 * (each % 7) + size // 64)) for each, size in enumerate(trace.input_tokens)
    ]
    caching = PrefixCaching(blocks=blocks, block_tokens=64)
    slow = play(scenario, trace, watched=True, caching=caching)
    assert sum(slow.requests.cached) > 0
    assert_agree(play(scenario, trace, watched=False, caching=caching), slow)


def test_those_who_watch_the_share_that_is_done_see_it_grow_to_the_whole() -> None:
    scenario = Scenario.from_mapping(ONE_RANK)
    trace, shares = scenario_requests(scenario.requests, scenario.seed), list[float]()
    deployment = deploy(scenario, trace)
    run_engine(trace, [Pool(timers=[deployment.timer()], limits=deployment.limits)], progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


#: Loads of which the engine knows only when they come.
COMING: dict[str, tuple[str, ...]] = {
    "few at once": ("requests.concurrency=3", "requests.count=40"),
    "many at once": (),
    "arrivals": ("requests.kind=poisson", "requests.rate=8", "requests.count=60"),
    "arrivals at two": ("requests.kind=poisson", "requests.rate=8", "requests.count=60", "parallelism.instances=2"),
    "arrivals with drafts": (
        "requests.kind=poisson",
        "requests.rate=8",
        "requests.count=60",
        "speculation.draft_tokens=2",
        "speculation.acceptance=[0.8, 0.6]",
    ),
}


@pytest.mark.parametrize("mapping", [ONE_RANK, WIDE], ids=["one rank", "several ranks"])
@pytest.mark.parametrize("name", COMING)
def test_steps_in_a_row_that_pass_at_once_are_those_that_pass_one_by_one(
    name: str, mapping: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario.from_mapping(mapping).override("requests.lengths.output=200", *COMING[name])
    trace = scenario_requests(scenario.requests, scenario.seed)
    slow = play(scenario, trace, watched=True, frontend=0.012)
    passed, go_to = list[float](), Clock.go_to

    def counted(clock: Clock, time: float) -> None:
        passed.append(time)
        go_to(clock, time)

    monkeypatch.setattr(Clock, "go_to", counted)
    assert_agree(play(scenario, trace, watched=False, frontend=0.012), slow)
    # Compiled code does not call what is put in its place.
    assert passed or engine() == "compiled"


def in_sessions(trace: RequestTrace, turns: int, delay: float) -> RequestTrace:
    """Let each request but the first of so many follow the one before it."""
    row = np.arange(len(trace))
    after = np.where(row % turns > 0, row - 1, -1)
    arrival = trace.arrival[row - row % turns]
    return replace(trace, arrival=arrival, after=after, delay=np.where(after < 0, 0.0, delay))


@pytest.mark.parametrize("share", [0.0, *FRONTENDS.values()])
@pytest.mark.parametrize("at_once", [False, True], ids=["closed loop", "there from the beginning"])
def test_turns_that_come_at_once_after_an_answer_are_timed_afterwards_too(at_once: bool, share: float) -> None:
    scenario = Scenario.from_mapping(WIDE)
    trace = in_sessions(scenario_requests(scenario.requests, scenario.seed), 4, 0.0)
    if at_once:
        trace = replace(trace, concurrency=None)
    frontend = share * full_step(scenario, trace)
    slow = play(scenario, trace, watched=True, frontend=frontend)
    arrival, finish = column(slow.requests.arrival), column(slow.requests.finish)
    assert (arrival[1:4] == finish[:3]).all()
    assert_agree(play(scenario, trace, watched=False, frontend=frontend), slow)


@pytest.mark.parametrize("delay", [0.003, 0.7])
@pytest.mark.parametrize("mapping", [ONE_RANK, WIDE], ids=["one rank", "several ranks"])
@pytest.mark.parametrize("name", ["closed loop", *COMING])
def test_so_do_steps_between_turns_that_come_after_a_while(name: str, mapping: dict[str, Any], delay: float) -> None:
    scenario = Scenario.from_mapping(mapping).override("requests.lengths.output=200", *COMING.get(name, ()))
    trace = in_sessions(scenario_requests(scenario.requests, scenario.seed), 4, delay)
    slow = play(scenario, trace, watched=True, frontend=0.002)
    assert_agree(play(scenario, trace, watched=False, frontend=0.002), slow)
