"""A timeline picture of runs that changed their size: one strip per run under the load, drawn by hand as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from simulator.arrays import FloatArray
from simulator.results.values import Scaling

# Okabe & Ito, "Color Universal Design" (2008).
_BLUE, _SKY, _ORANGE, _GREEN, _VERMILLION = "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00"
_TEXT, _GRID = "#444", "#ccc"
_LEFT, _WIDTH, _RIGHT = 150, 760, 190
_LOAD, _STRIP, _GAP, _TOP, _AXIS = 70, 74, 14, 58, 40
#: Height of the band that shows attainment, below the devices of a strip.
_BAND = 12


def timeline_svg(runs: Mapping[str, Scaling], title: str) -> str:
    """Draw devices, start-ups and attainment over time.

    Parameters
    ----------
    runs : Mapping of str to Scaling
        Runs of one load by name; the first one's arrivals are drawn on top.
    title : str
        What the picture shows.

    Returns
    -------
    str
        An SVG document. Grey are devices held beyond those that serve, blue those of the size that takes requests,
        orange the time from a command until the new instance serves; the band below is green where requests that
        arrived then met the objective, and vermillion with its height where they did not.
    """
    end = max(float(run.timeline["end_s"].iloc[-1]) for run in runs.values())
    most = max(float(run.timeline["devices"].max()) for run in runs.values())
    height = _TOP + _LOAD + _GAP + len(runs) * (_STRIP + _GAP) + _AXIS
    width = _LEFT + _WIDTH + _RIGHT
    scale = _WIDTH / end
    alt = "; ".join(f"{name}: {_words(run)}" for name, run in runs.items())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label={quoteattr(f"{title}. {alt}")} font-family="sans-serif" font-size="12" '
        'style="background:#fff">',
        f"<title>{escape(title)}</title>",
        _text(8, 18, title, weight="bold", size=14),
        *_legend(),
        *_load(next(iter(runs.values())), scale),
    ]
    top = _TOP + _LOAD + _GAP
    for name, run in runs.items():
        parts += _strip(name, run, top, scale, most)
        top += _STRIP + _GAP
    parts += _time_axis(end, scale, top)
    return "\n".join([*parts, "</svg>", ""])


def _words(run: Scaling) -> str:
    summary = run.summary
    return (
        f"{100 * summary.attainment:.0f} % within the objective, {summary.devices_mean:.1f} devices on average, "
        f"{summary.downtime_s:.0f} s down"
    )


def _legend() -> list[str]:
    entries = (
        (_BLUE, "devices that take requests"),
        ("#b8b8b8", "held besides"),
        (_ORANGE, "changing"),
        (_GREEN, "within SLO"),
        (_VERMILLION, "not"),
    )
    parts, x = [], _LEFT
    for colour, label in entries:
        parts.append(_rect(x, 28, 12, 12, colour))
        parts.append(_text(x + 17, 39, label))
        x += 40 + 7 * len(label)
    return parts


def _load(run: Scaling, scale: float) -> list[str]:
    frame = run.timeline
    rate = frame["arrivals_per_s"].to_numpy(np.float64)
    most = float(rate.max())
    area = _area(frame["start_s"].to_numpy(), frame["end_s"].to_numpy(), rate, scale, _TOP + _LOAD, _LOAD / most)
    return [
        _text(_LEFT - 10, _TOP + _LOAD - 4, "arrivals", anchor="end"),
        f'<path d="{area}" fill="{_SKY}" fill-opacity="0.6"/>',
        _text(_LEFT + _WIDTH + 8, _TOP + 10, f"{most:.3g} requests/s at most"),
        _line(_LEFT, _TOP + _LOAD, _LEFT + _WIDTH, _TOP + _LOAD),
    ]


def _strip(name: str, run: Scaling, top: float, scale: float, most: float) -> list[str]:
    frame, summary = run.timeline, run.summary
    tall = _STRIP - _BAND - 4
    floor = top + tall
    start, end = frame["start_s"].to_numpy(np.float64), frame["end_s"].to_numpy(np.float64)
    held = frame["devices"].to_numpy(np.float64)
    ranks = frame["size"].to_numpy(np.float64)
    each = float(held[0] / ranks[0]) if ranks[0] else 1.0
    parts = [f'<path d="{_area(start, end, held, scale, floor, tall / most)}" fill="#b8b8b8"/>']
    parts.append(
        f'<path d="{_area(start, end, np.minimum(ranks * each, held), scale, floor, tall / most)}" fill="{_BLUE}"/>'
    )
    for change in run.changes.to_dict("records"):
        left, right = _LEFT + change["command_s"] * scale, _LEFT + change["switched_s"] * scale
        parts.append(_rect(left, top, max(right - left, 1.0), tall, _ORANGE, opacity=0.55))
    for low, high, share in _runs(start, end, frame["attainment"].to_numpy(np.float64)):
        x, wide = _LEFT + low * scale, (high - low) * scale
        missed = _BAND * (1.0 - share)
        parts.append(_rect(x, floor + 3 + missed, wide, _BAND - missed, _GREEN))
        if missed > 0:
            parts.append(_rect(x, floor + 3, wide, missed, _VERMILLION))
    told = (
        f"{100 * summary.attainment:.1f} % within SLO",
        f"{summary.devices_mean:.1f} devices, {summary.devices_peak} at most",
        f"ready in {summary.latency_mean_s:.3g} s, down {summary.downtime_s:.3g} s",
        f"{summary.device_hours:.3g} device-hours",
    )
    parts.append(_text(_LEFT - 10, top + 24, name, anchor="end", weight="bold"))
    parts.append(_text(_LEFT - 10, top + 40, f"up to {most:.0f} devices", anchor="end", size=10))
    parts += [_text(_LEFT + _WIDTH + 8, top + 14 + 16 * row, line) for row, line in enumerate(told)]
    parts.append(_line(_LEFT, floor, _LEFT + _WIDTH, floor))
    return parts


def _runs(start: FloatArray, end: FloatArray, shares: FloatArray) -> Iterator[tuple[float, float, float]]:
    """Join neighbouring bins of the same share; bins without requests are left out."""
    known = ~np.isnan(shares)
    for share, group in groupby(zip(start[known], end[known], shares[known], strict=True), key=lambda each: each[2]):
        bins = list(group)
        yield bins[0][0], bins[-1][1], share


def _time_axis(end: float, scale: float, top: float) -> list[str]:
    step = next(s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 1e9) if end / s <= 13)
    parts = []
    for tick in range(int(end // step) + 1):
        x = _LEFT + tick * step * scale
        parts.append(_line(x, top - _GAP, x, top - _GAP + 5))
        parts.append(_text(x, top + 8, f"{tick * step:g} s", anchor="middle"))
    return parts


def _area(start: FloatArray, end: FloatArray, values: FloatArray, scale: float, floor: float, tall: float) -> str:
    """The path of a filled step curve."""
    points: list[str] = [f"M{_LEFT + start[0] * scale:.1f} {floor:.1f}"]
    for low, high, value in zip(start, end, values, strict=True):
        y = floor - value * tall
        points.append(f"L{_LEFT + low * scale:.1f} {y:.1f}L{_LEFT + high * scale:.1f} {y:.1f}")
    return "".join([*points, f"L{_LEFT + end[-1] * scale:.1f} {floor:.1f}Z"])


def _rect(x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" '
        f'fill-opacity="{opacity:g}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_GRID}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{_TEXT}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}">{escape(text)}</text>'
    )
