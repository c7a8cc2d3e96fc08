"""The cases: each runs in a process of its own, whose peak memory is its own, and answers with lines of the table."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import scenarios
from benchmarks.pace import Pace, Timed, child_seconds, cpu_seconds, peak_memory
from benchmarks.rows import Row, amount, step, took

if TYPE_CHECKING:
    from simulator import Scenario

GIB = 2.0**30
MOESIM = str(Path(sys.executable).parent / "moesim")


def engine_steps(
    pace: Pace, *, name: str, asked: Callable[[], Scenario], most: float, memory: float | None = None
) -> list[Row]:
    """Simulate from tables, built before, to the result with its frames; the first run builds the tables."""
    from simulator import simulate

    wanted = asked()
    steps = 0

    def run() -> None:
        nonlocal steps
        result = simulate(wanted)
        steps = len(result.steps)
        assert len(result.requests) == wanted.requests.count  # noqa: S101 -- frames are made when they are asked for

    first = pace.time(lambda: cpu_seconds(run))
    again = pace.time(lambda: cpu_seconds(run), repeats=5)
    return [
        step(f"{name}: one engine step", again.per(steps), most=most),
        amount(f"{name}: engine steps", steps),
        took(f"{name}: tables and imports, once", _less(first, again)),
        amount(f"{name}: peak memory", peak_memory() / GIB, "GiB", most=memory),
    ]


def short_requests(pace: Pace, few: int = 100_000, many: int = 1_000_000) -> list[Row]:
    """Simulate short requests from scenario to result, tables built before: few, many, and few again."""
    from simulator import simulate

    scenario = scenarios.mapped(scenarios.SHORT)
    simulate(scenario.override("requests.count=1000"))
    steps = {}

    def run(count: int) -> float:
        wanted = scenario.override(f"requests.count={count}")
        began = time.process_time()
        result = simulate(wanted)
        assert len(result.requests) == count  # noqa: S101 -- frames are made when they are asked for
        steps[count] = len(result.steps)
        return time.process_time() - began

    before, large, after = (pace.time(partial(run, count)) for count in (few, many, few))
    small = (before.seconds + after.seconds) / 2
    return [
        took("gpt-oss-20b, 1 M short requests", large, most=5),
        amount("gpt-oss-20b: time of 1 M over 100 k requests", large.seconds / small, most=10.5),
        amount("gpt-oss-20b: steps of 1 M over 100 k requests", steps[many] / steps[few]),
        amount("gpt-oss-20b, 1 M short requests: peak memory", peak_memory() / GIB, "GiB", most=4),
    ]


def pools(pace: Pace) -> list[Row]:
    """Simulate an hour of a deployment whose pools compute prompts and decode."""
    timed, result = _whole_run(pace, scenarios.POOLS)
    return [
        took("DeepSeek-V3, 4 + 9 nodes: an hour of 40 requests/s", timed, most=60),
        amount("DeepSeek-V3, 4 + 9 nodes: engine steps", result.summary.engine_steps),
    ]


def day(pace: Pace) -> list[Row]:
    """Simulate a day of requests and write its folder, in memory that a small machine has."""
    from simulator.api import save

    timed, result = _whole_run(pace, scenarios.DAY)
    with tempfile.TemporaryDirectory() as name:
        save(result, Path(name) / "day")
    return [
        took("qwen3-30b-a3b: a day of 1 request/s", timed),
        amount("qwen3-30b-a3b, a day: engine steps", result.summary.engine_steps),
        amount("qwen3-30b-a3b, a day: peak memory with its folder", peak_memory() / GIB, "GiB", most=1.5e9 / GIB),
    ]


def prefixes(pace: Pace) -> list[Row]:
    """Simulate prompts that begin alike."""
    timed, result = _whole_run(pace, scenarios.PREFIXES)
    return [
        took("prefix caching, 100 k requests", timed, most=120),
        amount("prefix caching: share of prompt tokens found", result.summary.prefix_hits),
    ]


def start(pace: Pace) -> list[Row]:
    """Start whole processes: with an empty cache, and again with what the first has left there."""
    h200, ep32 = (str(scenarios.PRESETS / file) for file in (scenarios.H200[0], scenarios.EP32[0]))
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for question, command, cold, second in (
            ("`moesim estimate`, 8x H200", ["estimate", h200, "--json"], 0.6, 0.5),
            ("`moesim estimate`, EP32", ["estimate", ep32, "--json"], 0.6, 0.5),
            ("`moesim simulate`, 8x H200", ["simulate", h200, "--json"], None, None),
            ("`moesim simulate`, EP32", ["simulate", ep32, "--json"], 1.5, 1.0),
        ):
            first, again = _starts(pace, [MOESIM, *command], folder)
            found += [
                took(f"{question}: cold", first, most=cold),
                took(f"{question}: second start", again, most=second),
            ]
        for question, command, most in (
            ("`moesim --help`", [MOESIM, "--help"], 0.3),
            ("`import simulator`", [sys.executable, "-c", "import simulator"], 0.5),
        ):
            found += [took(question, _starts(pace, command, folder)[1], most=most)]
    return found


def warm(pace: Pace) -> list[Row]:
    """Answer each preset again and again in closed form; the slowest counts."""
    from simulator import InfeasibleScenario, estimate

    timed: dict[str, Timed] = {}
    for file in sorted(scenarios.PRESETS.glob("*.toml")):
        scenario = scenarios.preset(file.name)
        try:
            estimate(scenario)
        except InfeasibleScenario:
            continue
        timed[file.stem] = pace.time(partial(_median_seconds, partial(estimate, scenario), 30), repeats=3)
    slowest = max(timed, key=lambda name: timed[name].timeouts)
    return [
        took(f"warm `estimate`, the slowest of {len(timed)} presets", timed[slowest], "ms", most=2),
        took("warm `estimate`, DeepSeek-V3 on 8x H200", timed[Path(scenarios.H200[0]).stem], "ms", most=2),
    ]


def load_sweep(pace: Pace) -> list[Row]:
    """Ask one deployment about many loads, one by one, its first answered before."""
    from simulator import estimate

    first, *rest = scenarios.loads()
    estimate(first)
    timed = pace.time(lambda: cpu_seconds(lambda: [estimate(each) for each in rest]))
    return [took(f"{len(rest) + 1} loads of one deployment, each", timed.per(len(rest)), "ms", most=3)]


def many(pace: Pace, *, name: str, asked: Callable[[], Iterator[Scenario]], most: float, memory: float) -> list[Row]:
    """Answer many scenarios in closed form, from their making to their answers."""
    from simulator import estimate_many

    ways: list[str] = []
    timed = pace.time(lambda: cpu_seconds(lambda: ways.extend(each.how for each in estimate_many(asked()))))
    return [
        took(name, timed, most=most),
        amount(f"{name}: peak memory", peak_memory() / GIB, "GiB", most=memory),
        amount(f"{name}: that fit", ways.count("solved")),
    ]


def traffic(pace: Pace) -> list[Row]:
    """Count the copies of 65,536 tokens, top-8, among 64 ranks, again and again."""
    import numpy as np

    from simulator.kernels.traffic import contiguous_homes, traffic_of

    destinations = np.random.default_rng(0).integers(0, 64, (65536, 8))
    homes = contiguous_homes(65536, 64)
    count = partial(traffic_of, destinations, homes, ranks=64, domain=8)
    timed = pace.time(partial(_median_seconds, count, 10), repeats=3)
    return [took("traffic matrix, 65,536 tokens x 64 ranks", timed, "ms", most=10)]


def flow(pace: Pace) -> list[Row]:
    """Send an exchange among 320 ranks as messages that share links: even, and as a router draws it."""
    import numpy as np

    from simulator.hardware import load_hardware
    from simulator.kernels.traffic import contiguous_homes, traffic_of
    from simulator.schedule.flow import run_stages
    from simulator.topology import build_topology, compile_topology

    ranks, hardware = 320, load_hardware("h800-sxm", nodes=40)

    def build() -> Any:
        return compile_topology(build_topology(hardware.device, hardware.node, hardware.cluster, 40))

    topology = build()
    destinations = np.random.default_rng(0).integers(0, ranks, (128 * ranks, 8))
    routed = traffic_of(destinations, contiguous_homes(128 * ranks, ranks), ranks=ranks, domain=8)
    even = pace.time(lambda: cpu_seconds(lambda: run_stages(topology, (np.ones((ranks, ranks)),), 1e6)))
    uneven = pace.time(lambda: cpu_seconds(lambda: run_stages(topology, (routed.experts,), 7168.0)))
    return [
        took("`flow`, even all-to-all of 320 ranks", even, most=2),
        took("`flow`, routed all-to-all of 320 ranks", uneven, most=2),
        took("`flow`: topology of 320 devices and its routes", pace.time(lambda: cpu_seconds(build))),
    ]


def placement(pace: Pace) -> list[Row]:
    """Place 58 layers of 256 experts with power-law loads in 288 slots of 32 ranks on 4 nodes."""
    import numpy as np

    from simulator.placement import imbalance, lower_bound, place

    rng = np.random.default_rng(0)
    load = rng.permuted(np.tile(np.arange(1.0, 257.0) ** -1.0, (58, 1)), axis=1)
    refined, eplb = (place(policy, load, 32, 32, nodes=4, groups=8).rank_load(load) for policy in ("refined", "eplb"))
    timed = pace.time(partial(_median_seconds, partial(place, "refined", load, 32, 32, nodes=4, groups=8), 15))
    over = refined.max(axis=1) / lower_bound(load, 32, 32)
    better = float(imbalance(refined).mean() / imbalance(eplb).mean())
    return [
        took("placing 58 layers x 256 experts on 32 ranks", timed, "ms", most=100),
        amount("the same: heaviest rank over the lower bound", float(over.mean()), most=1.01),
        amount("the same: max/mean over that of EPLB", better, most=1),
    ]


CASES: dict[str, Callable[[Pace], list[Row]]] = {
    "ep32": partial(
        engine_steps,
        name="DeepSeek-V3, EP32, 1,024 in flight",
        asked=partial(scenarios.preset, *scenarios.EP32),
        most=18,
    ),
    "h200": partial(
        engine_steps,
        name="DeepSeek-V3, 8x H200, 32 in flight",
        asked=partial(scenarios.preset, *scenarios.H200),
        most=6,
    ),
    "ep320": partial(
        engine_steps,
        name="DeepSeek-V3, EP320, 10,240 in flight",
        asked=partial(scenarios.mapped, scenarios.EP320),
        most=100,
        memory=0.5,
    ),
    "start": start,
    "warm": warm,
    "loads": load_sweep,
    "sweep": partial(
        many, name="10,000 scenarios of load, lengths, split, count", asked=scenarios.sweep, most=10, memory=1
    ),
    "grid": partial(many, name="5 models x 4 devices x 5 splits x 10 loads", asked=scenarios.grid, most=15, memory=1),
    "short": short_requests,
    "day": day,
    "pools": pools,
    "prefixes": prefixes,
    "placement": placement,
    "traffic": traffic,
    "flow": flow,
}
#: What a change of the code most often moves, in a minute.
QUICK = ("ep32", "h200", "ep320", "start", "warm", "loads")


def _whole_run(pace: Pace, mapping: dict[str, Any]) -> tuple[Timed, Any]:
    """Simulate one scenario from its tables, built before, to its result."""
    from simulator import simulate

    wanted, results = scenarios.mapped(mapping), []
    simulate(wanted.override("requests.count=200"))
    timed = pace.time(lambda: cpu_seconds(lambda: results.append(simulate(wanted))))
    return timed, results[0]


def _starts(pace: Pace, command: list[str], folder: Path, repeats: int = 3) -> tuple[Timed, Timed]:
    """Time whole processes with an empty cache, and with the one that they have filled."""

    def cold() -> float:
        shutil.rmtree(folder / "moesim", ignore_errors=True)
        return child_seconds(command, folder)

    # Python compiles modules when they are first imported, once and for all.
    cold()
    return pace.time(cold, repeats), pace.time(partial(child_seconds, command, folder), repeats)


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    return statistics.median(cpu_seconds(work) for _ in range(repeats))


def _less(whole: Timed, part: Timed) -> Timed:
    return Timed(seconds=whole.seconds - part.seconds, timeouts=whole.timeouts - part.timeouts)
