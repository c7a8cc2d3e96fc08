"""One step drawn on its streams: it nests, it ends with the engine's step, and it shows who waits."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from simulator import Scenario, simulate
from simulator.cli.app import app
from simulator.cli.timeline_text import overlap_effect
from simulator.deployment.deployment import deploy
from simulator.deployment.inputs import scenario_requests
from simulator.errors import ScenarioError
from simulator.explanation.explanation import explain, timeline
from simulator.explanation.priced import asked_step
from simulator.explanation.timeline import StepTimeline
from simulator.export.perfetto import check_nesting, encode_trace
from simulator.results.trace import Slice

EP32: dict[str, Any] = {
    "name": "four nodes",
    "model": {"name": "deepseek-v3"},
    "hardware": {"device": "h800-sxm", "node": "hgx-h800", "cluster": "hgx-h800-ib"},
    "parallelism": {"dp": 32, "ep": 32},
    "stack": {
        "name": "sglang",
        "exchange": "deepep_low_latency",
        "overlap": "two_batch",
        "max_running": 128,
        "token_budget": 512,
    },
    "requests": {"kind": "closed_loop", "concurrency": 4096, "count": 4096, "lengths": {"input": 8, "output": 4}},
    "routing": {"kind": "zipf", "tokens": 512},
}


def scenario(**stack: Any) -> Scenario:
    return Scenario.from_mapping({**EP32, "stack": {**EP32["stack"], **stack}})


@cache
def drawn(overlap: str = "two_batch") -> StepTimeline:
    return timeline(scenario(overlap=overlap), batch=4096, context=10)


@cache
def slices() -> tuple[Slice, ...]:
    return tuple(drawn().slices(32))


def test_a_two_batch_decode_step_on_four_nodes_nests_and_opens() -> None:
    check_nesting(slices())
    events = json.loads(encode_trace(slices()))["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"slowest rank", "mean rank", *(f"rank {rank}" for rank in range(32))}
    threads = {(event["pid"], event["args"]["name"]) for event in events if event["name"] == "thread_name"}
    assert len(threads) == 3 * 34
    assert {name for _, name in threads} == {"host", "compute", "communication"}


@pytest.mark.parametrize("overlap", ["none", "two_batch"])
def test_the_drawn_step_ends_when_the_timer_of_the_engine_says(overlap: str) -> None:
    chosen = scenario(overlap=overlap)
    deployment = deploy(chosen, scenario_requests(chosen.requests, chosen.seed))
    step = deployment.timer().time(asked_step(deployment, "decode", 4096, 10))
    assert drawn(overlap).schedule.makespan == pytest.approx(step.duration, rel=1e-12)
    assert max(s.start_s + s.duration_s for s in drawn(overlap).slices(0)) == pytest.approx(step.duration, rel=1e-12)


def test_the_drawn_step_is_the_step_of_a_run() -> None:
    chosen = scenario().override("requests.lengths.output=64", "stack.token_budget=1024")
    steps = simulate(chosen).steps
    full = steps[(steps["decode_tokens"] == 4096) & (steps["prefill_tokens"] == 0)]
    own = timeline(chosen, batch=4096, context=40).step_s
    # Context and the load of the slowest rank differ from step to step.
    assert full["duration_s"].median() == pytest.approx(own, rel=0.01)


def test_every_op_of_a_layer_is_drawn_once_per_half() -> None:
    count: dict[str, int] = defaultdict(int)
    for item in slices():
        if item.track == "rank 5":
            count[item.name] += 1
    assert count["mla_decode"] == 2 * 58 + 1
    assert count["dispatch"] == count["combine"] == count["experts"] == 2 * 58
    assert count["lm_head"] == count["embedding"] == 1


def test_halves_communicate_while_the_other_half_computes() -> None:
    assert drawn().exposed_s < 0.2 * drawn().exchanged_s
    assert drawn("none").exposed_s == pytest.approx(drawn("none").exchanged_s)


def test_ranks_wait_for_the_slowest_one_and_the_mean_rank_waits_between() -> None:
    waits: dict[str, float] = defaultdict(float)
    for item in slices():
        if item.name == "wait for the slowest rank":
            waits[item.track] += item.duration_s
    ranks = [waits[f"rank {rank}"] for rank in range(32)]
    assert "slowest rank" not in waits
    assert min(ranks) <= waits["mean rank"] <= max(ranks)
    assert max(ranks) > 0.0


def test_explain_shows_what_hides_what_and_adds_up_to_the_step() -> None:
    answer = explain(scenario(), batch=4096, context=10)
    assert answer.hidden is not None
    assert answer.hidden["time_s"].sum() == pytest.approx(drawn().exchanged_s)
    assert answer.ops["time_s"].sum() == pytest.approx(answer.step_s)
    assert answer.step_s == pytest.approx(drawn().step_s, rel=0.03)
    assert explain(scenario(overlap="none"), batch=4096, context=10).hidden is None


def test_steps_that_a_deployment_never_runs_are_refused() -> None:
    with pytest.raises(ScenarioError, match="batch: got 100000"):
        timeline(scenario(), batch=100_000, context=10)
    with pytest.raises(ScenarioError, match="context: got 9999"):
        timeline(scenario(), batch=64, context=9999)
    with pytest.raises(ScenarioError, match="batch: got 32 prompts of 9000"):
        timeline(scenario(), phase="prefill", batch=32, context=9000)


def test_a_dense_model_has_a_timeline_too() -> None:
    dense = Scenario.from_mapping(
        {"model": {"name": "llama-3.1-8b"}, "hardware": {"device": "h100-sxm"}, "requests": {"concurrency": 4}}
    )
    step = timeline(dense, batch=4, context=100)
    assert step.schedule.makespan == pytest.approx(step.step_s, rel=1e-12)
    check_nesting(step.slices(1))


def test_the_command_writes_a_trace_and_says_what_is_hidden(tmp_path: Path) -> None:
    file, out = tmp_path / "ep32.toml", tmp_path / "step.json"
    file.write_text(scenario().to_toml(), encoding="utf-8")
    words = ["timeline", str(file), "--batch", "4096", "--context", "10"]
    answer = CliRunner().invoke(app, [*words, "--ranks", "1", "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    assert "two batch" in answer.stdout
    assert "exposed" in answer.stdout
    assert len(json.loads(out.read_text(encoding="utf-8"))["traceEvents"]) > 1000
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert document["exposed_s"] < document["exchanged_s"]
    assert document["file"] is None


def test_a_loss_is_called_a_loss() -> None:
    """Two batches make a small step slower: every weight is read twice."""
    small = timeline(scenario(overlap="two_batch"), batch=64, context=10)
    assert small.saved_s < 0.0
    apart = timeline(scenario(overlap="none"), batch=64, context=10)
    assert small.step_s + small.saved_s == pytest.approx(apart.step_s)
    assert re.fullmatch(r"makes this step [\d.]+ ms slower \([\d.]+ ms -> [\d.]+ ms\)", overlap_effect(small))
    assert "faster" in overlap_effect(drawn())
    row = explain(scenario(overlap="two_batch"), batch=64, context=10).ops.set_index("component").loc["overlap"]
    assert row["time_s"] == pytest.approx(-small.saved_s)
    assert row["bound"] == "lost"


@pytest.mark.parametrize(
    ("split", "message"),
    [({"tp": 4}, "all-reduce"), ({"tp": 2, "pp": 2}, "all-reduce"), ({"dp": 4, "ep": 4}, "dispatch")],
)
def test_communication_is_reported_under_every_split(split: dict[str, int], message: str) -> None:
    """All-reduces run on the stream of the kernels: all of them is exposed, and explain tells as much of them."""
    chosen = Scenario.from_mapping(
        {
            "model": {"name": "qwen3-30b-a3b"},
            "hardware": {"device": "h100-sxm"},
            "parallelism": split,
            "requests": {"concurrency": 64},
            "routing": {"kind": "balanced", "tokens": 256},
        }
    )
    step = timeline(chosen, batch=64, context=1000)
    assert (message, "nothing") in step.beside
    ops = explain(chosen, batch=64, context=1000).ops
    sent = ops[ops["component"].isin(["all_reduce", "dispatch", "combine"])]["time_s"].sum()
    assert step.exchanged_s == pytest.approx(sent, rel=0.02)
    assert step.exposed_s == pytest.approx(step.exchanged_s)
    assert 0.03 < step.exchanged_s / step.step_s < 0.6


def test_a_pipeline_that_runs_one_request_a_batch_has_a_timeline_of_one() -> None:
    asked = Scenario.from_mapping(
        {
            "model": {"name": "gpt-oss-20b"},
            "hardware": {"device": "h100-sxm"},
            "parallelism": {"pp": 2},
            "stack": {"name": "sglang", "max_running": 1},
            "requests": {"concurrency": 4, "count": 8, "lengths": {"input": 200, "output": 20}},
            "routing": {"tokens": 64},
        }
    )
    assert timeline(asked, phase="decode").sequences == 1
    assert explain(asked, phase="decode").batch == 1
