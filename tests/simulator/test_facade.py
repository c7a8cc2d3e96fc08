"""The package as it is imported: its names, and how little it drags in."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import simulator
from simulator import api


def test_every_public_name_resolves() -> None:
    assert sorted(simulator.__all__) == list(simulator.__all__)
    for name in simulator.__all__:
        assert getattr(simulator, name).__name__ == name


def test_the_facade_is_about_fifteen_names_all_with_a_docstring() -> None:
    assert {"Scenario", "simulate", "estimate", "check", "explain", "Result", "MoesimError"} <= set(simulator.__all__)
    assert len(simulator.__all__) <= 18
    for name in simulator.__all__:
        assert inspect.getdoc(getattr(simulator, name)), name


def test_the_facade_holds_verbs_alone_each_a_few_lines() -> None:
    here = {name: each for name, each in vars(api).items() if getattr(each, "__module__", "") == api.__name__}
    own = {name: each for name, each in here.items() if not name.startswith("__")}
    assert set(own) == {"simulate", "estimate", "estimate_many", "save"}
    assert set(own) < set(api.__all__)
    for name, verb in own.items():
        tree = ast.parse(inspect.getsource(verb)).body[0]
        assert isinstance(tree, ast.FunctionDef)
        assert len(tree.body) - 1 <= 4, name


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'simulator' has no attribute 'simulat'"):
        simulator.simulat  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("code", ["import simulator", "import simulator; simulator.MoesimError"])
def test_importing_the_package_drags_in_nothing_heavy(code: str) -> None:
    heavy = ("pandas", "pydantic", "simpy", "plotly", "streamlit", "networkx", "pyarrow", "typer", "torch", "scipy")
    script = f"import sys; {code}; print(*(name for name in {heavy!r} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_estimating_needs_no_frames() -> None:
    script = (
        "import sys; from simulator import Scenario, estimate; "
        "estimate(Scenario.from_mapping({'model': {'name': 'llama-3.1-8b'}, 'hardware': {'device': 'h100-sxm'}, "
        "'requests': {'concurrency': 2, 'count': 4, 'lengths': {'input': 64, 'output': 8}}})); "
        "print(*(name for name in ('pandas', 'pyarrow', 'plotly', 'streamlit', 'torch') if name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
