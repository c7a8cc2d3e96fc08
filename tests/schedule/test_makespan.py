"""Closed forms against the list scheduler."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.schedule.makespan import LayerTimes, beside, two_batch_makespan
from simulator.schedule.mechanisms import layer_tasks
from simulator.schedule.streams import list_schedule

SECONDS = st.floats(0.0, 1e-2).map(lambda value: round(value, 7))
SHARE = st.floats(0.0, 0.9)
#: An exchange that holds 0.9 of the units may take 1 / 0.9 as long at most.
STRETCH = st.sampled_from([1.0, 1.05, 1.1])


@st.composite
def layer_times(draw: st.DrawFn, batches: int) -> LayerTimes:
    layers = draw(st.integers(1, 6))
    experts = draw(st.lists(SECONDS, min_size=batches * layers, max_size=batches * layers))
    return LayerTimes(
        layers=layers,
        compute=draw(SECONDS),
        shared=draw(SECONDS),
        dispatch=tuple(draw(SECONDS) for _ in range(batches)),
        combine=tuple(draw(SECONDS) for _ in range(batches)),
        experts=np.array(experts).reshape(batches, layers),
        dispatch_units=draw(SHARE),
        combine_units=draw(SHARE),
        dispatch_stretch=draw(STRETCH),
        combine_stretch=draw(STRETCH),
    )


@given(layer_times(2))
def test_two_batches_take_as_long_in_closed_form_as_on_streams(times: LayerTimes) -> None:
    schedule = list_schedule(layer_tasks(times, "two_batch"))
    assert schedule.makespan == pytest.approx(two_batch_makespan(times), rel=1e-9, abs=1e-15)


@given(layer_times(1))
def test_one_batch_takes_as_long_in_closed_form_as_on_streams(times: LayerTimes) -> None:
    each = times.compute + times.shared + times.dispatch[0] + times.combine[0]
    serial = times.layers * each + times.experts.sum()
    assert list_schedule(layer_tasks(times, "none")).makespan == pytest.approx(serial, rel=1e-9, abs=1e-15)
    overlapped = list_schedule(layer_tasks(times, "shared_expert")).makespan
    message = times.dispatch[0]
    hidden = times.shared + message - beside(times.shared, message, times.dispatch_units, times.dispatch_stretch)
    assert overlapped == pytest.approx(serial - times.layers * hidden, rel=1e-9, abs=1e-15)


@given(layer_times(2))
def test_two_batches_end_between_the_busier_stream_and_one_after_the_other(times: LayerTimes) -> None:
    tasks = layer_tasks(times, "two_batch")
    busiest = max(sum(t.seconds for t in tasks if t.stream == stream) for stream in ("compute", "communication"))
    there, back = times.dispatch_stretch, times.combine_stretch
    longer = sum(times.dispatch) * ((1.0 + times.dispatch_units) * there - 1.0)
    longer += sum(times.combine) * ((1.0 + times.combine_units) * back - 1.0)
    exchanges = times.layers * longer
    found = two_batch_makespan(times)
    assert busiest - 1e-12 <= found <= sum(t.seconds for t in tasks) + exchanges + 1e-12
