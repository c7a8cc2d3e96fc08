"""Small SVG charts of accuracy, drawn by hand: bars with an aim, and dots against a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

#: Colours that people with any colour vision tell apart (Okabe and Ito).
BLUE, ORANGE, GREEN = "#0072b2", "#e69f00", "#009e73"
_TEXT, _GRID = "#555", "#bbb"
_LABEL, _PLOT, _ROW, _TOP, _RIGHT = 150, 420, 26, 34, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row of a chart of errors: median and 90th percentile [1], and what was aimed for [1]."""

    label: str
    median: float
    p90: float
    aim_median: float
    aim_p90: float


def error_chart(title: str, bars: Sequence[Bar], description: str) -> str:
    """Draw median and 90th percentile of the error as nested bars, with ticks where the aims are."""
    top = max([0.1, *(max(bar.p90, bar.aim_p90) for bar in bars)])
    step = 0.1 if top <= 0.6 else 0.25
    scale = _PLOT / (step * -(-top // step))
    parts = _frame(title, description, len(bars), step, scale)
    for number, bar in enumerate(bars):
        y = _TOP + number * _ROW
        parts.append(_label(bar.label, y))
        parts.append(_rect(_LABEL, y + 5, bar.p90 * scale, 14, ORANGE, 0.45))
        parts.append(_rect(_LABEL, y + 9, bar.median * scale, 6, BLUE, 1.0))
        for aim in (bar.aim_median, bar.aim_p90):
            x = _LABEL + aim * scale
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 2}" y2="{y + 22}" stroke="{_TEXT}" stroke-width="2"/>'
            )
        told = f"{100 * bar.median:.1f} / {100 * bar.p90:.0f} %"
        parts.append(_text(_LABEL + _PLOT + 8, y + 17, told))
    return "\n".join([*parts, "</svg>", ""])


def coverage_chart(title: str, rows: Sequence[tuple[str, float]], description: str) -> str:
    """Draw the share of rows inside the 80 % interval as dots, over the band from 70 to 90 %."""
    scale = float(_PLOT)
    parts = _frame(title, description, len(rows), 0.2, scale)
    height = len(rows) * _ROW
    parts.append(_rect(_LABEL + 0.7 * scale, _TOP, 0.2 * scale, height, GREEN, 0.18))
    parts.append(
        f'<line x1="{_LABEL + 0.8 * scale:.1f}" x2="{_LABEL + 0.8 * scale:.1f}" y1="{_TOP}" y2="{_TOP + height}" '
        f'stroke="{GREEN}" stroke-dasharray="4 3"/>'
    )
    for number, (label, share) in enumerate(rows):
        y = _TOP + number * _ROW
        inside = 0.7 <= share <= 0.9
        parts.append(_label(label, y))
        x = _LABEL + share * scale
        mark = (
            f'<circle cx="{x:.1f}" cy="{y + 13}" r="5" fill="{BLUE}"/>'
            if inside
            else f'<path d="M{x:.1f} {y + 6}l7 7l-7 7l-7 -7z" fill="{ORANGE}"/>'
        )
        parts.append(mark)
        parts.append(_text(_LABEL + scale + 8, y + 17, f"{100 * share:.0f} %"))
    return "\n".join([*parts, "</svg>", ""])


def _frame(title: str, description: str, rows: int, step: float, scale: float) -> list[str]:
    width, height = _LABEL + _PLOT + _RIGHT, _TOP + rows * _ROW + 28
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label={quoteattr(description)} font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        _text(0, 16, title, weight="bold"),
    ]
    for tick in range(round(_PLOT / (scale * step)) + 1):
        x = _LABEL + tick * step * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + rows * _ROW}" stroke="{_GRID}"/>')
        parts.append(_text(x, _TOP + rows * _ROW + 16, f"{100 * tick * step:.0f} %", anchor="middle"))
    return parts


def _label(text: str, y: int) -> str:
    return _text(_LABEL - 8, y + 17, text, anchor="end")


def _rect(x: float, y: float, width: float, height: float, colour: str, opacity: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0.0):.1f}" height="{height}" fill="{colour}" '
        f'fill-opacity="{opacity}"/>'
    )


def _text(x: float, y: int, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{_TEXT}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
    )
