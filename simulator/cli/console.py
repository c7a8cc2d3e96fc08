"""Text on a terminal: one console, and numbers as people read them."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hardware_profiles.edge import printable
from hardware_profiles.units import format_seconds

#: Columns of text where nobody says how wide the reader's window is.
_WIDTH_OF_FILES = 120
_ABSENT = "-"
#: From here on a time is read off a clock [s].
_CLOCK = 120.0


class _Console(Console):
    """A console that shows what a terminal would obey, whoever wrote it into a name or a file."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Replace control characters in all that is drawn, before it gets its colours."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                text = "\n".join(printable(line) for line in segment.text.split("\n"))
                yield Segment(text, segment.style)


def console() -> Console:
    """Return a console on standard output: as wide as the terminal, without colours where there is none.

    Brackets in messages are text, not markup.
    """
    sized = sys.stdout.isatty() or "COLUMNS" in os.environ
    return _Console(markup=False, emoji=False, highlight=False, width=None if sized else _WIDTH_OF_FILES)


def print_next(out: Console, command: str) -> None:
    """Say what to ask next, on one line however long it is, so that it can be copied."""
    out.print(f"next: {command}", style="dim", soft_wrap=True)


def table(*headings: str, title: str | None = None, right: Iterable[str] = ()) -> Table:
    """Return an empty table with these headings, some of them right-aligned."""
    result = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        # The first column names things: a name that is cut or folded can be neither read nor copied.
        result.add_column(heading, justify="right" if heading in right else "left", overflow="fold", no_wrap=place == 0)
    return result


def pairs(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Return a grid of names and values."""
    result = Table.grid(padding=(0, 2))
    result.add_column(style="dim")
    result.add_column(overflow="fold")
    for name, value in rows:
        result.add_row(name, value)
    return result


def number(value: float, digits: int = 3) -> str:
    """Write a number with three significant digits and thousands separators, without an exponent below 1e15.

    Examples
    --------
    >>> number(12345.6), number(0.01234), number(float("nan"))
    ('12,300', '0.0123', '-')
    """
    if not math.isfinite(value):
        return _ABSENT
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if decimals > 8 or abs(value) >= 1e15:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")
    text = f"{rounded:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: int) -> str:
    """Write a whole number in full, with separated thousands.

    Examples
    --------
    >>> count(26431169)
    '26,431,169'
    """
    return f"{value:,}"


def count_text(count: float, digits: int = 3) -> str:
    """Write a number of parameters in thousands, millions, billions or trillions.

    Examples
    --------
    >>> count_text(671e9), count_text(882_000)
    ('671 B', '882 k')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{number(count / size, digits)} {letter}"
    return number(count, digits)


def seconds(value: float) -> str:
    """Write a time [s] in the unit that suits it, minutes and hours from two minutes on; a dash where there is none.

    Examples
    --------
    >>> seconds(0.0123), seconds(61.2), seconds(503.6), seconds(7384.0)
    ('12.3 ms', '61.2 s', '8:24 min', '2:03:04 h')
    """
    if not math.isfinite(value):
        return _ABSENT
    if abs(value) < _CLOCK:
        return format_seconds(value)
    minutes, rest = divmod(round(abs(value)), 60)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if value < 0 else ""
    return f"{sign}{hours}:{minutes:02}:{rest:02} h" if hours else f"{sign}{minutes}:{rest:02} min"


def percent(share: float) -> str:
    """Write a share [1] in percent."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else _ABSENT


def bar(share: float, width: int = 20) -> Text:
    """Draw a share [1] as a bar."""
    filled = round(width * min(max(share, 0.0), 1.0)) if math.isfinite(share) else 0
    return Text("█" * filled, style="cyan")
