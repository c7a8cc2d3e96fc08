"""Results of every benchmark tool say what was sent and what was measured."""

import json
import math

import pytest

from workloads.errors import TraceFormatError
from workloads.requests.files import read_request_trace
from workloads.requests.results import read_bench_runs


def saved(tmp_path, content, name="result.json"):
    path = tmp_path / name
    rows = content if isinstance(content, list) else [content]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


SGLANG = {
    "backend": "sglang",
    "request_rate": math.inf,
    "max_concurrency": None,
    "duration": 4.0,
    "completed": 3,
    "total_input_tokens": 31,
    "total_output_tokens": 12,
    "mean_ttft_ms": 100.0,
    "mean_tpot_ms": 12.5,
    "mean_e2e_latency_ms": 200.0,
    "input_lens": [10, 10, 11],
    "output_lens": [4, 5, 3],
}

TOTALS = {key: value for key, value in SGLANG.items() if not key.endswith("_lens")}


def record(start, end, **changes):
    """A request of aiperf's ``profile_export.jsonl``; times in seconds."""
    metadata = {"request_start_ns": int((1.7e9 + start) * 1e9), "request_end_ns": int((1.7e9 + end) * 1e9)}
    metrics = {
        "input_sequence_length": {"value": 550, "unit": "tokens"},
        "output_sequence_length": {"value": 128, "unit": "tokens"},
        "time_to_first_token": {"value": 55.0, "unit": "ms"},
        "inter_token_latency": {"value": 8000.0, "unit": "us"},
    }
    return {"metadata": metadata, "metrics": metrics, "error": None} | changes


def block(avg, unit="ms", **more):
    return {"avg": avg, "unit": unit} | more


SUMMARY = {
    "input_config": {"endpoint": {"model_names": ["meta/llama"]}, "loadgen": {"concurrency": 8}},
    "request_count": block(40, "requests"),
    "request_throughput": block(4.0, "requests/sec"),
    "request_latency": block(2000.0),
    "time_to_first_token": block(120.0),
    "inter_token_latency": block(15.0),
    "input_sequence_length": block(1000, "tokens"),
    "output_sequence_length": block(125, "tokens"),
}


def guidellm(strategy, **changes):
    mean = {
        "prompt_token_count": 1000,
        "output_token_count": 100,
        "requests_per_second": 2.0,
        "request_concurrency": 3.9,
        "time_to_first_token_ms": 90.0,
        "inter_token_latency_ms": 11.0,
        "request_latency": 1.2,
    }
    metrics = {key: {"successful": {"mean": value}} for key, value in mean.items()}
    return {
        "config": {"strategy": strategy, "backend": {"model": "m"}},
        "metrics": metrics | {"request_totals": {"successful": 20}},
    } | changes


AGGREGATE = {
    "hw": "h200",
    "conc": 8,
    "model": "deepseek-ai/DeepSeek-R1",
    "framework": "sglang",
    "precision": "fp8",
    "isl": 1024,
    "osl": 512,
    "tp": 8,
    "ep": 1,
    "dp_attention": "false",
    "tput_per_gpu": 148.6,
    "mean_ttft": 0.33,
    "mean_tpot": 0.0128,
    "mean_e2el": 12.2,
}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_result_of_sglang_is_read_from_either_extension(tmp_path, name):
    path = saved(tmp_path, SGLANG, name)
    trace = read_request_trace(path)
    assert (len(trace), trace.concurrency) == (3, None)
    run = read_bench_runs(path)[0]
    assert (run.concurrency, run.stack, run.ttft, run.e2el) == (3, "sglang", 0.1, 0.2)
    assert run.tokens_per_s == pytest.approx(43 / 4)


def test_a_file_with_several_runs_holds_a_point_for_each_and_plays_none_of_them(tmp_path):
    path = saved(tmp_path, [SGLANG, SGLANG | {"mean_tpot_ms": 20.0}], "a.jsonl")
    assert [run.tpot for run in read_bench_runs(path)] == [0.0125, 0.02]
    with pytest.raises(TraceFormatError, match="holds 2 runs; keep the one to play"):
        read_request_trace(path)


def test_start_times_that_contradict_the_duration_are_refused(tmp_path):
    result = SGLANG | {"request_rate": 1.0, "start_times": [0.0, 1000.0, 2000.0]}
    with pytest.raises(TraceFormatError, match="start_times span 2000 s, but duration says 4 s"):
        read_request_trace(saved(tmp_path, result))


def test_requests_of_aiperf_that_replace_each_other_are_a_closed_loop(tmp_path):
    rows = [record(0.5 * i, 0.5 * i + 1.0) for i in range(8)]
    path = saved(tmp_path, rows, "profile_export.jsonl")
    trace = read_request_trace(path)
    assert (len(trace), trace.concurrency) == (8, 2)
    assert "2 requests are in flight from first to last" in trace.notes[0]
    run = read_bench_runs(path)[0]
    assert (run.ttft, run.tpot, run.e2el) == pytest.approx((0.055, 0.008, 1.0))
    assert run.tokens_per_s == pytest.approx(8 * 678 / 4.5)


def test_requests_of_aiperf_that_come_by_themselves_come_when_they_came(tmp_path):
    starts = [0.0, 0.1, 3.0, 3.05, 9.0, 12.0]
    path = saved(tmp_path, [record(at, at + 1.0) for at in starts], "profile_export.jsonl")
    trace = read_request_trace(path)
    assert trace.concurrency is None
    assert trace.arrival.tolist() == pytest.approx(starts, abs=1e-6)


def test_requests_of_aiperf_that_failed_or_warmed_up_are_left_out(tmp_path):
    warm = record(0.0, 1.0)
    warm["metadata"]["benchmark_phase"] = "warmup"
    rows = [warm, record(1.0, 2.0, error={"code": 499}, metrics=None), record(2.0, 3.0)]
    trace = read_request_trace(saved(tmp_path, rows, "profile_export.jsonl"))
    assert len(trace) == 1
    assert "left out 2 requests" in trace.notes[0]


def turn(start, end, session, index, tokens=550):
    made = record(start, end)
    made["metadata"] |= {"conversation_id": "entry", "x_correlation_id": session, "turn_index": index}
    made["metrics"]["input_sequence_length"]["value"] = tokens
    return made


def test_turns_of_aiperf_come_as_long_after_the_answer_before_them_as_they_did(tmp_path):
    rows = [
        turn(0.0, 1.0, "a", 0),
        turn(0.0, 2.0, "b", 0),
        turn(3.0, 4.0, "a", 1, 800),
        turn(2.5, 4.5, "b", 1, 900),
        turn(4.0, 5.0, "c", 0),
        turn(4.5, 6.0, "d", 0),
        turn(5.25, 6.0, "c", 1, 900),
        turn(6.5, 7.0, "d", 1, 900),
    ]
    path = saved(tmp_path, rows, "profile_export.jsonl")
    trace = read_request_trace(path)
    assert trace.after.tolist() == [-1, 0, -1, 2, -1, 4, -1, 6]
    assert trace.delay.tolist() == pytest.approx([0.0, 2.0, 0.0, 0.5, 0.0, 0.25, 0.0, 0.5], abs=1e-6)
    assert trace.input_tokens.tolist() == [550, 800, 550, 900, 550, 900, 550, 900]
    assert trace.concurrency == 2
    assert "2 sessions are in flight from first to last" in " ".join(trace.notes)
    assert read_bench_runs(path)[0].e2el == pytest.approx(9.75 / 8)


def test_turns_of_aiperf_whose_answer_before_failed_begin_anew_and_overlaps_are_named(tmp_path):
    rows = [turn(0.0, 1.0, "a", 0) | {"error": {"code": 500}}, turn(2.0, 3.0, "a", 1), turn(4.0, 5.0, "a", 2, 40)]
    trace = read_request_trace(saved(tmp_path, rows, "profile_export.jsonl"))
    assert trace.after.tolist() == [-1, 0]
    # Fewer tokens than the turn before: what is new, behind 550 + 128.
    assert trace.input_tokens.tolist() == [550, 718]
    assert "1 turns follow one that was not answered; they begin anew" in " ".join(trace.notes)
    rows = [turn(0.0, 1.0, "a", 0), turn(0.5, 3.0, "a", 1)]
    with pytest.raises(TraceFormatError, match=r"row 2: begins before the answer to turn 0 has ended \(row 1\)"):
        read_request_trace(saved(tmp_path, rows, "b.jsonl"))
    rows = [turn(0.0, 1.0, "a", 0), turn(2.0, 3.0, "a", -1)]
    with pytest.raises(TraceFormatError, match="row 2: turn_index: got -1"):
        read_request_trace(saved(tmp_path, rows, "c.jsonl"))


def test_a_latency_of_aiperf_that_contradicts_its_times_is_named(tmp_path):
    bad = record(0.0, 1.0)
    bad["metrics"]["request_latency"] = {"value": 1000.0, "unit": "s"}
    with pytest.raises(TraceFormatError, match="row 2: request_latency is 1000 s, but its start and end are"):
        read_request_trace(saved(tmp_path, [record(0.0, 1.0), bad], "profile_export.jsonl"))


@pytest.mark.parametrize("nested", [False, True])
def test_a_summary_of_aiperf_or_genai_perf_is_a_closed_loop_of_means(tmp_path, nested):
    figures = {key: value for key, value in SUMMARY.items() if key != "input_config"}
    document = {"input_config": SUMMARY["input_config"], "records": figures} if nested else SUMMARY
    path = saved(tmp_path, document)
    trace = read_request_trace(path)
    assert (len(trace), trace.concurrency, trace.input_tokens[0], trace.output_tokens[0]) == (40, 8, 1000, 125)
    run = read_bench_runs(path)[0]
    assert (run.model, run.ttft, run.tpot, run.e2el) == ("meta/llama", 0.12, 0.015, 2.0)
    assert run.tokens_per_s == 4500.0


def test_a_summary_without_its_load_has_as_many_in_flight_as_its_figures_say(tmp_path):
    run = read_bench_runs(saved(tmp_path, SUMMARY | {"input_config": {}}))[0]
    assert run.concurrency == 8
    assert "says neither concurrency nor rate" in run.notes[0]


def test_a_summary_with_a_rate_comes_at_it_whatever_cap_there_was(tmp_path):
    config = {"loadgen": {"concurrency": 8, "request_rate": 2.0}}
    path = saved(tmp_path, SUMMARY | {"input_config": config})
    trace = read_request_trace(path)
    assert (trace.concurrency, trace.arrival[1]) == (None, 0.5)
    assert "the client's cap of 8 is not played" in trace.notes[0]


def test_a_summary_in_an_unknown_unit_is_refused(tmp_path):
    with pytest.raises(TraceFormatError, match=r"request_latency\.unit: got 'fortnights'"):
        read_request_trace(saved(tmp_path, SUMMARY | {"request_latency": block(1, "fortnights")}))


@pytest.mark.parametrize(
    ("strategy", "concurrency", "rate"),
    [
        ({"type_": "synchronous"}, 1, math.inf),
        ({"type_": "concurrent", "streams": 16}, 16, math.inf),
        ({"type_": "throughput", "max_concurrency": None}, 4, math.inf),
        ({"type_": "constant", "rate": 2.5}, None, 2.5),
        ({"type_": "poisson", "rate": 1.5}, None, 1.5),
    ],
)
def test_a_benchmark_of_guidellm_is_the_load_of_its_strategy(tmp_path, strategy, concurrency, rate):
    path = saved(tmp_path, {"benchmarks": [guidellm(strategy)]})
    run = read_bench_runs(path)[0]
    assert (run.concurrency, run.rate, run.model, run.requests) == (concurrency, rate, "m", 20)
    assert (run.ttft, run.tpot, run.e2el, run.tokens_per_s) == pytest.approx((0.09, 0.011, 1.2, 2200))
    assert read_request_trace(path).concurrency == concurrency


def test_requests_of_guidellm_are_played_one_by_one(tmp_path):
    requests = [{"request_start_time": 1.76e9 + at, "prompt_tokens": 100 + at, "output_tokens": 7} for at in (3, 0, 1)]
    document = guidellm({"type_": "poisson", "rate": 1.0}, requests={"successful": requests})
    trace = read_request_trace(saved(tmp_path, {"benchmarks": [document]}))
    assert trace.arrival.tolist() == [0.0, 1.0, 3.0]
    assert trace.input_tokens.tolist() == [100, 101, 103]


def test_an_aggregate_of_inferencex_is_a_closed_loop_of_drawn_lengths(tmp_path):
    path = saved(tmp_path, AGGREGATE)
    trace = read_request_trace(path)
    assert (len(trace), trace.concurrency) == (80, 8)
    assert trace.input_tokens.min() >= 0.8 * 1024 - 1
    assert trace.input_tokens.max() <= 1024
    run = read_bench_runs(path)[0]
    assert run.pools == ({"tp": 8, "dp": 1, "ep": 1, "workers": 1},)
    assert (run.ttft, run.tpot, run.tokens_per_s_per_device) == (0.33, 0.0128, 148.6)


def test_attention_of_inferencex_may_be_data_parallel_and_prefill_apart(tmp_path):
    apart = {"disagg": True, "prefill_tp": 4, "prefill_ep": 1, "prefill_num_workers": 2, "decode_tp": 8, "decode_ep": 8}
    row = {key: value for key, value in AGGREGATE.items() if key != "tp"} | apart | {"decode_dp_attention": "true"}
    run = read_bench_runs(saved(tmp_path, row))[0]
    assert run.pools == (
        {"tp": 4, "dp": 1, "ep": 1, "workers": 2},
        {"tp": 1, "dp": 8, "ep": 8, "workers": 1},
    )
    assert "draft acceptance" in read_bench_runs(saved(tmp_path, AGGREGATE | {"spec_decoding": "mtp"}))[0].reason


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (TOTALS | {"completed": 1e12}, "completed: got 1000000000000.0, expected a number from 1 to 20,000,000"),
        (SGLANG | {"completed": 0, "input_lens": 3}, "input_lens: got 3"),
        (SGLANG | {"max_concurrency": 0.5}, "max_concurrency: got 0.5"),
        (SGLANG | {"request_rate": 10**400}, "a whole number of some 400 digits"),
        (SGLANG | {"input_lens": ["x" * 9000] * 3}, "input_lens: request 1: got 'xxx"),
        (SUMMARY | {"request_latency": [1]}, "request_latency: got [1]"),
        (SUMMARY | {"request_count": block(-1)}, "request_count: got -1"),
        ({"benchmarks": []}, "at least one benchmark"),
        ({"benchmarks": [3]}, "got 3, expected a benchmark as an object"),
        ({"benchmarks": [{"args": {}, "metric": {}}]}, "a benchmark has no metrics; did you mean 'metric'"),
        ({"benchmarks": [guidellm({"type_": "constant", "rate": "fast"})]}, "rate: got 'fast'"),
        (AGGREGATE | {"mean_e2el": 12200}, "latencies are expected in seconds"),
        (AGGREGATE | {"conc": None}, "conc: got None"),
        (AGGREGATE | {"mean_ttft": -1}, "mean_ttft: got -1"),
        (AGGREGATE | {"isl": 1e300}, "isl: got 1e+300"),
        ({"metadata": {}, "metrics": {}}, "request_start_ns: got None"),
        ({"metadata": {"request_start_ns": 1.5}, "metrics": {}}, "request_start_ns: got 1.5"),
    ],
)
def test_malformed_results_are_explained_in_short(tmp_path, document, expected):
    path = saved(tmp_path, document)
    for read in (read_bench_runs, read_request_trace):
        with pytest.raises(TraceFormatError) as error:
            read(path)
        assert len(str(error.value)) < 500
    assert expected in str(error.value)
