"""Log grids: exact where they should be, bounded between, clamped outside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cost.grids import LogAxis, TimeGrid

BATCH = LogAxis(low=1, high=256, per_octave=4)
CONTEXT = LogAxis(low=0, high=8192, per_octave=2, offset=128)


def power_law(batch: np.ndarray, context: np.ndarray) -> np.ndarray:
    return 1e-6 * batch**0.7 * (context + 128) ** 0.9


def test_an_axis_starts_at_its_low_end_and_reaches_its_high_end() -> None:
    for axis in (BATCH, CONTEXT, LogAxis(low=1, high=2, per_octave=0.1)):
        assert axis.points[0] == pytest.approx(axis.low)
        assert axis.points[-1] >= axis.high * (1 - 1e-12)
        assert len(axis.points) == axis.size >= 2
        assert (np.diff(axis.points) > 0).all()


@given(batch=st.floats(1, 256), context=st.floats(0, 8192))
def test_power_laws_are_interpolated_exactly(batch: float, context: float) -> None:
    grid = TimeGrid((BATCH, CONTEXT), power_law)
    assert grid.at(batch, context) == pytest.approx(float(power_law(np.array(batch), np.array(context))), rel=1e-9)


@given(batch=st.floats(0.1, 1000), context=st.floats(0, 100_000))
def test_a_line_of_a_grid_is_the_grid(batch: float, context: float) -> None:
    grid = TimeGrid((BATCH, CONTEXT), lambda b, c: 1e-5 + 1e-8 * b * c + 1e-7 * np.sqrt(c))
    assert grid.line(batch).at(context) == pytest.approx(grid.at(batch, context), rel=1e-12)


@given(batch=st.floats(1, 256), context=st.floats(0, 8192), more=st.floats(0, 8192))
def test_interpolating_keeps_the_order_of_times(batch: float, context: float, more: float) -> None:
    grid = TimeGrid((BATCH, CONTEXT), lambda b, c: 1e-5 + 1e-8 * b * c)
    assert grid.at(batch, context) <= grid.at(batch, context + more) * (1 + 1e-12)


@pytest.mark.parametrize(("outside", "edge"), [((0.001, 0.0), 0), ((1e6, 1e9), -1)])
def test_values_outside_take_the_time_of_the_edge(outside: tuple[float, float], edge: int) -> None:
    grid = TimeGrid((BATCH, CONTEXT), power_law)
    assert grid.at(*outside) == pytest.approx(grid.at(BATCH.points[edge], CONTEXT.points[edge]), rel=1e-9)


def test_three_axes_interpolate_too() -> None:
    axes = (BATCH, LogAxis(low=1, high=64, per_octave=1), CONTEXT)
    grid = TimeGrid(axes, lambda b, n, c: 1e-6 * b * n**0.5 * (c + 128))
    assert grid.at(7.3, 11.1, 1000.0) == pytest.approx(1e-6 * 7.3 * 11.1**0.5 * 1128.0, rel=1e-9)


def test_no_work_takes_no_time() -> None:
    grid = TimeGrid((BATCH, CONTEXT), lambda b, c: np.zeros_like(b + c))
    assert grid.at(10.0, 500.0) == 0.0
    assert grid.line(10.0).at(500.0) == 0.0


def test_a_single_time_may_serve_the_whole_grid() -> None:
    grid = TimeGrid((BATCH, CONTEXT), lambda *_: np.array(3e-6))
    assert grid.at(17.0, 4000.0) == pytest.approx(3e-6)


@given(points=st.lists(st.tuples(st.floats(0.1, 1000), st.floats(0, 100_000)), min_size=1, max_size=8))
def test_many_points_looked_up_at_once_take_the_times_of_each(points: list[tuple[float, float]]) -> None:
    grid = TimeGrid((BATCH, CONTEXT), lambda b, c: np.where(b < 2, 0.0, 1e-5 + 1e-8 * b * c))
    batch, context = np.array(points).T
    assert grid.at_all(batch, context) == pytest.approx([grid.at(*point) for point in points], rel=1e-12)
    line = grid.line(7.0)
    assert line.at_all(context) == pytest.approx([line.at(each) for each in context.tolist()], rel=1e-12)


def test_points_on_three_axes_broadcast() -> None:
    grid = TimeGrid(
        (BATCH, LogAxis(low=1, high=64, per_octave=1), CONTEXT), lambda b, n, c: 1e-6 * b * n**0.5 * (c + 128)
    )
    found = grid.at_all(np.array([[3.0], [500.0]]), np.array([1.0, 8.0, 100.0]), 700.0)
    assert found == pytest.approx(np.array([[grid.at(b, n, 700.0) for n in (1.0, 8.0, 100.0)] for b in (3.0, 500.0)]))
