"""What a failure takes away, what goes on, and that nobody is forgotten or answered twice."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import Scenario, simulate
from simulator.deployment.limits import Limits
from simulator.errors import InfeasibleScenario, ScenarioError
from simulator.placement.slots import Placement
from simulator.results.values import Result
from simulator.serving.controls.faults import without_ranks
from simulator.serving.engine import Pool, run_engine
from simulator.serving.kv_link import KVLink
from simulator.serving.recorder import column
from simulator.serving.server import Server
from workloads.requests.trace import RequestTrace

if TYPE_CHECKING:
    import simpy

LimitsOf = Callable[..., Limits]
RequestsOf = Callable[..., RequestTrace]


def losing(at: float, back: float | None = None, **how: Any) -> Callable[[Server], Generator[simpy.Event, None, None]]:
    """Lose the first instance, or some of its ranks, and open it again after a while."""

    def act(server: Server) -> Generator[simpy.Event, None, None]:
        yield server.env.timeout(at)
        instance = server.instances[0]
        if how.get("ranks") is None:
            server.close(instance)
        server.lose(instance, **how)
        if back is not None:
            yield server.env.timeout(back)
            server.reopen(instance)

    return act


def test_a_lost_request_goes_on_after_the_tokens_that_it_emitted(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    trace = requests_of([4], [6])
    two = [Pool(timers=[constant_timer(), constant_timer()], limits=limits())]
    run = run_engine(trace, two, controls=[losing(3.5)])
    # One token from the prompt and two more in whole steps; then 4 + 3 tokens are computed, which yields the next.
    assert run.steps["prompt_total"].tolist() == [4, 0, 0, 0, 7, 0, 0]
    assert run.steps["instance"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert column(run.requests.finish).tolist() == [6.5]
    assert column(run.requests.first_token).tolist() == [1.0]
    assert column(run.requests.retries).tolist() == [1]
    assert sorted(run.gaps["gap_s"].tolist()) == [1.0, 1.0, 1.0, 1.0, 1.5]


def test_a_request_that_starts_over_answers_all_of_it_again(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    two = [Pool(timers=[constant_timer(), constant_timer()], limits=limits())]
    run = run_engine(requests_of([4], [6]), two, controls=[losing(3.5, retry="restart")])
    assert column(run.requests.first_token).tolist() == [4.5]
    assert column(run.requests.finish).tolist() == [9.5]


def test_requests_wait_while_no_instance_is_there(
    limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any
) -> None:
    one = [Pool(timers=[constant_timer()], limits=limits())]
    run = run_engine(requests_of([4, 4], [2, 2], arrival=[0, 3]), one, controls=[losing(1.5, back=10.0)])
    # The first had emitted one token; both are computed in the step after 11.5 s.
    assert column(run.requests.finish).tolist() == [12.5, 13.5]
    with pytest.raises(InfeasibleScenario, match=r"2 of 2 requests are never answered.*faults\.restart"):
        run_engine(requests_of([4, 4], [2, 2], arrival=[0, 3]), one, controls=[losing(1.5)])


def test_the_other_ranks_keep_their_requests(limits: LimitsOf, requests_of: RequestsOf, constant_timer: Any) -> None:
    run = run_engine(
        requests_of([4, 4], [6, 6]),
        [Pool(timers=[constant_timer()], limits=limits(dp=2))],
        controls=[losing(2.5, ranks=[1], close=True)],
    )
    assert column(run.requests.retries).tolist() == [0, 1]
    assert column(run.requests.rank).tolist() == [0, 0]
    # The half step that was under way is lost for both.
    assert column(run.requests.first_token).tolist() == [1.0, 1.0]
    assert column(run.requests.finish)[0] == 6.0 + 0.5


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_nobody_is_lost_or_answered_twice_whatever_fails(
    data: st.DataObject, limits: LimitsOf, constant_timer: Any
) -> None:
    size = data.draw(st.integers(1, 14))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    inputs, outputs = rng.integers(1, 24, size), rng.integers(1, 9, size)
    trace = RequestTrace(arrival=np.sort(rng.uniform(0, 12, size)), input_tokens=inputs, output_tokens=outputs)
    dp = data.draw(st.integers(1, 3))
    bounds = limits(
        dp=dp,
        pool=float((inputs + outputs).max() + data.draw(st.integers(1, 30))),
        token_budget=data.draw(st.integers(4, 60)),
        max_running=data.draw(st.integers(1, 6)),
    )
    retry = data.draw(st.sampled_from(["resume", "restart"]))
    times = [data.draw(st.floats(0.1, 25)) for _ in range(data.draw(st.integers(0, 4)))]

    def breaking(server: Server) -> Generator[simpy.Event, None, None]:
        for at in sorted(times):
            if at > server.env.now:
                yield server.env.timeout(at - server.env.now)
            instance = server.instances[int(rng.integers(len(server.instances)))]
            if rng.random() < 0.4:
                server.lose(instance, [int(rng.integers(dp))], retry=retry)
                continue
            instance.halt()
            server.close(instance)
            server.lose(instance, retry=retry)
            yield server.env.timeout(float(rng.uniform(0.0, 4.0)))
            instance.resume()
            server.reopen(instance)

    pools = [Pool(timers=[constant_timer(), constant_timer()], limits=bounds)]
    if data.draw(st.booleans()):
        pools = [
            Pool(timers=[constant_timer(), constant_timer()], limits=bounds, role="decode"),
            Pool(timers=[constant_timer()], limits=bounds, role="prefill"),
        ]
    way = KVLink(send_per_token=0.05, receive_per_token=0.1, per_sequence=0.0, latency=0.1, layers=4, overlapped=False)
    answered: list[int] = []
    run = run_engine(trace, pools, controls=[breaking], link=way, progress=lambda share: answered.append(share))
    finish, first = column(run.requests.finish), column(run.requests.first_token)
    assert len(answered) == size
    assert (finish >= first).all()
    assert (first >= trace.arrival).all()
    if retry == "resume":
        assert run.gaps["tokens"].sum() == (outputs - 1).sum()


def test_ranks_that_stay_take_over_experts_with_as_few_moves_as_there_are_losses() -> None:
    twice = Placement(slot_expert=np.array([[0, 1, 2, 3, 0, 1, 2, 3]]), ranks=4, num_experts=4)
    kept = without_ranks(twice, np.array([0, 1, 2]))
    assert kept is not None
    assert kept[1] == 0
    assert kept[0].slot_expert.tolist() == [[0, 1, 2, 3, 0, 1]]
    some = Placement(slot_expert=np.array([[0, 1, 2, 3, 0, 1]]), ranks=3, num_experts=4)
    kept = without_ranks(some, np.array([0, 2]))
    assert kept is not None
    assert kept[1] == 1
    assert set(kept[0].slot_expert[0].tolist()) == {0, 1, 2, 3}
    assert without_ranks(Placement(slot_expert=np.array([[0, 1, 2, 3]]), ranks=2, num_experts=4), np.array([0])) is None


def moe_scenario(**changes: Any) -> Scenario:
    return Scenario.from_mapping(
        {
            "model": {"name": "qwen3-30b-a3b"},
            "hardware": {"device": "h200-sxm"},
            "parallelism": {"dp": 8, "ep": 8, "instances": 2},
            "requests": {"kind": "poisson", "rate": 20.0, "count": 120, "lengths": {"input": 256, "output": 64}},
            "routing": {"tokens": 512},
            **changes,
        }
    )


def test_redundant_experts_spare_the_requests_of_the_ranks_that_stay() -> None:
    fault = [{"at": "2 s", "detection": "1 s", "restart": "20 s", "rank": 3}]
    without = simulate(moe_scenario(faults=fault))
    spare = simulate(moe_scenario(faults=fault, placement={"policy": "balanced", "redundant_slots": 24}))
    assert 0 < spare.requests["retries"].sum() < without.requests["retries"].sum()
    assert spare.whole_run.requests_completed == without.whole_run.requests_completed == 120


def test_a_slow_rank_slows_its_instance_while_it_lasts() -> None:
    healthy = simulate(moe_scenario())
    slow = simulate(moe_scenario(faults=[{"at": "1 s", "slowdown": 3.0, "lasts": "2 s"}]))
    assert slow.summary.itl_s.p99 > 1.5 * healthy.summary.itl_s.p99
    assert slow.requests["retries"].sum() == 0


def test_a_fault_on_something_that_is_not_there_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"faults\.0\.instance: got 2; there are instances 0 to 1"):
        simulate(moe_scenario(faults=[{"at": "1 s", "instance": 2}]))
    with pytest.raises(ScenarioError, match=r"faults\.0\.rank: got 8; instance 0 has ranks 0 to 7"):
        simulate(moe_scenario(faults=[{"at": "1 s", "rank": 8}]))


def wide_scenario(*faults: dict[str, Any], **changes: Any) -> Scenario:
    """One instance of 16 ranks over two nodes."""
    return moe_scenario(parallelism={"dp": 16, "ep": 16}, faults=list(faults), **changes)


def test_the_nic_of_an_instance_within_one_node_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"faults\.0\.kind: got 'nic', but the 8 devices of instance 0 lie in one"):
        simulate(moe_scenario(faults=[{"at": "1 s", "kind": "nic", "slowdown": 2.0}]))


def step_after(result: Result, at: float) -> float:
    """Mean time per step, of steps that begin after a time [s]."""
    return float(result.steps.loc[result.steps["start_s"] > at, "duration_s"].mean())


def test_links_that_were_slow_side_by_side_are_as_before_when_both_are_well() -> None:
    first = {"at": "0.5 s", "kind": "nic", "slowdown": 20.0, "lasts": "1 s"}
    second = {"at": "1 s", "kind": "nic", "rank": 3, "slowdown": 20.0, "lasts": "1 s"}
    healthy, slow = simulate(wide_scenario()), simulate(wide_scenario(first, second))
    between = slow.steps["start_s"].between(1.6, 1.9)
    assert slow.steps.loc[between, "duration_s"].mean() > 1.2 * step_after(healthy, 2.1)
    assert step_after(slow, 2.1) == pytest.approx(step_after(healthy, 2.1), rel=0.05)


def test_ranks_that_fail_one_after_the_other_stay_away_together() -> None:
    spare = {"policy": "balanced", "redundant_slots": 64}
    first = {"at": "0.5 s", "detection": "0.1 s", "rank": 3}
    second = {"at": "3 s", "detection": "0.1 s", "rank": 7, "lasts": "1 s"}
    result = simulate(wide_scenario(first, second, placement=spare))
    assert result.whole_run.requests_completed == 120
    asked = result.requests
    late = asked["admitted_s"] > 5.2
    assert late.sum() > 10
    assert not (asked.loc[late, "rank"] == 3).any()
    assert (asked.loc[late, "rank"] == 7).any()


def test_failures_of_one_instance_that_overlap_end_with_the_last() -> None:
    first = {"at": "1 s", "detection": "0.5 s", "kind": "instance", "restart": "2 s"}
    second = {"at": "2 s", "detection": "0.5 s", "kind": "instance", "restart": "4 s"}
    result = simulate(wide_scenario(first, second))
    begun = result.steps["start_s"]
    assert not begun.between(1.01, 6.49).any()
    assert begun.max() > 6.5
    assert result.whole_run.requests_completed == 120
