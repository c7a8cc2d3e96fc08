"""``moesim cache`` shows what is kept on disk, says why nothing is, and clears it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.deployment.disk import DiskStore


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskStore:
    """A folder that holds two routings."""
    monkeypatch.setenv("MOESIM_CACHE_DIR", str(tmp_path / "kept"))
    store = DiskStore(folder=tmp_path / "kept", most_bytes=10**6)
    for key in ("0" * 16, "1" * 16):
        store.save("routing", key, {"a": np.zeros(1000)})
    return store


def test_it_shows_folder_size_bound_and_kinds(moesim: Any, kept: DiskStore) -> None:
    answer = moesim("cache")
    assert answer.exit_code == 0
    assert str(kept.folder) in answer.stdout.replace("\n", "")
    assert "of at most 1 GB" in answer.stdout
    assert "routing      2" in answer.stdout
    document = json.loads(moesim("cache", "--json").stdout)
    size = sum(entry.bytes for entry in kept.entries())
    assert document == {
        "folder": str(kept.folder),
        "most_bytes": 10**9,
        "bytes": size,
        "kinds": [{"kind": "routing", "files": 2, "bytes": size}],
        "fault": None,
    }


def test_clearing_leaves_nothing(moesim: Any, kept: DiskStore) -> None:
    assert json.loads(moesim("cache", "clear", "--json").stdout)["removed"] == 2
    assert kept.entries() == []
    answer = moesim("cache", "clear")
    assert answer.exit_code == 0
    assert "0 (0 B)" in answer.stdout


def test_it_says_that_it_is_off(moesim: Any) -> None:
    for words in (("cache",), ("cache", "clear")):
        answer = moesim(*words)
        assert answer.exit_code == 0
        assert "MOESIM_CACHE_DIR" in answer.stdout
        assert json.loads(moesim(*words, "--json").stdout)["folder"] is None


def test_it_says_why_nothing_is_kept(moesim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOESIM_CACHE_DIR", str(tmp_path / "file"))
    assert "cannot be written: File exists" in moesim("cache").stdout
    assert moesim("cache", "clear").exit_code == 0


def test_a_bound_that_is_no_size_is_named(moesim: Any, kept: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESIM_CACHE_SIZE", "a lot")
    answer = moesim("cache")
    assert answer.exit_code == 2
    assert "MOESIM_CACHE_SIZE: 'a lot'" in answer.stderr
