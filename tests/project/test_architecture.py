"""The page of the architecture draws the house as it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
#: What a newcomer is most likely to add.
ADDED = {
    "device",
    "model",
    "attention variant",
    "kernel family",
    "fit of a kernel family",
    "collective",
    "exchange of tokens",
    "scheduler",
    "stack",
    "condition of a server",
    "feature of serving",
    "component of a step",
    "placement policy",
    "offload policy",
    "PIM device",
    "training schedule",
    "paper",
    "dashboard page",
    "dashboard tab",
}
#: Parts of a path that stand for the reader's own.
OWN = {"ID.toml", "NAME.toml", "DEVICE.toml", "NAME.py", "NAME.md"}


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    table = re.search(r"^\|[-|]+\|\n(.*?)\n\n", PAGE.split(f"## {heading}")[1], re.DOTALL | re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]


ADDITIONS = {row[0]: row[1] for row in rows("Which files to touch")}


def paths(text: str) -> list[str]:
    return re.findall(r"`([\w.]+/[\w./]*)`", text)


def layers() -> list[list[str]]:
    """Rooms of the simulator by layer, those that are not built yet left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = [c for c in project["tool"]["importlinter"]["contracts"] if c.get("containers") == ["simulator"]]
    return [
        [room for room in re.split(r" [:|] ", layer) if "(" not in room or there(room)] for layer in contract["layers"]
    ]


def there(room: str) -> bool:
    name = room.strip("()")
    return (ROOT / "simulator" / name).is_dir() or (ROOT / "simulator" / f"{name}.py").exists()


def test_the_rooms_are_listed_in_the_order_of_their_layers() -> None:
    listed = [name for row in rows("The rooms of `simulator/`") for name in re.findall(r"`(\w+)`", row[0])]
    floors = [[room.strip("()") for room in layer] for layer in layers()]
    assert sorted(listed) == sorted(room for floor in floors for room in floor)
    heights = [next(height for height, floor in enumerate(floors) if room in floor) for room in listed]
    assert heights == sorted(heights)


def test_the_drawing_names_rooms_that_are_there() -> None:
    drawing = PAGE.split("```")[1]
    named = set(re.findall(r"\b([a-z_]+/[a-z_]*(?:\.py)?|[a-z_]+\.py)", drawing))
    assert len(named) > 20
    assert [
        name
        for name in sorted(named)
        if not any((ROOT / above / name).exists() for above in (".", "simulator", "workloads"))
    ] == []


def test_everything_that_is_often_added_has_its_row() -> None:
    assert set(ADDITIONS) == ADDED


@pytest.mark.parametrize("addition", sorted(ADDITIONS))
def test_an_addition_touches_at_most_five_files_and_all_of_them_have_a_place(addition: str) -> None:
    touched = paths(ADDITIONS[addition])
    assert len(touched) <= 5
    missing = []
    for path in touched:
        parts = path.split("/")
        own = next((index for index, part in enumerate(parts) if part in OWN or part == "NAME"), len(parts))
        if not (ROOT / "/".join(parts[:own])).exists():
            missing.append(path)
    assert missing == []
