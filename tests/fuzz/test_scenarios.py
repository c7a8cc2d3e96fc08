"""What ``check`` passes, everything else can answer, with figures that can be; what it refuses, nothing runs."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.harness import LONG
from tests.fuzz.scenarios import MODELS, scenarios, violations
from workloads.models.library import model_names


@settings(
    max_examples=LONG or 80,
    derandomize=not LONG,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_what_check_passes_can_be_answered_and_what_it_refuses_cannot(data: st.DataObject) -> None:
    document: dict[str, Any] = scenarios(data.draw, model_names() if LONG else MODELS)
    assert list(violations(document)) == [], document
