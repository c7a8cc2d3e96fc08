"""The output folder of a run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from simulator.errors import OutputError
from simulator.export.bundle import Manifest, library_versions, write_bundle
from simulator.results.columns import Columns

FRAME = pd.DataFrame({"request_id": [0, 1], "ttft_s": [0.5, float("nan")]})


def write(path: Path, seed: int = 7, documents: dict[str, bytes] | None = None) -> Path:
    return write_bundle(
        path,
        frames={"requests": Columns(FRAME)},
        summary={"goodput_rps": float("nan"), "engine_steps": 3},
        scenario_toml='model = "µ"\n',
        manifest=Manifest(scenario_hash="abc", seed=seed, versions=library_versions()),
        documents=documents,
    )


def test_frames_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = write(tmp_path / "result")
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "requests.parquet"), FRAME)


def test_the_folder_repeats_its_own_run_and_says_where_it_came_from(tmp_path: Path) -> None:
    folder = write(tmp_path / "result")
    assert (folder / "scenario.toml").read_text(encoding="utf-8") == 'model = "µ"\n'
    assert json.loads((folder / "summary.json").read_text()) == {"goodput_rps": None, "engine_steps": 3}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["scenario_hash"], manifest["seed"]) == ("moesim-result", "abc", 7)
    assert {"python", "moesim", "numpy"} <= set(manifest["versions"])


def test_the_manifest_names_every_other_file_with_its_digest_and_rows(tmp_path: Path) -> None:
    folder = write(tmp_path / "result", documents={"trace.json": b"{}"})
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {*files, "manifest.json"} == {item.name for item in folder.iterdir()}
    assert files["requests.parquet"]["rows"] == 2
    for name, entry in files.items():
        data = (folder / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "first"), write(tmp_path / "second")
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_a_later_run_takes_the_place_of_an_earlier_one_with_no_file_left_over(tmp_path: Path) -> None:
    write(tmp_path / "result", documents={"trace.json": b"{}"})
    folder = write(tmp_path / "result", seed=8)
    assert not (folder / "trace.json").exists()
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 8


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write(tmp_path / "result", documents={"no/such/folder.json": b"{}"})
    assert list(tmp_path.iterdir()) == []
