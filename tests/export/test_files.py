"""Files and folders appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import OutputError
from simulator.export.files import (
    MANIFEST_FORMAT,
    MANIFEST_NAME,
    check_output_folder,
    encode_json,
    output_folder,
    plain,
    write_atomically,
)


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)


def write_result(folder: Path, text: str) -> None:
    with output_folder(folder) as place:
        (place / "summary.json").write_text(text)
        manifest = {"format": MANIFEST_FORMAT, "files": {"summary.json": {}}}
        (place / MANIFEST_NAME).write_text(json.dumps(manifest))


def test_a_written_file_holds_what_was_given_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    target = write_atomically(tmp_path / "new" / "folder" / "trace.json", "µs")
    assert target.read_bytes() == "µs".encode()
    assert [item.name for item in tmp_path.rglob("*")] == ["new", "folder", "trace.json"]


def test_a_file_is_replaced_by_a_later_write(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"old")
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_file_below_a_file_is_refused_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match=r"^cannot write .*taken/trace\.json: Not a directory"):
        write_atomically(tmp_path / "taken" / "trace.json", b"")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_is_not_overwritten_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"):
        write_atomically(tmp_path, b"")


def test_nothing_appears_before_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result"
    with output_folder(target) as place:
        (place / "summary.json").write_text("{}")
        assert not target.parent.exists()
    assert (target / "summary.json").read_text() == "{}"
    assert [item.name for item in tmp_path.iterdir()] == ["deep"]


def test_a_block_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with output_folder(tmp_path / "deep" / "result") as place:
            (place / "summary.json").write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_leaves_the_earlier_result_as_it_was(tmp_path: Path) -> None:
    write_result(tmp_path / "result", "first")

    def fail_half_way() -> None:
        with output_folder(tmp_path / "result") as place:
            (place / "summary.json").write_text("second")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert (tmp_path / "result" / "summary.json").read_text() == "first"


def test_an_earlier_result_is_replaced(tmp_path: Path) -> None:
    write_result(tmp_path / "result", "first")
    write_result(tmp_path / "result", "second")
    assert (tmp_path / "result" / "summary.json").read_text() == "second"
    assert [item.name for item in tmp_path.iterdir()] == ["result"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    write_result(tmp_path / "result", "first")
    assert (tmp_path / "result" / "summary.json").read_text() == "first"


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"it holds thesis\.tex, which no earlier run wrote"):
        check_output_folder(tmp_path)
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        write_result(tmp_path, "first")
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_earlier_result_with_notes_added_is_refused(tmp_path: Path) -> None:
    write_result(tmp_path / "result", "first")
    (tmp_path / "result" / "notes.md").write_text("what I learnt")
    with pytest.raises(OutputError, match=r"notes\.md"):
        write_result(tmp_path / "result", "second")
    assert (tmp_path / "result" / "notes.md").exists()


@pytest.mark.parametrize("manifest", ['{"format": "other", "files": {"summary.json": {}}}', "[]", "{"])
def test_a_manifest_of_another_program_gives_no_right_to_replace(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "summary.json").write_text("theirs")
    (tmp_path / MANIFEST_NAME).write_text(manifest)
    with pytest.raises(OutputError, match=r"manifest\.json, summary\.json"):
        check_output_folder(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result").write_text("mine")
    with pytest.raises(OutputError, match="a file of that name is there"):
        check_output_folder(tmp_path / "result")


def test_a_place_where_nothing_can_be_made_is_refused_before_the_work() -> None:
    with pytest.raises(OutputError, match=r"^cannot write /proc/moesim/result"):
        check_output_folder("/proc/moesim/result")


def test_checking_a_folder_leaves_no_mark(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "new" / "result")
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_numbers_that_json_cannot_hold() -> None:
    document = {"rate": float("inf"), "steps": np.int64(3), "lens": np.array([1.5, np.nan]), "pair": (1, True)}
    assert json.loads(encode_json(document)) == {"rate": None, "steps": 3, "lens": [1.5, None], "pair": [1, True]}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), nested, max_leaves=20))
def test_json_comes_back_as_it_went_with_null_for_what_is_not_finite(value: object) -> None:
    assert json.loads(encode_json({"value": value}, indent=None)) == {"value": plain(value)}
