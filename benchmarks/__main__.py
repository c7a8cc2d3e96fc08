"""Measure the simulator itself: speed of the engine, growth with the number of requests, start-up times.

``python -m benchmarks`` prints a table, writes ``results.json`` beside this file and the table of
``docs/benchmarks.md``. ``--quick`` leaves out the million requests and writes nothing.

Every case runs in a process of its own, so that its peak memory is its own. Work is timed in CPU seconds, which other
processes on the machine disturb least; start-up times are the best of several, on the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results: written by make bench -->", "<!-- end of results -->"

#: 58 MoE layers x 256 experts over 32 ranks: nearly all steps decode.
EP32 = (
    "examples/deepseek-v3-ep32-h800.toml",
    "requests.concurrency=1024",
    "requests.count=4000",
    "requests.lengths.input=512",
    "requests.lengths.output=2048",
)
H200 = ("examples/deepseek-v3-h200.toml", "requests.count=1000")
#: A cheap deployment under short requests, so that a million of them are quick.
SHORT: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "stack": {"name": "vllm"},
    "requests": {
        "kind": "closed_loop",
        "concurrency": 256,
        "lengths": {"kind": "fixed", "input": 64, "output": 16},
    },
}
#: An hour of 40 requests per second on 4 nodes that compute prompts and 9 that decode.
POOLS: dict[str, Any] = {
    "model": {"name": "deepseek-v3"},
    "hardware": {"device": "h100-sxm", "cluster": "hgx-h100-ib"},
    "parallelism": {"dp": 72, "ep": 72},
    "placement": {"policy": "eplb_global", "redundant_slots": 32},
    "disaggregation": {"enabled": True, "prefill": {"dp": 32, "ep": 32}},
    "stack": {"exchange": "deepep"},
    "requests": {
        "kind": "poisson",
        "rate": 40.0,
        "count": 144_000,
        "lengths": {"kind": "lognormal", "input": 2000, "output": 300},
    },
    "routing": {"tokens": 1024},
}
#: A hundred thousand prompts of a made-up trace in the form of Mooncake's, whose blocks repeat, on eight instances.
PREFIXES: dict[str, Any] = {
    "model": {"name": "qwen3-30b-a3b"},
    "hardware": {"device": "h200-sxm"},
    "parallelism": {"instances": 8},
    "stack": {"name": "vllm", "balancer": "cache_aware"},
    "prefix_cache": {"kind": "instance"},
    "requests": {"kind": "trace", "trace": "sample:mooncake_like.jsonl", "repeat": 1000, "rate": 100.0},
    "routing": {"tokens": 1024},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; ``target`` is empty where none was set."""

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None


def engine_speed(file: str, *overrides: str, repeats: int = 5) -> dict[str, float]:
    """Run the engine alone, its tables built before; medians over repeats."""
    from simulator import Scenario
    from simulator.deployment.deployment import deploy
    from simulator.deployment.inputs import scenario_requests
    from simulator.serving.engine import Pool, run_engine

    scenario = Scenario.load(ROOT / file, overrides)
    trace = scenario_requests(scenario.requests, scenario.seed)
    began = time.process_time()
    deployment = deploy(scenario, trace)
    build, seconds, steps = time.process_time() - began, [], 0
    for _ in range(repeats):
        timer = deployment.timer()
        began = time.process_time()
        run = run_engine(trace, [Pool(timers=[timer], limits=deployment.limits)])
        seconds.append(time.process_time() - began)
        steps = len(run.steps["start_s"])
    middle = statistics.median(seconds)
    return {"steps": steps, "steps_per_s": steps / middle, "best_per_s": steps / min(seconds), "build_s": build}


def short_requests(count: int, repeats: int) -> dict[str, float]:
    """Simulate many short requests from scenario to result, tables built before."""
    from simulator import Scenario, simulate

    scenario = Scenario.from_mapping(SHORT)
    simulate(scenario.override("requests.count=1000"))
    wanted, seconds = scenario.override(f"requests.count={count}"), []
    for _ in range(repeats):
        began = time.process_time()
        result = simulate(wanted)
        seconds.append(time.process_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"cpu_s": statistics.median(seconds), "peak_bytes": peak, "steps": result.summary.engine_steps}


def whole_run(scenario: dict[str, Any]) -> dict[str, float]:
    """Simulate one scenario from its tables, built before, to its result."""
    from simulator import Scenario, simulate

    wanted = Scenario.from_mapping(scenario)
    simulate(wanted.override("requests.count=200"))
    began = time.process_time()
    result = simulate(wanted)
    found = {"cpu_s": time.process_time() - began, "steps": result.summary.engine_steps}
    cached, prompts = result.requests["cached_tokens"].sum(), result.requests["input_tokens"].sum()
    return {**found, "requests": len(result.requests), "hits": float(cached / prompts)}


def estimate_speed(file: str) -> dict[str, float]:
    """Answer one scenario again and again in closed form."""
    from simulator import Scenario, estimate

    scenario = Scenario.load(ROOT / file)
    estimate(scenario)
    seconds = []
    for _ in range(50):
        began = time.process_time()
        estimate(scenario)
        seconds.append(time.process_time() - began)
    return {"seconds": statistics.median(seconds)}


def traffic_speed() -> dict[str, float]:
    """Count the copies of 65,536 tokens, top-8, among 64 ranks, again and again."""
    import numpy as np

    from simulator.kernels.traffic import contiguous_homes, traffic_of

    destinations = np.random.default_rng(0).integers(0, 64, (65536, 8))
    homes, seconds = contiguous_homes(65536, 64), []
    for _ in range(30):
        began = time.process_time()
        traffic_of(destinations, homes, ranks=64, domain=8)
        seconds.append(time.process_time() - began)
    return {"seconds": statistics.median(seconds)}


def flow_speed() -> dict[str, float]:
    """Send an exchange among 320 ranks as messages that share links: even, and as a router draws it."""
    import numpy as np

    from simulator.hardware import load_hardware
    from simulator.kernels.traffic import contiguous_homes, traffic_of
    from simulator.schedule.flow import run_stages
    from simulator.topology import build_topology, compile_topology

    ranks, hardware = 320, load_hardware("h800-sxm", nodes=40)
    began = time.process_time()
    topology = compile_topology(build_topology(hardware.device, hardware.node, hardware.cluster, 40))
    compiled = time.process_time()
    run_stages(topology, (np.ones((ranks, ranks)),), 1e6)
    even = time.process_time()
    destinations = np.random.default_rng(0).integers(0, ranks, (128 * ranks, 8))
    routed = traffic_of(destinations, contiguous_homes(128 * ranks, ranks), ranks=ranks, domain=8)
    uneven = time.process_time()
    run_stages(topology, (routed.experts,), 7168.0)
    return {"compile_s": compiled - began, "even_s": even - compiled, "uneven_s": time.process_time() - uneven}


def placement_speed() -> dict[str, float]:
    """Place 58 layers of 256 experts with power-law loads in 288 slots of 32 ranks on 4 nodes."""
    import numpy as np

    from simulator.placement import imbalance, lower_bound, place

    rng, seconds = np.random.default_rng(0), []
    load = rng.permuted(np.tile(np.arange(1.0, 257.0) ** -1.0, (58, 1)), axis=1)
    heaviest = {p: place(p, load, 32, 32, nodes=4, groups=8).rank_load(load) for p in ("refined", "eplb")}
    for _ in range(15):
        began = time.process_time()
        place("refined", load, 32, 32, nodes=4, groups=8)
        seconds.append(time.process_time() - began)
    over = heaviest["refined"].max(axis=1) / lower_bound(load, 32, 32)
    means = {f"{p}_imbalance": float(imbalance(held).mean()) for p, held in heaviest.items()}
    return {"seconds": statistics.median(seconds), "over_bound": float(over.mean()), **means}


CASES: dict[str, Callable[[], dict[str, float]]] = {
    "ep32": partial(engine_speed, *EP32),
    "h200": partial(engine_speed, *H200),
    "short-100k": partial(short_requests, 100_000, 3),
    "short-1m": partial(short_requests, 1_000_000, 1),
    "pools": partial(whole_run, POOLS),
    "prefixes": partial(whole_run, PREFIXES),
    "estimate": partial(estimate_speed, H200[0]),
    "placement": placement_speed,
    "traffic": traffic_speed,
    "flow": flow_speed,
}


def measure(case: str) -> dict[str, float]:
    """Run a case in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--case", case], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def start_up(*command: str, repeats: int = 7) -> float:
    """Return the best time of starting a program, on the wall [s]."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def rows(*, quick: bool) -> list[Row]:
    """Measure everything."""
    ep32, h200, few = measure("ep32"), measure("h200"), measure("short-100k")
    found = [
        at_least("DeepSeek-V3, EP32: engine steps per second", ep32["steps_per_s"], "1/s", 20_000),
        Row(name="DeepSeek-V3, EP32: best of the repeats", value=ep32["best_per_s"], unit="1/s", target="aim 50000"),
        Row(name="DeepSeek-V3, EP32: building the tables", value=ep32["build_s"], unit="s"),
        Row(name="DeepSeek-V3, 8x H200: engine steps per second", value=h200["steps_per_s"], unit="1/s"),
        Row(name="DeepSeek-V3, 8x H200: building the tables", value=h200["build_s"], unit="s"),
        Row(name="gpt-oss-20b, 100 k short requests: requests per second", value=1e5 / few["cpu_s"], unit="1/s"),
        Row(name="gpt-oss-20b, 100 k short requests: engine steps", value=few["steps"], unit="1"),
        Row(name="gpt-oss-20b, 100 k short requests: peak memory", value=few["peak_bytes"] / 2**30, unit="GiB"),
    ]
    if not quick:
        many, again = measure("short-1m"), measure("short-100k")
        ratio = 2 * many["cpu_s"] / (few["cpu_s"] + again["cpu_s"])
        found += [
            Row(name="gpt-oss-20b, 1 M short requests: requests per second", value=1e6 / many["cpu_s"], unit="1/s"),
            at_most("gpt-oss-20b: time of 1 M over 100 k requests", ratio, "1", 10.5),
            at_most("gpt-oss-20b, 1 M short requests: peak memory", many["peak_bytes"] / 2**30, "GiB", 4),
        ]
        pools, prefixes = measure("pools"), measure("prefixes")
        found += [
            at_most("DeepSeek-V3, 4 + 9 nodes: an hour of 40 requests/s", pools["cpu_s"], "s", 60),
            Row(name="DeepSeek-V3, 4 + 9 nodes: engine steps", value=pools["steps"], unit="1"),
            at_most("prefix caching, 100 k requests", prefixes["cpu_s"], "s", 120),
            Row(name="prefix caching: share of prompt tokens found", value=prefixes["hits"], unit="1"),
        ]
    flow = measure("flow")
    found += [
        at_most("traffic matrix, 65,536 tokens x 64 ranks", measure("traffic")["seconds"] * 1e3, "ms", 10),
        at_most("`flow`, even all-to-all of 320 ranks", flow["even_s"], "s", 2),
        at_most("`flow`, routed all-to-all of 320 ranks", flow["uneven_s"], "s", 2),
        Row(name="`flow`: topology of 320 devices and its routes", value=flow["compile_s"], unit="s"),
    ]
    placed = measure("placement")
    found += [
        at_most("placing 58 layers x 256 experts on 32 ranks", placed["seconds"] * 1e3, "ms", 100),
        at_most("the same: heaviest rank over the lower bound", placed["over_bound"], "1", 1.01),
        at_most("the same: max/mean over that of EPLB", placed["refined_imbalance"] / placed["eplb_imbalance"], "1", 1),
    ]
    help_s = start_up(str(Path(sys.executable).parent / "moesim"), "--help")
    return [
        *found,
        at_most("`moesim --help`", help_s, "s", 0.3),
        at_most("`import simulator`", start_up(sys.executable, "-c", "import simulator"), "s", 0.5),
        at_most("`estimate`, DeepSeek-V3 on 8x H200, warm", measure("estimate")["seconds"] * 1e3, "ms", 10),
    ]


def at_least(name: str, value: float, unit: str, bound: float) -> Row:
    """Judge a row by a lower bound."""
    return Row(name=name, value=value, unit=unit, target=f"at least {bound:g}", met=value >= bound)


def at_most(name: str, value: float, unit: str, bound: float) -> Row:
    """Judge a row by an upper bound."""
    return Row(name=name, value=value, unit=unit, target=f"at most {bound:g}", met=value <= bound)


def machine() -> dict[str, str]:
    """Describe what the benchmark ran on."""
    import numpy as np

    cpuinfo, cpu = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "memory": f"{memory:.0f} GiB",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d"),
    }


def cells(row: Row) -> tuple[str, str, str, str]:
    """Show a row: name, value with unit, target, and whether it is met."""
    value = f"{row.value:,.0f}" if row.value >= 1000 else f"{row.value:.3g}"
    met = "" if row.met is None else ("yes" if row.met else "no")
    return row.name, value if row.unit == "1" else f"{value} {row.unit}", row.target, met


def markdown(results: dict[str, Any]) -> str:
    """Write results as the table of the documentation."""
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = [f"Machine: {about}.", "", "| what | value | target | met |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cells(Row(**row))) + " |" for row in results["rows"]]
    return "\n".join(lines)


def show(found: Sequence[Row], about: dict[str, str]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value", "target", "met", caption=", ".join(f"{k} {v}" for k, v in about.items()))
    for row in found:
        table.add_row(*cells(row))
    console = Console()
    console.print(table)
    console.print("CPU time where work is timed; on a shared machine both CPU and wall times vary from run to run.")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the simulator itself.")
    parser.add_argument("--quick", action="store_true", help="leave out a million requests; write nothing")
    parser.add_argument("--case", choices=CASES, help="print one case as JSON")
    given = parser.parse_args()
    if given.case:
        print(json.dumps(CASES[given.case]()))
        return
    about = machine()
    found = rows(quick=given.quick)
    show(found, about)
    if given.quick:
        return
    results = {"machine": about, "rows": [asdict(row) for row in found]}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{markdown(results)}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
