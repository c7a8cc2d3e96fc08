"""Small loads whose every step can be worked out by hand: one second a step."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from simulator.deployment.limits import Limits
from simulator.scenario.sections import Scheduler as SchedulerName
from simulator.scenario.sections import StackScheduler
from simulator.serving.batch import Batch
from simulator.serving.engine import Pool, run_engine
from simulator.serving.prompt_queues import PromptQueues
from simulator.serving.recorder import ColumnRecorder, RequestRecorder
from simulator.serving.scheduler import SCHEDULERS
from simulator.serving.state import RequestState, RunState
from simulator.serving.step_plan import DECODE, NOTHING
from workloads.requests.trace import RequestTrace

Play = Callable[..., Any]
LimitsOf = Callable[..., Limits]
RequestsOf = Callable[..., RequestTrace]


def column_of(played: Any, name: str) -> list[float]:
    return [float(value) for value in getattr(played, name)]


def steps_of(played: Any, *names: str) -> list[tuple[float, ...]]:
    return list(zip(*(played.run.steps[name].tolist() for name in names), strict=True))


def test_one_request_takes_a_step_per_chunk_and_per_further_token(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    played = play(requests_of([10], [3], arrival=2.0), limits(token_budget=4), [constant_timer()])
    assert steps_of(played, "start_s", "prompt_total", "decode_total") == [
        (2, 4, 0),
        (3, 4, 0),
        (4, 2, 0),
        (5, 0, 1),
        (6, 0, 1),
    ]
    assert column_of(played, "first_token") == [5.0]
    assert column_of(played, "finish") == [7.0]
    assert played.run.end == 7.0


def test_a_mixed_step_gives_decoding_its_tokens_first(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    played = play(requests_of([2, 6], [4, 2], arrival=[0, 0.5]), limits(token_budget=4), [constant_timer()])
    assert steps_of(played, "start_s", "prompt_total", "decode_total", "rows") == [
        (0, 2, 0, 2),
        (1, 3, 1, 4),
        (2, 3, 1, 4),
        (3, 0, 2, 2),
    ]
    assert column_of(played, "finish") == [4.0, 4.0]


def test_prompts_go_first_where_the_stack_says_so(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    few = limits(token_budget=4, scheduler="prefill_first")
    played = play(requests_of([2, 6], [4, 2], arrival=[0, 0.5]), few, [constant_timer()])
    assert steps_of(played, "start_s", "prompt_total", "decode_total") == [
        (0, 2, 0),
        (1, 4, 0),
        (2, 2, 0),
        (3, 0, 2),
        (4, 0, 1),
        (5, 0, 1),
    ]
    gaps = played.run.gaps
    assert sorted(zip(gaps["gap_s"].tolist(), gaps["tokens"].tolist(), strict=True)) == [(1, 1), (1, 1), (1, 1), (3, 1)]


def test_a_prompt_that_may_not_be_split_waits_for_a_step_of_its_own(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    whole = limits(token_budget=4, chunked=False, scheduler="prefill_first")
    played = play(requests_of([3, 3, 9], [1, 1, 1]), whole, [constant_timer()])
    assert steps_of(played, "prompt_total") == [(3,), (3,), (4,), (4,), (1,)]
    split = play(requests_of([3, 3, 9], [1, 1, 1]), limits(token_budget=4), [constant_timer()])
    assert steps_of(split, "prompt_total") == [(4,), (4,), (4,), (3,)]


def test_no_more_requests_run_than_allowed(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    played = play(requests_of([1] * 3, [3] * 3), limits(max_running=2), [constant_timer()])
    assert column_of(played, "finish") == [3.0, 3.0, 6.0]
    assert column_of(played, "admitted") == [0.0, 0.0, 3.0]
    assert played.run.steps["queue_length"].max() == 1


def test_memory_pressure_preempts_the_youngest_which_keeps_its_tokens(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    played = play(requests_of([3, 3], [6, 6]), limits(pool=10.0), [constant_timer()])
    assert played.preemptions.tolist() == [0, 1]
    # Steps: both prompts; two decodes of two until 10 tokens are held; three more of the first alone. The second then
    # computes its 3 + 3 tokens again, which yields its fourth, and decodes two more.
    assert steps_of(played, "prompt_total", "decode_total") == [
        (6, 0),
        (0, 2),
        (0, 2),
        (0, 1),
        (0, 1),
        (0, 1),
        (6, 0),
        (0, 1),
        (0, 1),
    ]
    assert column_of(played, "first_token") == [1.0, 1.0]
    assert column_of(played, "finish") == [6.0, 9.0]
    assert played.run.gaps["gap_s"].max() == 4.0


def test_a_preempted_request_goes_before_those_that_wait(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    played = play(requests_of([3, 3, 3], [6, 6, 1]), limits(pool=10.0, max_running=2), [constant_timer()])
    assert played.preemptions.tolist() == [0, 1, 0]
    assert column_of(played, "finish") == [6.0, 9.0, 10.0]
    assert column_of(played, "admitted") == [0.0, 0.0, 9.0]


def test_a_prompt_in_progress_gives_way_to_an_older_answer(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    # The second prompt fits beside the first request when it is admitted, and no longer does three steps later.
    trace = requests_of([2, 6], [8, 1], arrival=[0.0, 0.5])
    played = play(trace, limits(pool=11.0, token_budget=2), [constant_timer()])
    assert played.preemptions.tolist() == [0, 1]
    assert played.resumed == 0
    assert played.run.steps["kv_use"].max() <= 1.0
    assert column_of(played, "finish")[0] == 8.0
    assert column_of(played, "first_token")[1] == 11.0


def test_round_robin_deals_requests_in_turn(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    timers = [constant_timer() for _ in range(3)]
    played = play(requests_of([1] * 7, [1] * 7), limits(), timers, balance="round_robin")
    assert played.instance.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_least_loaded_instance_takes_the_request(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    trace = requests_of([1] * 4, [9, 2, 2, 2], arrival=[0, 0.1, 5, 5.1])
    played = play(trace, limits(), [constant_timer(), constant_timer()], balance="least_loaded")
    assert played.instance.tolist() == [0, 1, 1, 0]


def test_ranks_of_an_instance_share_requests_and_step_together(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    played = play(requests_of([2, 4, 6], [2, 2, 2]), limits(dp=3), [constant_timer()])
    assert played.rank.tolist() == [0, 1, 2]
    assert steps_of(played, "rows", "prompt_total", "decode_total") == [(6, 12, 0), (1, 0, 3)]


def test_all_ranks_wait_for_the_one_that_still_has_prompts(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    one_at_a_time = limits(dp=2, token_budget=4, scheduler="prefill_first")
    played = play(requests_of([2, 12], [2, 2]), one_at_a_time, [constant_timer()])
    assert column_of(played, "finish") == [4.0, 4.0]
    assert column_of(played, "first_token") == [1.0, 3.0]


def test_the_scheduler_sees_a_request_after_the_frontend_is_done_with_it(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    played = play(requests_of([4, 4], [2, 2], arrival=[1.0, 9.0]), limits(), [constant_timer()], frontend=0.25)
    assert column_of(played, "arrival") == [1.0, 9.0]
    assert column_of(played, "admitted") == [1.25, 9.25]
    assert column_of(played, "finish") == [3.25, 11.25]
    loop = play(requests_of([4, 4], [2, 2], concurrency=1), limits(), [constant_timer()], frontend=0.25)
    assert column_of(loop, "arrival") == [0.0, 2.25]
    assert column_of(loop, "finish") == [2.25, 4.5]


def test_progress_is_told_and_reaches_the_end(limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any) -> None:
    told: list[float] = []
    run_engine(requests_of([1] * 5, [2] * 5), [Pool(timers=[constant_timer()], limits=limits())], progress=told.append)
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_progress_may_cancel_a_run(limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any) -> None:
    def cancel(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_engine(requests_of([1] * 5, [2] * 5), [Pool(timers=[constant_timer()], limits=limits())], progress=cancel)


def test_a_step_costs_one_event_however_large_the_batch(
    play: Play, limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    few = play(requests_of([1] * 4, [50] * 4), limits(), [constant_timer()])
    many = play(requests_of([1] * 400, [50] * 400), limits(), [constant_timer()])
    assert len(few.run.steps["rows"]) == len(many.run.steps["rows"]) == 50
    assert np.ptp(many.finish) == 0.0


def test_every_scheduler_that_a_scenario_may_name_is_one_of_the_engine() -> None:
    assert tuple(SCHEDULERS) == get_args(SchedulerName)


@pytest.mark.parametrize("scheduler", get_args(StackScheduler))
def test_a_step_without_prompts_takes_a_plan_that_is_there_already(
    scheduler: SchedulerName, limits: LimitsOf, constant_timer: Any
) -> None:
    state, bounds = RequestState(*(array("q", [0]) for _ in range(6))), limits(scheduler=scheduler)
    shared = RunState(state=state, records=RequestRecorder(1), steps=ColumnRecorder(()), gaps=ColumnRecorder(()))
    batch, plans = Batch(1), SCHEDULERS[scheduler](shared, bounds, constant_timer())
    queues = PromptQueues(bounds, state, lambda *_: True, lambda *_: 0)
    assert plans.next_step(queues, batch, bounds) is NOTHING
    batch.join(0, 5)
    assert plans.next_step(queues, batch, bounds) is DECODE
