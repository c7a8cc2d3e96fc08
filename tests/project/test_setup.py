"""The Makefile sets itself up, and says clearly when it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in ``folder`` as a user would, not as a child of the make that runs the tests."""
    clean = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean, check=False, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder with what set-up reads and no environment."""
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_python_that_is_not_there_is_named(fresh: Path) -> None:
    run = make(fresh, "setup", "PYTHON=python-that-is-not-there")
    assert run.returncode != 0
    assert "needs Python 3.11 or newer; 'python-that-is-not-there' was not found" in run.stderr
    assert not (fresh / ".venv").exists()


def test_an_old_python_is_refused_with_its_version(fresh: Path) -> None:
    old = script(fresh / "old", '[ "$1" = -V ] && echo "Python 3.9.2" && exit 0\nexit 1')
    run = make(fresh, "setup", f"PYTHON={old}")
    assert run.returncode != 0
    assert f"needs Python 3.11 or newer; '{old}' is Python 3.9.2" in run.stderr
    assert not (fresh / ".venv").exists()


def test_a_python_without_venv_is_told_what_to_install(fresh: Path) -> None:
    bare = script(fresh / "bare", 'case "$2" in *ensurepip*) exit 1;; esac')
    run = make(fresh, "setup", f"PYTHON={bare}")
    assert run.returncode != 0
    assert "has no venv module; on Debian: apt-get install python3-venv" in run.stderr


@pytest.mark.parametrize("target", ["demo", "test", "bench", "bench-peers", "docs"])
def test_every_target_sets_up_first_and_not_again(fresh: Path, target: str) -> None:
    assert "Setting up .venv" in make(fresh, "--dry-run", target).stdout
    (fresh / ".venv").mkdir()
    (fresh / ".venv" / ".synced").touch()
    assert "Setting up .venv" not in make(fresh, "--dry-run", target).stdout


def test_a_newer_lock_file_sets_up_again(fresh: Path) -> None:
    (fresh / ".venv").mkdir()
    (fresh / ".venv" / ".synced").touch()
    later = (fresh / ".venv" / ".synced").stat().st_mtime + 10
    os.utime(fresh / "uv.lock", (later, later))
    assert "Setting up .venv" in make(fresh, "--dry-run", "test").stdout


def test_make_test_runs_lint_types_layers_and_tests(fresh: Path) -> None:
    commands = make(fresh, "--dry-run", "test").stdout
    for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert f".venv/bin/{tool}" in commands


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        text = (ROOT / document).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^)make ([a-z]+)\b", text, re.MULTILINE))
        assert named
        assert named <= targets, document


def test_the_ci_script_is_an_executable_that_bash_accepts() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
