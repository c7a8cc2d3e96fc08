"""Every scheduler of the engine has a twin in closed form, or is refused there."""

from __future__ import annotations

import pytest

from simulator.closed_form.schedulers import STEADY_SCHEDULERS
from simulator.scenario import Scenario
from simulator.scenario.features import beyond_closed_form
from simulator.scenario.sections import Scheduler
from simulator.serving.scheduler import SCHEDULERS


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_has_a_steady_twin_or_is_refused(scheduler: Scheduler) -> None:
    plain = {"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"}, "stack": {"scheduler": scheduler}}
    refused = beyond_closed_form(Scenario.from_mapping(plain)) == ("stack.scheduler",)
    assert (scheduler in STEADY_SCHEDULERS) != refused


@pytest.mark.parametrize("scheduler", STEADY_SCHEDULERS)
def test_a_token_takes_a_step_with_prompts_at_most_where_all_are_met(scheduler: Scheduler) -> None:
    twin = STEADY_SCHEDULERS[scheduler]
    assert twin.gap(1.0, 10.0, 0.0) == 1.0
    assert twin.gap(1.0, 10.0, 1.0) == (10.0 if twin.decoding(8.0) else 11.0)


@pytest.mark.parametrize("scheduler", STEADY_SCHEDULERS)
def test_steps_with_prompts_come_on_top_or_instead(scheduler: Scheduler) -> None:
    twin = STEADY_SCHEDULERS[scheduler]
    pure, prompts = twin.step_shares(0.25, 1.0)
    assert prompts == 0.25
    assert pure + prompts == (1.0 if twin.decoding(8.0) else 1.25)
