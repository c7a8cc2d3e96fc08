"""What do uneven experts cost under expert parallelism, and how much of it does placement win back?"""

from simulator import Scenario, simulate

SCENARIO = Scenario.from_mapping(
    {
        "model": {"name": "qwen3-30b-a3b"},
        "hardware": {"device": "h100-sxm", "node": "hgx-h100"},
        "parallelism": {"dp": 8, "ep": 8},
        "requests": {
            "kind": "closed_loop",
            "concurrency": 512,
            "count": 1024,
            "lengths": {"kind": "uniform", "input": 128, "output": 256, "range_ratio": 0.5},
        },
        "routing": {"tokens": 1024},
    }
)
CASES = {
    "balanced router": ("routing.kind=balanced",),
    "uniform router": ("routing.kind=uniform",),
    "skewed router": ("routing.kind=zipf", "routing.skew=0.8"),
    "  and balanced placement": ("routing.kind=zipf", "routing.skew=0.8", "placement.policy=balanced"),
    "  and 32 redundant slots": (
        "routing.kind=zipf",
        "routing.skew=0.8",
        "placement.policy=balanced",
        "placement.redundant_slots=32",
    ),
}

print(f"{'':27}imbalance   waiting   output tokens/s/GPU")
for name, overrides in CASES.items():
    result = simulate(SCENARIO.override(*overrides))
    busy = sum(seconds for part, seconds in result.breakdown.items() if part != "idle")
    print(
        f"{name:27}"
        f"{result.summary.rank_imbalance_mean:9.3g}"
        f"{result.breakdown['imbalance_wait'] / busy:10.1%}"
        f"{result.summary.output_tokens_per_s_per_gpu:22.4g}"
    )
