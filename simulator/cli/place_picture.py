"""The load of ranks before and after placing, as an SVG picture or an HTML page that holds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from simulator.study.placement import PlacementScore, PlacementStudy

#: Size of a cell at most, of a panel, and of what surrounds panels [pixels].
_CELL, _PANEL, _MARGIN, _TITLE = 14.0, 380.0, 46.0, 58.0
#: Load over mean at the ends of the colours, on a logarithmic scale [1].
_FULL = 4.0
#: Light, even and heavy: a blue and a red that colour-blind readers tell apart.
_LIGHT, _EVEN, _HEAVY = (33, 102, 172), (247, 247, 247), (178, 24, 43)
_STYLE = "font-family:system-ui,sans-serif;font-size:12px;fill:#222"


def picture(studies: Sequence[PlacementStudy]) -> str:
    """Draw a row of two maps per study: ranks across, layers down, colour is load over the mean rank."""
    parts, top, width = [], 0.0, 2 * _PANEL + 3 * _MARGIN
    for study in studies:
        body, height = _row(study, top)
        parts += body
        top += height
    parts += _legend(top)
    height = top + 52
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="Load of ranks before and after placing" style="{_STYLE}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def page(studies: Sequence[PlacementStudy]) -> str:
    """Return the picture and the table of scores as one HTML page."""
    rows = "".join(
        f"<tr><td>{study.ranks}</td><td>{study.redundant_slots}</td><td>{escape(score.policy)}</td>"
        f"<td>{score.imbalance_seen:.3f}</td><td>{score.imbalance_later:.3f}</td><td>{score.bound:.3f}</td>"
        f"<td>{score.imbalance_step:.3f}</td><td>{1e3 * score.step:.3f}</td>"
        f"<td>{100 * study.gain(score):+.1f}</td></tr>"
        for study in studies
        for score in study.scores
    )
    headings = (
        "EP",
        "redundant slots",
        "policy",
        "rank imbalance, seen",
        "rank imbalance, held out",
        "lower bound",
        "rank imbalance in a step",
        "step [ms]",
        "gain [%]",
    )
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Placement of experts</title>'
        "<style>body{font-family:system-ui,sans-serif;margin:2rem;color:#222}table{border-collapse:collapse}"
        "td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}"
        "td:nth-child(3),th:nth-child(3){text-align:left}</style>"
        f"<h1>Placement of experts</h1>{picture(studies)}<table><tr>{head}</tr>{rows}</table></html>\n"
    )


def _row(study: PlacementStudy, top: float) -> tuple[list[str], float]:
    before, after = study.scores[0], study.best
    layers, ranks = before.heat.shape
    cell = min(_CELL, _PANEL / ranks)
    parts = [
        f'<text x="{_MARGIN:g}" y="{top + 22:g}" font-weight="600" font-size="14">EP {study.ranks}, '
        f"{study.redundant_slots} redundant slots, {study.later_tokens:,} tokens held out</text>"
    ]
    for index, score in enumerate((before, after)):
        left = _MARGIN + index * (_PANEL + _MARGIN)
        gain = "" if index == 0 else f", {100 * study.gain(score):+.1f} %"
        parts.append(
            f'<text x="{left:g}" y="{top + 44:g}">{escape(score.policy)}: rank imbalance {score.imbalance_later:.2f}, '
            f"step {1e3 * score.step:.2f} ms{gain}</text>"
        )
        parts += _cells(score, left, top + _TITLE, cell)
    return parts, _TITLE + layers * cell + 30


def _cells(score: PlacementScore, left: float, top: float, cell: float) -> list[str]:
    layers, ranks = score.heat.shape
    parts = [
        f'<rect x="{left + rank * cell:.1f}" y="{top + layer * cell:.1f}" width="{cell:.2f}" height="{cell:.2f}" '
        f'fill="{_colour(float(score.heat[layer, rank]))}"/>'
        for layer in range(layers)
        for rank in range(ranks)
    ]
    right, bottom = left + ranks * cell, top + layers * cell
    ticks = sorted({0, ranks - 1})
    parts += [_label(left + (rank + 0.5) * cell, bottom + 14, str(rank), "middle") for rank in ticks]
    parts.append(_label((left + right) / 2, bottom + 14, "rank", "middle"))
    parts += [_label(left - 5, top + (layer + 0.5) * cell + 4, str(layer), "end") for layer in sorted({0, layers - 1})]
    return parts


def _legend(top: float) -> list[str]:
    steps: NDArray[np.float64] = np.linspace(-1, 1, 41)
    size = 6.0
    parts = [
        f'<rect x="{_MARGIN + i * size:.1f}" y="{top + 8:.1f}" width="{size:.2f}" height="12" '
        f'fill="{_colour(_FULL**power)}"/>'
        for i, power in enumerate(steps.tolist())
    ]
    for power in (-1.0, -0.5, 0.0, 0.5, 1.0):
        place = _MARGIN + (power + 1) / 2 * (len(steps) - 1) * size + size / 2
        parts.append(_label(place, top + 34, f"{_FULL**power:g}", "middle"))
    parts.append(_label(_MARGIN + len(steps) * size + 12, top + 19, "load of a rank over the mean rank", "start"))
    return parts


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11">{escape(text)}</text>'


def _colour(load: float) -> str:
    """Colour of a load over the mean: light blue below it, red above, on a logarithmic scale."""
    power = max(-1.0, min(1.0, math.log(max(load, 1e-9)) / math.log(_FULL)))
    end = _LIGHT if power < 0 else _HEAVY
    share = abs(power) ** 0.8
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(_EVEN, end, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"
