"""What the host adds to a step, and what kernels hide of it."""

from __future__ import annotations

import pytest

from simulator.step.host import HostRule
from simulator.step.work import StepWork

RULE = HostRule(fixed=1.0, each_request=0.1, prefill=5.0, launch=20.0, graph_rows=64)


def test_a_captured_step_pays_for_itself_and_its_requests() -> None:
    work = StepWork.decode(64, 500.0)
    assert RULE.launching(work) == 0.0
    assert RULE.gap(work, 3.0, 0.0) == pytest.approx(1.0 + 6.4)


@pytest.mark.parametrize(
    "work",
    [StepWork.prefill(1, 10), StepWork.decode(65, 500.0), StepWork.decode(33, 500.0, query_tokens=2)],
    ids=["prompts", "more rows than captured", "more drafted rows than captured"],
)
def test_no_graph_is_replayed_of_prompts_or_of_more_rows_than_captured(work: StepWork) -> None:
    assert RULE.launching(work) == 20.0
    assert RULE.launching(work, batches=2) == 40.0


def test_a_stage_replays_the_graph_of_its_own_rows() -> None:
    rule = HostRule(fixed=1.0, each_request=0.1, prefill=5.0, launch=20.0, graph_rows=64, stages=2)
    assert rule.launching(StepWork.decode(128, 500.0)) == 0.0
    assert rule.launching(StepWork.decode(129, 500.0)) == 20.0


def test_kernels_hide_the_launching_of_the_next_ones() -> None:
    work = StepWork.prefill(2, 100)
    slow, quick = RULE.gap(work, 25.0, 20.0), RULE.gap(work, 12.0, 20.0)
    assert slow == pytest.approx(1.0 + 0.2 + 5.0)
    assert quick == pytest.approx(slow + 8.0)


def test_ranks_handle_their_own_requests() -> None:
    assert RULE.gap(StepWork.decode(64, 500.0, dp=8), 3.0, 0.0) == pytest.approx(1.0 + 0.8)
