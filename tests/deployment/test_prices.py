"""The store keeps what was made under a key, not too much of it, and makes it once for all threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from hardware_profiles.files import contents, noted, stamp, unchanged
from simulator.deployment.prices import Prices, digest


def test_a_value_is_made_once_per_key_and_shelf() -> None:
    prices, made = Prices(), []
    for key in ("a", "b", "a"):
        assert prices.kept("deployment", key, lambda key=key: made.append(key) or f"made {key}") == f"made {key}"
    assert made == ["a", "b"]
    assert prices.kept("routing", "a", lambda: "other") == "other"


def test_the_value_asked_for_longest_ago_goes_first() -> None:
    prices = Prices({"deployment": 2})
    for key in ("a", "b", "a", "c"):
        prices.kept("deployment", key, lambda: "old")
    assert [prices.kept("deployment", key, lambda: "new") for key in ("a", "c", "b")] == ["old", "old", "new"]


def test_what_could_not_be_made_is_tried_again() -> None:
    prices = Prices()
    with pytest.raises(ZeroDivisionError):
        prices.kept("stack", "a", lambda: 1 / 0)
    assert prices.kept("stack", "a", lambda: 1.0) == 1.0
    prices.clear()
    assert prices.kept("stack", "a", lambda: 2.0) == 2.0


def test_threads_that_ask_at_once_get_one_value() -> None:
    prices, made, barrier = Prices(), [], threading.Barrier(8)
    begun = threading.Event()

    def make() -> object:
        begun.wait(5.0)
        made.append(1)
        return object()

    found: list[object] = []

    def ask() -> None:
        barrier.wait(5.0)
        begun.set()
        found.append(prices.kept("deployment", "a", make))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(map(id, found))) == 1


def test_what_was_read_is_read_anew_when_a_file_changes_appears_or_goes(tmp_path: Path) -> None:
    prices, path = Prices(), tmp_path / "a.txt"

    def read() -> str:
        stamp(path)
        return path.read_text() if path.is_file() else "nothing"

    found = [prices.loaded("stack", "a", read)]
    for text in ("one", "two"):
        path.write_text(text)
        found.append(prices.loaded("stack", "a", read))
    path.unlink()
    found.append(prices.loaded("stack", "a", read))
    assert found == ["nothing", "one", "two", "nothing"]


def test_what_rests_on_something_that_was_read_before_rests_on_its_files_too(tmp_path: Path) -> None:
    prices, path = Prices(), tmp_path / "a.txt"
    path.write_text("one")

    def inner() -> str:
        stamp(path)
        return path.read_text()

    def outer() -> str:
        return prices.loaded("stack", "inner", inner) + "!"

    prices.loaded("stack", "inner", inner)
    assert prices.loaded("model", "outer", outer) == "one!"
    path.write_text("two")
    assert prices.loaded("model", "outer", outer) == "two!"


def test_notes_of_an_inner_block_count_for_the_outer_one(tmp_path: Path) -> None:
    with noted() as outer:
        stamp(tmp_path / "a")
        with noted() as inner:
            stamp(tmp_path / "b")
    assert list(inner) == [str(tmp_path / "b")]
    assert sorted(outer) == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert unchanged(outer.values())
    (tmp_path / "b").write_text("now it is")
    assert not unchanged(outer.values())


def test_the_contents_of_a_file_have_one_name_and_those_of_none_an_empty_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("same")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != ""
    (tmp_path / "b").write_text("other")
    assert contents(tmp_path / "a") != contents(tmp_path / "b")
    assert contents(tmp_path / "c") == contents(tmp_path) == ""


@dataclass(frozen=True)
class Left:
    size: int


@dataclass(frozen=True)
class Right:
    size: int


def test_a_digest_tells_all_values_apart_and_no_equal_ones() -> None:
    values = (Left(1), Right(1), Left(2), {"a": 1}, {"a": 2}, {"b": 1}, ("x", "y"), frozenset({"x"}), None, 1, 1.5, "1")
    assert len({digest(value) for value in values}) == len(values)
    assert digest(frozenset({"x", "y", "z"})) == digest(frozenset({"z", "y", "x"}))
    assert digest(Left(1), {"a": (1, 2)}) == digest(Left(1), {"a": [1, 2]})
    with pytest.raises(TypeError, match="no digest"):
        digest(object())
