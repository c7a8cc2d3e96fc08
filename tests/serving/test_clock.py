"""The clock, and what of SimPy it relies on beyond what SimPy documents."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import simpy

from simulator.serving.clock import Clock, Notice


def test_simpy_keeps_its_time_its_heap_and_its_callbacks_where_the_clock_looks_for_them() -> None:
    env = simpy.Environment(initial_time=2.0)
    event = env.timeout(3.0)
    assert env._now == env.now == 2.0
    assert [entry[0] for entry in env._queue] == [5.0]
    assert event.callbacks == []
    env._now = 4.0
    assert env.now == 4.0
    env.step()
    assert env.now == 5.0
    assert event.callbacks is None


def test_a_notice_happens_now_as_an_event_of_simpy_does_in_its_turn() -> None:
    env, told = Clock(), []
    ours, theirs = Notice(env), env.event()
    for event in (ours, theirs):
        event.callbacks.append(lambda happened: told.append(happened.value))
    theirs.succeed(2)
    ours.give(1)
    assert told == [1], "before what is in the queue"
    assert env.reach(theirs)
    assert told == [1, 2]
    for what in ("triggered", "processed", "ok"):
        assert getattr(ours, what) is getattr(theirs, what) is True


def test_a_generator_is_followed_like_a_process_but_begins_at_once() -> None:
    env, seen = Clock(), []
    opened = Notice(env)

    def way() -> Generator[simpy.Event, object, None]:
        for event in (opened, opened, env.timeout(1.5, "later")):
            value = yield event
            seen.append((env.now, value))

    env.follow(way())
    assert len(env._queue) == 1, "nothing but the event that it will wait for"
    opened.give("now")
    assert seen == [(0.0, "now"), (0.0, "now")], "what has happened is not waited for"
    assert not env.reach(env.event())
    assert seen[2:] == [(1.5, "later")]


def test_the_clock_moves_on_by_itself_only_where_nothing_else_is_due() -> None:
    env = Clock()
    assert env.skip(1.0)
    env.timeout(1.0)
    assert env.skip(0.5)
    assert not env.skip(0.5), "something happens at the very end"
    assert not env.skip(2.0)
    assert env.now == 1.5


def test_what_is_called_later_is_called_in_order_with_its_value() -> None:
    env, called = Clock(), []
    for delay, value in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        env.later(delay, lambda got: called.append((env.now, got)), value)
    assert not env.reach(env.event())
    assert called == [(1.0, "a"), (1.0, "b"), (2.0, "c")]


def test_what_is_called_at_a_time_is_called_at_exactly_that_time() -> None:
    env, called = Clock(), list[tuple[float, str]]()
    env.skip(0.1)
    env.later(0.3, lambda got: called.append((env.now, got)), "later")
    env.at(0.1 + 0.7, lambda: called.append((env.now, "last")))
    env.at(0.3, lambda: called.append((env.now, "first")))
    env.run()
    assert called == [(0.3, "first"), (0.1 + 0.3, "later"), (0.1 + 0.7, "last")]


def test_the_clock_says_whether_an_event_was_reached() -> None:
    env = Clock()
    assert env.reach(env.timeout(1.0))
    assert env.now == 1.0
    assert not env.reach(env.event())


def test_an_error_of_a_process_is_not_taken_for_the_end_of_all_events() -> None:
    def fail(env: Clock) -> Generator[simpy.Event, None, None]:
        yield env.timeout(1.0)
        raise RuntimeError("broken")

    env = Clock()
    env.process(fail(env))
    with pytest.raises(RuntimeError, match="broken"):
        env.reach(env.event())
