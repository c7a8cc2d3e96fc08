"""The table of features: every one can be asked for, and what is said of it is said once."""

from __future__ import annotations

import pytest

from simulator import Scenario
from simulator.scenario.features import (
    FEATURES,
    Feature,
    asked_features,
    asks,
    beyond_closed_form,
    left_out_of_closed_form,
    left_out_of_one_step,
    not_while_scaling,
)

ASKED = {
    "disaggregation": "disaggregation.enabled=true",
    "prefix_cache": "prefix_cache.kind=shared",
    "speculation": "speculation.draft_tokens=2",
    "faults": "faults=[{at='1 s'}]",
    "elastic": "elastic.mechanism=elastic",
    "rebalance": "placement.rebalance.every_steps=5",
    "priorities": "requests.priorities=[0.5, 0.5]",
    "overlap": "stack.overlap=two_batch",
    "expert_aware": "stack.scheduler=expert_aware",
    "swap": "stack.preemption=swap",
}


def scenario(*overrides: str) -> Scenario:
    plain = {"model": {"name": "mixtral-8x7b"}, "hardware": {"device": "a100-sxm"}}
    return Scenario.from_mapping(plain).override(*overrides)


def test_a_plain_scenario_asks_for_nothing() -> None:
    assert asked_features(scenario()) == ()


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_every_feature_is_asked_for_by_its_own_key_alone(feature: Feature) -> None:
    asked = scenario(ASKED[feature.name])
    assert asks(asked, feature.name)
    assert asked_features(asked) == (feature,)
    assert ASKED[feature.name].startswith(feature.key)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_every_feature_names_a_section_of_the_scenario(feature: Feature) -> None:
    assert feature.section in Scenario.model_fields


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_what_nobody_knows_of_a_feature_is_said(feature: Feature) -> None:
    asked = scenario(ASKED[feature.name])
    assert beyond_closed_form(asked) == ((feature.key,) if feature.closed_form == "refused" else ())
    assert bool(left_out_of_closed_form(asked)) == (feature.closed_form == "left out")
    assert any(feature.words in text for text in left_out_of_one_step(asked)) == (not feature.in_one_step)
    assert not_while_scaling(asked) == (() if feature.while_scaling else (feature.key,))
