"""Figures that documents state, each with a mark that names it, so that it can be checked.

A mark is ``<!-- figure KEY -->VALUE<!-- /figure -->``; the value is a number, in percent where it ends so. It is right
where it equals the figure rounded to the digits that are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.edge import is_folder, read_text
from hardware_profiles.outputs import write_file
from simulator.errors import OutputError
from validation.regression.predicted import BaselineError

_MARK = re.compile(r"<!-- figure (?P<key>\S+) -->(?P<value>[^<]*)<!-- /figure -->")
_NUMBER = re.compile(r"\s*(?P<number>[-+]?[\d,]*\.?\d+)\s*(?P<percent>%?)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A figure as a document states it."""

    file: Path
    line: int
    key: str
    text: str

    def right(self, figures: Mapping[str, float]) -> bool:
        """Whether the figure, rounded as it is written, is what the document states."""
        return self.key in figures and self.text.strip() == written_like(self.text, figures[self.key])


def marked(key: str, text: str) -> str:
    """Write a figure with its mark."""
    return f"<!-- figure {key} -->{text}<!-- /figure -->"


def written_like(text: str, value: float) -> str:
    """Write a value with the decimals and the percent sign of another one.

    Examples
    --------
    >>> written_like("4.3 %", 0.05678)
    '5.7 %'
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        return f"{value:g}"
    number, percent = found["number"], found["percent"]
    decimals = len(number.partition(".")[2])
    scaled = f"{100.0 * value if percent else value:,.{decimals}f}"
    return f"{scaled} %" if percent else scaled


def stated_figures(documents: Iterable[Path]) -> list[Stated]:
    """Find all marks in documents; a folder stands for the Markdown files below it."""
    found: list[Stated] = []
    for document in documents:
        for file in sorted(document.rglob("*.md")) if is_folder(document) else [document]:
            text = read_text(file, BaselineError)
            for mark in _MARK.finditer(text):
                line = text.count("\n", 0, mark.start()) + 1
                found.append(Stated(file=file, line=line, key=mark["key"], text=mark["value"]))
    return found


def restate(documents: Iterable[Path], figures: Mapping[str, float]) -> list[Path]:
    """Rewrite marked values in documents; returns the files that changed."""

    def replaced(mark: re.Match[str]) -> str:
        if mark["key"] not in figures:
            return mark[0]
        return marked(mark["key"], written_like(mark["value"], figures[mark["key"]]))

    changed: list[Path] = []
    for file in {stated.file for stated in stated_figures(documents)}:
        text = read_text(file, BaselineError)
        new = _MARK.sub(replaced, text)
        if new != text:
            write_file(file, new, OutputError)
            changed.append(file)
    return sorted(changed)
