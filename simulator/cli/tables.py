"""Tables that fit the reader's window: no word and no number is ever broken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.padding import Padding
from rich.text import Text

from simulator.cli.console import pairs, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

#: Columns of text from which on a cell is a sentence, which may go on in the next line [1].
_SENTENCE = 28
#: Columns of text that a table needs beside its cells, for each column and in all [1].
_BETWEEN, _AROUND = 2, 1


def print_table(out: Console, grid: Table, optional: Iterable[str] = ()) -> None:
    """Print a table as wide as the window: without columns that can be spared, else row after row below each other.

    Parameters
    ----------
    out : Console
        Where to.
    grid : Table
        As :func:`simulator.cli.console.table` makes it; its first column names the rows.
    optional : iterable of str
        Headings of columns that may be left out, the first to go first.
    """
    for heading in optional:
        if _needed(grid) <= out.width:
            break
        grid = _without(grid, heading)
    if _needed(grid) > out.width:
        _print_rows(out, grid)
        return
    sentences = [column for place, column in enumerate(grid.columns) if _has_sentences(column, place)]
    spare, wish = out.width - _needed(grid), sum(_width(column) - _longest_word(column) for column in sentences)
    for column in grid.columns:
        column.no_wrap, column.width = column not in sentences, _width(column)
    for column in sentences:
        # Sentences share what is to spare in proportion to what they would take.
        least = _longest_word(column)
        column.width = least + int((_width(column) - least) * min(spare / max(wish, 1), 1.0))
    out.print(grid)


def _needed(grid: Table) -> int:
    """Return the columns of text below which a table would break words."""
    widths = [
        _longest_word(column) if _has_sentences(column, place) else _width(column)
        for place, column in enumerate(grid.columns)
    ]
    return sum(widths) + _BETWEEN * len(widths) + _AROUND


def _without(grid: Table, heading: str) -> Table:
    kept = [column for column in grid.columns if column.header != heading]
    right = [str(column.header) for column in kept if column.justify == "right"]
    title = None if grid.title is None else str(grid.title)
    smaller = table(*(str(column.header) for column in kept), title=title, right=right)
    for cells, row in zip(zip(*(column.cells for column in kept), strict=True), grid.rows, strict=True):
        smaller.add_row(*cells, style=row.style, end_section=row.end_section)
    return smaller


def _has_sentences(column: Column, place: int) -> bool:
    """Whether cells of a column may go on in the next line: never those of the first, which names things."""
    return place > 0 and _width(column) > _SENTENCE


def _lines(column: Column) -> Iterator[str]:
    for cell in chain([column.header], column.cells):
        yield from (cell.plain if isinstance(cell, Text) else str(cell)).split("\n")


def _width(column: Column) -> int:
    return max(cell_len(line) for line in _lines(column))


def _longest_word(column: Column) -> int:
    return max((cell_len(word) for line in _lines(column) for word in line.split()), default=0)


def _print_rows(out: Console, grid: Table) -> None:
    """Print every row as its name and, below, its cells by heading."""
    if grid.title:
        out.print(grid.title, style="bold")
    headings = [str(column.header) for column in grid.columns]
    for name, *cells in zip_longest(*(column.cells for column in grid.columns), fillvalue=""):
        out.print(name, style="bold")
        found = [(heading, cell) for heading, cell in zip(headings[1:], cells, strict=True) if str(cell)]
        if found:
            out.print(Padding(pairs(found), (0, 0, 0, 2)))
