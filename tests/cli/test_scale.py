"""``moesim scale``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SCENARIO = """
name = "small"
[model]
name = "deepseek-v2-lite"
[hardware]
device = "ascend-910c-die"
[parallelism]
tp = 2
dp = 1
ep = 2
[stack]
name = "vllm"
max_running = 16
[requests]
kind = "poisson"
rate = 4
count = 60
[requests.lengths]
input = 100
output = 40
[routing]
kind = "uniform"
tokens = 256
[slo]
ttft = "1 s"
[elastic]
mechanism = "elastic"
events = [{ at = "5 s", size = 2 }]
"""


@pytest.fixture
def scaling_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def test_one_mechanism_is_told_in_phases(moesim: Any, scaling_file: Path) -> None:
    done = moesim("scale", str(scaling_file))
    assert done.exit_code == 0
    assert "1 to 2" in done.stdout
    assert "move weights" in done.stdout
    assert "device-hours" in done.stdout


def test_all_mechanisms_are_set_side_by_side(moesim: Any, scaling_file: Path) -> None:
    done = moesim("scale", str(scaling_file), "--compare", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)["mechanisms"]
    assert set(found) == {"cold_restart", "horizontal", "vertical_new", "colocated", "elastic", "ideal"}
    latency = {name: each["scaling"]["summary"]["latency_mean_s"] for name, each in found.items()}
    assert latency["ideal"] < latency["elastic"] < latency["cold_restart"]


def test_a_scenario_that_does_not_scale_is_answered_with_the_mechanisms(moesim: Any, scaling_file: Path) -> None:
    done = moesim("scale", str(scaling_file), "--set", "elastic.mechanism=none")
    assert done.exit_code == 2
    assert "choose one of cold_restart" in done.stderr


def test_a_size_beyond_the_cluster_ends_with_2_and_says_how_far_it_goes(moesim: Any, scaling_file: Path) -> None:
    done = moesim("scale", str(scaling_file), "--set", "elastic.max_size=1000")
    assert done.exit_code == 2
    assert "at most 384 ranks" in done.stderr


def test_a_result_has_the_frames_of_its_changes(moesim: Any, scaling_file: Path, tmp_path: Path) -> None:
    done = moesim("scale", str(scaling_file), "--out", str(tmp_path / "out"))
    assert done.exit_code == 0
    assert {path.name for path in (tmp_path / "out").glob("scaling_*.parquet")} == {
        "scaling_changes.parquet",
        "scaling_instances.parquet",
        "scaling_phases.parquet",
        "scaling_timeline.parquet",
    }
