"""What was served is not refused: presets, and the runs that others measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import simulator
from simulator import Scenario, check, estimate, explain, simulate
from simulator.cli.app import app
from simulator.deployment.inputs import scenario_hardware, scenario_model
from simulator.deployment.servers import findings_of_server
from simulator.errors import MoesimError
from simulator.explanation.explanation import timeline
from simulator.feasibility.asked import refusals
from simulator.parallelism import Parallelism
from simulator.results.values import Finding
from simulator.scenario.presets import preset_names, preset_path
from simulator.stack import customised
from validation.serving.points import Named, Point, Pool, read_points
from validation.serving.run import point_scenario

MEASURED = Path(__file__).resolve().parents[2].parent / "shared" / "measurements"
TABLES = ("serving_points.csv", "serving_points_more.csv")

#: Runs whose tables say a split that the engine cannot have had: every release of vLLM raises an error for it
#: (vllm-project/vllm#17569, #39046, #48173), and the benchmark's own change says that it needs expert parallelism
#: (SemiAnalysisAI/InferenceX#869).
MISNAMED = {("vllm", "MiniMax-M2.5", (Pool(tp=8),))}


@pytest.mark.parametrize("name", preset_names())
def test_no_preset_is_refused_by_its_server(name: str) -> None:
    asked = Scenario.load(preset_path(name), ["routing.tokens=256"])
    assert [finding.message for finding in check(asked) if finding.source and finding.level == "error"] == []


@pytest.mark.parametrize("table", TABLES)
def test_no_run_that_was_measured_is_refused_by_its_server(table: str) -> None:
    if not (MEASURED / table).exists():
        pytest.skip("the measurements are not here")
    runs: dict[object, Point] = {}
    for point in read_points(MEASURED / table, Named()):
        if not point.reason and (point.stack, point.model, point.pools) not in MISNAMED:
            runs.setdefault((point.stack, point.model, point.device, point.pools, tuple(point.dtypes.items())), point)
    refused = []
    for point in runs.values():
        try:
            asked = point_scenario(replace(point, concurrency=1, requests=1))
            hardware = scenario_hardware(asked.hardware, Parallelism.of(asked.parallelism).devices)
        except MoesimError:
            continue  # a model or device that moesim does not know
        found = findings_of_server(asked, scenario_model(asked.model), hardware, customised(asked.stack), None)
        refused += [(point.id, finding.message) for finding in found if finding.effect == "refuses"]
    assert len(runs) > 15
    assert refused == []


def split(**more: object) -> Scenario:
    """Experts 768 wide in blocks of 128, on four devices."""
    base = {
        "model": {"name": "qwen3-30b-a3b", "weights": "fp8_block"},
        "hardware": {"device": "h100-sxm"},
        "parallelism": {"tp": 4},
        "stack": {"name": "sglang"},
        "requests": {"concurrency": 2, "count": 4, "lengths": {"input": 32, "output": 4}},
        "routing": {"tokens": 256},
    }
    return Scenario.from_mapping(base | more)


def refused(asked: Scenario) -> list[Finding]:
    return [finding for finding in check(asked) if finding.level == "error"]


def test_what_a_server_refuses_is_an_error_of_check_and_the_first_warning_of_every_answer() -> None:
    asked = split()
    (finding,) = refused(asked)
    assert finding.source
    assert finding.message.startswith("SGLang refuses this: routed experts in fp8_block: 768/4 = 192 wide on each rank")
    for answer in (simulate(asked), estimate(asked), explain(asked), timeline(asked)):
        assert answer.warnings[0] == finding.message
        assert refusals(answer.warnings) == (finding.message,)
    mended = asked.override("parallelism.ep=4")
    assert refused(mended) == []
    assert refusals(estimate(mended).warnings) == ()


def test_each_pool_of_a_disaggregated_deployment_is_judged_by_what_it_runs() -> None:
    pools = split(parallelism={"tp": 4, "ep": 4}, disaggregation={"enabled": True, "prefill": {"tp": 4}})
    (finding,) = refused(pools)
    assert (finding.where, "768/4 = 192" in finding.message) == ("disaggregation.prefill", True)
    assert refusals(simulate(pools).warnings) == (finding.message,)
    assert refused(pools.override("disaggregation.prefill.ep=4")) == []


def test_the_load_counts_per_rank_and_with_drafted_tokens() -> None:
    def beyond(*overrides: str) -> list[str]:
        asked = split(parallelism={"tp": 2}, stack={"name": "sglang", "max_running": 2048})
        found = check(asked.override("requests.concurrency=600", "requests.count=600", *overrides))
        return [f.message for f in found if f.source and "CUDA graph" in f.message]

    assert ["up to 600 decoded tokens" in message for message in beyond()] == [True]
    assert (
        beyond("parallelism.instances=2") == beyond("stack.max_running=512") == beyond("requests.concurrency=512") == []
    )
    drafted = ("requests.concurrency=400", "speculation.draft_tokens=1", "speculation.acceptance=[0.7]")
    assert ["up to 800 decoded tokens" in message for message in beyond(*drafted)] == [True]


def test_an_engine_of_ones_own_refuses_nothing(tmp_path: Path) -> None:
    shipped = Path(simulator.__file__).parent / "stacks" / "sglang.toml"
    own = shipped.read_text(encoding="utf-8").split("\n[[conditions]]")[0].replace('id = "sglang"', 'id = "own"')
    (tmp_path / "own.toml").write_text(own, encoding="utf-8")
    assert [f for f in check(split(stack={"name": str(tmp_path / "own.toml")})) if f.source] == []


@pytest.mark.parametrize(("stack", "device"), [("vllm", "h100-sxm"), ("sglang", "h200-sxm"), ("vllm", "a100-sxm")])
def test_nvfp4_weights_are_widened_where_the_stack_does_so(stack: str, device: str) -> None:
    model, hardware = {"name": "qwen3-30b-a3b", "weights": "nvfp4"}, {"device": device}
    asked = split(model=model, hardware=hardware, stack={"name": stack})
    assert refused(asked) == []
    answer, plain = estimate(asked), estimate(asked.override("model.weights=int4"))
    assert any("priced as int4 weights of the same size" in warning for warning in answer.warnings)
    assert answer.summary == plain.summary
    assert answer.provenance["fingerprint"] != plain.provenance["fingerprint"]


def test_nvfp4_weights_are_not_priced_where_nothing_widens_them() -> None:
    model = {"name": "qwen3-30b-a3b", "weights": "nvfp4"}
    for stack, device in (("trtllm", "h100-sxm"), ("vllm", "ascend-910b")):
        asked = split(model=model, hardware={"device": device}, stack={"name": stack})
        assert any("needs fp4 arithmetic" in finding.message for finding in refused(asked))
    native = split(model=model, hardware={"device": "b200-sxm"}, stack={"name": "vllm"})
    assert not [warning for warning in estimate(native).warnings if "priced as int4" in warning]


def test_a_server_that_refuses_is_named_above_the_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "asked.toml"
    path.write_text(split().to_toml(), encoding="utf-8")
    for command in ("estimate", "explain", "timeline", "simulate"):
        app([command, str(path)], standalone_mode=False)
        printed = " ".join(capsys.readouterr().out.split())
        assert printed.startswith("warning: SGLang refuses this")
        assert printed.index("what follows is what it would give") < 400
        assert printed.count("SGLang refuses this") == 1
