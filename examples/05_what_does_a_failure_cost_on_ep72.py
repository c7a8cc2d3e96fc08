"""What does a failed rank, or a failed node, cost under wide expert parallelism with and without redundant experts?"""

import numpy as np

from simulator import Scenario, simulate

# Prompts come computed from elsewhere, in few tokens. With 288 slots on 72 ranks the experts fit the ranks that are
# left, so the others go on; with 256 on 64 ranks every rank is needed.
RATE = 100.0
SCENARIO = Scenario.from_mapping(
    {
        "model": {"name": "deepseek-v3"},
        "hardware": {"device": "h100-sxm", "cluster": "hgx-h100-ib"},
        "parallelism": {"dp": 72, "ep": 72},
        "placement": {"policy": "eplb_global", "redundant_slots": 32},
        "stack": {"name": "sglang", "exchange": "deepep_low_latency", "scheduler": "mixed"},
        "requests": {"kind": "poisson", "rate": RATE, "count": 6_000, "lengths": {"input": 32, "output": 256}},
        "routing": {"kind": "zipf", "skew": 0.4, "tokens": 1024},
    }
)
BARE = ("parallelism.dp=64", "parallelism.ep=64", "placement.redundant_slots=0", "placement.policy=linear")
FAILURES = {
    "nothing": (),
    "a rank": ({"at": "20 s", "detection": "2 s", "restart": "30 s", "rank": 5},),
    "a node": ({"at": "20 s", "detection": "2 s", "restart": "30 s", "kind": "node", "rank": 5},),
}

print(f"{'fails':9}{'experts':22}{'sent in again':>14}{'p99 token gap':>17}{'answers in 20-40 s':>20}{'p99 E2EL':>10}")
for what, faults in FAILURES.items():
    for name, overrides in (("EP72, 32 redundant", ()), ("EP64, none redundant", BARE)):
        scenario = Scenario.from_mapping({**SCENARIO.override(*overrides).to_mapping(), "faults": faults})
        result = simulate(scenario)
        requests = result.requests
        finish = requests["finish_s"].to_numpy()
        latency = finish - requests["arrival_s"].to_numpy()
        during = int(((finish >= 20) & (finish < 40)).sum())
        print(
            f"{what:9}{name:22}{int(requests['retries'].sum()):14d}{result.summary.itl_s.p99:15.3f} s"
            f"{during:20d}{np.percentile(latency, 99):8.1f} s"
        )
