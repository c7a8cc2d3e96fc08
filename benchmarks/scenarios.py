"""What the benchmarks ask of the simulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator import Scenario

PRESETS = Path(__file__).resolve().parents[1] / "examples"
#: 58 MoE layers x 256 experts over 32 ranks: nearly all steps decode.
EP32 = (
    "deepseek-v3-ep32-h800.toml",
    "requests.concurrency=1024",
    "requests.count=4000",
    "requests.lengths.input=512",
    "requests.lengths.output=2048",
)
H200 = ("deepseek-v3-h200.toml", "requests.count=1000")
#: One expert for each of 320 ranks, 10,240 requests in flight.
EP320: dict[str, Any] = {
    "model": {"name": "deepseek-v3"},
    "hardware": {"device": "h800-sxm", "cluster": "hgx-h800-ib"},
    "parallelism": {"dp": 320, "ep": 320},
    "placement": {"policy": "balanced", "redundant_slots": 64},
    "stack": {"name": "sglang", "exchange": "deepep"},
    "requests": {
        "kind": "closed_loop",
        "concurrency": 10_240,
        "count": 20_480,
        "lengths": {"kind": "uniform", "input": 512, "output": 1024, "range_ratio": 0.5},
    },
    "routing": {"kind": "sticky", "skew": 0.6},
}
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
#: A day of one request per second, which takes ten million steps.
DAY: dict[str, Any] = {
    "model": {"name": "qwen3-30b-a3b"},
    "hardware": {"device": "h100-sxm"},
    "requests": {
        "kind": "poisson",
        "rate": 1.0,
        "count": 86_400,
        "lengths": {"kind": "lognormal", "input": 512, "output": 256},
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


def preset(file: str, *overrides: str) -> Scenario:
    """Read one of the scenarios that ship, changed."""
    from simulator import Scenario

    return Scenario.load(PRESETS / file, overrides)


def mapped(mapping: Mapping[str, Any]) -> Scenario:
    """Read a scenario that is written here."""
    from simulator import Scenario

    return Scenario.from_mapping(mapping)


def loads() -> Iterator[Scenario]:
    """Ask one deployment about 28 numbers of requests in flight and 5 lengths of answers."""
    flights = sorted({round(32 * 2 ** (step / 4)) for step in range(28)})
    for flight, output in product(flights, (128, 256, 512, 1024, 2048)):
        yield preset(EP32[0], f"requests.concurrency={flight}", f"requests.lengths.output={output}")


def sweep() -> Iterator[Scenario]:
    """Ten thousand scenarios of one model on one kind of device: 5 splits x 2 counts of instances x 1,000 loads."""
    base = preset("deepseek-v3-h200.toml", "hardware.cluster=hgx-h200-ib")
    splits = ((1, 8, 8), (1, 16, 16), (1, 32, 32), (8, 1, 8), (8, 2, 16))
    flights = [8 * step for step in range(1, 21)]
    inputs, outputs = [256 * step for step in range(1, 11)], (128, 256, 512, 1024, 2048)
    for (tp, dp, ep), instances, flight, prompt, answer in product(splits, (1, 2), flights, inputs, outputs):
        yield base.override(
            f"parallelism.tp={tp}",
            f"parallelism.dp={dp}",
            f"parallelism.ep={ep}",
            f"parallelism.instances={instances}",
            f"requests.concurrency={flight}",
            f"requests.lengths.input={prompt}",
            f"requests.lengths.output={answer}",
        )


def grid() -> Iterator[Scenario]:
    """A thousand scenarios: 5 models x 4 devices x 5 splits x 10 loads, some of which do not fit."""
    models = ("deepseek-v3", "kimi-k2", "qwen3-235b-a22b", "qwen3-30b-a3b", "gpt-oss-120b")
    devices = {f"{name}-sxm": f"hgx-{name}-ib" for name in ("h100", "h200", "h800", "b200")}
    splits = ((1, 8, 8), (1, 16, 16), (1, 32, 32), (8, 1, 8), (8, 2, 16))
    for model, device, (tp, dp, ep) in product(models, devices, splits):
        for flight, (prompt, answer) in product((16, 64, 256, 512, 1024), ((1024, 256), (4096, 1024))):
            yield mapped(
                {
                    "model": {"name": model},
                    "hardware": {"device": device, "cluster": devices[device]},
                    "parallelism": {"tp": tp, "dp": dp, "ep": ep},
                    "requests": {
                        "kind": "closed_loop",
                        "concurrency": flight,
                        "count": 10 * flight,
                        "lengths": {"kind": "fixed", "input": prompt, "output": answer},
                    },
                }
            )
