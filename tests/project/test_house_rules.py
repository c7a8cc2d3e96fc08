"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("hardware_profiles", "workloads", "simulator", "dashboard", "validation")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST_MODULE = 650
LONGEST_FUNCTION = 60


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from its first statement after the docstring to its last."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_a_module_can_be_read_in_one_sitting(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f"{f.name}: {body_length(f)} lines" for f in functions if body_length(f) >= LONGEST_FUNCTION] == []


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_a_module_is_finished_and_says_what_it_is_for(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text))
    assert re.findall(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b|# type: ignore(?!\[)", text) == []


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_input_is_not_checked_by_assertion(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)] == []


DOCUMENTED = [module for module in MODULES if ">>> " in module.read_text(encoding="utf-8")]


@pytest.mark.parametrize("module", DOCUMENTED, ids=names(DOCUMENTED))
def test_examples_in_docstrings_are_true(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
