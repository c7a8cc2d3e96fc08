"""A placement study as text and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from simulator.cli.console import number, pairs, percent, seconds, table
from simulator.scenario.title import title
from simulator.study.placement import ORACLE, PlacementScore, PlacementStudy, StudyOptions

if TYPE_CHECKING:
    from rich.console import Console

    from simulator.scenario import Scenario

#: Shades of a rank's load over the mean: up to each bound [1].
_SHADES = (
    (0.5, " ", "blue"),
    (0.9, "░", "blue"),
    (1.1, "▒", "white"),
    (1.5, "▓", "yellow"),
    (float("inf"), "█", "red"),
)
#: Ranks beyond which the terminal shows no heat map [1].
_WIDEST = 48


def print_study(text: Console, study: PlacementStudy) -> None:
    """Print the scores of a split, and the load of ranks under its first and its best placement."""
    nodes = f"{study.nodes} nodes" if study.nodes > 1 else "one node"
    title = f"EP {study.ranks} on {nodes}, {study.redundant_slots} redundant slots"
    numbers = (
        "seen",
        "held out",
        "bound",
        "in a step",
        "slots touched",
        "far copies",
        "experts",
        "imbalance wait",
        "exchange",
    )
    shown = table("policy", *numbers, "step", "gain", title=title, right=(*numbers, "step", "gain"))
    for score in study.scores:
        first = score is study.scores[0]
        shown.add_row(
            score.policy,
            *(f"{value:.3f}" for value in (score.imbalance_seen, score.imbalance_later, score.bound)),
            f"{score.imbalance_step:.3f}",
            percent(score.active),
            number(score.far_copies),
            *(seconds(score.parts[part]) for part in ("experts", "imbalance_wait", "exchange")),
            seconds(score.step),
            "-" if first else f"{100 * study.gain(score):+.1f} %",
            style="dim" if score.policy == ORACLE else None,
        )
    text.print(shown)
    chosen = study.best
    if study.ranks <= _WIDEST:
        text.print(_maps(study.scores[0], chosen))
    text.print(
        pairs(
            [
                ("placed by", f"{study.seen_tokens:,} tokens, judged on {study.later_tokens:,} others"),
                ("seen, held out", "load of the heaviest rank over the mean, mean over layers; bound: its least"),
                ("in a step", "the same within single steps, where chance adds to it"),
                (ORACLE, "placed by the very tokens that it is judged on"),
                ("shades", "load over mean: " + ", ".join(_legend())),
            ]
        )
    )


def _legend() -> list[str]:
    bounds = [f"{bound:g}" for bound, _, _ in _SHADES[:-1]]
    names = [f"under {bounds[0]}", *(f"to {bound}" for bound in bounds[1:]), f"over {bounds[-1]}"]
    return [f"{shade if shade != ' ' else 'blank'} {name}" for (_, shade, _), name in zip(_SHADES, names, strict=True)]


def _maps(before: PlacementScore, after: PlacementScore) -> Table:
    """Two maps side by side: a row per layer, a column per rank."""
    grid = Table.grid(padding=(0, 3))
    for _ in range(3):
        grid.add_column()
    grid.add_row("layer", Text(before.policy, style="bold"), Text(after.policy, style="bold"))
    for layer in range(len(before.heat)):
        grid.add_row(f"{layer:>5}", _shaded(before.heat[layer].tolist()), _shaded(after.heat[layer].tolist()))
    return grid


def _shaded(loads: Sequence[float]) -> Text:
    line = Text()
    for load in loads:
        shade, colour = next((shade, colour) for bound, shade, colour in _SHADES if load <= bound)
        line.append(shade, style=colour)
    return line


def document(scenario: Scenario, options: StudyOptions, studies: Sequence[PlacementStudy]) -> dict[str, Any]:
    """Return the JSON document of ``moesim place``; times in seconds."""
    return {
        "scenario_hash": scenario.hash,
        "scenario": title(scenario),
        "phase": options.phase,
        "batch_per_rank": options.batch,
        "context": options.context,
        "hold_out": "mixed" if options.mixed else "later",
        "studies": [_study(study) for study in studies],
    }


def _study(study: PlacementStudy) -> dict[str, Any]:
    return {
        "ep": study.ranks,
        "nodes": study.nodes,
        "redundant_slots": study.redundant_slots,
        "seen_tokens": study.seen_tokens,
        "held_out_tokens": study.later_tokens,
        "best": study.best.policy,
        "policies": [_score(study, score) for score in study.scores],
    }


def _score(study: PlacementStudy, score: PlacementScore) -> dict[str, Any]:
    return {
        "policy": score.policy,
        "imbalance_seen": score.imbalance_seen,
        "imbalance_held_out": score.imbalance_later,
        "imbalance_step": score.imbalance_step,
        "lower_bound": score.bound,
        "active_slots": score.active,
        "far_copies": score.far_copies,
        "step_s": score.step,
        "parts_s": dict(score.parts),
        "gain": study.gain(score),
        "heat": [[round(value, 4) for value in row] for row in score.heat.tolist()],
    }
