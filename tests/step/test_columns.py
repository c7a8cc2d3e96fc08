"""Components and recorded columns: declared once, and read by name."""

from __future__ import annotations

from dataclasses import fields

from simulator.step.columns import STEP_COLUMNS, step_row
from simulator.step.components import COMPONENTS, OP_COMPONENTS, STEP_COMPONENTS, STEP_PARTS
from simulator.step.work import StepTime, StepWork

ENGINE = {"instance": 101.0, "start_s": 102.0, "queue_length": 103.0, "kv_use": 104.0, "context_total": 105.0}


def numbered() -> tuple[StepWork, StepTime]:
    """A step every number of which is another."""
    work, time = StepWork(), StepTime()
    for value, (owner, field) in enumerate(((o, f) for o in (work, time) for f in fields(o)), start=1):
        if field.name != "overlap":
            setattr(owner, field.name, value)
    return work, time


def test_every_column_of_a_row_holds_what_its_name_says() -> None:
    work, time = numbered()
    row = step_row(work, time, instance=101, start=102.0, queue_length=103, kv_use=104.0, context=105.0)
    found = dict(zip(STEP_COLUMNS, row, strict=True))
    for name, value in found.items():
        source = work if hasattr(work, name) else time
        expected = ENGINE[name] if name in ENGINE else getattr(source, name.removesuffix("_s"))
        assert value == expected, name


def test_a_step_that_decodes_nothing_has_no_context() -> None:
    row = step_row(StepWork(), StepTime(), instance=0, start=0.0, queue_length=0, kv_use=0.0, context=105.0)
    assert dict(zip(STEP_COLUMNS, row, strict=True))["context_total"] == 0.0


def test_every_component_has_time_from_ops_or_from_a_column() -> None:
    assert {c.recorded for c in STEP_COMPONENTS} - {""} <= set(STEP_COLUMNS)
    without = [c.name for c in STEP_COMPONENTS if not c.ops and not c.recorded]
    assert without == ["idle"]


def test_components_can_be_told_by_name_and_by_fill() -> None:
    assert len(set(COMPONENTS)) == len(COMPONENTS)
    assert len({(c.colour, c.pattern) for c in STEP_COMPONENTS}) == len(COMPONENTS)
    assert set(OP_COMPONENTS) < set(STEP_PARTS) < set(COMPONENTS)
