"""Every request format is read right, and every malformed file is refused with its row."""

import json
from pathlib import Path

import numpy as np
import pytest

from workloads.errors import TraceFormatError, WorkloadError
from workloads.requests.files import read_request_trace, save_request_trace
from workloads.requests.trace import RequestTrace

SHARED = Path(__file__).parents[3].parent / "shared"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD_ROW = "2023-11-16 18:15:46.6805900,374,44\n"


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def needs(path):
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def test_azure_times_are_exact_to_the_tick(tmp_path):
    rows = GOOD_ROW + "2023-11-16 18:15:46.6805901,1,1\n2023-11-16 18:16:46.6805900,5,7\n"
    trace = read_request_trace(write(tmp_path, "a.csv", AZURE + rows))
    assert trace.arrival.tolist() == [0.0, 1e-7, 60.0]
    assert trace.input_tokens.tolist() == [374, 1, 5]
    assert trace.output_tokens.tolist() == [44, 1, 7]
    assert trace.concurrency is None


def test_azure_dates_may_carry_a_zone(tmp_path):
    rows = "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01.009930+00:00,2399,6\n"
    assert read_request_trace(write(tmp_path, "a.csv", AZURE + rows)).arrival.tolist() == [0.0, 1.0]


def test_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (AZURE + GOOD_ROW).replace("\n", "\r\n").encode())
    assert len(read_request_trace(path)) == 1


def test_columns_are_found_by_name_in_any_order(tmp_path):
    text = "GeneratedTokens,extra,ContextTokens,TIMESTAMP\n44,x,374,2023-11-16 18:15:46\n"
    trace = read_request_trace(write(tmp_path, "a.csv", text), format="azure")
    assert (trace.input_tokens[0], trace.output_tokens[0]) == (374, 44)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (GOOD_ROW + "2023-11-16 18:15:45,374,44\n", "row 2: TIMESTAMP: 1.68059 s earlier than the row before"),
        (GOOD_ROW + "2023-11-16 18:15:47,-3,44\n", "row 2: ContextTokens: got -3"),
        (GOOD_ROW + "2023-11-16 18:15:47,3,0\n", "row 2: GeneratedTokens: got 0"),
        (GOOD_ROW + "2023-11-16 18:15:47,nan,4\n", "row 2: ContextTokens: got nan"),
        (GOOD_ROW + "2023-11-16 18:15:47,1e300,4\n", "row 2: ContextTokens: got 1e"),
        (GOOD_ROW + "2023-11-16 18:15:47,3.5,4\n", "row 2: ContextTokens: got 3.5"),
        (GOOD_ROW + "2023-11-16 18:15:47,many,4\n", "row 2: ContextTokens: got 'many', expected a number"),
        (GOOD_ROW + "2023-11-16 18:15:47,374,\n", "row 2: GeneratedTokens: got '', expected a number"),
        (GOOD_ROW + GOOD_ROW + "2023-11-16 18:1", "row 3: got 1 columns, expected 3"),
        (GOOD_ROW + "2023-11-16 18:1,3,4\n2023-11-16 18:15:47,x,4\n", "row 2: TIMESTAMP: got '2023-11-16 18:1'"),
        ("yesterday,3,4\n", "row 1: TIMESTAMP: got 'yesterday'"),
        ("", "the file has a header and no rows"),
    ],
)
def test_malformed_azure_rows_are_named(tmp_path, rows, expected):
    with pytest.raises(TraceFormatError) as error:
        read_request_trace(write(tmp_path, "a.csv", AZURE + rows))
    assert expected in str(error.value)
    assert "a.csv" in str(error.value)


def test_an_empty_file_says_so(tmp_path):
    with pytest.raises(TraceFormatError, match="the file is empty"):
        read_request_trace(write(tmp_path, "a.csv", ""))


def test_a_missing_column_names_the_nearest_one(tmp_path):
    text = "TIMESTAMP,ContextTokens,GeneratedTokns\n" + GOOD_ROW
    with pytest.raises(TraceFormatError, match="'GeneratedTokens' is missing; did you mean 'GeneratedTokns'"):
        read_request_trace(write(tmp_path, "a.csv", text))


def test_an_unknown_header_lists_the_known_ones(tmp_path):
    with pytest.raises(TraceFormatError, match="arrival_s,input_tokens,output_tokens"):
        read_request_trace(write(tmp_path, "a.csv", "when,what\n1,2\n"))


def test_a_missing_file_names_the_nearest_one(tmp_path):
    write(tmp_path, "trace.csv", AZURE)
    with pytest.raises(WorkloadError, match=r"no such file; did you mean 'trace\.csv'"):
        read_request_trace(tmp_path / "trce.csv")


def test_a_folder_is_not_a_trace(tmp_path):
    with pytest.raises(WorkloadError, match="is a folder"):
        read_request_trace(tmp_path)


def test_an_unknown_format_names_the_nearest_one(tmp_path):
    with pytest.raises(WorkloadError, match="did you mean 'azure'"):
        read_request_trace(write(tmp_path, "a.csv", AZURE), format="azur")


def test_an_unknown_extension_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match="cannot tell the format"):
        read_request_trace(write(tmp_path, "a.txt", AZURE))


def test_a_binary_file_with_a_csv_name_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(AZURE.encode() + b"\xff\xfe\x00\x01,\x80\x81,\x82\n" * 3)
    with pytest.raises(TraceFormatError):
        read_request_trace(path)


def test_failed_burstgpt_requests_are_left_out_and_counted(tmp_path):
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,M,472,18,490,Conversation log\n45,M,1087,0,1087,Conversation log\n110,M,417,276,693,API log\n"
    )
    trace = read_request_trace(write(tmp_path, "b.csv", text))
    assert trace.arrival.tolist() == [0.0, 105.0]
    assert trace.output_tokens.tolist() == [18, 276]
    assert trace.notes == (
        "b.csv: times read as seconds, as in BurstGPT's traces",
        "b.csv: left out 1 failed requests (Response tokens is 0)",
    )


def test_a_fault_after_a_failed_burstgpt_request_keeps_its_row_number(tmp_path):
    text = "Timestamp,Model,Request tokens,Response tokens\n5,M,472,0\n45,M,0,7\n"
    with pytest.raises(TraceFormatError, match="row 2: Request tokens: got 0"):
        read_request_trace(write(tmp_path, "b.csv", text))


def test_a_burstgpt_trace_of_failures_only_is_refused(tmp_path):
    text = "Timestamp,Model,Request tokens,Response tokens\n5,M,472,0\n"
    with pytest.raises(TraceFormatError, match="every request failed"):
        read_request_trace(write(tmp_path, "b.csv", text))


@pytest.mark.parametrize("at", ["1e11", "1e18", "1e300", "inf", "nan", "-1"])
@pytest.mark.parametrize(
    "head",
    ["arrival_s,input_tokens,output_tokens", "Timestamp,Request tokens,Response tokens"],
    ids=["own", "BurstGPT"],
)
def test_an_arrival_that_no_clock_can_tell_apart_from_the_next_is_refused(tmp_path, head, at):
    with pytest.raises(TraceFormatError, match=r"row 1: (arrival_s|Timestamp): .*expected a"):
        read_request_trace(write(tmp_path, "late.csv", f"{head}\n{at},100,10\n{at},100,10\n"))


@pytest.mark.parametrize("first", [1764000000, 5])
def test_a_trace_that_begins_later_than_it_lasts_counts_from_its_first_request_and_says_so(tmp_path, first):
    text = f"arrival_s,input_tokens,output_tokens\n{first}.25,100,10\n{first + 1}.5,100,10\n"
    trace = read_request_trace(write(tmp_path, "late.csv", text))
    assert trace.arrival.tolist() == [0.0, 1.25]
    assert "later than the trace lasts; time counts from it" in trace.notes[0]


def test_mooncake_milliseconds_and_blocks_are_read(tmp_path):
    lines = [
        {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": list(range(14))},
        {"timestamp": 27, "input_length": 700, "output_length": 3, "hash_ids": [0, 7]},
    ]
    trace = read_request_trace(write(tmp_path, "m.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    assert trace.arrival.tolist() == [0.0, 0.027]
    assert trace.block_hashes == (tuple(range(14)), (0, 7))
    assert trace.block_tokens == 512


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"timestamp": 1, "input_length": 5, "outp', "row 2: truncated JSON"),
        ('{"timestamp": 1, "input_length": 5, "output_lenght": 5}', "row 2: output_length is missing; did you mean"),
        (
            '{"timestamp": 1, "input_length": "5", "output_length": 5}',
            "row 2: input_length: got '5', expected a number",
        ),
        ('{"timestamp": 1, "input_length": NaN, "output_length": 5}', "row 2: input_length: got nan"),
        ('{"timestamp": -1, "input_length": 5, "output_length": 5}', "row 2: timestamp: got -1 ms, expected a time"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 5, "hash_ids": ["a"]}', "row 2: hash_ids"),
        ("[1, 2, 3]", "row 2: got"),
        ("{]", "row 2: not JSON"),
    ],
)
def test_malformed_mooncake_lines_are_named(tmp_path, line, expected):
    good = '{"timestamp": 1, "input_length": 5, "output_length": 5}\n'
    with pytest.raises(TraceFormatError) as error:
        read_request_trace(write(tmp_path, "m.jsonl", good + line + "\n" + good))
    assert expected in str(error.value)


def test_our_formats_give_back_what_was_saved(tmp_path):
    trace = RequestTrace(
        arrival=np.array([0.1, 0.30000000000000004, 7.0]),
        input_tokens=np.array([1, 2, 3]),
        output_tokens=np.array([4, 5, 6]),
    )
    for name in ("t.csv", "t.parquet"):
        save_request_trace(trace, tmp_path / name)
        again = read_request_trace(tmp_path / name)
        for column in ("arrival", "input_tokens", "output_tokens"):
            np.testing.assert_array_equal(getattr(again, column), getattr(trace, column))


def test_parquet_keeps_the_closed_loop_and_the_blocks(tmp_path):
    trace = RequestTrace(
        arrival=np.zeros(2),
        input_tokens=np.array([30, 2]),
        output_tokens=np.array([4, 5]),
        concurrency=2,
        block_hashes=((0, 1), ()),
        block_tokens=16,
    )
    save_request_trace(trace, tmp_path / "t.parquet")
    again = read_request_trace(tmp_path / "t.parquet")
    assert (again.concurrency, again.block_hashes, again.block_tokens) == (2, ((0, 1), ()), 16)
    with pytest.raises(WorkloadError, match="CSV cannot hold a closed loop's concurrency"):
        save_request_trace(trace, tmp_path / "t.csv")


def test_a_truncated_parquet_is_refused(tmp_path):
    trace = RequestTrace(arrival=np.zeros(2), input_tokens=np.array([1, 2]), output_tokens=np.array([4, 5]))
    save_request_trace(trace, tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(TraceFormatError, match="not a Parquet file that can be read, or a truncated one"):
        read_request_trace(tmp_path / "t.parquet")


def test_an_unwritable_folder_is_named_and_nothing_is_left(tmp_path):
    trace = RequestTrace(arrival=np.zeros(1), input_tokens=np.array([1]), output_tokens=np.array([4]))
    with pytest.raises(WorkloadError, match="cannot be written"):
        save_request_trace(trace, tmp_path / "absent" / "t.csv")
    assert list(tmp_path.iterdir()) == []


def vllm(**changes):
    document = {
        "request_rate": "inf",
        "max_concurrency": 4,
        "completed": 3,
        "total_input_tokens": 31,
        "total_output_tokens": 12,
        "input_lens": [10, 10, 11],
        "output_lens": [4, 5, 3],
    }
    return json.dumps({key: value for key, value in (document | changes).items() if value != "drop"})


def test_a_vllm_result_is_a_closed_loop_of_its_lengths(tmp_path):
    trace = read_request_trace(write(tmp_path, "v.json", vllm()))
    assert (trace.concurrency, trace.input_tokens.tolist(), trace.output_tokens.tolist()) == (
        4,
        [10, 10, 11],
        [4, 5, 3],
    )
    assert trace.notes == ()


def test_a_vllm_result_without_arrays_keeps_the_totals_and_says_so(tmp_path):
    trace = read_request_trace(write(tmp_path, "v.json", vllm(input_lens="drop", output_lens="drop")))
    assert trace.input_tokens.tolist() == [11, 10, 10]
    assert trace.output_tokens.sum() == 12
    assert "no lengths per request" in trace.notes[0]


def test_a_vllm_result_with_a_rate_replays_when_requests_were_due(tmp_path):
    text = vllm(request_rate=2.0, max_concurrency=None, start_times=[100.0, 101.5, 101.0], queue_times=[0.0, 0.0, 0.25])
    trace = read_request_trace(write(tmp_path, "v.json", text))
    assert trace.arrival.tolist() == [0.0, 0.75, 1.5]
    assert trace.input_tokens.tolist() == [10, 11, 10]
    assert trace.concurrency is None


def test_a_vllm_result_with_a_rate_and_no_times_is_evenly_spaced_and_says_so(tmp_path):
    trace = read_request_trace(write(tmp_path, "v.json", vllm(request_rate=2.0)))
    assert trace.arrival.tolist() == [0.0, 0.5, 1.0]
    assert len(trace.notes) == 2


def test_failed_vllm_requests_are_left_out(tmp_path):
    trace = read_request_trace(write(tmp_path, "v.json", vllm(output_lens=[4, 0, 3])))
    assert trace.input_tokens.tolist() == [10, 11]
    assert "left out 1 failed" in trace.notes[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (vllm()[:60], "truncated JSON"),
        ("[1]", "got a JSON int"),
        (vllm(output_lens=[4, 5]), "input_lens has 3 entries and output_lens 2"),
        (vllm(output_lens=[4, "x", 5]), "output_lens: request 2: got 'x'"),
        (vllm(output_lens=[4, -1, 5]), "request 2: output_lens: got -1"),
        (vllm(output_lens=[0, 0, 0]), "no request produced a token"),
        (vllm(output_lens="drop", completed="drop"), "completed is missing"),
        (vllm(request_rate=-2), "request_rate: got -2"),
        (vllm(max_concurrency=0), "max_concurrency: got 0"),
        (vllm(request_rate=1.0, start_times=[1.0]), "start_times has 1 entries"),
    ],
)
def test_malformed_vllm_results_are_explained(tmp_path, text, expected):
    with pytest.raises(TraceFormatError) as error:
        read_request_trace(write(tmp_path, "v.json", text))
    assert expected in str(error.value)


def test_the_azure_chat_trace_reads_in_full():
    trace = read_request_trace(needs(SHARED / "traces/requests/azure_llm_2023_conv.csv"))
    assert len(trace) == 19366
    assert trace.arrival[0] == 0.0
    assert (trace.input_tokens.min(), trace.output_tokens.min()) == (2, 7)


def test_the_mooncake_trace_reads_in_full():
    trace = read_request_trace(needs(SHARED / "traces/requests/mooncake_conversation.jsonl"))
    assert len(trace) == 12031
    assert all(
        len(blocks) == -(-tokens // 512) for blocks, tokens in zip(trace.block_hashes, trace.input_tokens, strict=True)
    )
