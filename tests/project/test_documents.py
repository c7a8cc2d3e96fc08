"""What the documents point at is there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from simulator.elastic.mechanisms import MECHANISMS
from simulator.offload.cache import POLICIES as CACHE_POLICIES
from simulator.placement.policies import POLICIES
from simulator.placement.replica_routing import REPLICA_ROUTINGS
from simulator.serving.scheduler import SCHEDULERS
from simulator.stack import EXCHANGE_NAMES, OVERLAPS, STACK_NUMBERS
from simulator.step.components import COMPONENTS
from workloads.models.mixers import MIXERS
from workloads.routing.generators import ROUTING_KINDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PACKAGES = ("hardware_profiles", "workloads", "simulator", "dashboard", "validation")
FOLDERS = (*PACKAGES, "benchmarks", "docs", "examples", "tests")
DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "benchmarks" / "README.md", *PAGES]


#: Documents that say what is, beside the one that says what was.
STANDING = [document for document in DOCUMENTS if document.name != "CHANGELOG.md"]


def nav_entries(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(target, list):
            yield from nav_entries(target)
        else:
            yield target


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@cache
def resolves(name: str) -> bool:
    """Whether a dotted name is a module, something in one, or a field of a class there."""
    *above, last = name.split(".")
    with suppress(ImportError):
        import_module(name)
        return True
    if not above or not resolves(".".join(above)):
        return False
    try:
        found: Any = import_module(".".join(above))
    except ImportError:
        *module, owner = above
        found = getattr(import_module(".".join(module)), owner)
    return hasattr(found, last) or last in getattr(found, "__annotations__", {})


def anchors(document: Path) -> set[str]:
    """Headings as the site and code hosts link to them."""
    headings = re.findall(r"^#+ +(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def test_the_navigation_names_every_page_once_and_no_other() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(nav_entries(site["nav"]))
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_relative_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text(encoding="utf-8"))):
        target, _, anchor = unquote(link).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        place = document.parent / target if target else document
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", PAGES, ids=names(PAGES))
def test_pages_of_the_site_link_to_pages_of_the_site_alone(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s#]+)", without_code(document.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", link):
            assert (document.parent / link).resolve().is_relative_to(DOCS), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_a_document_has_one_title_and_closes_its_code_blocks(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_equations_can_be_read_without_a_typesetter(document: Path) -> None:
    """They stand in blocks of code: the site carries no fonts and fetches none, and a terminal shows them too."""
    text = without_code(document.read_text(encoding="utf-8"))
    assert re.findall(r"\$\$|\\\(|\\\[|\\frac|\\sum", text) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_no_block_of_code_stands_inside_a_numbered_list(document: Path) -> None:
    """The site's Markdown would put the next item into the one that holds the block."""
    text = document.read_text(encoding="utf-8")
    assert re.findall(r"^\d+\. .*\n(?:(?:   .*)?\n)* {1,4}```.*", text, re.MULTILINE) == []


def test_nobody_is_told_to_install_moesim_from_an_index() -> None:
    """It is on none; whoever takes its name there would be installed."""
    found = []
    for file in [*DOCUMENTS, *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]:
        found += re.findall(r"(?:pip|uv|pipx) \w+ [^`\n]*\bmoesim\b[^`\n]*", file.read_text(encoding="utf-8"))
    assert [line for line in found if not re.search(r"moesim'?s folder", line)] == []


@pytest.mark.parametrize("document", STANDING, ids=names(STANDING))
def test_files_and_names_in_the_code_that_a_document_names_are_there(document: Path) -> None:
    text = without_blocks(document.read_text(encoding="utf-8"))
    paths = [name for name in re.findall(r"`([\w.-]+/[\w./-]*)`", text) if name.split("/")[0] in FOLDERS]
    # What stands for the reader's own is the business of the page of the architecture.
    own = re.compile(r"(?:^|/)(?:ID|NAME|DEVICE)\b")
    assert [name for name in paths if not own.search(name) and not (ROOT / name).exists()] == []
    for folder, listed in re.findall(r"`([\w/]+/)`\s+\(([^)]*\.py[^)]*)\)", text):
        files = re.findall(r"`([\w/]+\.py)`", listed)
        assert [file for file in files if not list((ROOT / folder).rglob(file))] == [], folder
    files = re.findall(r"`([\w*]+\.py)`", text)
    assert [file for file in files if not any(list((ROOT / folder).rglob(file)) for folder in FOLDERS)] == []
    dotted = re.findall(rf"`((?:{'|'.join(PACKAGES)})\.[\w.]+)`", text)
    assert [name for name in dotted if not resolves(name)] == []


MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_what_a_docstring_refers_to_is_there(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    home = ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    within = [home, *(f"{home}.{name}" for name in re.findall(r"^class (\w+)", text, re.MULTILINE))]
    missing = []
    for name in re.findall(r":(?:func|class|mod|meth|data|attr|exc):`~?([\w.]+)`", text):
        known = [name] if name.split(".")[0] in PACKAGES else [f"{place}.{name}" for place in within]
        missing += [] if any(map(resolves, known)) else [name]
    assert missing == []


def test_the_nomenclature_lists_the_components_of_a_step() -> None:
    section = (DOCS / "nomenclature.md").read_text(encoding="utf-8").split("## Parts of a step")[1].split("##")[0]
    assert re.findall(r"`(\w+)`", section) == list(COMPONENTS)


def test_the_page_of_stacks_lists_every_number_and_every_exchange_of_a_stack_file() -> None:
    text = (DOCS / "formats" / "stacks.md").read_text(encoding="utf-8")
    numbers = text.split("| number | unit | meaning |")[1].split("\n\n")[0]
    first_cells = re.findall(r"^\| (`[^|]+`) \|", numbers, re.MULTILINE)
    assert sorted(name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)) == sorted(STACK_NUMBERS)
    exchanges = re.findall(r"^\| `exchange` \|(.*)\|$", text, re.MULTILINE)[0]
    assert sorted(re.findall(r"`(\w+)`", exchanges)) == sorted(EXCHANGE_NAMES)


CHOICES: dict[str, tuple[str, Iterable[str]]] = {
    "mechanism of scaling": ("theory/elastic.md", MECHANISMS),
    "placement policy": ("theory/placement.md", POLICIES),
    "replica routing": ("theory/placement.md", REPLICA_ROUTINGS),
    "scheduler": ("theory/engine.md", SCHEDULERS),
    "overlap": ("theory/overlap.md", OVERLAPS),
    "routing generator": ("theory/routing.md", ROUTING_KINDS),
    "expert cache": ("theory/offload.md", CACHE_POLICIES),
    "kind of token mixer": ("formats/models.md", MIXERS),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_described_where_its_kind_is(choice: str) -> None:
    page, names_of = CHOICES[choice]
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [name for name in names_of if not re.search(rf"[`\"]{name}[`\"]", text)] == []


def test_the_readme_counts_the_presets_right() -> None:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    stated = re.findall(r"(\w+) come as presets", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [word.lower() for word in stated] == [words[len(list((ROOT / "examples").glob("*.toml")))]]


def test_readers_of_the_readme_find_the_files_that_it_names() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"examples/[\w.-]+\.toml", text)) | set(re.findall(r"^\| `(\w+/)` \|", text, re.MULTILINE))
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_changelog_lists_what_is_unreleased_and_what_changed_numbers() -> None:
    headings = re.findall(r"^##+ .*$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "## Unreleased"
    assert "### Model changes" in headings


def test_no_tracked_file_names_a_place_on_a_developers_disk() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".json", ".cff", ""} and path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")
            found += [f"{name}: {match}" for match in re.findall(r"/(?:home|root|Users|work)/[\w.-]+/", text)]
    assert found == []
