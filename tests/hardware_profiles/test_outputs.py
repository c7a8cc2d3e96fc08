"""Files appear whole or not at all, and only where a file may stand."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardware_profiles.errors import ProfileError
from hardware_profiles.outputs import check_output_file, make_locked, remove_debris, replacing, write_file


def debris(folder: Path) -> list[str]:
    return [item.name for item in folder.rglob("*") if item.name.startswith(".")]


def test_a_written_file_holds_what_was_given_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    target = write_file(tmp_path / "new" / "folder" / "trace.json", "µs", ProfileError)
    assert target.read_bytes() == "µs".encode()
    assert [item.name for item in tmp_path.rglob("*")] == ["new", "folder", "trace.json"]


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"old", ProfileError)
    (tmp_path / "a").chmod(0o660)
    write_file(tmp_path / "a", b"new", ProfileError)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o660


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_file(tmp_path / "link", "x", ProfileError)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x"


@pytest.fixture(params=["pipe", "socket", "device", "folder", "read-only", "loop", "below a file", "NUL", "too long"])
def no_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "out.json"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
                yield str(path)
            return
        case "device":
            path = Path("/dev/null")
        case "folder":
            path.mkdir()
        case "read-only":
            path.write_text("mine")
            path.chmod(0o444)
        case "loop":
            path.symlink_to(path)
        case "below a file":
            path.write_text("mine")
            path = path / "deep" / "out.json"
        case "NUL":
            yield f"{path}\0"
            return
        case "too long":
            path = tmp_path / ("x" * 300)
    yield str(path)


def test_what_is_no_regular_file_is_refused_and_left_as_it_is(no_place: str, tmp_path: Path) -> None:
    before = sorted((item.name, item.lstat().st_mode) for item in tmp_path.iterdir())
    for attempt in (lambda: check_output_file(no_place, ProfileError), lambda: write_file(no_place, "x", ProfileError)):
        with pytest.raises(ProfileError, match="cannot be written") as caught:
            attempt()
        assert len(str(caught.value)) < 500
    assert sorted((item.name, item.lstat().st_mode) for item in tmp_path.iterdir()) == before
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_long_name_that_is_allowed_can_be_written(tmp_path: Path) -> None:
    name = "x" * 250 + ".json"
    write_file(tmp_path / name, "x", ProfileError)
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_file_that_cannot_be_renamed_over_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(self: Path, target: Path) -> Path:
        raise OSError(16, "Device or resource busy")

    (tmp_path / "mounted").write_text("old")
    inode = (tmp_path / "mounted").stat().st_ino
    monkeypatch.setattr(Path, "replace", busy)
    write_file(tmp_path / "mounted", "new", ProfileError)
    assert (tmp_path / "mounted").read_text() == "new"
    assert (tmp_path / "mounted").stat().st_ino == inode
    assert debris(tmp_path) == []


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_file(tmp_path / "a.npz", "old", ProfileError)

    def fail_half_way() -> None:
        with replacing(tmp_path / "a.npz", ProfileError) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert (tmp_path / "a.npz").read_text() == "old"
    assert debris(tmp_path) == []


def test_the_temporary_file_has_the_extension_that_writers_look_at(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.npz", ProfileError) as temporary:
        assert temporary.suffix == ".npz"


def test_what_a_killed_run_left_goes_with_the_next_for_the_same_target(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from hardware_profiles.errors import ProfileError\n"
        "from hardware_profiles.outputs import replacing\n"
        "with replacing(sys.argv[1], ProfileError) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for name in ("a.svg", "b.svg"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    assert len(debris(tmp_path)) == 2
    write_file(tmp_path / "a.svg", "whole", ProfileError)
    (left,) = debris(tmp_path)
    assert left.startswith(".b.svg.")


def test_what_a_live_run_prepares_stays(tmp_path: Path) -> None:
    staging, lock = make_locked(tmp_path, "a", Path.touch)
    remove_debris(tmp_path, "a")
    assert staging.exists()
    os.close(lock)
    remove_debris(tmp_path, "a")
    assert not staging.exists()


def test_a_hidden_file_of_another_name_is_nobodys_debris(tmp_path: Path) -> None:
    for name in (".a.partial", ".a.0123456z.partial", ".ab.01234567.partial", ".a.01234567.partial.d.e"):
        (tmp_path / name).touch()
    write_file(tmp_path / "a", "x", ProfileError)
    assert len(debris(tmp_path)) == 4
