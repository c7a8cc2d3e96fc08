from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import device_names, load_device
from hardware_profiles.writer import save_device


@pytest.mark.parametrize("name", device_names())
def test_a_saved_device_loads_back_to_the_same_value(tmp_path: Path, name: str) -> None:
    device = load_device(name)
    (tmp_path / "devices").mkdir()
    save_device(device, tmp_path / "devices" / f"{name}.toml")
    assert load_device(name, tmp_path) == device


def test_a_changed_number_survives_the_round_trip(profiles: Path) -> None:
    device = load_device("toy", profiles)
    odd = dataclasses.replace(device.tdp, stated=0.1 + 0.2, value=0.1 + 0.2, note='quoted "and" ünïcode', date="2026")
    save_device(dataclasses.replace(device, tdp=odd), profiles / "devices" / "toy.toml")
    assert load_device("toy", profiles).tdp == odd


def test_a_device_must_go_to_the_file_of_its_id(profiles: Path) -> None:
    with pytest.raises(ProfileError, match=r"other\.toml: .* so this one goes to toy\.toml"):
        save_device(load_device("toy", profiles), profiles / "devices" / "other.toml")


def test_a_missing_folder_is_an_error_of_one_message(profiles: Path) -> None:
    path = profiles / "nowhere" / "toy.toml"
    with pytest.raises(ProfileError, match=r"nowhere/toy\.toml: cannot be written: No such file or directory"):
        save_device(load_device("toy", profiles), path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = load_device("toy", profiles)
    path = profiles / "devices" / "toy.toml"
    before = path.read_text()

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ProfileError, match=r"toy\.toml: cannot be written: No space left on device"):
        save_device(dataclasses.replace(device, note="new"), path)
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == ["toy.toml"]
