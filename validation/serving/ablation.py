"""What each effect of serving buys: measured runs played again with one effect left out at a time.

``python -m validation.serving.ablation MEASUREMENTS [EVERY]`` prints the table that docs/theory/serving-validation.md
shows, of every EVERY-th run.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np

from simulator.scenario import Scenario
from validation.serving.points import Named, Point, read_points
from validation.serving.run import Played, play, point_scenario, step_ops
from validation.serving.validate import MetricAccuracy, Row, judge, play_all

#: Numbers of a stack that are zero, or as said, where an effect is left out.
WITHOUT: dict[str, dict[str, float]] = {
    "host time": dict.fromkeys(("cpu_gap", "cpu_gap_per_request", "prefill_gap", "launch_eager", "frontend"), 0.0),
    "launches of steps with prompts": {"launch_eager": 0.0, "prefill_gap": 0.0},
    "graph padding": {"graph_pad": 1.0},
}


def ablation(points: Sequence[Point], folder: Path) -> dict[str, dict[str, MetricAccuracy]]:
    """Accuracy of TPOT and TTFT over the runs that the full model plays, by what was left out.

    Parameters
    ----------
    points : sequence of Point
        Measured runs.
    folder : Path
        Where changed stack files may be written.
    """
    full = play_all(points)
    kept = [point for point, played in zip(points, full, strict=True) if isinstance(played, Played)]
    found = {"nothing": _judged(kept, [played for played in full if isinstance(played, Played)])}
    for name, numbers in WITHOUT.items():
        changed = [replace(point, stack=changed_stack(point.stack, numbers, folder)) for point in kept]
        found[name] = _judged(kept, play_all(changed))
    found["uneven routing"] = _judged(kept, play_all(kept, partial(play, routing={"kind": "balanced"})))
    found["all but a roofline sum"] = _judged(kept, [roofline(point) for point in kept])
    return found


def changed_stack(name: str, numbers: dict[str, float], folder: Path) -> str:
    """Write a built-in stack with other numbers and return its path."""
    import tomli_w

    source = files("simulator") / "stacks" / f"{name}.toml"
    table = tomllib.loads(source.read_text(encoding="utf-8"))
    for key, value in numbers.items():
        table["numbers"][key]["value"] = value
    path = folder / f"{name}-{abs(hash(tuple(numbers.items())))}.toml"
    path.write_text(tomli_w.dumps(table), encoding="utf-8")
    return str(path)


def roofline(point: Point) -> Played:
    """Predict a run as a sum of rooflines, as on the back of an envelope.

    A decode step of all requests is a sum of rooflines; every other request's prompt is computed once in between; the
    first token comes when a prompt alone is computed.
    """
    scenario = point_scenario(point)
    prompt, answer = (length * (1 + point.range_ratio) / 2 for length in (point.isl, point.osl))
    share = point.concurrency / point.pools[-1].dp / point.pools[-1].workers
    computing = _roofline_step(scenario, 0.0, 1.0, prompt)
    tpot = _roofline_step(scenario, share, prompt + answer / 2) + (share - 1) / answer * computing
    predicted = {"ttft": computing, "tpot": tpot, "e2el": computing + tpot * answer}
    predicted["throughput"] = point.concurrency * (prompt + answer) / predicted["e2el"] / point.devices
    return Played(predicted=predicted, interval_80=(1.0, 1.0), warnings=())


def _roofline_step(scenario: Scenario, sequences: float, context: float, prompt: float = 0.0) -> float:
    """Sum over ops of the slowest of arithmetic, memory and link at the datasheet's rates [s]."""
    ops, hardware = step_ops(scenario, sequences, context, prompt)
    silicon, link = hardware.silicon, hardware.fabric.scale_up_bandwidth
    total = 0.0
    for op in ops:
        bounds = (
            np.mean(op.flops) / silicon.peak.get(op.dtype, silicon.peak["bfloat16"]),
            np.mean(op.memory_bytes) / silicon.memory_bandwidth,
            np.mean(op.message_bytes) / link,
        )
        total += float(max(bounds)) * op.repeat
    return total


def _judged(points: Sequence[Point], outcomes: Sequence[Played | str]) -> dict[str, MetricAccuracy]:
    rows = [Row(point=p, played=o) for p, o in zip(points, outcomes, strict=True) if isinstance(o, Played)]
    return {metric: judge(rows, metric) for metric in ("tpot", "ttft")}


def markdown(found: dict[str, dict[str, MetricAccuracy]]) -> str:
    """Write the accuracy as a Markdown table."""
    lines = [
        "| left out | runs | TPOT median | TPOT p90 | TPOT bias | TTFT median | TTFT bias | Spearman of TPOT |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, metrics in found.items():
        tpot, ttft = metrics["tpot"], metrics["ttft"]
        cells = (tpot.median_ape, tpot.p90_ape, tpot.bias, ttft.median_ape, ttft.bias)
        percents = " | ".join(f"{100 * cell:.1f}%" for cell in cells)
        lines.append(f"| {name} | {tpot.rows} | {percents} | {tpot.spearman:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    measured = read_points(Path(sys.argv[1]), Named())
    with tempfile.TemporaryDirectory() as scratch:
        print(markdown(ablation(measured[:: int(sys.argv[2]) if len(sys.argv) > 2 else 1], Path(scratch))))
