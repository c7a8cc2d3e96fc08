"""What is kept on disk changes no answer, whatever becomes of the folder, and never grows beyond its bound."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator import Scenario, estimate, simulate
from simulator.deployment import deployment, disk
from simulator.deployment.deployment import deploy
from simulator.deployment.disk import DiskStore, Entry, disk_store, kept_on_disk
from simulator.deployment.inputs import scenario_model, scenario_routing
from simulator.deployment.prices import PRICES
from simulator.errors import MoesimError, OutputError
from simulator.placement.replay import RoutingReplay
from simulator.scenario.presets import preset_path
from simulator.step import tables
from workloads.routing import generators
from workloads.routing.trace import RoutingTrace
from workloads.samples import sample_path

ARRAYS = {
    "ids": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "wide": np.arange(40, dtype=np.float64).reshape(8, 5)[:, ::2],
    "none": np.zeros((0, 3), np.int64),
    "one": np.asarray(7),
    "name": np.asarray("generated: zipf"),
    "yes": np.asarray(True),
}
RUN = "import simulator.cli; simulator.cli.main()"
QUESTION = ["routing.tokens=64", "requests.count=8"]


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(folder=tmp_path / "kept", most_bytes=10**6)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a process that has made nothing yet."""
    monkeypatch.setenv("MOESIM_CACHE_DIR", str(tmp_path / "kept"))
    PRICES.clear()
    return tmp_path / "kept"


def same(left: Any, right: Any) -> bool:
    return all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and (left[name] == right[name]).all()
        for name in {*left, *right}
    )


def entries() -> list[Entry]:
    store = disk_store()
    assert store is not None
    return store.entries()


def answer() -> dict[str, Any]:
    """An answer of a process that has made nothing yet."""
    PRICES.clear()
    return estimate(Scenario.load(preset_path("mixtral-8x7b-a100"), QUESTION)).document()


def replayed(scenario: Scenario) -> RoutingReplay:
    PRICES.clear()
    found = deploy(scenario).routing
    assert found is not None
    return found


def result(scenario: Scenario) -> str:
    """All numbers of a run in a process that has made nothing yet, but for the time that it takes itself."""
    PRICES.clear()
    summary = simulate(scenario).document()["summary"]
    return repr({key: value for key, value in summary.items() if key != "wall_s"})


def routing(*overrides: str) -> RoutingTrace:
    PRICES.clear()
    scenario = Scenario.load(preset_path("mixtral-8x7b-a100"), ["routing.tokens=64", *overrides])
    found = scenario_routing(scenario.routing, scenario_model(scenario.model), scenario.seed)
    assert found is not None
    return found


def test_arrays_come_back_as_they_were(store: DiskStore) -> None:
    assert store.load("routing", "0" * 16) is None
    store.save("routing", "0" * 16, ARRAYS)
    found = store.load("routing", "0" * 16)
    assert found is not None
    assert same(found, ARRAYS)
    assert all(array.flags.aligned for array in found.values())


def test_files_are_for_the_user_alone(store: DiskStore) -> None:
    store.save("routing", "0" * 16, ARRAYS)
    [entry] = store.entries()
    assert [path.stat().st_mode & 0o077 for path in (entry.path, store.folder)] == [0, 0]


def test_objects_are_not_kept(store: DiskStore) -> None:
    with pytest.raises(TypeError, match="objects"):
        store.save("routing", "0" * 16, {"a": np.asarray([object()])})


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(share * len(data))]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": cut(0.0),
    "cut in its head": lambda data: data[:10],
    "cut in the middle": cut(0.5),
    "cut at its end": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "zeros from the middle on": lambda data: cut(0.5)(data) + bytes(len(data) - len(cut(0.5)(data))),
    "one bit": lambda data: data[:-70] + bytes([data[-70] ^ 4]) + data[-69:],
    "another format": lambda data: data.replace(b"moesim 1", b"moesim 9"),
    "text": lambda data: data[:0] + b"not what it was\n" * 99,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_removed_and_made_anew(folder: Path, damage: str) -> None:
    made = []

    def make() -> dict[str, Any]:
        made.append(1)
        return ARRAYS

    def ask() -> Any:
        return kept_on_disk("routing", "said", make)

    ask()
    [path] = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole))
    store = disk_store()
    assert store is not None
    assert store.load("routing", path.stem.removeprefix("routing-")) is None
    assert not path.exists()
    path.write_bytes(DAMAGE[damage](whole))
    assert same(ask(), ARRAYS)
    assert path.read_bytes() == whole
    assert same(ask(), ARRAYS)
    assert len(made) == 2


def test_a_file_under_the_name_of_another_is_not_taken_for_it(store: DiskStore) -> None:
    store.save("routing", "0" * 16, ARRAYS)
    [entry] = store.entries()
    entry.path.rename(store.folder / f"routing-{'1' * 16}.arrays")
    assert store.load("routing", "1" * 16) is None


def test_what_was_used_longest_ago_goes_first_and_the_bound_holds(store: DiskStore) -> None:
    keys = [f"{number:016}" for number in range(5)]
    for age, key in enumerate(keys[:4]):
        store.save("routing", key, {"a": np.zeros(30_000)})
        os.utime(store.folder / f"routing-{key}.arrays", (age, age))
    assert store.load("routing", keys[0]) is not None
    store.save("routing", keys[4], {"a": np.zeros(30_000)})
    assert sorted(entry.path.name[8:24] for entry in store.entries()) == [keys[0], *keys[2:]]
    assert sum(entry.bytes for entry in store.entries()) <= store.most_bytes


def test_many_small_files_do_not_have_the_folder_listed_for_each(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[DiskStore] = []
    entries = DiskStore.entries

    def counted(self: DiskStore) -> list[Entry]:
        listed.append(self)
        return entries(self)

    monkeypatch.setattr(DiskStore, "entries", counted)
    for index in range(200):
        store.save("routing", f"{index:016x}", {"a": np.zeros(100)})
    assert len(listed) <= 8
    assert len(entries(store)) == 200


def test_what_is_larger_than_the_bound_is_not_kept_and_drives_nothing_out(store: DiskStore) -> None:
    store.save("routing", "0" * 16, ARRAYS)
    store.save("routing", "1" * 16, {"a": np.zeros(10**6)})
    assert [entry.path.name[8:24] for entry in store.entries()] == ["0" * 16]


def test_what_a_killed_process_left_is_removed_by_another_after_a_while(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("routing", "0" * 16, ARRAYS)
    for name, age in (("old.partial", 0.0), ("new.partial", None)):
        (store.folder / name).write_bytes(b"half")
        if age is not None:
            os.utime(store.folder / name, (age, age))
    # Another process has not listed the folder yet.
    monkeypatch.setattr(disk, "_ROOM", {})
    store.save("routing", "1" * 16, ARRAYS)
    assert {path.suffix for path in store.folder.iterdir()} == {".arrays", ".partial"}
    assert not (store.folder / "old.partial").exists()


def test_clearing_removes_what_was_kept_and_nothing_else(store: DiskStore) -> None:
    store.save("routing", "0" * 16, ARRAYS)
    (store.folder / "mine.txt").write_text("a file of the user's")
    (store.folder / "x.partial").write_text("half")
    assert len(store.clear()) == 1
    assert [path.name for path in store.folder.iterdir()] == ["mine.txt"]
    (store.folder / "mine.txt").unlink()
    assert store.clear() == []
    assert not store.folder.exists()
    assert store.clear() == []


def test_clearing_says_what_it_cannot_remove(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("routing", "0" * 16, ARRAYS)

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match=r"cannot remove .*routing-0000000000000000\.arrays: Permission denied"):
        store.clear()


def refuse(code: int) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


def full_disk(kept: Path, patch: pytest.MonkeyPatch) -> None:
    def opened(handle: int, mode: str) -> Any:
        os.close(handle)
        return Path("/dev/full").open(mode)

    patch.setattr(disk.os, "fdopen", opened)


def read_only_home(kept: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Path, "mkdir", refuse(errno.EROFS))


def read_only_folder(kept: Path, patch: pytest.MonkeyPatch) -> None:
    kept.mkdir(mode=0o500)
    patch.setattr(tempfile, "mkstemp", refuse(errno.EACCES))
    patch.setattr(os, "utime", refuse(errno.EACCES))


def file_in_its_place(kept: Path, patch: pytest.MonkeyPatch) -> None:
    kept.write_text("a file of the user's")


def no_home(kept: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("MOESIM_CACHE_DIR")
    patch.setattr("platformdirs.user_cache_path", lambda _, **__: Path("~/.cache/moesim"))


def folder_that_goes(kept: Path, patch: pytest.MonkeyPatch) -> None:
    mkstemp = tempfile.mkstemp

    def gone(*args: Any, **kwargs: Any) -> Any:
        for path in kept.iterdir():
            path.unlink()
        kept.rmdir()
        return mkstemp(*args, **kwargs)

    patch.setattr(tempfile, "mkstemp", gone)


FAULTS = (full_disk, read_only_home, read_only_folder, file_in_its_place, no_home, folder_that_goes)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_answer_is_right_where_nothing_can_be_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    monkeypatch.setenv("MOESIM_CACHE_DIR", "off")
    right = answer()
    monkeypatch.setenv("MOESIM_CACHE_DIR", str(folder))
    with monkeypatch.context() as patch:
        fault(folder, patch)
        assert [answer(), answer()] == [right, right]
    assert not folder.is_dir() or not list(folder.iterdir())
    assert answer() == right


def test_an_answer_is_right_where_the_folder_can_only_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = answer()
    monkeypatch.setattr(tempfile, "mkstemp", refuse(errno.EROFS))
    monkeypatch.setattr(os, "utime", refuse(errno.EROFS))
    monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))
    monkeypatch.setattr(generators, "generate_routing", lambda *_, **__: pytest.fail("it is on the disk"))
    assert answer() == right
    monkeypatch.undo()
    monkeypatch.setenv("MOESIM_CACHE_DIR", str(folder))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))
    monkeypatch.setattr(Path, "replace", refuse(errno.EROFS))
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", refuse(errno.EROFS))
        assert answer() == right


def asked(kept: Path, limit: int | None = None) -> subprocess.Popen[str]:
    """A process of its own that answers; it may not write files that are larger than ``limit`` bytes."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-c", RUN, "estimate", "mixtral-8x7b-a100", "--json", "--set", *QUESTION],
        env={**os.environ, "MOESIM_CACHE_DIR": str(kept)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limited,
    )


def test_processes_that_start_at_once_all_answer_right(tmp_path: Path) -> None:
    kept, full = tmp_path / "kept", tmp_path / "full"
    # Two on one empty folder, one without any, and one whose system refuses to write half of a file.
    processes = [asked(kept), asked(kept), asked(Path("off")), asked(full, limit=1000)]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [error for _, error in answers] == [""] * 4
    assert len({text for text, _ in answers}) == 1
    assert sorted(path.name.split("-")[0] for path in kept.iterdir()) == ["experts", "replay", "routing"]
    assert list(full.iterdir()) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ("routing.kind=uniform",),
        ("routing.kind=sticky", "routing.skew=0.7"),
        ("routing.kind=drifting", "seed=3"),
        ("routing.capacity_factor=1.0",),
    ],
    ids=" ".join,
)
def test_generated_routing_is_the_same_from_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    made = routing(*overrides)
    monkeypatch.setattr(generators, "generate_routing", lambda *_, **__: pytest.fail("it is on the disk"))
    found = routing(*overrides)
    assert same(
        {"ids": found.expert_ids, "at": found.sequence_start}, {"ids": made.expert_ids, "at": made.sequence_start}
    )
    assert (found.num_experts, found.source, found.padded) == (made.num_experts, made.source, made.padded)
    assert [type(value) for value in (found.num_experts, found.source, found.padded)] == [int, str, bool]


def test_what_differs_in_what_it_depends_on_lies_in_another_file(folder: Path) -> None:
    for number, override in enumerate(
        ("seed=1", "seed=2", "routing.skew=0.7", "routing.tokens=65", "model.name=qwen3-30b-a3b")
    ):
        routing(override)
        assert len(list(folder.iterdir())) == number + 1


def test_recorded_and_even_routing_are_not_kept(folder: Path) -> None:
    routing("routing.kind=balanced")
    assert not folder.exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ("parallelism.ep=2", "placement.redundant_slots=2", "placement.policy=balanced"),
        ("parallelism.ep=2", "placement.redundant_slots=2", "placement.replica_routing=local"),
        ("routing.capacity_factor=1.0",),
    ],
    ids=" ".join,
)
def test_tokens_are_given_their_slots_once_for_all_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    scenario = Scenario.load(preset_path("mixtral-8x7b-a100"), [*QUESTION, "routing.tokens=300", *overrides])
    made, first = replayed(scenario), result(scenario)
    monkeypatch.setattr(deployment, "place_experts", lambda *_, **__: pytest.fail("it is on the disk"))
    found = replayed(scenario)
    parts = ("slot_ids", "decode_order", "turn")
    assert same({part: getattr(found, part) for part in parts}, {part: getattr(made, part) for part in parts})
    assert (found.placement.slot_expert == made.placement.slot_expert).all()
    assert (found.mean_load, found.whole, found.alike) == (made.mean_load, made.whole, made.alike)
    assert (found.placement.ranks, found.placement.num_experts) == (made.placement.ranks, made.placement.num_experts)
    assert result(scenario) == first


def test_lines_of_experts_are_priced_once_for_all_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario.load(preset_path("mixtral-8x7b-a100"), QUESTION)
    first, played = answer(), result(scenario)
    [entry] = [entry for entry in entries() if entry.kind == "experts"]
    monkeypatch.setattr(tables, "_expert_lines", lambda *_: pytest.fail("it is on the disk"))
    assert answer() == first
    assert result(scenario) == played
    assert [entry.bytes for entry in entries() if entry.kind == "experts"] == [entry.bytes]
    monkeypatch.undo()
    assert answer() == first


def test_lines_that_are_priced_later_join_those_on_the_disk(folder: Path) -> None:
    answer()
    [few] = [entry.bytes for entry in entries() if entry.kind == "experts"]
    PRICES.clear()
    estimate(Scenario.load(preset_path("mixtral-8x7b-a100"), [*QUESTION, "requests.rate=0.01"]))
    [more] = [entry.bytes for entry in entries() if entry.kind == "experts"]
    assert more > few


def test_a_fit_that_changes_gives_another_routing(folder: Path, tmp_path: Path) -> None:
    fit = tmp_path / "fit.toml"
    text = sample_path("fit_gpt_oss_20b.toml").read_text()
    fit.write_text(text)
    asked_for = ("model.name=gpt-oss-20b", "routing.kind=fitted", f"routing.fit={fit}")
    first, again = routing(*asked_for), routing(*asked_for)
    assert (first.expert_ids == again.expert_ids).all()
    fit.write_text(text + "\n")
    routing(*asked_for)
    assert len(list(folder.iterdir())) == 2


def test_the_environment_names_the_folder_and_its_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for off in ("off", "", " "):
        monkeypatch.setenv("MOESIM_CACHE_DIR", off)
        assert disk_store() is None
    monkeypatch.setenv("MOESIM_CACHE_DIR", str(tmp_path))
    assert disk_store() == DiskStore(folder=tmp_path, most_bytes=10**9)
    monkeypatch.setenv("MOESIM_CACHE_SIZE", "2 MiB")
    assert disk_store() == DiskStore(folder=tmp_path, most_bytes=2**21)
    monkeypatch.setenv("MOESIM_CACHE_SIZE", "much")
    with pytest.raises(MoesimError, match="MOESIM_CACHE_SIZE: 'much' is not a number with a unit"):
        disk_store()
    monkeypatch.delenv("MOESIM_CACHE_SIZE")
    monkeypatch.delenv("MOESIM_CACHE_DIR")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, **_: tmp_path / name)
    assert disk_store() == DiskStore(folder=tmp_path / "moesim", most_bytes=10**9)


def test_code_that_changes_makes_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = disk.code_digest.__wrapped__
    assert code() == code()
    kept_on_disk("routing", "said", lambda: ARRAYS)
    monkeypatch.setattr(disk, "code_digest", lambda: "other code")
    kept_on_disk("routing", "said", lambda: ARRAYS)
    assert len(list(folder.iterdir())) == 2


def test_a_process_whose_files_have_changed_since_it_began_keeps_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_STARTED", 0.0)
    monkeypatch.setattr(disk, "code_digest", disk.code_digest.__wrapped__)
    assert kept_on_disk("routing", "said", lambda: ARRAYS) is ARRAYS
    assert not folder.exists()
