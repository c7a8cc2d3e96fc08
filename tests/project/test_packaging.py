"""One distribution, five packages, one command; the lock file and the wheel agree with pyproject.toml."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"hardware_profiles", "workloads", "simulator", "dashboard", "validation"}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_this_distribution_alone_owns_its_package_names() -> None:
    owners = packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, ["moesim"])) == {"moesim"}
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin == str(ROOT / package / "__init__.py")


def test_the_command_is_installed() -> None:
    scripts = {entry.name: entry.value for entry in distribution("moesim").entry_points}
    assert scripts == {"moesim": "simulator.cli:main"}


def test_the_installed_version_is_that_of_the_project(pyproject: dict[str, Any]) -> None:
    assert distribution("moesim").version == pyproject["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {pyproject['project']['version']}\n" in citation


def test_the_lock_file_asks_for_what_the_project_asks_for(pyproject: dict[str, Any]) -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    (own,) = [package for package in lock["package"] if package["name"] == "moesim"]
    locked = {(entry["name"], entry.get("specifier", "")) for entry in own["metadata"]["requires-dist"]}
    optional = pyproject["project"]["optional-dependencies"].values()
    asked = [*pyproject["project"]["dependencies"], *(entry for extra in optional for entry in extra)]
    assert locked == {split_requirement(entry) for entry in asked}
    for group, entries in pyproject["dependency-groups"].items():
        locked_group = {(e["name"], e.get("specifier", "")) for e in own["metadata"]["requires-dev"][group]}
        assert locked_group == {split_requirement(entry) for entry in entries}


def split_requirement(text: str) -> tuple[str, str]:
    name = re.match(r"[\w-]+", text)
    assert name is not None
    return name.group(), text[name.end() :]


def test_the_wheel_holds_our_packages_alone(wheel: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


def test_the_wheel_holds_every_source_and_data_file_of_the_packages(wheel: set[str]) -> None:
    left_out = ("validation/measurements/", "simulator/_compiled/")
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    names = {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}
    wanted = {name for name in names if not name.startswith(left_out)}
    assert len(wanted) > len(PACKAGES)
    assert wanted - wheel == set()


def test_the_wheel_holds_the_presets_and_no_measurements(wheel: set[str]) -> None:
    presets = {f"simulator/examples/{path.name}" for path in (ROOT / "examples").glob("*.toml")}
    assert presets
    assert presets <= wheel
    assert not [name for name in wheel if name.startswith("validation/measurements/")]
