"""A run in the words of ``vllm bench serve``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import OutputError
from simulator.export.files import encode_json
from simulator.export.vllm_bench import vllm_bench_result
from simulator.results.percentiles import weighted_percentile
from simulator.results.trace import TokenGaps

DATE = datetime(2026, 2, 14, 10, 43, 2, tzinfo=UTC)
SAMPLES = Path(__file__).parents[1] / "data" / "serving" / "h200_vllm_minimax_m2.5"


def frame(**columns: list[float]) -> pd.DataFrame:
    """Two requests that finish and one that does not, unless told otherwise."""
    base: dict[str, list[float]] = {
        "request_id": [0, 1, 2],
        "arrival_s": [10.0, 11.0, 12.0],
        "first_token_s": [10.5, 12.0, np.nan],
        "finish_s": [11.5, 16.0, np.nan],
        "input_tokens": [100, 200, 300],
        "output_tokens": [11, 5, 7],
    }
    return pd.DataFrame(base | columns)


def result(requests: pd.DataFrame, **options: Any) -> dict[str, Any]:
    return vllm_bench_result(requests, model_id="a/model", date=DATE, **options)


def test_totals_count_finished_requests_alone_over_the_time_to_the_last_finish() -> None:
    document = result(frame())
    assert (document["num_prompts"], document["completed"], document["failed"]) == (3, 2, 1)
    assert document["duration"] == 6.0
    assert (document["total_input_tokens"], document["total_output_tokens"]) == (300, 16)
    assert document["request_throughput"] == pytest.approx(2 / 6)
    assert document["output_throughput"] == pytest.approx(16 / 6)
    assert document["total_token_throughput"] == pytest.approx(316 / 6)


def test_time_per_output_token_leaves_out_the_first_token() -> None:
    document = result(frame())
    assert document["mean_ttft_ms"] == pytest.approx(750.0)
    assert document["mean_e2el_ms"] == pytest.approx(3250.0)
    assert document["mean_tpot_ms"] == pytest.approx((100.0 + 1000.0) / 2)
    assert document["mean_itl_ms"] == pytest.approx((10 * 100.0 + 4 * 1000.0) / 14)


def test_a_request_of_one_token_has_no_time_per_output_token() -> None:
    document = result(frame(output_tokens=[11, 1, 7]))
    assert document["mean_tpot_ms"] == pytest.approx(100.0)
    assert document["std_tpot_ms"] == 0.0


def test_goodput_counts_requests_that_meet_every_target() -> None:
    assert result(frame())["request_goodput"] is None
    assert result(frame(), goodput_targets_s={"ttft": 1.0, "e2el": 2.0})["request_goodput"] == pytest.approx(1 / 6)
    assert result(frame(), goodput_targets_s={"ttft": 1.0, "tpot": 1.0})["request_goodput"] == pytest.approx(2 / 6)
    with pytest.raises(OutputError, match="unknown goodput target 'ttff'; did you mean 'ttft'"):
        result(frame(), goodput_targets_s={"ttff": 1.0})


def test_a_run_in_which_nothing_finished_has_zeros_and_no_warning() -> None:
    document = result(frame(first_token_s=[np.nan] * 3, finish_s=[np.nan] * 3))
    assert (document["completed"], document["duration"], document["p99_ttft_ms"]) == (0, 0.0, 0.0)
    assert document["max_concurrent_requests"] == 0


def test_a_missing_column_is_named() -> None:
    with pytest.raises(OutputError, match="no column 'finish_s'"):
        result(frame().drop(columns="finish_s"))


def test_measured_gaps_replace_the_even_ones() -> None:
    gaps = TokenGaps(columns={"gap_s": np.array([0.1, 0.5]), "tokens": np.array([3, 1])})
    document = result(frame(), token_gaps=gaps)
    assert document["mean_itl_ms"] == pytest.approx(200.0)
    assert document["median_itl_ms"] == pytest.approx(100.0)


def test_a_request_that_starts_as_another_ends_is_not_in_flight_with_it() -> None:
    requests = frame(arrival_s=[0, 0, 1], first_token_s=[0.5, 0.5, 1.5], finish_s=[1, 3, 2])
    assert result(requests)["max_concurrent_requests"] == 2


def test_arrays_have_one_entry_per_request() -> None:
    document = result(frame())
    assert document["input_lens"] == [100, 200, 300]
    assert document["output_lens"] == [11, 5, 0]
    assert document["ttfts"] == [0.5, 1.0, 0.0]
    assert document["errors"] == ["", "", "unfinished"]
    assert "ttfts" not in result(frame(), detailed=False)


def test_the_document_is_json_with_the_rate_in_words_where_it_is_infinite() -> None:
    document = json.loads(encode_json(result(frame(), max_concurrency=16)))
    assert (document["date"], document["request_rate"], document["max_concurrency"]) == ("20260214-104302", "inf", 16)
    assert result(frame(), request_rate=4.0)["request_rate"] == 4.0


def test_our_keys_include_those_of_a_real_result() -> None:
    document = json.loads(next(SAMPLES.glob("*.json")).read_text())
    # This recording kept medians and percentiles in seconds and two keys of its own tool.
    own = {"good_completed", "input_throughput"}
    renamed = {key if not key.startswith(("median_", "p99_")) else f"{key}_ms" for key in document}
    assert renamed - own <= set(result(frame()))


requests_frames = st.lists(
    st.tuples(
        st.floats(0, 100), st.floats(0, 10), st.floats(0, 10), st.integers(1, 50), st.integers(1, 50), st.booleans()
    ),
    min_size=1,
    max_size=30,
).map(
    lambda rows: pd.DataFrame(
        [
            {
                "arrival_s": arrival,
                "first_token_s": arrival + ttft if done else np.nan,
                "finish_s": arrival + ttft + rest if done else np.nan,
                "input_tokens": inputs,
                "output_tokens": outputs,
            }
            for arrival, ttft, rest, inputs, outputs, done in rows
        ]
    )
)


@given(requests_frames)
def test_summaries_are_those_of_numpy_over_finished_requests(requests: pd.DataFrame) -> None:
    document = result(requests)
    done = requests.dropna()
    ttft = (done.first_token_s - done.arrival_s).to_numpy() if len(done) else np.zeros(1)
    many = done[done.output_tokens > 1]
    tpot = ((many.finish_s - many.first_token_s) / (many.output_tokens - 1)).to_numpy() if len(many) else np.zeros(1)
    for name, values in {"ttft": ttft, "tpot": tpot}.items():
        assert document[f"mean_{name}_ms"] == pytest.approx(values.mean() * 1e3, abs=1e-6)
        assert document[f"median_{name}_ms"] == pytest.approx(np.median(values) * 1e3, abs=1e-6)
        assert document[f"std_{name}_ms"] == pytest.approx(values.std() * 1e3, abs=1e-6)
        assert document[f"p99_{name}_ms"] == pytest.approx(np.percentile(values, 99) * 1e3, abs=1e-6)


@given(requests_frames)
def test_no_more_requests_are_in_flight_than_there_are(requests: pd.DataFrame) -> None:
    document = result(requests)
    done = requests.dropna()
    inside = [
        int(((done.arrival_s <= moment) & (done.finish_s > moment)).sum()) for moment in done.arrival_s if len(done)
    ]
    assert document["max_concurrent_requests"] >= max(inside, default=0)
    assert document["max_concurrent_requests"] <= document["completed"]


@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.integers(0, 20)), min_size=1, max_size=20).filter(
        lambda rows: sum(count for _, count in rows) > 0
    ),
    st.floats(0, 100),
)
def test_a_weighted_percentile_is_that_of_the_repeated_values(rows: list[tuple[float, int]], percentile: float) -> None:
    values, counts = np.array([v for v, _ in rows]), np.array([c for _, c in rows])
    expected = np.percentile(np.repeat(values, counts), percentile)
    assert weighted_percentile(values, counts, percentile) == pytest.approx(expected, rel=1e-9, abs=1e-9)
