"""A run's result is kept, whatever becomes of the folder that it should go to."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import OutputError


@pytest.fixture
def full(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the folder ``full`` take nothing more, and temporary folders be of this test."""
    (tmp_path / "full").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    def save(result: object, folder: Path) -> Path:
        if folder.is_relative_to(tmp_path / "full"):
            raise OutputError(f"{folder}: cannot be written: No space left on device")
        folder.mkdir()
        return folder

    api.save = save
    return tmp_path / "full"


def test_a_result_that_finds_no_room_goes_elsewhere_and_the_message_says_where(
    full: Path, moesim: Any, scenario_file: Path
) -> None:
    answer = moesim("simulate", scenario_file, "--out", full / "run")
    assert answer.exit_code == 2
    assert "1,230 output" in answer.stdout, "the text is printed, whatever happens"
    assert "No space left on device; the result is in " in answer.stderr
    assert Path(answer.stderr.rpartition(" in ")[2].strip()).is_dir()


def test_json_stays_one_document_where_the_folder_fails(full: Path, moesim: Any, scenario_file: Path) -> None:
    answer = moesim("simulate", scenario_file, "--out", full / "run", "--json")
    assert answer.exit_code == 2
    assert "summary" in json.loads(answer.stdout)


def test_where_no_place_is_left_the_text_is_printed_and_the_message_says_so(
    api: Any, moesim: Any, scenario_file: Path, tmp_path: Path
) -> None:
    def save(result: object, folder: Path) -> Path:
        raise OutputError(f"{folder}: cannot be written: No space left on device")

    api.save = save
    answer = moesim("simulate", scenario_file, "--out", tmp_path / "run")
    assert answer.exit_code == 2
    assert "1,230 output" in answer.stdout
    assert "only the text is left" in answer.stderr
    assert len(answer.stderr) < 500


@pytest.mark.parametrize(
    "command",
    [
        ("timeline", "FILE", "--out"),
        ("place", "FILE", "--out"),
        ("regress", "--junit"),
        ("regress", "--markdown"),
        ("regress", "--update", "--baseline"),
        ("routing", "generate", "--kind", "zipf", "--layers", "1", "--experts", "4", "--top-k", "1", "--out"),
        ("routing", "convert", "sample:mixtral", ""),
        ("routing", "fit", "sample:mixtral", "--out"),
        ("routing", "stats", "sample:mixtral", "--picture"),
        ("validate", "kernels", "--device", "h100-sxm", "--measurements", "nowhere", "--predictions"),
    ],
)
def test_every_command_refuses_a_pipe_before_it_works(
    moesim: Any, scenario_file: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    import os

    suffix = {"place": ".svg", "generate": ".npz", "convert": ".npz", "fit": ".toml"}
    pipe = tmp_path / f"pipe{next((suffix[word] for word in command if word in suffix), '.json')}"
    os.mkfifo(pipe)
    words = [scenario_file if word == "FILE" else word for word in command if word]
    answer = moesim(*words, pipe)
    assert answer.exit_code == 2
    assert "it is a pipe or a device, not a file" in answer.stderr
    assert pipe.is_fifo()
