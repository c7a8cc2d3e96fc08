"""A turn is sent its delay after the answer that it follows, whatever the server does in between."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.deployment.limits import Limits
from simulator.serving.engine import EngineRun, Pool, PrefixCaching, run_engine
from simulator.serving.kv_link import KVLink
from simulator.serving.recorder import column
from simulator.serving.server import Server
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import (
    answer_blocks,
    first_requests,
    most_in_flight,
    session_block_tokens,
    session_blocks,
    session_columns,
)

if TYPE_CHECKING:
    import simpy

Played = Any


def chained(
    after: list[int],
    delay: list[float],
    *,
    inputs: int = 10,
    outputs: int = 3,
    arrival: list[float] | None = None,
    concurrency: int | None = None,
) -> RequestTrace:
    """Requests of equal length, which follow each other."""
    size = len(after)
    return RequestTrace(
        arrival=np.zeros(size) if arrival is None else np.array(arrival),
        input_tokens=np.full(size, inputs),
        output_tokens=np.full(size, outputs),
        after=np.array(after),
        delay=np.array(delay),
        concurrency=concurrency,
    )


def times(run: EngineRun) -> tuple[list[float], list[float]]:
    return column(run.requests.arrival).tolist(), column(run.requests.finish).tolist()


def alone(trace: RequestTrace, limits: Limits, timer: Any, **options: Any) -> EngineRun:
    return run_engine(trace, [Pool(timers=[timer], limits=limits)], **options)


def test_a_turn_is_sent_its_delay_after_the_last_token_of_the_answer_before_it(
    limits: Callable[..., Limits], constant_timer: Any
) -> None:
    trace = chained([-1, 0, 1], [0.0, 2.5, 0.0], arrival=[1.0, 1.0, 1.0])
    # A prompt takes a step, and so does each further token.
    assert times(alone(trace, limits(), constant_timer())) == ([1.0, 6.5, 9.5], [4.0, 9.5, 12.5])


def test_the_frontend_is_passed_by_every_turn(limits: Callable[..., Limits], constant_timer: Any) -> None:
    trace = chained([-1, 0], [0.0, 2.0])
    assert times(alone(trace, limits(), constant_timer(), frontend=0.5)) == ([0.0, 5.5], [3.5, 9.0])


def test_the_delay_counts_from_when_the_client_has_the_last_token(
    limits: Callable[..., Limits], constant_timer: Any
) -> None:
    trace = chained([-1, 0, -1], [0.0, 2.0, 0.0])
    at_once, late = (alone(trace, limits(delivery_steps=each), constant_timer()) for each in (0, 2))
    assert times(at_once)[0][1] == 5.0
    arrival, finish = times(late)
    assert finish[0] > times(at_once)[1][0] - 1e-9
    assert arrival[1] == finish[0] + 2.0


def test_a_turn_with_a_time_of_its_own_waits_for_it_and_for_the_answer(
    limits: Callable[..., Limits], constant_timer: Any
) -> None:
    trace = chained([-1, 0, 1], [0.0, 0.0, 0.0], arrival=[0.0, 2.0, 20.0])
    assert times(alone(trace, limits(), constant_timer()))[0] == [0.0, 3.0, 20.0]


def test_a_closed_loop_counts_sessions_which_keep_their_place_while_they_wait(
    limits: Callable[..., Limits], constant_timer: Any
) -> None:
    trace = chained([-1, 0, -1, 2, -1], [0.0, 4.0, 0.0, 4.0, 0.0], concurrency=1)
    assert times(alone(trace, limits(), constant_timer()))[0] == [0.0, 7.0, 10.0, 17.0, 20.0]


def test_several_requests_may_follow_one_answer_and_the_session_ends_with_the_last(
    limits: Callable[..., Limits], constant_timer: Any
) -> None:
    trace = chained([-1, 0, 0, -1], [0.0, 1.0, 5.0, 0.0], concurrency=1)
    assert times(alone(trace, limits(), constant_timer()))[0] == [0.0, 4.0, 8.0, 11.0]
    assert most_in_flight(trace) == 2
    assert most_in_flight(replace(trace, concurrency=None)) == 0


def test_sessions_and_turns_are_numbered_in_order() -> None:
    trace = chained([-1, -1, 0, 1, 2], [0.0] * 5)
    session, turn = session_columns(trace)
    assert (session.tolist(), turn.tolist()) == ([0, 1, 0, 1, 0], [1, 1, 2, 2, 3])


@dataclass(frozen=True)
class Case:
    """A small load with sessions, and what serves it."""

    trace: RequestTrace
    limits: Limits
    instances: int
    balancer: str
    caching: bool
    frontend: float


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Up to 24 requests, chains and trees of turns, on pools that hold little more than the longest of them."""
    size = draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inputs, outputs = rng.integers(1, 40, size), rng.integers(1, 14, size)
    after = np.array([int(rng.integers(-1, row)) if row and rng.random() < 0.6 else -1 for row in range(size)])
    closed = draw(st.booleans())
    arrival = np.zeros(size) if closed else np.cumsum(rng.exponential(1.0, size)) * draw(st.sampled_from([0.0, 1.0]))
    delay = np.where(after < 0, 0.0, rng.choice([0.0, 0.5, 7.0], size))
    first = first_requests(
        RequestTrace(arrival=arrival, input_tokens=inputs, output_tokens=outputs, after=after, delay=delay)
    )
    also = {}
    for row in np.flatnonzero((after >= 0) & (rng.random(size) < 0.3)).tolist():
        others = [at for at in range(row) if first[at] == first[row] and at != after[row]]
        also |= {row: tuple(others[:2])} if others else {}
    return Case(
        trace=RequestTrace(
            arrival=arrival,
            input_tokens=inputs,
            output_tokens=outputs,
            after=after,
            delay=delay,
            also=also or None,
            concurrency=draw(st.integers(1, 5)) if closed else None,
        ),
        limits=Limits(
            dp=draw(st.integers(1, 3)),
            token_budget=draw(st.integers(1, 60)),
            max_running=draw(st.integers(1, 7)),
            pool=float((inputs + outputs).max() + draw(st.integers(0, 40))),
            kv_per_token=1.0,
            kv_per_sequence=0.0,
            scheduler=draw(st.sampled_from(["mixed", "prefill_first"])),
            chunked=draw(st.booleans()),
            delivery_steps=draw(st.sampled_from([0, 2])),
        ),
        instances=draw(st.integers(1, 3)),
        balancer=draw(st.sampled_from(["round_robin", "least_loaded", "cache_aware"])),
        caching=draw(st.booleans()),
        frontend=draw(st.sampled_from([0.0, 0.3])),
    )


@pytest.fixture(scope="session")
def run(play: Callable[..., Played], constant_timer: Callable[..., Any]) -> Callable[[Case], Played]:
    def once(case: Case) -> Played:
        timers, caching = [constant_timer() for _ in range(case.instances)], None
        if case.caching:
            blocks = session_blocks(case.trace, 4)
            caching = PrefixCaching(blocks=blocks, block_tokens=4, answers=answer_blocks(case.trace, blocks, 4))
        options = {"balance": case.balancer, "caching": caching, "frontend": case.frontend}
        return play(case.trace, case.limits, timers, **options)

    return once


@settings(max_examples=150)
@given(case=cases())
def test_every_turn_comes_exactly_when_it_is_due_and_ends_with_all_its_tokens(
    case: Case, run: Callable[[Case], Played]
) -> None:
    played, trace = run(case), case.trace
    assert np.isfinite(played.finish).all()
    assert trace.after is not None
    assert trace.delay is not None
    later = trace.after >= 0
    ended = played.finish[trace.after]
    for row, others in (trace.also or {}).items():
        ended[row] = max(ended[row], played.finish[list(others)].max())
    due = ended[later] + trace.delay[later]
    if trace.concurrency is None:
        due = np.maximum(due, trace.arrival[later])
        assert played.arrival[~later] == pytest.approx(trace.arrival[~later])
    assert (played.arrival[later] == due).all()
    steps, cached = played.run.steps, played.cached.sum()
    assert steps["decode_total"].sum() == (trace.output_tokens - 1).sum() - played.resumed
    if not played.preemptions.any():
        assert steps["prompt_total"].sum() == trace.input_tokens.sum() - cached
    for instance in played.instances:
        assert instance.counters() == dict.fromkeys(instance.counters(), 0)
        assert instance.kv.left(0) == instance.limits.pool


@settings(max_examples=60)
@given(case=cases())
def test_a_closed_loop_has_no_more_sessions_at_once_than_it_may(case: Case, run: Callable[[Case], Played]) -> None:
    played, trace = run(case), case.trace
    if trace.concurrency is None:
        return
    session, _ = session_columns(trace)
    begin = np.array([played.arrival[session == each].min() for each in range(session.max() + 1)])
    end = np.array([played.finish[session == each].max() for each in range(session.max() + 1)])
    active = [int(((begin <= at) & (end > at)).sum()) for at in begin]
    assert max(active) <= trace.concurrency
    # Whenever one ends, the next begins.
    ended = np.sort(end)
    assert (np.sort(begin)[trace.concurrency :] == ended[: max(len(ended) - trace.concurrency, 0)]).all()


@settings(max_examples=30)
@given(case=cases())
def test_sessions_played_twice_are_the_same(case: Case, run: Callable[[Case], Played]) -> None:
    first, again = run(case), run(case)
    for name, values in first.run.steps.items():
        np.testing.assert_array_equal(values, again.run.steps[name])
    for name in ("arrival", "admitted", "first_token", "finish", "instance", "rank", "cached"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_turns_pass_through_pools_of_their_own(limits: Callable[..., Limits], constant_timer: Any) -> None:
    trace = chained([-1, 0, 1], [0.0, 2.0, 2.0])
    pools = [
        Pool(timers=[constant_timer()], limits=limits(), role="decode"),
        Pool(timers=[constant_timer()], limits=limits(), role="prefill"),
    ]
    link = KVLink(send_per_token=0.1, receive_per_token=0.1, per_sequence=0.0, latency=0.0, layers=1, overlapped=False)
    arrival, finish = times(run_engine(trace, pools, link=link))
    # A step for the prompt, ten tokens over the link, and two steps for the answer.
    assert finish == pytest.approx([4.0, 10.0, 16.0])
    assert arrival == [0.0, finish[0] + 2.0, finish[1] + 2.0]


def test_what_an_answer_left_in_the_cache_is_found_by_the_turn_after_it(
    limits: Callable[..., Limits], constant_timer: Any
) -> None:
    trace = RequestTrace(
        arrival=np.zeros(3),
        input_tokens=np.array([10, 20, 40]),
        output_tokens=np.array([7, 7, 2]),
        after=np.array([-1, 0, 1]),
        delay=np.zeros(3),
    )
    blocks = session_blocks(trace, 4)
    answers = answer_blocks(trace, blocks, 4)
    assert [len(each) for each in blocks] == [2, 5, 10]
    # The last token of an answer has no KV cache yet: 16 of 17 tokens, and 26 of 27, in blocks of four.
    assert [len(each) for each in answers] == [2, 1, 0]
    caching = PrefixCaching(blocks=blocks, block_tokens=4, answers=answers)
    found = alone(trace, limits(), constant_timer(), caching=caching)
    assert column(found.requests.cached).tolist() == [0, 16, 24]
    without = alone(trace, limits(), constant_timer(), caching=replace(caching, answers=None))
    assert column(without.requests.cached).tolist() == [0, 8, 20]


def test_a_context_made_anew_shares_nothing_and_one_without_its_answers_the_prompt() -> None:
    trace = RequestTrace(
        arrival=np.zeros(4),
        input_tokens=np.array([16, 20, 12, 40]),
        output_tokens=np.array([8, 4, 4, 4]),
        after=np.array([-1, 0, 1, 1]),
        delay=np.zeros(4),
    )
    first, short, anew, other = (list(each) for each in session_blocks(trace, 4))
    assert short[:4] == first
    assert short[4] not in first
    assert not set(anew) & {*first, *short, *other}
    assert other[:5] == short


def test_blocks_are_made_up_larger_for_long_prompts_so_that_no_cache_drowns_in_them() -> None:
    trace = chained([-1, 0], [0.0, 0.0], inputs=32_768)
    assert session_block_tokens(trace) == 16
    assert session_block_tokens(replace(trace, input_tokens=np.array([10, 130_000]))) == 64


def test_two_turns_that_follow_one_answer_share_it_and_no_more() -> None:
    trace = chained([-1, 0, 0], [0.0, 0.0, 0.0], inputs=8, outputs=4)
    trace = replace(trace, input_tokens=np.array([8, 20, 20]))
    first, one, other = (list(each) for each in session_blocks(trace, 4))
    assert one[:3] == other[:3]
    assert one[:2] == first
    assert not set(one[3:]) & set(other[3:])


def test_a_turn_follows_the_answer_that_was_sent_in_again_after_a_failure(
    limits: Callable[..., Limits], constant_timer: Any
) -> None:
    def failing(server: Server) -> Generator[simpy.Event, None, None]:
        yield server.env.timeout(1.5)
        server.close(server.instances[0])
        server.lose(server.instances[0], retry="restart")
        yield server.env.timeout(3.0)
        server.reopen(server.instances[0])

    trace = chained([-1, 0], [0.0, 2.0])
    assert times(alone(trace, limits(), constant_timer(), controls=[failing])) == ([0.0, 9.5], [7.5, 12.5])
