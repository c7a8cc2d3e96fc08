"""What uneven routing costs a step, told apart into waiting and into weights that are not read."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from simulator.api import explain, simulate
from simulator.cli.result_text import imbalance_text
from simulator.results.values import ImbalanceCost
from simulator.scenario import Scenario

BASE = Scenario.from_mapping(
    {
        "model": {"name": "mixtral-8x7b"},
        "hardware": {"device": "h100-sxm", "node": "hgx-h100"},
        "parallelism": {"tp": 1, "dp": 4, "ep": 4},
        "requests": {"concurrency": 16, "count": 32, "lengths": {"input": 64, "output": 8}},
        "routing": {"kind": "zipf", "skew": 1.2, "tokens": 2048},
    }
)


def cost(scenario: Scenario, *, phase: Literal["prefill", "decode"] = "decode", batch: int = 16) -> ImbalanceCost:
    found = explain(scenario, phase=phase, batch=batch, context=256).imbalance_cost
    assert found is not None
    return found


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize("batch", [4, 16, 200])
@pytest.mark.parametrize("overrides", [(), ("parallelism.tp=4", "parallelism.dp=1"), ("placement.policy=balanced",)])
def test_both_parts_add_up_to_what_balanced_routing_would_save(
    phase: Literal["prefill", "decode"], batch: int, overrides: tuple[str, ...]
) -> None:
    scenario = BASE.override(*overrides)
    found = cost(scenario, phase=phase, batch=batch)
    given = explain(scenario, phase=phase, batch=batch, context=256).step_s
    balanced = explain(scenario.override("routing.kind=balanced"), phase=phase, batch=batch, context=256).step_s
    assert found.step_s == pytest.approx(given)
    assert found.balanced_step_s == pytest.approx(balanced)
    assert found.waiting_s + found.experts_s == pytest.approx(given - balanced, abs=1e-12)
    assert found.experts_s <= found.unread_s <= 0.0 or found.unread_s == 0.0


def test_what_waits_in_messages_is_the_waiting_that_the_table_does_not_call_imbalance_wait() -> None:
    given = explain(BASE, batch=64, context=256)
    balanced = explain(BASE.override("routing.kind=balanced"), batch=64, context=256)
    waits = [each.ops.query("component == 'imbalance_wait'")["time_s"].sum() for each in (given, balanced)]
    found = given.imbalance_cost
    assert found is not None
    assert found.messages_s > 0.0
    gap = found.waiting_s - found.messages_s - (waits[0] - waits[1])
    assert abs(gap) <= 1e-9
    assert "in dispatch and combine" in imbalance_text(found)


def test_time_that_unread_weights_cannot_save_is_not_put_down_to_them() -> None:
    dearer = ImbalanceCost(
        phase="decode", step_s=12.4e-3, balanced_step_s=11.9e-3, waiting_s=0.0, messages_s=0.0, experts_s=509e-6,
        unread_s=0.0, active=0.993, balanced_active=1.0,
    )  # fmt: skip
    assert "not read" not in imbalance_text(dearer)
    assert imbalance_text(dearer).startswith("+509 us the mean rank's experts")
    one = BASE.override("parallelism.dp=1", "parallelism.ep=1", "parallelism.tp=2")
    for batch in (2, 16, 128, 520, 2080):
        found = cost(one, batch=batch)
        untouched = 1.0 - found.active / found.balanced_active
        assert -found.unread_s <= max(untouched, 0.0) * found.balanced_step_s


def test_skew_makes_a_rank_wait_and_leaves_weights_unread() -> None:
    found = cost(BASE, batch=4)
    assert found.waiting_s > 0.0 > found.experts_s
    assert found.active < found.balanced_active
    assert "weights not read" in imbalance_text(found)


def test_more_skew_means_more_waiting() -> None:
    waits = [cost(BASE.override(f"routing.skew={skew}"), batch=64).waiting_s for skew in (0.3, 0.8, 1.5)]
    assert waits == sorted(waits)


def test_balanced_routing_costs_nothing() -> None:
    found = cost(BASE.override("routing.kind=balanced"))
    assert (found.waiting_s, found.experts_s) == (0.0, 0.0)
    assert imbalance_text(found).startswith("none: ")


def test_nobody_waits_where_one_device_has_all_experts() -> None:
    found = cost(BASE.override("parallelism.dp=1", "parallelism.ep=1", "parallelism.tp=2"))
    assert found.waiting_s == 0.0
    assert "waiting" not in imbalance_text(found)


def test_a_dense_model_has_no_imbalance() -> None:
    dense = BASE.override("model.name=llama-3.1-8b", "parallelism.dp=1", "parallelism.ep=1")
    assert explain(dense, batch=4, context=64).imbalance_cost is None


def test_a_run_says_what_the_imbalance_of_its_mean_step_costs() -> None:
    result = simulate(BASE)
    found = result.imbalance_cost
    assert found is not None
    assert found.waiting_s + found.experts_s == pytest.approx(found.step_s - found.balanced_step_s, abs=1e-12)
    assert json.loads(json.dumps(result.document()["imbalance_cost"]))["waiting_s"] == found.waiting_s
    assert "waiting for the busiest rank" in imbalance_text(found)
