"""The folder of a result appears whole, and nothing but an earlier result goes for it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import OutputError
from simulator.export import folders
from simulator.export.folders import MANIFEST_FORMAT, MANIFEST_NAME, check_output_folder, output_folder


def write_result(folder: Path | str, text: str, extra: tuple[str, ...] = ()) -> Path:
    with output_folder(folder) as (place, target):
        for name in ("summary.json", *extra):
            (place / name).write_text(text)
        entry = {"bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        manifest = {"format": MANIFEST_FORMAT, "files": dict.fromkeys(("summary.json", *extra), entry)}
        (place / MANIFEST_NAME).write_text(json.dumps(manifest))
    return target


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_nothing_appears_before_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result"
    with output_folder(target) as (place, _):
        (place / "summary.json").write_text("{}")
        assert not target.parent.exists()
    assert (target / "summary.json").read_text() == "{}"
    assert names(tmp_path) == ["deep"]


@pytest.mark.parametrize("there", [True, False])
def test_a_block_that_fails_leaves_things_as_they_were(tmp_path: Path, there: bool) -> None:
    if there:
        write_result(tmp_path / "result", "first")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))

    def fail_half_way() -> None:
        with output_folder(tmp_path / "result") as (place, _):
            (place / "summary.json").write_text("second")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_an_earlier_result_is_replaced_with_no_file_left_over(tmp_path: Path) -> None:
    write_result(tmp_path / "result", "first", ("trace.json",))
    write_result(tmp_path / "result", "second")
    assert (tmp_path / "result" / "summary.json").read_text() == "second"
    assert names(tmp_path / "result") == [MANIFEST_NAME, "summary.json"]
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("earlier", [True, False])
def test_a_folder_that_exists_is_kept_with_its_permissions(tmp_path: Path, earlier: bool) -> None:
    folder = tmp_path / "result"
    folder.mkdir()
    if earlier:
        write_result(folder, "first")
    folder.chmod(0o2775)
    inode = folder.stat().st_ino
    check_output_folder(folder)
    write_result(folder, "second")
    assert (folder.stat().st_ino, stat.S_IMODE(folder.stat().st_mode)) == (inode, 0o2775)


def test_the_working_folder_can_be_filled_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    for way in (".", "../in", str(tmp_path / "in")):
        assert write_result(way, way) == tmp_path / "in"
        assert (Path.cwd() / "summary.json").read_text() == way


def test_a_relative_path_is_settled_before_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = check_output_folder("result")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert write_result(target, "x") == tmp_path / "result"


def test_links_to_folders_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for text in ("first", "second"):
        assert write_result(tmp_path / "link", text) == tmp_path / "real"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "summary.json").read_text() == "second"


def test_a_read_only_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir(mode=0o555)
    with pytest.raises(OutputError, match="the folder is read-only"):
        check_output_folder(tmp_path / "result")


def test_a_result_that_has_no_room_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="takes at least 1,000,000,000,000 MB"):
        check_output_folder(tmp_path / "result", least=1e18)


@pytest.mark.parametrize("path", ["/proc/moesim/result", "a\0b", "x" * 300])
def test_a_place_where_nothing_can_be_made_is_refused_before_the_work(path: str) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        check_output_folder(path)


def test_a_loop_of_links_and_a_file_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("mine")
    for name in ("loop", "file", "file/deep"):
        with pytest.raises(OutputError, match="cannot be written"):
            check_output_folder(tmp_path / name)


def test_checking_a_folder_leaves_no_mark(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "new" / "result")
    assert names(tmp_path) == []


def changed(folder: Path) -> None:
    (folder / "summary.json").write_text("FIRST")


def listed(folder: Path) -> None:
    precious = folder / "precious.txt"
    precious.write_text("years of work")
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    data = precious.read_bytes()
    manifest["files"]["precious.txt"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def nested(folder: Path) -> None:
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()
    (folder / "summary.json" / "thesis.tex").write_text("years of work")


def linked(folder: Path) -> None:
    (folder / "summary.json").rename(folder.parent / "elsewhere.json")
    (folder / "summary.json").symlink_to(folder.parent / "elsewhere.json")


def manifest_of(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / MANIFEST_NAME).write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "notes.md").write_text("what I learnt"),
        lambda folder: (folder / "trace.json").write_text("of another tool"),
        lambda folder: (folder / MANIFEST_NAME).unlink(),
        changed,
        listed,
        nested,
        linked,
        manifest_of("{"),
        manifest_of("[]"),
        manifest_of("[" * 100_000),
        manifest_of('{"format": "other", "files": {"summary.json": {}}}'),
        manifest_of('{"format": "moesim-result", "files": 5}'),
        manifest_of('{"format": "moesim-result", "files": {"summary.json": 5}}'),
        manifest_of('{"format": "moesim-result", "files": {"summary.json": {"bytes": 5, "sha256": [1]}}}'),
    ],
)
def test_a_folder_that_is_not_to_the_byte_an_earlier_result_is_left_alone(tmp_path: Path, change: Any) -> None:
    folder = tmp_path / "result"
    write_result(folder, "first")
    change(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for attempt in (check_output_folder, lambda path: write_result(path, "second")):
        with pytest.raises(OutputError, match="will not be replaced: it holds"):
            attempt(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_folders import write_result
for round in range(int(sys.argv[2])):
    write_result(sys.argv[1], f"writer {sys.argv[4]} {round}")
"""


def writer(folder: Path, rounds: int, number: int) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", WRITER, str(folder), str(rounds), here, str(number)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("there", [True, False])
def test_writers_at_the_same_time_lose_nothing_and_leave_one_whole_result(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "result"
    if there:
        folder.mkdir()
    for each in [writer(folder, 20, number) for number in range(4)]:
        _, said = each.communicate()
        assert (each.returncode, said) == (0, "")
    check_output_folder(folder)
    assert names(folder) == [MANIFEST_NAME, "summary.json"]
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("moves", range(6))
@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, OSError])
def test_a_run_that_stops_while_files_are_moved_does_not_bar_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int, stopped_by: type[BaseException]
) -> None:
    folder, left, move = tmp_path / "result", moves, folders._move
    write_result(folder, "first", ("trace.json",))

    def stop(source: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise stopped_by(5, "Input/output error")
        move(source, target)

    monkeypatch.setattr(folders, "_move", stop)
    with pytest.raises(KeyboardInterrupt if stopped_by is KeyboardInterrupt else OutputError):
        write_result(folder, "second", ("scenario.toml",))
    if stopped_by is KeyboardInterrupt:
        assert (folder / "summary.json").read_text() == "second", "half of it is nothing that anybody wants"
    monkeypatch.undo()
    check_output_folder(folder)
    write_result(folder, "third")
    assert names(folder) == [MANIFEST_NAME, "summary.json"]
    assert (folder / "summary.json").read_text() == "third"


def test_an_interrupt_after_the_last_move_leaves_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, exchange = tmp_path / "result", folders._exchange
    write_result(folder, "first")

    def interrupted(*given: Any) -> None:
        monkeypatch.setattr(folders, "_exchange", exchange)
        exchange(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "_exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_result(folder, "second")
    check_output_folder(folder)
    assert (folder / "summary.json").read_text() == "second"
    assert names(folder) == [MANIFEST_NAME, "summary.json"]


@pytest.mark.parametrize("there", [True, False])
def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "result"
    if there:
        write_result(folder, "first")
    code = (
        "import os, signal, sys\n"
        "from simulator.export.folders import output_folder\n"
        "with output_folder(sys.argv[1]) as (place, _):\n"
        "    (place / 'summary.json').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert any(tmp_path.rglob(".*"))
    check_output_folder(folder)
    write_result(folder, "second")
    assert (names(tmp_path), names(folder)) == (["result"], [MANIFEST_NAME, "summary.json"])


def test_a_folder_that_another_run_holds_for_too_long_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(folders, "_PATIENCE", 0.05)
    (tmp_path / "result").mkdir()
    held = os.open(tmp_path / "result", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="another run writes there"):
        check_output_folder(tmp_path / "result")
    os.close(held)
