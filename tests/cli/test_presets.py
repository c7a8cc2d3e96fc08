"""Presets are found by name, from a checkout and from an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.errors import ScenarioError
from simulator.scenario import presets


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Path]:
    installed, checkout = tmp_path / "installed", tmp_path / "checkout"
    monkeypatch.setattr(presets, "_FOLDERS", (installed, checkout))
    checkout.mkdir()
    (checkout / "one.toml").write_text("")
    (checkout / "readme.md").write_text("")
    return installed, checkout


def test_presets_of_a_checkout_are_found(folders: tuple[Path, Path]) -> None:
    assert presets.preset_names() == ("one",)
    assert presets.preset_path("one") == folders[1] / "one.toml"


def test_presets_inside_the_package_come_first(folders: tuple[Path, Path]) -> None:
    folders[0].mkdir()
    (folders[0] / "two.toml").write_text("")
    assert presets.preset_names() == ("two",)


def test_a_file_is_taken_before_a_preset(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert presets.scenario_path("one") == folders[1] / "one.toml"
    monkeypatch.chdir(folders[1])
    Path("one").write_text("")
    assert presets.scenario_path("one") == Path("one")


def test_an_unknown_preset_names_the_nearest(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ScenarioError, match="did you mean 'one'"):
        presets.preset_path("onee")
    with pytest.raises(ScenarioError, match="did you mean 'one'"):
        presets.scenario_path("examples/onne.toml")
