"""``moesim routing`` as text, and the heat map of its load as SVG."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from hardware_profiles.edge import shown, toml_value
from simulator.cli.console import number, pairs, percent, table
from simulator.cli.tables import print_table
from simulator.errors import ScenarioError

if TYPE_CHECKING:
    from rich.console import Console

    from workloads.routing.latent import LatentRouting
    from workloads.routing.report import RoutingReport

#: From little to much load.
_SHADES = " ░▒▓█"
#: Load over the mean at which a cell of the heat map is darkest.
_DARKEST = 4.0
_CELL = 10


def parameters(assignments: list[str] | None) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs; values are TOML.

    Raises
    ------
    ScenarioError
        One is not of that form.
    """
    found: dict[str, Any] = {}
    for assignment in assignments or ():
        key, separator, value = assignment.partition("=")
        found[key.strip()] = toml_value(value, shown(assignment), ScenarioError)
        if not separator or not key.strip() or found[key.strip()] is None:
            raise ScenarioError(f"got {shown(assignment)}, expected KEY=VALUE with a TOML value, as in exponent=0.8")
    return found


def print_stats(text: Console, report: RoutingReport) -> None:
    """Print a routing report."""
    shape = f"{report.tokens:,} tokens in {report.sequences:,} sequences, {report.layers} layers"
    varying = "" if report.mean_experts == report.top_k else f" (mean {number(report.mean_experts)})"
    text.print(f"{report.source}: {shape}, top-{report.top_k}{varying} of {report.num_experts} experts")
    _print_load(text, report)
    _print_batches(text, report)
    _print_active(text, report)
    _print_dependence(text, report)


def print_fit(text: Console, model: LatentRouting, errors: dict[str, float]) -> None:
    """Print what a fit found and how far it is from its trace."""
    rows = [
        ("layers, experts", f"{model.layers}, {model.num_experts}, top-{model.top_k}"),
        ("domains", f"{model.domains}, {number(model.domain_run)} sequences at a time"),
        ("hidden factors", str(model.factors)),
        *((f"error: {key}", percent(value)) for key, value in errors.items()),
    ]
    text.print(pairs(rows))


def heat_map_svg(report: RoutingReport) -> str:
    """Draw load by layer (down) and expert (across) over the mean, as a standalone SVG."""
    relative = _relative(report)
    layers, experts = relative.shape
    left, top = 60, 40
    cells = []
    for layer, row in enumerate(relative):
        for expert, value in enumerate(row):
            shade = round(255 * (1 - min(value / _DARKEST, 1.0)))
            place = f'x="{left + expert * _CELL}" y="{top + layer * _CELL}"'
            tip = f"layer {layer}, expert {expert}: {value:.2f} x mean"
            cells.append(
                f'<rect {place} width="{_CELL}" height="{_CELL}" fill="rgb({shade},{shade},255)">'
                f"<title>{tip}</title></rect>"
            )
    width, height = left + experts * _CELL + 20, top + layers * _CELL + 30
    labels = [
        f'<text x="{left}" y="20">load of each expert over the mean of its layer; darkest at {_DARKEST:g}</text>',
        f'<text x="{left}" y="{height - 10}">expert 0 to {experts - 1}</text>',
        f'<text x="5" y="{top + 10}">layer 0</text><text x="5" y="{top + layers * _CELL}">{layers - 1}</text>',
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img"'
    style = 'font-family="sans-serif" font-size="12">'
    return "\n".join([f"{head} {style}", "<title>Expert load</title>", *labels, *cells, "</svg>", ""])


def _relative(report: RoutingReport) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Load over the mean of its layer."""
    return np.asarray(report.load / np.maximum(report.load.mean(axis=1, keepdims=True), 1e-300))


def _print_load(text: Console, report: RoutingReport) -> None:
    """Print a heat map: a row per layer, experts from the most to the least loaded."""
    relative = -np.sort(-_relative(report), axis=1)
    width = min(64, report.num_experts)
    edges = np.linspace(0, report.num_experts, width + 1).astype(int)
    grid = table(
        "layer",
        "imbalance",
        "unused",
        "experts, most loaded first",
        title="Expert imbalance, most loaded over mean",
        right=("layer", "imbalance", "unused"),
    )
    for layer, row in enumerate(relative):
        means = [row[a:b].mean() for a, b in pairwise(edges)]
        shades = "".join(_SHADES[min(int(2 * value + 0.5), 4)] for value in means)
        grid.add_row(str(layer), number(float(row[0])), str(int((row == 0).sum())), Text(shades, style="cyan"))
    print_table(text, grid)


def _print_batches(text: Console, report: RoutingReport) -> None:
    columns = ("prefill", "decode", "shuffled", "skew alone", "chance alone")
    grid = table(
        "EP", "batch", *columns, title="Rank imbalance, most loaded over mean", right=("EP", "batch", *columns)
    )
    for row in report.batches:
        values = (row.prefill, row.decode, row.shuffled, row.skew, row.chance)
        grid.add_row(str(row.ranks), f"{row.batch:,}", *(number(value) for value in values))
    print_table(text, grid)
    text.print(
        "prefill: consecutive tokens; decode: one token of many sequences; shuffled: any tokens; skew alone: all "
        "tokens together; chance alone: a router without preference, same batch",
        style="dim",
    )


def _print_active(text: Console, report: RoutingReport) -> None:
    columns = ("prefill", "decode", "shuffled")
    grid = table("batch", *columns, title=f"Experts touched, of {report.num_experts}", right=("batch", *columns))
    for row in report.active:
        grid.add_row(f"{row['batch']:,.0f}", *(number(row[name]) for name in columns))
    print_table(text, grid)


def _print_dependence(text: Console, report: RoutingReport) -> None:
    def listed(values: dict[int, float]) -> str:
        return ", ".join(f"{key}: {number(value)}" for key, value in values.items() if value == value)

    hit, base = report.next_layer_hit_rate
    strongest = "; ".join(
        f"layer {row['layer']} experts {row['first']} and {row['second']} ({number(row['lift'])}x)"
        for row in report.co_activated[:3]
    )
    identity = "not known: the trace has no token ids; give --token-ids"
    if report.token_identity is not None:
        identity = percent(report.token_identity)
    rows = [
        ("experts shared with the token so far before", listed(report.overlap_by_lag)),
        ("with a token so many sequences away", listed(report.overlap_by_distance)),
        ("with any token, by chance", number(report.overlap_by_chance)),
        ("drift of the load between eighths", f"{percent(report.drift)}, {percent(report.drift_by_chance)} by chance"),
        ("information between layers so far apart [bit]", listed(report.layer_information)),
        ("first choice told from that of the layer before", f"{percent(hit)}, {percent(base)} without"),
        ("information between experts of a token [bit]", number(report.co_activation_information)),
        ("most often together", strongest or "-"),
        ("share that the token's identity decides", identity),
    ]
    text.print(pairs(rows))
