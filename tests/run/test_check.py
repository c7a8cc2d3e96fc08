"""Checking without running: everything at once, worst first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulator
from hardware_profiles.loader import device_names
from simulator import MoesimError, Scenario, ScenarioError, check, explain, simulate
from simulator.scenario.presets import preset_names, preset_path
from workloads.models.library import model_names
from workloads.routing.files import save_routing_trace
from workloads.routing.trace import RoutingTrace


def scenario(*overrides: str) -> Scenario:
    base = Scenario.from_mapping(
        {
            "model": {"name": "mixtral-8x7b"},
            "hardware": {"device": "a100-sxm"},
            "parallelism": {"tp": 2},
            "requests": {"concurrency": 2, "count": 3, "lengths": {"input": 32, "output": 4}},
            "routing": {"tokens": 256},
        }
    )
    return base.override(*overrides)


def errors(asked: Scenario) -> list[tuple[str, str]]:
    """Reasons why a scenario cannot run; what its server refuses can be simulated."""
    return [
        (finding.where, finding.message) for finding in check(asked) if finding.level == "error" and not finding.source
    ]


@pytest.mark.parametrize("name", preset_names())
def test_presets_have_no_errors(name: str) -> None:
    assert errors(Scenario.load(preset_path(name), ["routing.tokens=256"])) == []


def test_a_scenario_that_checks_out_runs() -> None:
    assert errors(scenario()) == []
    assert simulate(scenario()).whole_run.requests_completed == 3


def test_everything_that_is_wrong_is_found_at_once() -> None:
    found = errors(scenario("parallelism.tp=3", "model.name=mixtral-8x9b", "hardware.device=a101", "stack.name=vlm"))
    assert [where for where, _ in found] == ["model", "hardware", "stack"]
    found = errors(scenario("parallelism.tp=3", "requests.kind=poisson", "routing.kind=trace"))
    assert {where for where, _ in found} == {"parallelism", "requests", "routing"}
    assert len([where for where, _ in found if where == "parallelism"]) == 3


def test_what_is_doubtful_in_a_model_file_is_a_warning_of_check_and_of_the_result(tmp_path: Path) -> None:
    config = {"model_type": "mixtral", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"intermediate_size": 64, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 100}
    (tmp_path / "tiny-FP8").mkdir()
    (tmp_path / "tiny-FP8" / "config.json").write_text(json.dumps(config | {"num_memory_slots": 7}), encoding="utf-8")
    asked = scenario(f"model.name={tmp_path / 'tiny-FP8'}", "parallelism.tp=1")
    warnings = [finding.message for finding in check(asked) if finding.where == "model" and finding.level == "warning"]
    assert any("does not know num_memory_slots = 7" in message for message in warnings)
    assert any("the name 'tiny-FP8' says FP8, which no file confirms" in message for message in warnings)
    assert set(warnings) <= set(simulate(asked).warnings)


def test_findings_come_worst_first() -> None:
    levels = [finding.level for finding in check(scenario("hardware.device=h20", "parallelism.tp=3"))]
    order = {"error": 0, "warning": 1, "note": 2}
    assert levels == sorted(levels, key=order.__getitem__)
    assert set(levels) >= {"error", "warning"}


def test_a_device_that_nobody_measured_is_warned_of() -> None:
    (warning,) = (f for f in check(scenario("hardware.device=h20")) if f.where == "hardware.device")
    assert warning.level == "warning"
    assert warning.message.startswith("h20 was never measured here")
    assert warning.remedy
    assert not [f for f in check(scenario()) if f.where == "hardware.device"]


def test_requests_beyond_the_models_context_are_warned_of_where_the_server_takes_them(tmp_path: Path) -> None:
    ships = Path(simulator.__file__).parent / "stacks" / "vllm.toml"
    (tmp_path / "mine.toml").write_text(
        ships.read_text(encoding="utf-8").split("\n[[conditions]]")[0], encoding="utf-8"
    )
    asked = scenario("requests.lengths.input=40000", f"stack.name={tmp_path / 'mine.toml'}")
    (warning,) = (f for f in check(asked) if f.where == "requests")
    assert warning.level == "warning"
    assert "40004 tokens, beyond the model's context of 32768" in warning.message


def test_the_memory_left_for_the_cache_is_noted() -> None:
    (note,) = (f for f in check(scenario()) if f.where == "memory")
    assert note.level == "note"
    assert "leaves" in note.message
    assert "(36 tokens)" in note.message


def test_what_does_not_fit_names_its_pool_and_the_split_that_would_do() -> None:
    asked = scenario("parallelism.ep=2", "disaggregation.enabled=true")
    assert [f.message.partition(":")[0] for f in check(asked) if f.where == "memory"] == ["decode pool"]
    ((_, message),) = errors(asked)
    assert message.startswith("prefill pool (disaggregation.prefill): mixtral-8x7b does not fit")
    assert message.endswith("disaggregation.prefill.tp = 2, disaggregation.prefill.ep = 2")
    assert len(message) < 500
    with pytest.raises(MoesimError, match="prefill pool"):
        explain(asked, phase="prefill")
    assert not errors(asked.override("disaggregation.prefill.tp=2", "disaggregation.prefill.ep=2"))


def test_a_stage_that_spans_nodes_is_noted() -> None:
    spread = scenario("parallelism.tp=1", "parallelism.dp=16", "parallelism.ep=8")
    assert [f.message for f in check(spread) if f.where == "parallelism"] == [
        "a stage of 16 devices spans scale-up domains of 8"
    ]


def test_a_broken_trace_is_found_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "broken.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,100,10\nnonsense,1,1\n", "utf-8")
    ((where, message),) = errors(scenario("requests.kind=trace", f"requests.trace={path}"))
    assert where == "requests"
    assert str(path) in message
    assert "3" in message


@pytest.mark.parametrize(
    ("override", "where", "message"),
    [
        ("speculation.draft_tokens=2", "speculation", "speculation.acceptance: is required"),
        ("prefix_cache.kind=instance", "prefix_cache", "no hash blocks"),
        ("faults=[{at='1 s', rank=7}]", "faults", "faults.0.rank: got 7"),
        ("placement.rebalance.every=1 s", "placement.rebalance", "nothing to rebalance"),
        ("stack.overlap=two_batch", "stack.overlap", "no tokens travel to experts"),
    ],
)
def test_what_only_the_engine_knows_is_checked_as_well(override: str, where: str, message: str) -> None:
    found = [finding for finding in check(scenario(override)) if finding.level == "error" and not finding.source]
    assert [finding.where for finding in found] == [where]
    assert message in found[0].message


@pytest.mark.parametrize(
    ("key", "most"), [("parallelism.instances", 10_000), ("disaggregation.prefill.instances", 10_000)]
)
@pytest.mark.parametrize("beyond", [1, 10**7, 10**21])
def test_more_instances_than_anybody_has_are_refused_at_once(key: str, most: int, beyond: int) -> None:
    with pytest.raises(ScenarioError, match=rf"{key}: got {most + beyond}; .*less than or equal to {most}"):
        scenario(f"{key}={most + beyond}")


SPLITS = (
    {},
    {"tp": 2},
    {"tp": 3},
    {"dp": 2, "ep": 2},
    {"tp": 4, "ep": 4},
    {"tp": 8, "ep": 8},
    {"dp": 8, "ep": 8},
    {"tp": 2, "dp": 4, "ep": 8},
    {"tp": 2, "pp": 2, "ep": 2},
    {"tp": 8, "dp": 2, "ep": 16},
)
FEATURES = (
    ("speculation.draft_tokens=2", "speculation.acceptance=[0.7]"),
    ("speculation.draft_tokens=2",),
    ("disaggregation.enabled=true", "disaggregation.prefill.tp=2"),
    ("prefix_cache.kind=instance",),
    (
        "requests.kind=trace",
        "requests.trace=sample:mooncake_like.jsonl",
        "requests.lengths={}",
        "prefix_cache.kind=shared",
    ),
    ("elastic.mechanism=elastic", "elastic.events=[{at='0.3 s', size=4}]"),
    ("elastic.mechanism=horizontal", "elastic.events=[{at='0.3 s', size=4}]"),
    ("elastic.mechanism=cold_restart", "elastic.events=[{at='0.1 s', size=1}]"),
    ("faults=[{at='0.01 s', rank=1, restart='1 s', detection='0.1 s'}]",),
    ("faults=[{at='0.01 s', kind='nic', slowdown=2.0}]",),
    ("placement.rebalance.every_steps=2",),
    ("placement.policy=eplb", "placement.redundant_slots=8"),
    ("placement.policy=affinity",),
    ("stack.overlap=two_batch",),
    ("stack.overlap=shared_expert",),
    ("stack.preemption=swap", "stack.memory_fraction=0.4"),
    ("model.weights=fp8",),
    ("model.weights=nvfp4", "model.kv_cache=fp8"),
    ("requests.lengths.input=200000",),
    ("requests.lengths.output=1",),
    ("parallelism.instances=3",),
    ("requests.priorities=[0.5, 0.5]",),
)


def drawn(seed: int, model: str | None = None) -> Scenario:
    """A scenario of four requests: any model on any device in any split, with up to two features."""
    rng = np.random.default_rng(seed)

    def one(of: Sequence[Any]) -> Any:
        return of[rng.integers(len(of))]

    features = rng.choice(len(FEATURES), one((0, 1, 1, 2)), replace=False)
    base = {
        "model": {"name": model or one(model_names())},
        "hardware": {"device": one(device_names())},
        "parallelism": one(SPLITS),
        "stack": {"name": one(("sglang", "vllm", "trtllm"))},
        "requests": {"concurrency": 2, "count": 4, "lengths": {"input": 32, "output": 4}},
        "routing": {"tokens": 128},
    }
    return Scenario.from_mapping(base).override(*(key for index in features for key in FEATURES[index]))


#: Those that fit most devices, so that more than memory decides.
SMALL = ("gpt-oss-20b", "deepseek-v2-lite", "qwen3-30b-a3b", "llama-3.1-8b", None)


@pytest.mark.parametrize("seed", range(60))
def test_what_checks_out_runs_and_what_does_not_is_refused(seed: int) -> None:
    asked = drawn(seed, SMALL[seed % len(SMALL)])
    found = errors(asked)
    if not found:
        assert simulate(asked).whole_run.requests_completed == 4
        return
    with pytest.raises(MoesimError):
        simulate(asked)


@pytest.mark.parametrize("device", ["a100-sxm", "ascend-910c", "metax-c500"])
@pytest.mark.parametrize(("model", "override"), [("minimax-m2.5", "seed=0"), ("qwen3-30b-a3b", "model.weights=fp8")])
def test_arithmetic_that_a_device_lacks_is_found_before_a_run(model: str, override: str, device: str) -> None:
    asked = scenario(f"model.name={model}", f"hardware.device={device}", "parallelism.tp=8", "parallelism.ep=8")
    found = errors(asked.override(override))
    assert [message for _, message in found if "needs fp8 arithmetic" in message]
    plain = asked.override("model.weights=int8")
    assert not [message for _, message in errors(plain) if "arithmetic" in message]


def test_a_trace_in_which_no_token_reaches_an_expert_is_refused(tmp_path: Path) -> None:
    """Its steps would have no load to be uneven about."""
    nobody = RoutingTrace(
        expert_ids=np.full((64, 32, 2), 8, dtype=np.uint16),
        sequence_start=np.zeros(1, dtype=np.int64),
        num_experts=8,
        source="nobody",
        padded=True,
    )
    save_routing_trace(nobody, tmp_path / "nobody.npz")
    asked = scenario("routing.kind=trace", f"routing.trace={tmp_path / 'nobody.npz'}", "routing.tokens=8192")
    assert [where for where, message in errors(asked) if "no token chooses any expert" in message] == ["routing"]


SMALLEST = ("requests.lengths.output=1", "requests.count=1", "requests.concurrency=1", "routing.tokens=1")


@pytest.mark.parametrize("router", ["softmax_top_k", "sigmoid_with_bias", "group_limited", "top_p"])
@pytest.mark.parametrize("extreme", [(), ("routing.top_p=5e-324",), ("routing.top_p=1.0",), SMALLEST])
def test_every_router_runs_at_the_ends_of_what_its_keys_allow(router: str, extreme: tuple[str, ...]) -> None:
    asked = scenario("model.name=gpt-oss-20b", "hardware.device=h100-sxm", "routing.kind=fitted").override(
        "routing.fit=sample:fit_gpt_oss_20b.toml", f"routing.router={router}", "routing.tokens=64", *extreme
    )
    assert errors(asked) == []
    assert simulate(asked).requests["finish_s"].notna().all()
