"""The stack's exchange: every choice prices a step, from its own kernel where the device has one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simulator.cost.model import CostModel
from simulator.exchange import EXCHANGES
from simulator.hardware import load_hardware
from simulator.ops import StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.stack import load_stack
from workloads.models.library import load_model

MODEL = load_model("deepseek-v3")
HARDWARE = load_hardware("h800-sxm", nodes=4)
#: Split experts: 16 ranks of experts, each shared by two devices.
SLICED = Parallelism(tp=2, dp=16, ep=16)


def exchange(choice: Any, split: Parallelism = SLICED, share: float = 1.0) -> dict[str, Any]:
    stack = replace(load_stack("sglang"), exchange=choice)
    shape = StepShape(decode_sequences=128.0, decode_context=1000.0, max_rank_share=share)
    cost = CostModel(hardware=HARDWARE, stack=stack)
    ops = [op for op in build_ops(MODEL, split, stack, shape) if op.component in {"dispatch", "combine"}]
    return {op.component: cost.time(op) for op in ops}


@pytest.mark.parametrize("choice", EXCHANGES)
def test_every_choice_prices_both_ways(choice: str) -> None:
    times = exchange(choice)
    assert set(times) == {"dispatch", "combine"}
    assert all(float(time.seconds) > 0 for time in times.values())
    if choice not in {"all_gather", "deepep", "fused"}:
        assert times["dispatch"].table == f"dispatch.{choice}"


@pytest.mark.parametrize("choice", [c for c in EXCHANGES if c != "all_gather"])
def test_the_hottest_rank_of_the_replayed_routing_slows_every_exchange(choice: str) -> None:
    even, hot = exchange(choice), exchange(choice, share=2.0)
    assert all(float(hot[phase].seconds) > float(even[phase].seconds) for phase in even)


def test_coordination_saves_scale_out_bytes_where_experts_are_sliced() -> None:
    plain, coordinated = (exchange(c)["dispatch"] for c in ("all_to_all", "coordinated"))
    # Both shards of an expert would receive the token from another node; one does, and passes it on. Fewer groups
    # than ranks also hold a token's experts together more often.
    assert float(coordinated.terms["scale_out"]) < 0.6 * float(plain.terms["scale_out"])
    assert float(coordinated.terms["scale_up"]) > 0


def test_without_slices_coordination_changes_no_volume() -> None:
    whole = Parallelism(tp=1, dp=32, ep=32)
    plain, coordinated = (exchange(c, whole)["dispatch"] for c in ("all_to_all", "coordinated"))
    assert float(coordinated.terms["scale_out"]) == pytest.approx(float(plain.terms["scale_out"]))
    assert float(coordinated.terms["scale_up"]) == pytest.approx(float(plain.terms["scale_up"]))
