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


BREACHES = [
    ("hardware_profiles/extra.py", "workloads.errors", "dashboard -> simulator -> workloads"),
    ("simulator/ops_extra.py", "dashboard", "dashboard -> simulator -> workloads"),
    ("workloads/extra.py", "hardware_profiles.schema", "workloads know of the hardware"),
    ("simulator/cost/upwards.py", "simulator.serving", "simulator, from its faces down"),
    ("simulator/placement/upwards.py", "simulator.cli", "simulator, from its faces down"),
    ("simulator/kernels/events.py", "simpy", "discrete events stay"),
    ("simulator/placement/graph.py", "networkx", "graphs stay"),
    ("simulator/results/figure.py", "plotly", "figures stay"),
    ("dashboard/extra.py", "typer", "only the command line"),
    ("simulator/cost/belief.py", "validation", "validation is seen"),
]


@pytest.fixture(scope="module")
def report_of_breaches(tree: Path) -> str:
    for module, forbidden, _ in BREACHES:
        (tree / module).write_text(f"import {forbidden}\n", encoding="utf-8")
    report = lint_imports(tree)
    for module, _, _ in BREACHES:
        (tree / module).unlink()
    return report


@pytest.mark.parametrize(("module", "forbidden", "contract"), BREACHES)
def test_a_breach_is_reported_with_the_contract_that_it_breaks(
    report_of_breaches: str, module: str, forbidden: str, contract: str
) -> None:
    lines = report_of_breaches.splitlines()
    assert [line for line in lines if line.startswith(contract) and " BROKEN" in line]
    importer = module.removesuffix(".py").replace("/", ".")
    assert [line for line in lines if f"{importer} -> {forbidden} " in line]


def test_the_tree_as_it_is_keeps_every_contract(tree: Path) -> None:
    assert "0 broken" in lint_imports(tree)
