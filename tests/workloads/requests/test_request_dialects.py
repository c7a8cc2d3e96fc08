"""Traces of every origin are told apart, and their time unit and block size by the data where keys are alike."""

import json

import numpy as np
import pytest

from simulator import api
from simulator.errors import TraceFormatError
from simulator.scenario import Scenario
from workloads.requests.files import read_request_trace, save_request_trace
from workloads.requests.trace import head, repeat, scale_rate
from workloads.requests.units import UnitError, block_size, time_unit


def lines(tmp_path, rows, name="t.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def mooncake(times, tokens=700, block=512, **more):
    """Rows in Mooncake's form; a last block may be partly filled."""
    blocks = list(range(-(-tokens // block)))
    return [
        {"timestamp": time, "input_length": tokens, "output_length": 20, "hash_ids": blocks} | more for time in times
    ]


def bailian(times, tokens=700):
    """Rows in the form of Qwen-Bailian's traces; only full blocks of 16 tokens are hashed."""
    return [
        {
            "chat_id": chat,
            "parent_chat_id": -1,
            "timestamp": time,
            "input_length": tokens + chat,
            "output_length": 20,
            "type": "text",
            "turn": 1,
            "hash_ids": list(range((tokens + chat) // 16)),
        }
        for chat, time in enumerate(times)
    ]


STEADY = np.arange(30)


def test_a_bailian_trace_is_in_seconds_and_blocks_of_16_and_says_so(tmp_path):
    trace = read_request_trace(lines(tmp_path, bailian([0.5, 1.25, 2.0])))
    assert trace.arrival.tolist() == [0.0, 0.75, 1.5]
    assert trace.block_tokens == 16
    assert "seconds, as in Qwen-Bailian's traces" in trace.notes[0]
    assert "blocks of 16 tokens" in trace.notes[1]


def test_a_mooncake_trace_is_in_milliseconds_and_blocks_of_512_and_says_so(tmp_path):
    trace = read_request_trace(lines(tmp_path, mooncake((STEADY * 300).tolist())))
    assert trace.arrival[-1] == pytest.approx(8.7)
    assert trace.block_tokens == 512
    assert "milliseconds, as in Mooncake's traces" in trace.notes[0]


@pytest.mark.parametrize(
    ("times", "unit", "block"),
    [
        ((STEADY * 0.31).tolist(), 1.0, 512),
        ((STEADY // 3).tolist(), 1.0, 16),
        ((STEADY * 310_000).tolist(), 1e-6, 64),
        ((STEADY * 310 + 1_764_000_000_000).tolist(), 1e-3, 512),
        ((STEADY + 1_764_000_000).tolist(), 1.0, 512),
        ((STEADY * 310_000_000 + 1_764_000_000_000_000_000).tolist(), 1e-9, 32),
    ],
    ids=["fractions", "whole seconds", "microseconds", "unix ms", "unix s", "unix ns"],
)
def test_the_same_keys_in_another_unit_are_told_by_the_data(tmp_path, times, unit, block):
    trace = read_request_trace(lines(tmp_path, mooncake(times, tokens=3 * block + 5, block=block)))
    assert trace.arrival[-1] == pytest.approx((times[-1] - times[0]) * unit)
    assert trace.block_tokens == block


def test_what_the_user_says_stands_and_is_not_told_again(tmp_path):
    path = lines(tmp_path, mooncake((STEADY * 300).tolist()))
    trace = read_request_trace(path, time_unit="s", block_tokens=512)
    assert trace.arrival[-1] == 8700.0
    assert trace.notes == ()


def test_a_unit_that_the_data_do_not_tell_is_asked_for(tmp_path):
    path = lines(tmp_path, mooncake((STEADY * 14.5).tolist()))
    with pytest.raises(TraceFormatError, match=r"cannot be told .* say requests\.time_unit"):
        read_request_trace(path)
    assert read_request_trace(path, time_unit="ms").arrival[-1] == pytest.approx(0.4205)


def test_a_prompt_whose_blocks_contradict_the_others_is_named(tmp_path):
    rows = mooncake([0, 300, 600])
    rows[2]["hash_ids"] = list(range(40))
    with pytest.raises(TraceFormatError, match="row 3: hash blocks: 40 hash blocks for 700 tokens"):
        read_request_trace(lines(tmp_path, rows))
    with pytest.raises(TraceFormatError, match=r"row 1: .* not of the 16 that requests\.block_tokens says"):
        read_request_trace(lines(tmp_path, mooncake([0, 300])), block_tokens=16)


def test_a_column_whose_name_says_its_unit_takes_no_other(tmp_path):
    rows = [{"arrival_time_ns": 10**9 * second, "input_toks": 10, "output_toks": 2} for second in range(3)]
    path = lines(tmp_path, rows)
    assert read_request_trace(path).arrival.tolist() == [0.0, 1.0, 2.0]
    assert read_request_trace(path).notes == ()
    with pytest.raises(TraceFormatError, match="arrival_time_ns is in ns by its name"):
        read_request_trace(path, time_unit="ms")


def test_vidur_and_our_own_keys_are_read(tmp_path):
    path = tmp_path / "v.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,374,44\n5.75,396,109\n")
    assert read_request_trace(path).arrival.tolist() == [0.0, 4.25]
    own = lines(tmp_path, [{"arrival_s": 0.5, "input_tokens": 3, "output_tokens": 4}] * 2)
    assert read_request_trace(own).input_tokens.tolist() == [3, 3]


TURNS = (
    {"session_id": "a", "timestamp": 0, "input_length": 1000, "output_length": 100},
    {"session_id": "b", "timestamp": 500, "input_length": 300, "output_length": 10},
    {"session_id": "a", "delay": 2000, "input_length": 1200, "output_length": 100},
    {"session_id": "a", "input_length": 1400, "output_length": 100},
)


def test_a_turn_without_a_time_follows_the_answer_before_it(tmp_path):
    trace = read_request_trace(lines(tmp_path, TURNS))
    assert trace.after.tolist() == [-1, 0, 1, -1]
    assert trace.delay.tolist() == [0.0, 2.0, 0.0, 0.0]
    # The earliest that each can come, whatever the answers take.
    assert trace.arrival.tolist() == [0.0, 0.0, 0.0, 0.5]


def test_turns_stay_tied_through_every_change(tmp_path):
    trace = read_request_trace(lines(tmp_path, TURNS))
    assert repeat(trace, 2).after.tolist() == [-1, 0, 1, -1, -1, 4, 5, -1]
    assert head(trace, 3).after.tolist() == [-1, 0, 1]
    # Twice as many users a second do not read twice as fast.
    assert scale_rate(trace, 2).arrival.tolist() == [0.0, 0.0, 0.0, 0.25]
    assert scale_rate(trace, 2).delay.tolist() == trace.delay.tolist()
    save_request_trace(trace, tmp_path / "t.parquet")
    again = read_request_trace(tmp_path / "t.parquet")
    assert (again.after.tolist(), again.delay.tolist()) == (trace.after.tolist(), trace.delay.tolist())
    save_request_trace(trace, tmp_path / "t.csv")
    again = read_request_trace(tmp_path / "t.csv")
    assert (again.after.tolist(), again.delay.tolist()) == (trace.after.tolist(), trace.delay.tolist())


def test_a_conversation_of_llmservingsim_is_a_chain_of_turns(tmp_path):
    # The tool that an answer calls runs after it.
    turns = [{"input_toks": 10, "output_toks": 2, "tool_duration_ns": 5e8}, {"input_toks": 20, "output_toks": 2}]
    rows = [{"session_id": 1, "arrival_time_ns": 0, "sub_requests": turns}]
    trace = read_request_trace(lines(tmp_path, rows))
    assert (trace.after.tolist(), trace.delay.tolist()) == ([-1, 0], [0.0, 0.5])


def test_turns_that_wait_for_an_answer_are_played_when_it_has_ended(tmp_path):
    path = lines(tmp_path, TURNS)
    data = {
        "model": {"name": "gpt-oss-20b"},
        "hardware": {"device": "h100-sxm"},
        "requests": {"kind": "trace", "trace": str(path)},
    }
    requests = api.simulate(Scenario.from_mapping(data)).requests
    sent, ended = requests["arrival_s"].to_numpy(), requests["finish_s"].to_numpy()
    assert sent[[0, 3]].tolist() == [0.0, 0.5]
    assert sent[1:3].tolist() == [ended[0] + 2.0, ended[1]]


def test_a_first_turn_needs_a_time(tmp_path):
    with pytest.raises(TraceFormatError, match="row 1: timestamp is missing"):
        read_request_trace(lines(tmp_path, TURNS[2:]))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"timestamp": 10**400}, "row 2: timestamp: a whole number of some 400 digits"),
        ({"timestamp": float("nan")}, "row 2: timestamp: got nan"),
        ({"timestamp": True}, "row 2: timestamp: got True"),
        ({"session_id": ["a"]}, "row 2: session_id: got"),
        ({"sub_requests": 3}, "row 2: sub_requests: got 3"),
        ({"input_length": 2**70}, "row 2: input_length: got"),
        ({"hash_ids": [0.5]}, "row 2: hash_ids: got [0.5]"),
        ({"hash_ids": "x" * 10_000}, "row 2: hash_ids: got 'xxx"),
        ({"input_length": None}, "row 2: input_length: got None"),
        ({"delay": "soon", "session_id": 1, "timestamp": "drop"}, "row 2: delay: got 'soon'"),
        ({"messages": [], "input_length": "drop"}, "row 2: input_length is missing; the row holds messages"),
    ],
)
def test_malformed_rows_are_named_in_short(tmp_path, row, expected):
    good = {"session_id": 1, "timestamp": 1, "input_length": 700, "output_length": 5}
    bad = {key: value for key, value in (good | row).items() if value != "drop"}
    with pytest.raises(TraceFormatError) as error:
        read_request_trace(lines(tmp_path, [good, bad]))
    assert expected in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1}\n', "its keys 'a' are of no known format"),
        (b"[]\n", "got a JSON list"),
        (
            b'[{"timestamp": 0, "input_length": 3, "output_length": 4}]',
            "is a JSON list; a trace (mooncake) is JSON lines",
        ),
        (b'[\n {"arrival_s": 0, "input_tokens": 3, "output_tokens": 4}\n]', "is a JSON list; a trace (moesim)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"experiments": []}\n', "use profile_export_genai_perf.json"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_json_of_no_known_format_is_refused_in_short(tmp_path, content, expected):
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TraceFormatError) as error:
            read_request_trace(tmp_path / name)
        assert len(str(error.value)) < 600
    if expected != "JSON":
        assert expected in str(error.value)


def test_a_csv_with_a_column_twice_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("arrival_s,input_tokens,input_tokens,output_tokens\n0,1,2,3\n")
    with pytest.raises(TraceFormatError, match="column 'input_tokens' is there 2 times"):
        read_request_trace(path)


def test_a_header_without_end_is_not_echoed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x" * 3_000_000)
    with pytest.raises(TraceFormatError) as error:
        read_request_trace(path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (b"[1]", "expected a JSON object"),
        (b"{", "truncated JSON"),
        (b"\xff", "no text in UTF-8"),
        (b'{"block_tokens": 0}', "block_tokens: got 0"),
        (b'{"block_tokens": "16"}', "block_tokens: got '16'"),
        (b'{"concurrency": 0.5}', "concurrency: got 0.5"),
        (b'{"concurrency": 0}', "concurrency: got 0"),
    ],
)
def test_metadata_of_parquet_is_checked(tmp_path, facts, expected):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"arrival_s": [0.0], "input_tokens": [30], "output_tokens": [5], "block_hashes": [[1, 2]]})
    pq.write_table(table.replace_schema_metadata({b"moesim": facts}), tmp_path / "t.parquet")
    with pytest.raises(TraceFormatError) as error:
        read_request_trace(tmp_path / "t.parquet")
    assert expected in str(error.value)


@pytest.mark.parametrize("blocks", [[1.5], ["a"], [[1]], 3, "ab"])
def test_blocks_of_parquet_must_be_lists_of_whole_numbers(tmp_path, blocks):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"arrival_s": [0.0], "input_tokens": [30], "output_tokens": [5], "block_hashes": [blocks]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(TraceFormatError, match="block_hashes holds"):
        read_request_trace(tmp_path / "t.parquet")


def test_the_unit_follows_the_rate_only_where_the_format_does_not_say_it():
    steady = (STEADY * 0.5).tolist()
    assert time_unit(steady, "s", "mine").value == "s"
    assert time_unit(steady, "ms", "mine").value == "s"
    assert time_unit((STEADY * 500).tolist(), "ms", "mine").value == "ms"
    assert time_unit([0, 1, 2], "ms", "mine").value == "ms"
    assert time_unit([5, 5], "ms", "mine").value == "ms"
    assert time_unit((STEADY * 60).tolist(), "s", "mine").value == "s"


@pytest.mark.parametrize("step", [1, 2, 3, 9])
def test_whole_times_that_may_be_seconds_or_milliseconds_are_asked_for(step):
    times = [float(step * at) for at in range(60)]
    with pytest.raises(UnitError, match=r"as milliseconds, and .*/s as seconds; say requests\.time_unit = 'ms' or 's'"):
        time_unit(times, "ms", "mine")
    assert time_unit(times, "ms", "mine", stated="s").value == "s"
    assert time_unit(times, "s", "mine").value == "s"


def test_times_that_may_be_of_another_unit_say_what_rate_that_would_be():
    few = time_unit([0, 1, 2], "ms", "mine")
    assert few.value == "ms"
    assert few.why.endswith("1,000 requests/s (as seconds it would be 1/s: requests.time_unit = 's')")
    dense = time_unit([15 * at for at in range(60)], "ms", "mine")
    assert (dense.value, "as seconds it would be 0.0667/s" in dense.why) == ("ms", True)
    real = time_unit([3000 * (at // 20) for at in range(200)], "ms", "mine")
    assert (real.value, "it would be" in real.why) == ("ms", False)
    slow = time_unit([100 * at for at in range(60)], "s", "mine")
    assert (slow.value, "as milliseconds it would be 10/s" in slow.why) == ("s", True)


def test_a_block_size_is_told_by_enough_prompts_and_asked_for_otherwise():
    lengths = [1000, 1300, 90]
    assert block_size(lengths, [-(-n // 24) for n in lengths], None).value == 24
    assert block_size(lengths, [0, 0, 0], 512) is None
    with pytest.raises(UnitError, match=r"say requests\.block_tokens"):
        block_size([1000], [1], None)
