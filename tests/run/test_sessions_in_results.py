"""What is said of sessions: first tokens by turn, how long they take, and turns that came late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, simulate
from simulator.export.result import write_result
from simulator.results.values import Result

SCENARIO: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "stack": {"name": "vllm"},
    "requests": {
        "concurrency": 4,
        "count": 48,
        "lengths": {"input": 800, "output": 16},
        "sessions": {"turns": 3, "think_time": "500 ms", "input": 100},
    },
    "prefix_cache": {"kind": "instance"},
    # All of it counts.
    "run": {"warmup_requests": 0, "drain": True},
}


@pytest.fixture(scope="module")
def result() -> Result:
    return simulate(Scenario.from_mapping(SCENARIO))


def test_requests_say_their_session_and_turn_and_the_summary_tells_them_apart(result: Result) -> None:
    frame, sessions = result.requests, result.sessions
    assert frame["session"].tolist() == [row // 3 for row in range(48)]
    assert frame["turn"].tolist() == [1, 2, 3] * 16
    assert sessions is not None
    ttft = (frame["first_token_s"] - frame["arrival_s"]).to_numpy()
    assert sessions.ttft_first_s.mean == pytest.approx(ttft[::3].mean())
    assert sessions.ttft_later_s.mean == pytest.approx(ttft[frame["turn"] > 1].mean())
    whole = frame["finish_s"].to_numpy()[2::3] - frame["arrival_s"].to_numpy()[::3]
    assert sessions.session_s.mean == pytest.approx(whole.mean())
    assert (sessions.sessions, sessions.turns_mean, sessions.late_turns) == (16, 3.0, 0)
    # Most of a later prompt is in the cache.
    assert sessions.ttft_later_s.mean < sessions.ttft_first_s.mean


def test_sessions_count_that_begin_in_the_measured_window_however_late_they_end() -> None:
    asked = Scenario.from_mapping(SCENARIO).override("run.warmup_requests=6", "run.drain=true")
    part = simulate(asked)
    frame, sessions = part.requests, part.sessions
    assert sessions is not None
    begun = frame[frame["measured"] & (frame["turn"] == 1)]["session"]
    assert 0 < sessions.sessions == len(begun) < 16
    chosen = frame[frame["session"].isin(begun)].groupby("session")
    assert sessions.session_s.mean == pytest.approx((chosen["finish_s"].max() - chosen["arrival_s"].min()).mean())


def test_the_folder_has_them_too(result: Result, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    folder = write_result(result, tmp_path / "run")
    assert pandas.read_parquet(folder / "requests.parquet")["turn"].max() == 3
    found = json.loads((folder / "summary.json").read_text())
    assert found["sessions"]["sessions"] == 16
    assert found["setup"]["load"]["turns_mean"] == 3.0
    assert Scenario.load(folder / "scenario.toml") == result.scenario


def test_a_run_whose_requests_stand_alone_says_nothing_of_sessions() -> None:
    alone = simulate(Scenario.from_mapping(SCENARIO).override("requests.sessions.turns=1", "prefix_cache.kind=none"))
    assert alone.sessions is None
    assert "sessions" not in alone.document()
    assert "session" not in alone.requests
    assert any(warning.startswith("requests.sessions.think_time has no effect") for warning in alone.warnings)


def test_prompts_that_contain_the_turns_before_and_are_not_cached_are_warned_of() -> None:
    plain = simulate(Scenario.from_mapping(SCENARIO).override("prefix_cache.kind=none"))
    assert any(warning.startswith("turns begin with those before, but prefix_cache.kind") for warning in plain.warnings)


def test_turns_that_an_answer_held_back_are_counted(tmp_path: Path) -> None:
    rows = [
        {"session_id": "a", "timestamp": time, "input_length": 100 + turn, "output_length": 200}
        for turn, time in enumerate((0, 1, 9000))
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    requests = {"kind": "trace", "trace": str(path), "turn_prompts": "whole", "time_unit": "ms"}
    held = simulate(Scenario.from_mapping({**SCENARIO, "requests": requests}))
    assert held.sessions is not None
    assert held.sessions.late_turns == 1
    sent = held.requests["arrival_s"].to_numpy()
    assert sent[1] == held.requests["finish_s"][0]
    assert sent[2] == 9.0
    assert "1 turns were sent later than their trace says: the answer before them had not ended" in held.warnings


def test_all_that_a_server_does_keeps_turns_behind_the_answers_before_them() -> None:
    base = Scenario.from_mapping(SCENARIO).override("hardware.node=hgx-h100")
    for changes in (
        ("parallelism.instances=2", "stack.balancer=cache_aware"),
        ("disaggregation={enabled=true, prefill={tp=1}}",),
        ("faults=[{at='300 ms', kind='instance', restart='1 s', detection='100 ms'}]",),
        ("speculation={draft_tokens=2, acceptance=[0.7]}",),
        ("stack.name=sglang", "run.warmup_requests=6", "run.drain=false"),
        ("requests.kind=poisson", "requests.rate=20", "requests.priorities=[0.5, 0.5]"),
        ("prefix_cache.kind=shared", "parallelism.instances=2", "stack.balancer=round_robin"),
        ("elastic={mechanism='horizontal', events=[{at='400 ms', size=2}], max_size=2}",),
    ):
        frame = simulate(base.override(*changes)).requests
        sent, ended = frame["arrival_s"].to_numpy(), frame["finish_s"].to_numpy()
        later = np.flatnonzero(frame["turn"].to_numpy() > 1)
        assert (sent[later] == ended[later - 1] + 0.5).all(), changes
        assert np.isfinite(ended).all()
