"""What was served is not refused: presets, and the runs that others measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator import Scenario, check
from simulator.deployment.inputs import scenario_hardware, scenario_model
from simulator.deployment.servers import findings_of_server
from simulator.errors import MoesimError
from simulator.parallelism import Parallelism
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
