"""The layer contracts notice what they are there to notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("hardware_profiles", "workloads", "simulator", "dashboard", "validation")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, to be broken."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.toml"))
    return folder


def lint_imports(tree: Path) -> str:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    run = subprocess.run(command, cwd=tree, env=environment, check=False, capture_output=True, text=True, timeout=60)
    return run.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("hardware_profiles/extra.py", "import workloads.errors", "dashboard -> simulator -> workloads"),
        ("simulator/cost/extra.py", "import dashboard", "dashboard -> simulator -> workloads"),
        ("workloads/extra.py", "import hardware_profiles.schema", "workloads know of the hardware"),
        ("simulator/cost/extra.py", "import simulator.serving", "simulator, from its faces down"),
        ("simulator/placement/extra.py", "import simulator.cli", "simulator, from its faces down"),
        ("simulator/cost/extra.py", "import simpy", "discrete events stay"),
        ("simulator/placement/extra.py", "import networkx", "graphs stay"),
        ("simulator/metrics/extra.py", "import plotly", "figures stay"),
        ("dashboard/extra.py", "import typer", "only the command line"),
        ("simulator/cost/extra.py", "import validation", "validation is seen"),
    ],
)
def test_a_breach_is_reported_under_the_contract_that_it_breaks(
    tree: Path, module: str, line: str, contract: str
) -> None:
    (tree / module).write_text(f"{line}\n", encoding="utf-8")
    try:
        report = lint_imports(tree)
    finally:
        (tree / module).unlink()
    broken = [row for row in report.splitlines() if row.startswith(contract) and " BROKEN" in row]
    assert len(broken) == 1


def test_the_tree_as_it_is_keeps_every_contract(tree: Path) -> None:
    assert "0 broken" in lint_imports(tree)
