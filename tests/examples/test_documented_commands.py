"""The commands that README, tutorial, how-tos and reference show can be typed, and ask sound questions."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from simulator import Scenario, check
from simulator.cli.app import app
from simulator.scenario.presets import scenario_path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIAL, REFERENCE = DOCS / "tutorial.md", DOCS / "cli.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PACKAGES = {"hardware_profiles", "workloads", "simulator", "dashboard", "validation"}
#: Commands whose first word is a scenario.
ASKED = {"simulate", "estimate", "explain", "check", "timeline", "scale"}


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


def shown_lines(page: Path) -> list[str]:
    """Lines of blocks that begin with ``moesim``, without prompt, comment, redirection and line ends inside of them."""
    lines = []
    for block in blocks(page, "console", ""):
        for line in re.sub(r"\\?\n {8,}", " ", block).splitlines():
            found = re.fullmatch(r" *(?:\$ )?(moesim .*?)(?: +#.*| > .*)?", line)
            lines += [found[1]] if found else []
    return lines


def described_lines(page: Path) -> list[str]:
    """What stands in backticks within sentences."""
    return re.findall(r"`(moesim [a-z][^`\n]*)`", page.read_text(encoding="utf-8"))


@cache
def command_and_rest(line: str) -> tuple[Any, tuple[str, ...]]:
    """The command that a line calls, and the words after its name."""
    words = line.split()[1:]
    found: Any = get_command(app)
    while words and words[0] in getattr(found, "commands", {}):
        found = found.commands[words.pop(0)]
    return found, tuple(words)


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} | {"--help", "--version"}


SHOWN = sorted({line for page in PAGES for line in shown_lines(page)})
# The table of commands sets each name and its meaning apart by spaces; usages have brackets.
TYPED = sorted(
    {
        line
        for page in PAGES
        for line in shown_lines(page)
        if not re.search(r"[\[(|]|\.\.\.", line) and not (page == REFERENCE and "  " in line)
    }
)
USAGES = sorted({line for page in PAGES for line in (*shown_lines(page), *described_lines(page))})


def test_pages_show_commands() -> None:
    assert len(TYPED) > 50
    for page in (ROOT / "README.md", TUTORIAL, REFERENCE, *DOCS.glob("how-to-*.md")):
        assert shown_lines(page), page


@pytest.mark.parametrize("line", USAGES)
def test_a_command_that_is_named_is_there_with_its_options(line: str) -> None:
    command, rest = command_and_rest(line)
    assert command is not get_command(app) or not rest or rest[0].startswith("-")
    assert command.name != "moesim"
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", line)) - options_of(command) == set()


@pytest.mark.parametrize("line", TYPED)
def test_a_command_that_is_shown_can_be_typed(line: str) -> None:
    command, _ = command_and_rest(line)
    words = shlex.split(line)
    words = words[1 + len(command_path(line)) :]
    command.make_context(command.name, list(words))


def command_path(line: str) -> list[str]:
    """The words that name the command."""
    _, rest = command_and_rest(line)
    words = line.split()[1:]
    return words[: len(words) - len(rest)]


def test_the_reference_lists_every_command_once() -> None:
    root: Any = get_command(app)
    assert sorted(line.split()[1] for line in blocks(REFERENCE, "")[0].splitlines()) == sorted(root.commands)


def test_the_readme_shows_every_command() -> None:
    root: Any = get_command(app)
    shown = {line.split()[1] for line in shown_lines(ROOT / "README.md")}
    assert shown >= set(root.commands) - {"version"}


def toml_of_the_tutorial() -> str:
    return blocks(TUTORIAL, "toml")[0]


def questions() -> Iterator[str]:
    """Shown commands that ask about a scenario which a reader has."""
    for line in TYPED:
        words = line.split()
        if words[1] in ASKED and words[2] != "FILE":
            yield line


@pytest.mark.parametrize("line", sorted(questions()))
def test_a_command_that_is_shown_names_a_sound_scenario(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file, *rest = shlex.split(line)[1:]
    if file == "mine.toml":
        (tmp_path / file).write_text(toml_of_the_tutorial(), encoding="utf-8")
        file = str(tmp_path / file)
    monkeypatch.chdir(ROOT)
    # The reader's own trace may be any that fits; a few tokens of routing are as good as many, here.
    overrides = [word.replace("=trace.npz", "=sample:routing_24x32_top4.npz") for word in rest if "=" in word]
    scenario = Scenario.load(scenario_path(file), [*overrides, "routing.tokens=64"])
    errors = [finding.message for finding in check(scenario) if finding.level == "error"]
    # One command shows what a model that does not fit says.
    assert bool(errors) == (line == "moesim check mixtral-8x7b-a100 --set parallelism.tp=1")


SNIPPETS = [(page, code) for page in PAGES for code in blocks(page, "python")]
#: Pages whose Python needs nothing that a reader has not got by then.
COMPLETE = ("README.md", "tutorial.md", "how-to-compare-deployments.md", "how-to-sweep.md", "results.md")
RUNNING = [(page, code) for page, code in SNIPPETS if page.name in COMPLETE]


def numbered(snippets: list[tuple[Path, str]]) -> list[str]:
    return [f"{page.stem}-{number}" for number, (page, _) in enumerate(snippets)]


@pytest.mark.parametrize(("page", "code"), RUNNING, ids=numbered(RUNNING))
def test_python_that_is_shown_runs(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few requests: what is tried is that the names are right, not the numbers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "mine.toml").write_text(toml_of_the_tutorial().replace("count = 2000", "count = 20"), encoding="utf-8")
    exec(compile(code.replace("requests.count=200", "requests.count=20"), str(page), "exec"), {})  # noqa: S102


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=numbered(SNIPPETS))
def test_what_python_that_is_shown_imports_is_there(page: Path, code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            module = import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == [], page


def test_the_pages_show_python() -> None:
    assert {page.name for page, _ in RUNNING} == set(COMPLETE)
