"""A placement study as text and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from simulator.cli.console import number, pairs, percent, seconds, table
from simulator.cli.tables import print_table
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
#: Layers of which a heat map has a row [1].
_ROWS = 8
#: Share of a step below which two placements are as good [1].
_NOTHING = 1e-3
#: Ranks beyond which the terminal shows no heat map [1].
_WIDEST = 48


def print_study(text: Console, scenario: Scenario, options: StudyOptions, study: PlacementStudy) -> None:
    """Print what was asked, the scores of a split, how its best placement loads the ranks, and the verdict.

    Parameters
    ----------
    text : Console
        Where to.
    scenario : Scenario
        What was asked.
    options : StudyOptions
        How placements were judged.
    study : PlacementStudy
        The scores of one split.
    """
    nodes = f"{study.nodes} nodes" if study.nodes > 1 else "one node"
    text.print(f"EP {study.ranks} on {nodes}, {study.redundant_slots} redundant slots", style="bold")
    text.print(assumptions(scenario, options, study), style="dim")
    numbers = ("seen", "held out", "bound", "in a step", "touched", "far copies", "experts", "wait", "exchange")
    shown = table("policy", *numbers, "step", "gain", right=(*numbers, "step", "gain"))
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
    print_table(text, shown, ("far copies", "touched", "seen", "bound", "in a step", "exchange", "wait", "experts"))
    if study.ranks <= _WIDEST:
        text.print(_maps(study.scores[0], study.best))
    text.print(
        pairs(
            [
                ("placed by", f"{study.seen_tokens:,} tokens, judged on {study.later_tokens:,} others"),
                ("seen, held out", "rank imbalance (most loaded rank over mean), mean over layers; bound: its least"),
                ("in a step", "the same within single steps, where chance adds to it"),
                (ORACLE, "placed by the very tokens that it is judged on"),
                ("touched", "share of expert slots that a step reads; far copies: other nodes that a token reaches"),
                ("experts, wait", "time of the mean rank's experts in a step, and what the slowest rank adds"),
                ("exchange", "time for tokens to reach their experts and back; step: all of it, other ops included"),
                ("shades", "load over mean: " + ", ".join(_legend())),
            ]
        )
    )
    text.print(verdict(study), soft_wrap=True)


def assumptions(scenario: Scenario, options: StudyOptions, study: PlacementStudy) -> str:
    """Say which step is priced, of which model, on what."""
    return (
        f"{scenario.model.name} on {study.ranks}x {scenario.hardware.device} with {scenario.stack.name}; "
        f"{options.phase} steps of {options.batch} tokens on each rank (--batch), {options.batch * study.ranks:,} in "
        f"all, sequences of {options.context:,} tokens (--context)"
    )


def verdict(study: PlacementStudy) -> str:
    """Say in a sentence which placement is best, what it gains, and what is left to gain."""
    first, best = study.scores[0], study.best
    oracle = next((score for score in study.scores if score.policy == ORACLE), None)
    left = ""
    if oracle is not None:
        rest = 1.0 - oracle.step / best.step
        hindsight = f"placed in hindsight a step would be {100 * rest:.1f} % shorter still"
        left = f"; {hindsight}" if rest > _NOTHING else "; hindsight would place no better"
    if study.gain(best) <= _NOTHING:
        return f"verdict: {first.policy} will do, as no other policy makes a step shorter by as much as 0.1 %{left}"
    return (
        f"verdict: {best.policy} makes a step {100 * study.gain(best):.1f} % shorter than {first.policy} "
        f"({seconds(first.step)} -> {seconds(best.step)}){left}"
    )


def _legend() -> list[str]:
    bounds = [f"{bound:g}" for bound, _, _ in _SHADES[:-1]]
    names = [f"under {bounds[0]}", *(f"to {bound}" for bound in bounds[1:]), f"over {bounds[-1]}"]
    return [f"{shade if shade != ' ' else 'blank'} {name}" for (_, shade, _), name in zip(_SHADES, names, strict=True)]


def _maps(before: PlacementScore, after: PlacementScore) -> Table:
    """Two maps side by side: a row for each of a few layers, from the first to the last, and a column per rank."""
    grid = Table.grid(padding=(0, 3))
    for _ in range(3):
        grid.add_column()
    grid.add_row("layer", Text(before.policy, style="bold"), Text(after.policy, style="bold"))
    layers = len(before.heat)
    for layer in sorted({round(row * (layers - 1) / (_ROWS - 1)) for row in range(_ROWS)}):
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
        "model": scenario.model.name,
        "device": scenario.hardware.device,
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
        "verdict": verdict(study),
        "policies": [_score(study, score) for score in study.scores],
    }


def _score(study: PlacementStudy, score: PlacementScore) -> dict[str, Any]:
    return {
        "policy": score.policy,
        "rank_imbalance_seen": score.imbalance_seen,
        "rank_imbalance_held_out": score.imbalance_later,
        "rank_imbalance_step": score.imbalance_step,
        "lower_bound": score.bound,
        "active_slots": score.active,
        "far_copies": score.far_copies,
        "step_s": score.step,
        "parts_s": dict(score.parts),
        "gain": study.gain(score),
        "heat": [[round(value, 4) for value in row] for row in score.heat.tolist()],
    }
