"""Phases, memory and behaviour of each mechanism."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulator.deployment.inputs import scenario_requests
from simulator.elastic.fleet import Fleet, build_fleet
from simulator.elastic.mechanisms import MECHANISMS, PARTS
from simulator.errors import MoesimError, ProfileError
from simulator.scenario import Scenario
from simulator.startup import load_startup, startup_names


def fleet(mechanism: str, before: int = 3, after: int = 4, **elastic: Any) -> Fleet:
    scenario = Scenario.from_mapping(
        {
            "model": {"name": "deepseek-v2-lite"},
            "hardware": {"device": "ascend-910c-die", "node": "cloudmatrix384-dies"},
            "parallelism": {"tp": 2, "dp": before, "ep": 2 * before},
            "requests": {"kind": "constant", "rate": 1.0, "count": 1},
            "routing": {"kind": "uniform"},
            "elastic": {"mechanism": mechanism, "events": [{"at": "1 s", "size": after}], **elastic},
        }
    )
    return build_fleet(scenario, scenario_requests(scenario.requests, 0))


def plan(mechanism: str, before: int = 3, after: int = 4, **elastic: Any):
    return fleet(mechanism, before, after, **elastic).plan(before, after)


@pytest.mark.parametrize("sizes", [(3, 4), (4, 3)])
def test_each_part_that_is_switched_off_makes_elastic_slower(sizes: tuple[int, int]) -> None:
    ready = [plan("elastic", *sizes, without=list(PARTS[:count])).ready for count in range(len(PARTS) + 1)]
    assert ready == sorted(ready)
    assert len(set(ready)) == len(ready)


def test_phases_follow_one_another_without_gaps() -> None:
    for mechanism in MECHANISMS:
        each = plan(mechanism, 3, 6)
        now = 0.0
        for phase in each.phases:
            assert phase.start == pytest.approx(now)
            now += phase.duration
        assert each.ready == pytest.approx(now)


def test_elastic_is_ready_long_before_anything_that_reads_from_disk() -> None:
    elastic, *others = (plan(name, 3, 6).ready for name in ("elastic", "cold_restart", "vertical_new", "horizontal"))
    assert all(elastic < other / 4 for other in others)


def test_only_those_that_stop_the_old_instance_leave_nobody_serving() -> None:
    assert {name for name in MECHANISMS if plan(name, 3, 6).old == "stops"} == {"cold_restart"}
    assert plan("elastic", without=["zero_copy"]).old == "stops"


def test_memory_is_least_for_elastic_and_most_for_new_devices() -> None:
    held = {name: plan(name, 3, 6).memory for name in MECHANISMS}
    assert held["elastic"] < held["cold_restart"] < held["vertical_new"]
    assert held["colocated"] <= held["cold_restart"]
    assert held["horizontal"] == pytest.approx(held["cold_restart"])


def test_new_devices_are_held_beside_the_old_ones() -> None:
    assert plan("vertical_new").devices == 6 + 8
    assert plan("elastic").devices == plan("cold_restart").devices == 8


def test_a_replica_that_goes_takes_no_time() -> None:
    leaving = plan("horizontal", 3, 6).ready
    assert leaving > 1.0
    down = fleet("horizontal", 3, 6)
    assert down.plan(6, 3).ready == 0.0


def test_the_pool_of_elastic_is_kept_through_all_sizes() -> None:
    sizes = fleet("elastic", 2, 6)
    assert sizes.pool(2) == sizes.pool(6) == pytest.approx(sizes.budget(2).pool)
    assert fleet("cold_restart", 2, 6).pool(6) > sizes.pool(6)


def test_colocated_leaves_room_for_a_second_instance() -> None:
    sizes = fleet("colocated", 3, 4)
    budget = sizes.budget(4)
    assert 2 * (sizes.pool(4) + budget.activations + budget.weights) <= budget.capacity


def test_experts_go_to_all_ranks_of_every_size_also_where_they_do_not_divide() -> None:
    sizes = fleet("elastic", 3, 5)
    assert [sizes.split(size).ep for size in (3, 4, 5)] == [6, 8, 10]


def test_times_scale_with_the_constants_of_the_profile() -> None:
    whole = plan("elastic", without=["ipc_alloc", "p2p"])
    sizes = fleet("elastic", without=["ipc_alloc", "p2p"])
    startup = sizes.context.startup
    slower = {**startup.numbers, "disk_selective": replace(startup.numbers["disk_selective"], value=0.5e9)}
    changed = replace(sizes, context=replace(sizes.context, startup=replace(startup, numbers=slower)), _sizes={})
    read, before = (
        next(p.duration for p in each.phases if p.name == "read from disk") for each in (changed.plan(3, 4), whole)
    )
    assert read == pytest.approx(before * startup.number("disk_selective") / 0.5e9)


def test_a_start_up_profile_is_found_by_name_or_named_after_the_nearest(tmp_path: Any) -> None:
    assert "vllm-ascend" in startup_names()
    with pytest.raises(ProfileError, match="did you mean 'vllm-ascend'"):
        load_startup("vllm-ascent")
    broken = tmp_path / "mine.toml"
    broken.write_text('id = "mine"\nname = "Mine"\n[numbers]\ncommand = { value = 1, unit = "GB" }\n')
    with pytest.raises(MoesimError, match=r"mine\.toml"):
        load_startup(str(broken))
