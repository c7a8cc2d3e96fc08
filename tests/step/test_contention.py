"""What exchanges take from the kernels beside them."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.cost.model import CostModel, OpTime
from simulator.hardware import load_hardware
from simulator.ops import StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.schedule.makespan import beside
from simulator.schedule.streams import Task, list_schedule
from simulator.stack import load_stack
from simulator.step.contention import contention_table, stretched, units_taken
from workloads.models.library import load_model


def exchanges(**shape: float) -> dict[str, tuple[OpTime, float]]:
    cost = CostModel(hardware=load_hardware("h100-sxm", None, None, None, nodes=4), stack=load_stack("sglang"))
    ops = build_ops(load_model("deepseek-v3"), Parallelism(dp=32, ep=32), cost.stack, StepShape(**shape))
    times = [cost.time(op) for op in ops if op.block in ("dispatch", "combine")]
    return {time.op.block: (time, float(units_taken(time, cost.hardware.silicon))) for time in times}


def test_a_persistent_kernel_takes_its_blocks_share_of_the_units() -> None:
    for time, share in exchanges(prefill_tokens=4096.0, prefill_sequences=2.0).values():
        assert share == pytest.approx(time.coefficients["units"].value / 132.0)


def test_a_kernel_that_only_issues_takes_a_smaller_share_of_a_longer_exchange() -> None:
    small, large = (exchanges(decode_sequences=rows, decode_context=2048.0) for rows in (8.0, 128.0))
    for block in ("dispatch", "combine"):
        assert 0.0 < large[block][1] < small[block][1] < 1.0


def test_every_backend_says_how_it_takes_and_where_its_numbers_are_from() -> None:
    for contention in contention_table().values():
        for quantity in (contention.units, contention.issue):
            assert quantity is None or (np.isfinite(quantity.value) and quantity.source)
        assert contention.way == "persistent" or contention.issue is not None


def test_an_exchange_beside_a_kernel_takes_longer_by_its_stretch_and_alone_it_does_not() -> None:
    message = Task(name="m", stream="communication", seconds=2.0, uses={"units": 0.2}, firm=True, stretch=1.25)
    kernel = Task(name="k", stream="compute", seconds=1.0, uses={"units": 1.0})
    assert list_schedule([message]).makespan == pytest.approx(2.0)
    # The kernel runs at 0.8 for 1.25 s, in which the message gets 1 s of its 2 done.
    assert list_schedule([message, kernel]).makespan == pytest.approx(2.25)
    assert beside(1.0, 2.0, 0.2, 1.25) == pytest.approx(2.25)
    # A long kernel outlasts the message, which holds its units for 2.5 s.
    assert beside(4.0, 2.0, 0.2, 1.25) == pytest.approx(4.5)


def test_the_normal_kernels_of_deepep_are_stretched_and_those_that_only_issue_messages_are_not() -> None:
    assert all(stretched(time) > 1.0 for time, _ in exchanges(prefill_tokens=4096.0, prefill_sequences=1.0).values())
    decoded = exchanges(decode_sequences=64.0, decode_context=512.0)
    assert [stretched(time) for time, _ in decoded.values()] == [1.0, 1.0]
