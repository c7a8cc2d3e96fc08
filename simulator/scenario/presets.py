"""Scenarios that ship: the TOML files of ``examples/``, found in a checkout and in an installed package alike."""

from __future__ import annotations

from pathlib import Path

from hardware_profiles.edge import exists
from simulator.errors import ScenarioError, nearest

#: A wheel carries the files inside the package; in a checkout they lie beside it.
_FOLDERS = (Path(__file__).parents[1] / "examples", Path(__file__).parents[2] / "examples")


def preset_names() -> tuple[str, ...]:
    """List the presets, sorted."""
    return tuple(sorted(_files()))


def preset_path(name: str) -> Path:
    """Return the scenario file of a preset.

    Raises
    ------
    ScenarioError
        No such preset; the message names the nearest.
    """
    files = _files()
    if name not in files:
        raise ScenarioError(f"unknown preset {name!r}; {nearest(name, files)}")
    return files[name]


def scenario_path(file_or_preset: str | Path) -> Path:
    """Return the file that a user means: a path as it is, else the preset of that name.

    Raises
    ------
    ScenarioError
        There is neither such a file nor such a preset; the message names the nearest presets.

    Examples
    --------
    >>> scenario_path("mixtral-8x7b-a100").name
    'mixtral-8x7b-a100.toml'
    """
    path, files = Path(file_or_preset), _files()
    if exists(path):
        return path
    if str(file_or_preset) in files:
        return files[str(file_or_preset)]
    hint = nearest(path.stem, files)
    raise ScenarioError(f"{file_or_preset}: no such scenario file or preset; {hint}")


def _files() -> dict[str, Path]:
    """Map each preset to its file."""
    for folder in _FOLDERS:
        files = {path.stem: path for path in folder.glob("*.toml")}
        if files:
            return files
    return {}
