"""Prompts on instances of their own: where the KV cache goes, and what waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.deployment.limits import Limits
from simulator.errors import InfeasibleScenario
from simulator.serving.engine import EngineRun, Pool, run_engine
from simulator.serving.kv_link import KVLink
from simulator.serving.recorder import column
from workloads.requests.trace import RequestTrace

LimitsOf = Callable[..., Limits]
RequestsOf = Callable[..., RequestTrace]


def link(**changes: Any) -> KVLink:
    plain: dict[str, Any] = {
        "send_per_token": 0.5,
        "receive_per_token": 0.25,
        "per_sequence": 0.0,
        "latency": 0.125,
        "layers": 4,
        "overlapped": False,
    }
    return KVLink(**{**plain, **changes})


def split_run(
    trace: RequestTrace, prefill: tuple[Limits, list[Any]], decode: tuple[Limits, list[Any]], **options: Any
) -> EngineRun:
    pools = [
        Pool(timers=decode[1], limits=decode[0], role="decode"),
        Pool(timers=prefill[1], limits=prefill[0], role="prefill"),
    ]
    return run_engine(trace, pools, **options)


def test_a_request_is_computed_moved_and_decoded_in_turn(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    trace = requests_of([4], [3], arrival=[1.0])
    run = split_run(trace, (limits(), [constant_timer()]), (limits(), [constant_timer()]), link=link())
    # The prompt takes a step of 1 s, its KV cache 4 x 0.5 s and the latency, and two further tokens a step each.
    assert column(run.requests.first_token).tolist() == [4.125]
    assert column(run.requests.finish).tolist() == [6.125]
    assert run.steps["instance"].tolist() == [1, 0, 0]
    assert run.gaps["gap_s"].tolist() == [1.0, 1.0]


def test_layers_that_travel_while_others_are_computed_leave_only_the_last_to_wait_for(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    trace = requests_of([4], [2])
    slow = constant_timer(10.0)
    run = split_run(trace, (limits(), [slow]), (limits(), [constant_timer()]), link=link(overlapped=True))
    assert column(run.requests.first_token).tolist() == [10.0 + 2.0 / 4 + 0.125]


def test_an_answer_of_one_token_never_leaves_the_instance_that_computed_the_prompt(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    run = split_run(requests_of([4, 4], [1, 1]), (limits(), [constant_timer()]), (limits(), [constant_timer()]))
    assert set(run.steps["instance"].tolist()) == {1}


def test_prompts_do_not_hold_up_decoding(limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any) -> None:
    trace = requests_of([4, 40], [9, 2], arrival=[0, 2])
    per_token = constant_timer(0.0, 1.0)
    together = run_engine(trace, [Pool(timers=[per_token], limits=limits(scheduler="prefill_first"))])
    apart = split_run(trace, (limits(), [per_token]), (limits(), [per_token]))
    assert together.gaps["gap_s"].max() >= 40.0
    assert apart.gaps["gap_s"].max() <= 2.0


def test_a_kv_cache_waits_where_it_is_until_there_is_memory_for_it(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    trace = requests_of([6, 6, 6], [5, 5, 5])
    tight = limits(pool=11.0)
    run = split_run(trace, (limits(pool=12.5), [constant_timer()]), (tight, [constant_timer()]))
    # One after the other on the decoding instance; the third prompt waits for memory that the second's cache takes.
    assert column(run.requests.first_token).tolist() == [1.0, 5.0, 9.0]
    assert column(run.requests.finish).tolist() == [5.0, 9.0, 13.0]


def test_a_rank_sends_one_cache_after_another(limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any) -> None:
    trace = requests_of([4, 4], [2, 2])
    run = split_run(trace, (limits(), [constant_timer()]), (limits(), [constant_timer()]), link=link(latency=0.0))
    assert sorted(column(run.requests.first_token).tolist()) == [3.0, 5.0]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_every_request_is_answered_once_whatever_the_pools(
    data: st.DataObject, limits: LimitsOf, constant_timer: Any
) -> None:
    size = data.draw(st.integers(1, 16))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    inputs, outputs = rng.integers(1, 30, size), rng.integers(1, 9, size)
    trace = RequestTrace(
        arrival=np.cumsum(rng.exponential(data.draw(st.sampled_from([0.01, 1.0, 4.0])), size)),
        input_tokens=inputs,
        output_tokens=outputs,
    )

    def bounds() -> Limits:
        return limits(
            dp=data.draw(st.integers(1, 3)),
            pool=float((inputs + outputs).max() + data.draw(st.integers(0, 30))),
            token_budget=data.draw(st.integers(4, 60)),
            max_running=data.draw(st.integers(1, 6)),
            reserved_output=data.draw(st.sampled_from([0.0, 1.0])),
        )

    before, after = ([constant_timer() for _ in range(data.draw(st.integers(1, 3)))] for _ in range(2))
    run = split_run(trace, (bounds(), before), (bounds(), after), link=link(), balance="power_of_two")
    finish, first = column(run.requests.finish), column(run.requests.first_token)
    assert (finish >= first).all()
    assert (first > column(run.requests.arrival)).all()
    assert run.gaps["tokens"].sum() == (outputs - 1).sum()


def test_pools_without_an_instance_that_decodes_say_so(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    only = [Pool(timers=[constant_timer()], limits=limits(), role="prefill")]
    with pytest.raises(InfeasibleScenario, match="2 of 2 requests are never answered"):
        run_engine(requests_of([4, 4], [2, 2]), only)
