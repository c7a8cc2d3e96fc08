"""Sessions in traces of every origin: what follows what, how long after, and what its prompt contains."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator import api
from simulator.errors import MoesimError, TraceFormatError, WorkloadError
from simulator.scenario import Scenario
from workloads.requests.files import read_request_trace, save_request_trace
from workloads.requests.generators import SessionShape, generate_requests
from workloads.requests.trace import RequestTrace, head, repeat
from workloads.requests.turns import mean_rate, session_columns

SHARED = Path(__file__).parents[4] / "shared" / "cases"


def lines(tmp_path, rows, name="t.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(session=None, tokens=1000, answer=100, **more):
    own = {} if session is None else {"session_id": session}
    return own | {"input_length": tokens, "output_length": answer} | more


def links(trace):
    return trace.after.tolist(), trace.delay.tolist()


def scenario(path, *changes, **requests):
    data = {
        "model": {"name": "gpt-oss-20b"},
        "hardware": {"device": "h100-sxm"},
        "stack": {"name": "vllm"},
        "requests": {"kind": "trace", "trace": str(path), **requests},
    }
    return Scenario.from_mapping(data).override(*changes)


@pytest.mark.skipif(not SHARED.exists(), reason="cases are not at hand")
def test_the_second_turn_of_a_real_case_comes_two_seconds_after_the_answer_and_finds_it_cached():
    asked = scenario(SHARED / "multiturn_delay.jsonl", "prefix_cache.kind=instance")
    requests = api.simulate(asked).requests
    assert requests["arrival_s"][1] == requests["finish_s"][0] + 2.0
    # 1,099 tokens of the turn before have a KV cache: two blocks of 512.
    assert requests["cached_tokens"].tolist() == [0, 1024]


def test_turns_are_those_of_a_session_in_the_order_of_their_numbers_or_else_of_the_file(tmp_path):
    rows = [
        row("a", timestamp=0, turn_id=1),
        row("b", timestamp=100),
        row("a", 3000, turn_id=3, delay=30),
        row("b", 2000, delay_s=4),
        row("a", 2000, turn_id=2, delay=20),
    ]
    trace = read_request_trace(lines(tmp_path, rows))
    assert links(trace) == ([-1, 0, 1, -1, 3], [0.0, 0.02, 0.03, 0.0, 4.0])
    assert trace.input_tokens.tolist() == [1000, 2000, 3000, 1000, 2000]


def test_rows_may_stand_session_by_session(tmp_path):
    rows = [row("a", timestamp=500), row("a", 2000, timestamp=9000), row("b", timestamp=0), row("b", 2000, delay=5)]
    trace = read_request_trace(lines(tmp_path, rows))
    assert trace.arrival.tolist() == [0.0, 0.0, 0.5, 9.0]
    assert links(trace) == ([-1, 0, -1, 2], [0.0, 0.005, 0.0, 0.0])


def test_a_turn_may_name_the_request_that_it_waits_for(tmp_path):
    rows = [
        row("a", timestamp=0, request_id="r1"),
        row("a", 1500, request_id="r2", wait_for=["r1"], delay=500, tool_wait_ms=1500),
        row("a", 2000, request_id="r3", wait_for=["r1"]),
        row("a", 9, timestamp=70, request_id="r4", wait_for=[]),
    ]
    trace = read_request_trace(lines(tmp_path, rows), turn_prompts="whole")
    assert links(trace) == ([-1, 0, 0, -1], [0.0, 2.0, 0.0, 0.0])
    assert session_columns(trace)[0].tolist() == [0, 0, 0, 1]


JOIN = (
    row("main", timestamp=0, request_id="r1"),
    row("helper-1", 500, request_id="h1", wait_for=["r1"], tool_wait_ms=100),
    row("helper-2", 500, request_id="h2", wait_for=["r1"], tool_wait_ms=900),
    row("main", 2000, request_id="r2", wait_for=["r1", "h1", "h2"], delay=50),
)


def test_a_turn_may_wait_for_several_answers_and_comes_after_the_last(tmp_path):
    path = lines(tmp_path, JOIN)
    trace = read_request_trace(path, turn_prompts="whole")
    # It goes on with its own session.
    assert links(trace) == ([-1, 0, 0, 0], [0.0, 0.1, 0.9, 0.05])
    assert trace.also == {3: (1, 2)}
    requests = api.simulate(scenario(path, turn_prompts="whole")).requests
    sent, ended = requests["arrival_s"].to_numpy(), requests["finish_s"].to_numpy()
    assert sent[3] == ended[1:3].max() + 0.05
    closed = api.simulate(scenario(path, turn_prompts="whole").override("requests.repeat=3")).requests
    assert np.isfinite(closed["finish_s"]).all()


def test_what_waits_for_several_answers_comes_through_changes_and_files(tmp_path):
    trace = read_request_trace(lines(tmp_path, JOIN), turn_prompts="whole")
    assert repeat(trace, 2).also == {3: (1, 2), 7: (5, 6)}
    assert head(trace, 3).also is None
    save_request_trace(trace, tmp_path / "t.parquet")
    assert read_request_trace(tmp_path / "t.parquet").also == trace.also
    with pytest.raises(WorkloadError, match="CSV cannot hold which further answers a request waits for"):
        save_request_trace(trace, tmp_path / "t.csv")
    with pytest.raises(
        WorkloadError, match=r"request 3: also: got \[3\], expected earlier requests of the same session"
    ):
        save_request_trace(replace(trace, also={3: (3,)}), tmp_path / "t.parquet")


def test_turns_in_one_line_follow_each_other_and_tools_run_after_the_answer_that_calls_them(tmp_path):
    parts = [
        {"input_toks": 100, "output_toks": 9, "tool_duration_ns": 2e9},
        {"input_toks": 300, "output_toks": 9, "tool_duration_ns": 0},
    ]
    rows = [{"session_id": "s", "arrival_time_ns": 10**9 * at, "sub_requests": parts} for at in range(2)]
    assert links(read_request_trace(lines(tmp_path, rows))) == ([-1, 0, -1, 2], [0.0, 2.0, 0.0, 2.0])
    turns = [{"input_length": 10, "output_length": 2}, {"input_length": 30, "output_length": 2, "delay": 250}]
    trace = read_request_trace(lines(tmp_path, [{"timestamp": 0, "session_id": 1, "turns": turns}]), "mooncake")
    assert links(trace) == ([-1, 0], [0.0, 0.25])


AGENT = {
    "num_turns": 2,
    "input_prompt_length": 900,
    "assistant_response_length": [50, 60],
    "tool_call_output_length": [400, 30],
    "tool_call_latency": [1.5, 0.25],
    "final_assistant_response_length": 200,
}


def test_an_agent_in_one_line_calls_its_tools_in_turn_and_answers(tmp_path):
    trace = read_request_trace(lines(tmp_path, [AGENT, AGENT]), concurrency=1)
    assert links(trace) == ([-1, 0, 1, -1, 3, 4], [0.0, 1.5, 0.25] * 2)
    assert trace.input_tokens.tolist() == [900, 1350, 1440] * 2
    assert trace.output_tokens.tolist() == [50, 60, 200] * 2
    with pytest.raises(TraceFormatError, match="timestamp is missing, as in every row"):
        read_request_trace(lines(tmp_path, [AGENT]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_turns": 3}, "assistant_response_length: got [50, 60], expected a list with a number for each"),
        ({"tool_call_latency": [1.5, -1]}, "tool_call_latency: got -1"),
        ({"tool_call_latency": "1 s"}, "tool_call_latency: got '1 s'"),
        ({"assistant_response_length": [50, "x"]}, "assistant_response_length: got 'x'"),
        ({"assistant_response_length": [50, 0]}, "output_length: got 0"),
        ({"final_assistant_response_length": None}, "final_assistant_response_length: got None"),
    ],
)
def test_malformed_agents_are_named(tmp_path, change, expected):
    with pytest.raises(TraceFormatError) as error:
        read_request_trace(lines(tmp_path, [AGENT | change]), concurrency=1)
    assert "row 1" in str(error.value)
    assert expected in str(error.value)


def chats(*rows):
    keys = ("chat_id", "parent_chat_id", "timestamp", "input_length")
    return [dict(zip(keys, each, strict=True)) | {"output_length": 5, "hash_ids": []} for each in rows]


def test_a_chat_of_bailian_waits_for_its_parent_and_for_its_own_time(tmp_path):
    trace = read_request_trace(lines(tmp_path, chats((5, -1, 0.0, 20), (6, 5, 30.0, 60), (9, 3, 31.0, 60))))
    assert links(trace) == ([-1, 0, -1], [0.0, 0.0, 0.0])
    assert trace.arrival.tolist() == [0.0, 30.0, 31.0]
    assert "1 requests follow one that does not come before them in the file (first: row 3)" in " ".join(trace.notes)


def test_chats_of_bailian_that_contradict_each_other_begin_anew(tmp_path):
    rows = chats((5, 6, 1.0, 20), (6, -1, 2.0, 60), (6, 5, 3.0, 60), (7, 6, 2.5, 70))
    trace = read_request_trace(lines(tmp_path, rows[:3]))
    assert links(trace) == ([-1, -1, 0], [0.0] * 3)
    assert "1 requests follow one that does not come before them" in " ".join(trace.notes)


def test_sessions_that_begin_before_the_first_row_keep_their_times(tmp_path):
    rows = [row("b", timestamp=5000)] + [row("a", 1000 + 500 * turn, timestamp=0.5 * turn) for turn in range(3)]
    trace = read_request_trace(lines(tmp_path, rows), time_unit="ms")
    assert trace.arrival.tolist() == pytest.approx([0.0, 0.0005, 0.001, 5.0], abs=1e-9)
    assert trace.after.tolist() == [-1, 0, 1, -1]


@pytest.mark.parametrize(
    ("lengths", "whole"),
    [
        ([1000, 1200, 1500], True),
        ([1000, 40, 70], False),
        ([1000, 1000, 1000], False),
    ],
)
def test_prompts_that_cannot_hold_the_turn_before_are_what_is_new(tmp_path, lengths, whole):
    rows = [row("a", tokens, **({"delay": 1} if turn else {"timestamp": 0})) for turn, tokens in enumerate(lengths)]
    path = lines(tmp_path, rows)
    trace = read_request_trace(path)
    added = [lengths[0], lengths[0] + 100 + lengths[1], sum(lengths) + 200]
    assert trace.input_tokens.tolist() == (lengths if whole else added)
    assert any(("read as whole" if whole else "read as what is new") in note for note in trace.notes)
    assert read_request_trace(path, turn_prompts="new").input_tokens.tolist() == added
    assert read_request_trace(path, turn_prompts="whole").input_tokens.tolist() == lengths


def test_hash_blocks_tell_prompts_that_are_whole_from_what_is_new(tmp_path):
    first = row("a", 1024, timestamp=0, hash_ids=[1, 2])
    whole = read_request_trace(lines(tmp_path, [first, row("a", 1536, delay=1, hash_ids=[1, 2, 3])]))
    assert (whole.input_tokens.tolist(), whole.block_hashes) == ([1024, 1536], ((1, 2), (1, 2, 3)))
    new = read_request_trace(lines(tmp_path, [first, row("a", 1536, delay=1, hash_ids=[7, 8, 9])]))
    assert new.input_tokens.tolist() == [1024, 1024 + 100 + 1536]
    assert new.block_hashes[1][:2] == (1, 2)
    assert len(new.block_hashes[1]) == 6


def test_lengths_that_fit_both_readings_are_asked_about(tmp_path):
    rows = [row("a", timestamp=0)]
    rows += [row("a", 1000 + 200 * turn if turn != 5 else 90, delay=1) for turn in range(1, 7)]
    with pytest.raises(TraceFormatError, match=r"5 of 6 are longer than the turn before; say requests\.turn_prompts"):
        read_request_trace(lines(tmp_path, rows))


def test_sessions_without_times_need_to_know_how_many_are_in_flight(tmp_path):
    rows = [row(name, 1000 + 500 * turn, **({"delay": 400} if turn else {})) for name in "abc" for turn in range(2)]
    path = lines(tmp_path, rows)
    with pytest.raises(TraceFormatError, match=r"row 1: timestamp is missing, as in every row; .* requests\.concurren"):
        read_request_trace(path)
    trace = read_request_trace(path, concurrency=2)
    assert trace.concurrency == 2
    assert links(trace) == ([-1, 0, -1, 2, -1, 4], [0.0, 0.4] * 3)
    requests = api.simulate(scenario(path, concurrency=2)).requests
    sent, ended = requests["arrival_s"].to_numpy(), requests["finish_s"].to_numpy()
    assert sent[[0, 2]].tolist() == [0.0, 0.0]
    assert (sent[1::2] == ended[::2] + 0.4).all()
    assert sent[4] == min(ended[1], ended[3])


def test_a_closed_loop_has_no_rate_to_scale(tmp_path):
    path = lines(tmp_path, [row("a"), row("a", 2000, delay=5)])
    with pytest.raises(MoesimError, match=r"requests\.rate: got 3, but the trace is a closed loop of 2"):
        api.simulate(scenario(path, concurrency=2, rate=3.0))
    trace = read_request_trace(path, concurrency=2)
    assert "delays read as ms, as in Mooncake's traces" in trace.notes[0]


def test_texts_of_turns_have_no_lengths(tmp_path):
    with pytest.raises(TraceFormatError, match="row 1: input_length is missing; the row holds text"):
        read_request_trace(lines(tmp_path, [{"session_id": "a", "turns": [{"text": "hello", "delay": 5}]}]))


def test_a_number_in_flight_does_not_change_a_trace_that_has_times_and_that_is_said(tmp_path):
    path = lines(tmp_path, [row("a", timestamp=0), row("a", 2000, delay=5)])
    trace = read_request_trace(path, concurrency=8)
    assert trace.concurrency is None
    assert trace.notes[-1] == "requests.concurrency = 8 has no effect: the trace says when requests come"


def test_a_delay_of_a_first_turn_is_not_played_and_that_is_said(tmp_path):
    trace = read_request_trace(lines(tmp_path, [row("a", timestamp=0, delay=2000), row("a", 2000, delay=500)]))
    assert links(trace) == ([-1, 0], [0.0, 0.5])
    assert "a first turn has a delay (row 1), which is not played" in " ".join(trace.notes)
    trace = read_request_trace(lines(tmp_path, [row("a", timestamp=0, delay=None), row("a", 2000, delay=0)]))
    assert "first turn" not in " ".join(trace.notes)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a", timestamp=0), row("a", 2000, delay=-5)], "row 2: delay: got -5, expected a number of at least 0"),
        ([row("a", timestamp=0), row("a", 2000, delay="1s")], "row 2: delay: got '1s'"),
        ([row("a", timestamp=0), row("a", 2000, delay=5, delay_ms=5)], "row 2: says delay and delay_ms"),
        ([row(timestamp=0), row(timestamp=9, delay=5)], "row 2: has a delay, but names no session"),
        ([row("a", timestamp=5000), row("a", 2000, timestamp=4000)], "row 2: timestamp: 1 s earlier than it can be"),
        (
            [row("a", timestamp=0), row("a", 2000, timestamp=1000, delay=3000)],
            "row 2: timestamp: 2 s earlier than it can be after the request of row 1 and its delay",
        ),
        ([row("a", timestamp=0, turn=1), row("a", 2000, turn=1)], "row 2: turn 1 of its session stands in row 1, too"),
        ([row("a", timestamp=0, turn=1), row("a", 2000, delay=1)], "row 2: has no number of its turn"),
        ([row("a", timestamp=0, turn="x")], "row 1: turn: got 'x'"),
        ([row(timestamp=0, request_id=1), row(wait_for=[7])], "row 2: waits for 7, which no row is called"),
        (
            [row(timestamp=0, request_id=1), row(request_id=2, wait_for=[3]), row(request_id=3, wait_for=[2])],
            "row 2: waits for itself",
        ),
        ([row(request_id=1, wait_for=[1])], "row 1: waits for itself"),
        ([row(timestamp=0, request_id=1), row(request_id=1, wait_for=[1])], "row 2: 1 names a request of row 1"),
        ([row(timestamp=0, request_id=1), row(wait_for=[1, 2])], "row 2: waits for 2, which no row is called"),
        (
            [row(timestamp=0, request_id=1), row(timestamp=0, request_id=2), row(wait_for=[1, 2])],
            "row 3: waits for answers of conversations that began apart",
        ),
        (
            [row(timestamp=0, request_id=1), row(request_id=2, wait_for=[1, 3]), row(request_id=3, wait_for=[2])],
            "row 2: waits for itself",
        ),
        ([row(timestamp=0, request_id=1), row(wait_for=[[1]])], "row 2: wait_for: got [1]"),
        ([row("a", timestamp=0), row("b")], "row 2: timestamp is missing; the row follows no other"),
        ([row("a", timestamp=0), row("a", delay=1e17)], "row 2: delay: got 1e+14 s"),
    ],
)
def test_contradictions_are_named_with_their_row(tmp_path, rows, expected):
    with pytest.raises(TraceFormatError) as error:
        read_request_trace(lines(tmp_path, rows))
    assert expected in str(error.value)
    assert len(str(error.value)) < 500


def session_trace(**changes):
    one = {
        "arrival": np.array([0.0, 0.0, 1.5]),
        "input_tokens": np.array([10, 30, 10]),
        "output_tokens": np.array([5, 5, 5]),
        "after": np.array([-1, 0, -1]),
        "delay": np.array([0.0, 2.5, 0.0]),
    }
    return RequestTrace(**{**one, **changes})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_sessions_come_back_as_they_were_saved(tmp_path, suffix):
    trace = session_trace()
    save_request_trace(trace, tmp_path / f"t{suffix}")
    again = read_request_trace(tmp_path / f"t{suffix}")
    for column in ("arrival", "input_tokens", "output_tokens", "after", "delay"):
        np.testing.assert_array_equal(getattr(trace, column), getattr(again, column))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"after": np.array([-1, 2, -1])}, "after: got 2"),
        ({"after": np.array([-1, 1, -1])}, "after: got 1"),
        ({"after": np.array([-2, 0, -1])}, "after: got -2"),
        ({"delay": np.array([0.0, -1.0, 0.0])}, "delay_s: got -1"),
        ({"delay": np.array([0.0, np.nan, 0.0])}, "delay_s: got nan"),
        ({"delay": np.array([1.0, 1.0, 0.0])}, "delay_s: got 1, but the request follows none"),
        ({"after": None}, "delay_s: says how long after an answer"),
    ],
)
def test_a_trace_that_contradicts_itself_is_not_saved(tmp_path, changes, expected):
    with pytest.raises(WorkloadError, match=expected):
        save_request_trace(session_trace(**changes), tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("0,10,5,-1,0\n0,10,5,5,1\n", "row 2: after: got 5"),
        ("0,10,5,-1,0\n0,10,5,0,-1\n", "row 2: delay_s: got -1"),
        ("0,10,5,-1,0\n0,10,5,x,1\n", "row 2: after: got 'x'"),
        ("0,10,5,-1,0\n0,10,5,0.5,1\n", "row 2: after: got 0.5"),
    ],
)
def test_columns_that_say_what_follows_what_are_checked(tmp_path, rest, expected):
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,input_tokens,output_tokens,after,delay_s\n" + rest)
    with pytest.raises(TraceFormatError, match=expected):
        read_request_trace(path)


def test_conversations_of_a_table_that_are_not_read_are_told(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("Timestamp,Session ID,Request tokens,Response tokens\n0,1,10,5\n9,1,30,5\n")
    trace = read_request_trace(path)
    assert trace.after is None
    assert "column Session ID is not read: requests come at their times" in " ".join(trace.notes)


def made(turns=4.0, requests=200, kind="constant", **shape):
    lengths = {"kind": "uniform", "length": 100, "ratio": 0.5}
    arrivals = {"kind": "closed_loop", "concurrency": 3} if kind == "closed_loop" else {"kind": kind, "rate": 2.0}
    return generate_requests(
        requests=requests,
        seed=1,
        arrivals=arrivals,
        input_tokens=lengths,
        output_tokens=lengths,
        sessions=SessionShape(**{"turns": turns, "added_tokens": {"kind": "fixed", "length": 7}, **shape}),
    )


def test_generated_turns_contain_all_that_was_said_before_and_come_after_their_think_time():
    trace = made(think_time=3.0)
    later = trace.after >= 0
    assert later.sum() == 150
    before = trace.after[later]
    assert (trace.input_tokens[later] == (trace.input_tokens + trace.output_tokens)[before] + 7).all()
    assert (trace.delay[later] == 3.0).all()
    assert not trace.delay[~later].any()


def test_generated_sessions_bring_as_many_requests_a_second_as_was_asked_for():
    assert mean_rate(made()) == pytest.approx(2.0, rel=0.03)
    assert mean_rate(made(spread="geometric", kind="poisson", requests=20_000)) == pytest.approx(2.0, rel=0.05)
    assert made(kind="closed_loop").concurrency == 3


def test_turns_and_think_times_spread_about_their_means():
    trace = made(turns=2.5, spread="geometric", think_kind="exponential", think_time=2.0, requests=20_000)
    session, _ = session_columns(trace)
    assert np.bincount(session).mean() == pytest.approx(2.5, rel=0.03)
    assert trace.delay[trace.after >= 0].mean() == pytest.approx(2.0, rel=0.03)


def test_the_last_generated_session_is_cut_where_there_are_enough_requests():
    trace = made(requests=10)
    assert trace.after.tolist() == [-1, 0, 1, 2, -1, 4, 5, 6, -1, 8]
    assert head(trace, 9).after.tolist() == trace.after.tolist()[:9]


def test_a_fixed_number_of_turns_is_whole():
    with pytest.raises(MoesimError, match=r"sessions\.turns: got 2\.5, expected a whole number"):
        made(turns=2.5)


def test_a_context_that_outgrows_every_bound_is_refused():
    with pytest.raises(MoesimError, match="a prompt of 3,221,"):
        made(added_tokens=2**30)


def test_sessions_of_a_scenario_are_generated_played_and_cached():
    data = {
        "model": {"name": "gpt-oss-20b"},
        "hardware": {"device": "h100-sxm"},
        "requests": {"concurrency": 2, "count": 12, "lengths": {"input": 200, "output": 20}},
    }
    asked = Scenario.from_mapping(data).override(
        "requests.sessions={turns=3, think_time='1 s', input=50}", "prefix_cache.kind=instance"
    )
    result = api.simulate(asked)
    requests = result.requests
    assert requests["input_tokens"].tolist() == [200, 270, 340] * 4
    # Of 219 tokens, and 289, that have a KV cache, in blocks of 16.
    assert requests["cached_tokens"].tolist() == [0, 208, 288] * 4
    assert requests["arrival_s"][1] == requests["finish_s"][0] + 1.0
    assert requests["arrival_s"][6] == min(requests["finish_s"][2], requests["finish_s"][5])
