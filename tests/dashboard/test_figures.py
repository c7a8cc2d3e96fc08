"""What the charts draw, say and tabulate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dashboard.figures.common import MOST_POINTS, Chart, thinned
from dashboard.figures.ops import ops_chart
from dashboard.figures.run import breakdown_chart, latency_chart, request_latencies, steps_chart
from simulator.results.values import Explanation, Result
from simulator.step.components import COMPONENTS, STEP_COMPONENTS


def points(chart: Chart) -> int:
    return sum(len(trace.x) for trace in chart.figure.data)


def test_every_component_has_a_style_and_no_two_look_alike() -> None:
    looks = {(component.colour, component.pattern) for component in STEP_COMPONENTS}
    assert len(looks) == len({component.words for component in STEP_COMPONENTS}) == len(COMPONENTS)


def test_breakdown_bars_are_shares_in_the_order_of_the_components(result: Result) -> None:
    chart = breakdown_chart({"Simulation": result.breakdown, "Twice": {k: 2 * v for k, v in result.breakdown.items()}})
    assert [trace.name for trace in chart.figure.data] == ["attention", "experts", "idle"]
    assert [list(trace.x) for trace in chart.figure.data] == [[25.0, 25.0], [50.0, 50.0], [25.0, 25.0]]
    assert chart.table["Simulation [%]"].to_list() == ["25.0", "50.0", "25.0"]


def test_breakdown_alt_text_states_the_largest_part(result: Result) -> None:
    assert "Simulation: experts 50.0 %" in breakdown_chart({"Simulation": result.breakdown}).alt


def test_compared_breakdowns_are_as_long_as_a_token_takes(result: Result) -> None:
    both = {"Simulation": result.breakdown, "Baseline": result.breakdown}
    chart = breakdown_chart(both, {"Simulation": 0.004, "Baseline": 0.008})
    assert [list(trace.x) for trace in chart.figure.data] == [[1.0, 2.0], [2.0, 4.0], [1.0, 2.0]]
    assert "[ms]" in chart.figure.layout.xaxis.title.text
    assert chart.table["Baseline [ms]"].to_list() == ["2.00", "4.00", "2.00"]
    assert "Baseline: experts 50.0 %" in chart.alt
    assert "8.00 ms per output token" in chart.alt


def test_a_breakdown_without_output_falls_back_to_shares(result: Result) -> None:
    both = {"Simulation": result.breakdown, "Baseline": result.breakdown}
    chart = breakdown_chart(both, {"Simulation": 0.004, "Baseline": float("nan")})
    assert "Share" in chart.figure.layout.xaxis.title.text


def test_the_dust_of_rounding_is_no_part_of_a_breakdown(result: Result) -> None:
    chart = breakdown_chart({"Simulation": {**result.breakdown, "dispatch": 1e-15}})
    assert "dispatch" not in chart.table["Component"].to_list()


def test_a_breakdown_without_time_says_so() -> None:
    chart = breakdown_chart({"Estimate": dict.fromkeys(COMPONENTS, 0.0)})
    assert "no time was spent" in chart.alt
    assert chart.table.empty


def test_latencies_leave_out_warm_up_and_unfinished_requests(requests: pd.DataFrame) -> None:
    latencies = request_latencies(requests)
    assert {name: values.size for name, values in latencies.items()} == {"TTFT": 38, "TPOT": 38, "E2EL": 38}
    assert latencies["TTFT"] == pytest.approx(np.full(38, 0.1))
    assert latencies["TPOT"] == pytest.approx(np.full(38, 0.01))


def test_one_token_answers_have_no_time_per_output_token(requests: pd.DataFrame) -> None:
    latencies = request_latencies(requests.assign(output_tokens=1))
    assert latencies["TPOT"].size == 0
    assert "TPOT: no request has one." in latency_chart(requests.assign(output_tokens=1)).alt


def test_cumulative_latency_ends_at_all_requests(requests: pd.DataFrame) -> None:
    chart = latency_chart(requests)
    assert all(trace.y[-1] == pytest.approx(100) for trace in chart.figure.data)
    assert "half of the requests within 100 ms" in chart.alt
    assert chart.table.set_index("Latency").loc["TTFT, p99", "Simulation"] == "100 ms"


def test_histogram_bins_hold_all_requests(requests: pd.DataFrame) -> None:
    chart = latency_chart(requests, "histogram")
    assert all(sum(trace.y) == pytest.approx(100) for trace in chart.figure.data)


@pytest.mark.parametrize("kind", ["cumulative", "histogram"])
def test_the_baseline_s_latencies_are_a_grey_line_and_a_column_of_their_own(kind: Any, requests: pd.DataFrame) -> None:
    slower = requests.assign(first_token_s=requests["first_token_s"] + 0.1, finish_s=requests["finish_s"] + 0.1)
    chart = latency_chart(requests, kind, baseline=slower)
    grey = [trace for trace in chart.figure.data if "baseline" in trace.name]
    assert len(grey) == 3
    assert {trace.line.dash for trace in grey} == {"dash"}
    table = chart.table.set_index("Latency")
    assert list(table.loc["TTFT, p50"]) == ["100 ms", "200 ms"]
    assert "baseline" in chart.alt
    many = requests.iloc[1:2].loc[lambda frame: frame.index.repeat(100_000)]
    assert points(latency_chart(many, kind, baseline=many)) <= MOST_POINTS


def test_the_baseline_s_course_is_a_grey_line_of_each_panel(make_steps: Callable[..., pd.DataFrame]) -> None:
    chart = steps_chart(make_steps(50_000), make_steps(50_000, instances=2))
    assert [trace.name for trace in chart.figure.data].count("baseline") == 4
    assert points(chart) <= MOST_POINTS
    assert "baseline" in chart.alt


def test_an_objective_is_shaded_and_its_share_stated(requests: pd.DataFrame) -> None:
    chart = latency_chart(requests, objectives={"TTFT": 0.15, "TPOT": 0.005, "E2EL": None})
    assert "100 % meet the objective of 150 ms" in chart.alt
    assert "0 % meet the objective of 5.00 ms" in chart.alt
    assert len([shape for shape in chart.figure.layout.shapes if shape.type == "rect"]) == 2


def test_a_million_requests_stay_within_the_points_that_a_browser_draws(requests: pd.DataFrame) -> None:
    many = requests.iloc[1:2].loc[lambda frame: frame.index.repeat(1_000_000)]
    assert points(latency_chart(many)) <= MOST_POINTS


def test_long_runs_are_thinned_but_keep_their_peaks(make_steps: Callable[..., pd.DataFrame]) -> None:
    chart = steps_chart(make_steps(50_000, instances=3))
    assert points(chart) <= MOST_POINTS
    queues = [trace for trace in chart.figure.data if "Queue" in trace.hovertemplate]
    assert [max(trace.y) for trace in queues] == [99, 99, 99]
    assert "99.0 at most" in chart.alt


def test_instances_beyond_the_fourth_are_left_out_and_mentioned(make_steps: Callable[..., pd.DataFrame]) -> None:
    chart = steps_chart(make_steps(10, instances=6))
    assert {trace.name for trace in chart.figure.data} == {f"instance {i}" for i in range(4)}
    assert "first 4 of 6 instances" in chart.alt


def test_instances_differ_by_dash_as_well_as_colour(make_steps: Callable[..., pd.DataFrame]) -> None:
    lines = [trace.line for trace in steps_chart(make_steps(10, instances=4)).figure.data]
    assert len({line.dash for line in lines}) == len({line.color for line in lines}) == 4


def test_a_run_without_steps_is_said_to_have_none(make_steps: Callable[..., pd.DataFrame]) -> None:
    assert steps_chart(make_steps(10).iloc[:0]).alt == "No engine step was run."


def test_ops_come_most_expensive_first_and_name_their_bound(explanation: Explanation) -> None:
    chart = ops_chart(explanation)
    assert chart.table["Op"].to_list() == ["moe.experts", "attention.scores", "norms"]
    assert chart.table["Share [%]"].to_list() == ["60.0", "30.0", "10.0"]
    assert "moe.experts with 60.0 % of the time, bound by memory" in chart.alt
    assert "1.00 ms" in chart.alt


def test_only_the_largest_ops_are_drawn_and_all_are_listed(explanation: Explanation) -> None:
    ops = pd.concat([explanation.ops] * 10, ignore_index=True)
    chart = ops_chart(replace(explanation, ops=ops), most=5)
    assert points(chart) == 5
    assert len(chart.table) == 30


@pytest.mark.parametrize("seconds", [-0.004, 0.02])
def test_what_overlap_saves_or_costs_is_listed_and_not_drawn(explanation: Explanation, seconds: float) -> None:
    row = explanation.ops.head(1).assign(name="two_batch", component="overlap", bound="lost", time_s=seconds)
    chart = ops_chart(replace(explanation, ops=pd.concat([explanation.ops, row], ignore_index=True)))
    assert "overlap" in set(chart.table["Component"])
    assert all("two_batch" not in bar.y for bar in chart.figure.data)


def test_ops_of_one_name_lie_on_one_line(explanation: Explanation) -> None:
    twice = explanation.ops.assign(component=["gemm", "all_reduce", "idle"])
    figure = ops_chart(replace(explanation, ops=pd.concat([explanation.ops, twice], ignore_index=True))).figure
    assert figure.layout.barmode == "stack"
    assert len(figure.layout.yaxis.categoryarray) == len(set(figure.layout.yaxis.categoryarray)) == 3


@given(
    arrays(np.float64, st.integers(1, 400), elements=st.floats(-1e6, 1e6)),
    st.integers(4, 60),
)
def test_thinning_keeps_ends_and_extremes_within_its_limit(values: np.ndarray, limit: int) -> None:
    keep = thinned(values, limit)
    assert keep.size <= limit
    assert (np.diff(keep) > 0).all()
    assert {0, values.size - 1} <= set(keep.tolist())
    assert values[keep].max() == values.max()
    assert values[keep].min() == values.min()
