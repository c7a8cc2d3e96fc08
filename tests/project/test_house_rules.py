"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from simulator.cli.app import app

if TYPE_CHECKING:
    from typer import Typer

ROOT = Path(__file__).parents[2]
PACKAGES = ("hardware_profiles", "workloads", "simulator", "dashboard", "validation")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
#: Lines of a module: one idea, read in one sitting. A longer idea is two ideas.
LONGEST_MODULE = 650
#: Lines of a function's body, and of the whole of it with its signature but without its docstring.
LONGEST_BODY = 60
LONGEST_FUNCTION = 90
#: Lines of a class.
LONGEST_CLASS = 300
#: What is longer today, with the most that it may have: it may shrink, not grow.
LONGER = {"Instance": 475}

#: Arguments from which on a docstring lists them.
MANY_ARGUMENTS = 4


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


Function = ast.FunctionDef | ast.AsyncFunctionDef


def without_docstring(node: Function) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node) else node.body


def body_length(function: Function) -> int:
    """Lines of a function from its first statement after the docstring to its last."""
    body = without_docstring(function)
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def whole_length(function: Function) -> int:
    """Lines of a function with its signature, without its docstring."""
    docstring = function.body[: len(function.body) - len(without_docstring(function))]
    described = sum((node.end_lineno or 0) - node.lineno + 1 for node in docstring)
    return (function.end_lineno or 0) - function.lineno + 1 - described


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_a_module_can_be_read_in_one_sitting(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, Function)]
    assert [
        f"{f.name}: {body_length(f)} lines" for f in functions if body_length(f) > LONGER.get(f.name, LONGEST_BODY)
    ] == []
    assert [f"{f.name}: {whole_length(f)} lines" for f in functions if whole_length(f) > LONGEST_FUNCTION] == []


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_a_class_is_no_longer_than_its_idea(module: Path) -> None:
    classes = [
        node for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)
    ]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in classes}
    assert {name: n for name, n in lengths.items() if n > LONGER.get(name, LONGEST_CLASS)} == {}


def test_every_room_of_the_simulator_has_its_layer() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    [contract] = [c for c in contracts if c.get("containers") == ["simulator"]]
    layered = re.findall(r"\w+", " ".join(contract["layers"]))
    rooms = [
        path.stem for path in (ROOT / "simulator").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    assert [room for room in sorted(rooms) if room not in {"__init__", *layered}] == []


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_a_module_is_finished_and_says_what_it_is_for(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text))
    assert re.findall(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b|# type: ignore(?!\[)", text) == []


def commands(app: Typer) -> Iterator[str]:
    """Functions that are commands: their help says what each option is."""
    registered = [*app.registered_commands, *([app.registered_callback] if app.registered_callback else [])]
    yield from (each.callback.__name__ for each in registered if each.callback)
    for group in app.registered_groups:
        yield from commands(group.typer_instance) if group.typer_instance else ()


def public_functions(node: ast.AST) -> Iterator[Function]:
    """Functions and methods whose names, and whose classes' names, are public; not those inside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            if isinstance(child, ast.ClassDef):
                yield from public_functions(child)
            else:
                yield child


def describes_arguments(function: Function) -> bool:
    """Whether a docstring lists the arguments, or says where they are listed."""
    text = ast.get_docstring(function) or ""
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    few = len([a for a in arguments if a.arg not in {"self", "cls"}]) < MANY_ARGUMENTS
    return few or bool(
        re.search(r"^Parameters\n-+$|(?:[Pp]arameters|[Aa]rguments) as (?:for|of) :", text, re.MULTILINE)
    )


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_a_function_of_many_arguments_says_what_each_is(module: Path) -> None:
    known = set(commands(app)) if module.is_relative_to(ROOT / "simulator" / "cli") else set()
    functions = public_functions(ast.parse(module.read_text(encoding="utf-8")))
    assert [f.name for f in functions if f.name not in known and not describes_arguments(f)] == []


def named_profiles() -> set[str]:
    folders = [ROOT / "hardware_profiles" / kind for kind in ("devices", "nodes", "clusters")]
    return {
        file.stem for folder in (*folders, ROOT / "workloads" / "models" / "library") for file in folder.glob("*.toml")
    }


NAMED = named_profiles()
PRODUCT = [module for module in MODULES if not module.is_relative_to(ROOT / "validation")]


@pytest.mark.parametrize("module", PRODUCT, ids=names(PRODUCT))
def test_code_does_not_ask_what_a_device_or_a_model_is_called(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    texts = {
        node.value.lower() for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert len(NAMED) > 40
    assert texts & NAMED == set()


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
