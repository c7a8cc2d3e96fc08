"""Which concurrency serves most tokens while 99% of requests still answer in time, and what do they cost?"""

from simulator import Scenario, simulate

SCENARIO = Scenario.from_mapping(
    {
        "model": {"name": "gpt-oss-20b"},
        "hardware": {"device": "h100-sxm"},
        "stack": {"name": "vllm"},
        "requests": {
            "kind": "closed_loop",
            "lengths": {"kind": "lognormal", "input": 1000, "output": 200, "cv": 0.8},
        },
        "routing": {"tokens": 1024},
        "slo": {"ttft": "500 ms", "tpot": "15 ms"},
    }
)

best = 0
print("concurrency   TPOT p99 ms   TTFT p99 ms   output tokens/s   USD per M tokens   in time")
for concurrency in (8, 16, 32, 64, 128):
    scenario = SCENARIO.override(
        f"requests.concurrency={concurrency}",
        f"requests.count={10 * concurrency}",
    )
    summary = simulate(scenario).summary
    best = concurrency if summary.slo_share >= 0.99 else best
    print(
        f"{concurrency:11d}"
        f"{summary.tpot_s.p99 * 1e3:14.3g}"
        f"{summary.ttft_s.p99 * 1e3:14.3g}"
        f"{summary.output_tokens_per_s_per_gpu:18.4g}"
        f"{summary.usd_per_million_output_tokens:19.3g}"
        f"{summary.slo_share:10.0%}"
    )
print(f"\nserve at most {best} requests at once")
