"""From columns to numbers: windows, percentiles, objectives and rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.results.packed import PART
from simulator.results.summary import (
    Capacity,
    Records,
    Work,
    distribution,
    gap_distribution,
    meets,
    request_latencies,
    share_inside,
    summarise,
)
from simulator.results.values import Summary
from simulator.results.window import Asked, measured_window
from simulator.scenario.sections import Slo
from simulator.serving.recorder import ColumnRecorder
from simulator.step.columns import STEP_COLUMNS


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(0).exponential(1.0, 999)
    found = distribution(values)
    assert found.mean == pytest.approx(values.mean())
    assert (found.p50, found.p90, found.p99) == tuple(np.percentile(values, (50, 90, 99)))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 20)), min_size=1, max_size=40))
def test_weights_count_values_so_many_times(pairs: list[tuple[float, int]]) -> None:
    values, weights = (np.array(column) for column in zip(*pairs, strict=True))
    repeated = np.sort(np.repeat(values, weights))
    gaps = {"gap_s": values, "tokens": weights.astype(float), "at_s": np.zeros(len(values))}
    found = gap_distribution(gaps, 0.0, 1.0)
    assert found.mean == pytest.approx(repeated.mean())
    wanted = np.percentile(repeated, (50, 90, 99))
    assert (found.p50, found.p90, found.p99) == pytest.approx(tuple(wanted))


def test_nothing_measured_is_not_a_number() -> None:
    assert np.isnan([*vars_of(distribution(array()))]).all()
    nothing = dict.fromkeys(("gap_s", "tokens", "at_s"), array())
    assert np.isnan([*vars_of(gap_distribution(nothing, 0.0, 1.0))]).all()


def vars_of(value: Any) -> list[float]:
    return [getattr(value, name) for name in ("mean", "p50", "p90", "p99")]


def test_latencies_are_what_vllm_calls_them() -> None:
    found = request_latencies(array(1, 1), array(3, 4), array(11, 4), np.array([5, 1]))
    assert found["ttft"].tolist() == [2.0, 3.0]
    assert found["e2el"].tolist() == [10.0, 3.0]
    assert found["tpot"][0] == 2.0
    assert np.isnan(found["tpot"][1])


def test_a_request_meets_an_objective_that_it_equals_or_that_does_not_concern_it() -> None:
    found = {"ttft": array(1, 2, 3), "tpot": array(0.1, np.nan, 0.3), "e2el": array(5, 5, 5)}
    assert meets(found, Slo()).tolist() == [True, True, True]
    assert meets(found, Slo.model_validate({"ttft": "2 s"})).tolist() == [True, True, False]
    assert meets(found, Slo.model_validate({"tpot": "200 ms"})).tolist() == [True, True, False]
    assert meets(found, Slo.model_validate({"ttft": "1 s", "e2el": "4 s"})).tolist() == [False, False, False]


def summary_of(arrival: np.ndarray, finish: np.ndarray, **options: Any) -> Summary:
    """A run of requests of 10 + 5 tokens whose first token comes after 1 s, on two devices."""
    window = measured_window(
        arrival,
        np.minimum(arrival + 1.0, finish),
        finish,
        Asked(warmup=options.get("warmup", 0), drain=options.get("drain", True)),
        options.get("concurrency"),
    )
    size, steps = len(arrival), 4
    row = dict.fromkeys(STEP_COLUMNS, 1.0)
    recorded = {name: np.full(steps, value) for name, value in row.items()}
    recorded["duration_s"] = array(1, 1, 1, 3)
    recorded["running"] = array(2, 2, 2, 4)
    recorded["kv_use"] = array(0.1, 0.1, 0.1, 0.5)
    recorded["imbalance"] = array(1.0, 1.0, 1.0, 1.6)
    records = Records(
        arrival=arrival,
        first_token=arrival + 1.0,
        finish=finish,
        input_tokens=np.full(size, 10),
        output_tokens=np.full(size, 5),
        preemptions=np.arange(size),
        retries=np.zeros(size, dtype=np.int64),
        steps=recorded,
        gaps={"gap_s": array(1, 3, 100), "tokens": array(3, 1, 7), "at_s": array(1, 2, 1e6)},
    )
    return summarise(
        records,
        window,
        slo=options.get("slo", Slo()),
        work=Work(flops=12e12, memory_bytes=6e12),
        capacity=Capacity(devices=2, peak=10e12, memory_bandwidth=1e12, price=2.0 / 3600),
        spread=(1.2, 3.0),
        wall=0.5,
    )


def test_rates_are_per_device_over_the_window() -> None:
    summary = summary_of(array(0, 1, 2), array(5, 6, 10))
    assert summary.request_throughput_rps == pytest.approx(0.3)
    assert summary.input_tokens_per_s_per_gpu == pytest.approx(30 / 10 / 2)
    assert summary.output_tokens_per_s_per_gpu == pytest.approx(15 / 10 / 2)
    assert summary.total_tokens_per_s_per_gpu == pytest.approx(45 / 10 / 2)
    assert summary.usd_per_million_output_tokens == pytest.approx(2.0 / 3600 / 0.75 * 1e6)
    assert summary.requests_completed == 3


def test_goodput_counts_only_requests_within_their_objectives() -> None:
    slo = Slo.model_validate({"e2el": "5 s"})
    assert summary_of(array(0, 1, 2), array(5, 6, 10), slo=slo).goodput_rps == pytest.approx(0.2)
    assert summary_of(array(0, 1, 2), array(5, 6, 10)).goodput_rps == pytest.approx(0.3)


@pytest.mark.parametrize("drain", [True, False])
def test_a_closed_loop_has_the_rate_of_its_steady_state_whatever_the_window(*, drain: bool) -> None:
    """Four requests in flight, each taking 8 s, staggered: one ends every 2 s."""
    finish = np.arange(200) * 2.0 + 8.0
    arrival = np.concatenate([np.zeros(4), finish[:-4]])
    summary = summary_of(arrival, finish, warmup=10, drain=drain, concurrency=4)
    assert summary.request_throughput_rps == pytest.approx(0.5, rel=0.01)
    assert summary.output_tokens_per_s_per_gpu == pytest.approx(0.5 * 5 / 2, rel=0.01)


def test_a_step_counts_by_the_part_of_it_that_is_measured() -> None:
    window = measured_window(array(2, 3), array(3, 4), array(5, 9), Asked(warmup=0, drain=True))
    steps = {"start_s": array(0, 0, 4, 8, 9, 4), "duration_s": array(2, 4, 2, 4, 1, 0)}
    assert share_inside(steps, window).tolist() == [0.0, 0.5, 1.0, 0.25, 0.0, 0.0]


def test_means_of_the_run_are_weighted_by_time() -> None:
    summary = summary_of(array(0, 1, 2), array(5, 6, 10))
    assert summary.batch_size_mean == pytest.approx((2 * 3 + 4 * 3) / 6)
    assert (summary.kv_use_mean, summary.kv_use_max) == (pytest.approx(0.3), 0.5)
    assert summary.rank_imbalance_mean == pytest.approx(1.3)
    assert summary.preemptions == 3
    assert summary.engine_steps == 4


def test_utilisation_is_work_over_what_the_devices_could_do() -> None:
    summary = summary_of(array(0, 1, 2), array(5, 6, 10))
    assert summary.mfu == pytest.approx(12e12 / (10.0 * 2 * 10e12))
    assert summary.mbu == pytest.approx(6e12 / (10.0 * 2 * 1e12))


def test_gaps_outside_the_window_do_not_count() -> None:
    summary = summary_of(array(0, 1, 2), array(5, 6, 10))
    assert summary.itl_s.mean == pytest.approx((3 * 1 + 1 * 3) / 4)
    assert summary.itl_s.p99 == pytest.approx(np.percentile([1, 1, 1, 3], 99))


def test_a_recorder_returns_rows_in_order_however_many() -> None:
    recorder = ColumnRecorder(("a", "b"))
    for row in range(PART + 20_000):
        recorder.add((row, -row))
    columns = recorder.arrays()
    assert columns["a"].tolist() == list(range(PART + 20_000))
    assert (columns["b"] == -columns["a"]).all()


def test_an_empty_recorder_has_empty_columns() -> None:
    assert {name: len(values) for name, values in ColumnRecorder(("a", "b")).arrays().items()} == {"a": 0, "b": 0}
